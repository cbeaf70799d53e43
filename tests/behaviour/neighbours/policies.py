"""Admission policies that change what the operator writes: the operator accepts that, without additional writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

from tests.support.audit import writes_of_the_operator
from tests.support.world import agent_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cluster import Cluster
    from tests.support.world import World

GROUP = "admissionregistration.k8s.io"
FROM, TO = "registry.example.org", "mirror.example.org"


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


def policy(name: str, api_version: str) -> list[dict[str, Any]]:
    """Let images in Deployments of the namespace of this name come from a mirror, as admission policies that also match controllers do."""
    image = "/spec/template/spec/containers/0/image"
    value = f'object.spec.template.spec.containers[0].image.replace("{FROM}", "{TO}")'
    return [
        {
            "apiVersion": api_version,
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
                    "resourceRules": [
                        {
                            "apiGroups": ["apps"],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE", "UPDATE"],
                            "resources": ["deployments"],
                        }
                    ],
                },
                "mutations": [
                    {
                        "patchType": "JSONPatch",
                        "jsonPatch": {"expression": f'[JSONPatch{{op: "replace", path: "{image}", value: {value}}}]'},
                    }
                ],
            },
        },
        {
            "apiVersion": api_version,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name},
        },
    ]


@pytest.fixture
def mirrored(world: World) -> Iterator[World]:
    """A world with that policy in force."""
    objects = yaml.safe_dump_all(policy(world.namespace, served_version(world.cluster)))
    world.cluster.kubectl("apply", "-f", "-", input=objects)

    def in_force() -> bool:
        tried = world.kubectl("create", "deployment", "try", f"--image={FROM}/x", "--dry-run=server", "-o", "yaml")
        return f"{TO}/x" in tried

    try:
        world.wait(in_force, "the policy in force")
        yield world
    finally:
        world.cluster.kubectl("delete", "-f", "-", input=objects)


def webhook(name: str) -> str:
    """Let a webhook whose backend is away judge the Services of the namespace of this name."""
    hook = {
        "name": "services.example.org",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["services"]}],
    }
    configuration = {
        "apiVersion": f"{GROUP}/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [hook],
    }
    return yaml.safe_dump(configuration)


def test_a_webhook_whose_backend_is_away_is_reported(world: World) -> None:
    """A new agent has a status with the webhook's name, and a change too. Once the webhook is gone, both continue automatically."""
    configuration = webhook(world.namespace)
    world.cluster.kubectl("apply", "-f", "-", input=configuration)
    try:
        world.wait(
            lambda: (
                world.kubectl("create", "service", "clusterip", "x", "--tcp=1", "--dry-run=server", check=False) == ""
            ),
            "the webhook in force",
        )
        world.apply(agent_manifest())
        status = world.wait_for_phase("Failed")
        assert 'failed calling webhook "services.example.org"' in status["plan"]
        ready = world.condition("Ready")
        assert ("False", "RequestFailing") == (ready["status"], ready["reason"])
        assert 1 == len(world.wait(lambda: world.events("RequestFailing"), "the Event"))
    finally:
        world.cluster.kubectl("delete", "-f", "-", input=configuration)
    world.wait_for_phase("Running", "5.1.14", seconds=90)
    assert "RequestFailing" != world.condition("Ready")["reason"]


def image(world: World) -> str:
    """The image of the agent, as the API server stores it."""
    return str(world.deployment()["spec"]["template"]["spec"]["containers"][0]["image"])


def test_the_operator_does_not_revert_what_a_policy_changed(mirrored: World) -> None:
    """Install, change, and wait: one rollout for each change and no write after it. A change by a user is still reverted."""
    world = mirrored
    world.install()
    world.set_version("5.1.15")
    world.wait_for_phase("Running", "5.1.15")
    assert f"{TO}/medplum-agent:5.1.15" == image(world)
    world.kubectl("set", "image", "deployment/front-desk", f"agent={FROM}/medplum-agent:5.1.16")
    world.wait(lambda: f"{TO}/medplum-agent:5.1.15" == image(world), "what was applied, as the policy has it")
    world.wait_for_phase("Running", "5.1.15")
    history = world.agent()["status"]["history"]
    assert ["5.1.15", "5.1.15", "5.1.14"] == [entry["to"] for entry in history]
    since = datetime.now(UTC) + timedelta(seconds=2)
    world.wait(lambda: datetime.now(UTC) > since + timedelta(seconds=8), "eight quiet seconds")
    assert [] == writes_of_the_operator(world, since)


@dataclass(frozen=True, slots=True)
class Server:
    """An API server that serves the kind in these versions of its group."""

    versions: tuple[str, ...]

    def kubectl(self, *arguments: str) -> SimpleNamespace:
        """Answer `get --raw`: v1 of the group is always there, for the older kinds of policies."""
        path = arguments[-1]
        known = [{"version": version} for version in ("v1", "v1beta1", "v1alpha1")]
        kinds = [
            "ValidatingAdmissionPolicy",
            *(["MutatingAdmissionPolicy"] if path.rpartition("/")[2] in self.versions else []),
        ]
        answer = {"groups": [{"name": GROUP, "versions": known}], "resources": [{"kind": kind} for kind in kinds]}
        return SimpleNamespace(stdout=json.dumps(answer))


@pytest.mark.parametrize(
    ("versions", "found"),
    [(("v1", "v1beta1"), "v1"), (("v1alpha1", "v1beta1"), "v1beta1"), (("v1alpha1",), "v1alpha1"), ((), None)],
)
def test_what_is_served_is_used(versions: tuple[str, ...], found: str | None) -> None:
    """The newest version; without any the test above is skipped, with the reason."""
    server = cast("Cluster", Server(versions))
    if found is None:
        with pytest.raises(pytest.skip.Exception, match="serves no MutatingAdmissionPolicy"):
            served_version(server)
    else:
        assert f"{GROUP}/{found}" == served_version(server)
