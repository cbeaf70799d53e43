"""The objects of neighbours that stand at the API server's door: policies and webhooks. Each is for one namespace, and named after it.

Read by `table`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from tests.support.cluster import Cluster

GROUP: Final = "admissionregistration.k8s.io"
FROM, TO = "registry.example.org", "mirror.example.org"
RESOURCES: Final = {
    "controllerrevisions": "apps",
    "deployments": "apps",
    "jobs": "batch",
    "pods": "",
    "poddisruptionbudgets": "policy",
    "serviceaccounts": "",
    "services": "",
}
"""Resources and their API groups."""


def served_version(cluster: Cluster) -> str:
    """The newest version of MutatingAdmissionPolicy that this API server serves (v1 since 1.36); skips the test if there is none."""
    known = json.loads(cluster.kubectl("get", "--raw", "/apis").stdout)["groups"]
    versions = [each["version"] for group in known if group["name"] == GROUP for each in group["versions"]]
    for version in sorted(versions, key=len):  # v1, v1beta1, v1alpha1
        served = json.loads(cluster.kubectl("get", "--raw", f"/apis/{GROUP}/{version}").stdout)["resources"]
        if any(resource["kind"] == "MutatingAdmissionPolicy" for resource in served):
            return f"{GROUP}/{version}"
    pytest.skip(
        "this API server serves no MutatingAdmissionPolicy: it needs 1.36, or an older one with the API switched on"
    )


def _matching(name: str, resource: str) -> dict[str, Any]:
    rule = {"apiGroups": [RESOURCES[resource]], "apiVersions": ["v1"], "resources": [resource]}
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
        "resourceRules": [{**rule, "operations": ["CREATE", "UPDATE"]}],
    }


def _with_binding(kind: str, name: str, version: str, spec: dict[str, Any], **binding: Any) -> list[dict[str, Any]]:
    return [
        {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": {"failurePolicy": "Fail", **spec}},
        {
            "apiVersion": version,
            "kind": f"{kind}Binding",
            "metadata": {"name": name},
            "spec": {"policyName": name, **binding},
        },
    ]


def mutating(cluster: Cluster, name: str, resource: str, patch: str) -> list[dict[str, Any]]:
    """A policy that changes every object of a resource. `patch`: JSON patch operations in CEL."""
    spec = {
        "reinvocationPolicy": "Never",
        "matchConstraints": _matching(name, resource),
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": f"[{patch}]"}}],
    }
    return _with_binding("MutatingAdmissionPolicy", name, served_version(cluster), spec)


def refusing(cluster: Cluster, name: str, resource: str) -> list[dict[str, Any]]:
    """A policy that demands the label `team` on every object of a resource."""
    del cluster
    rule = {"expression": "'team' in object.metadata.?labels.orValue({})", "message": f"{resource} need the label team"}
    spec = {"matchConstraints": _matching(name, resource), "validations": [rule]}
    return _with_binding("ValidatingAdmissionPolicy", name, f"{GROUP}/v1", spec, validationActions=["Deny"])


def webhook_away(cluster: Cluster, name: str, resource: str) -> list[dict[str, Any]]:
    """A webhook with `failurePolicy: Fail` whose backend is away."""
    del cluster
    matching = _matching(name, resource)
    hook = {
        "name": f"{resource}.example.org",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "namespaceSelector": matching["namespaceSelector"],
        "rules": matching["resourceRules"],
    }
    kind = "ValidatingWebhookConfiguration"
    return [{"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": {"name": name}, "webhooks": [hook]}]


IMAGE: Final = (
    'JSONPatch{op: "replace", path: "/spec/template/spec/containers/0/image", '
    f'value: object.spec.template.spec.containers[0].image.replace("{FROM}", "{TO}")}}'
)
LABEL: Final = 'JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("app.kubernetes.io/managed-by"), value: "platform"}'
SIDECAR: Final = (
    'JSONPatch{op: "add", path: "/spec/containers/-", '
    'value: Object.spec.containers{name: "proxy", image: "registry.example.org/proxy:1"}}'
)
SUSPEND: Final = 'JSONPatch{op: "add", path: "/spec/suspend", value: true}'
