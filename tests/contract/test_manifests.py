"""The manifests grant exactly the rights that the operator needs, and the samples are valid MedplumAgents. No cluster, no kustomize."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from medplum_agent_operator.adapters.kube import RESOURCES
from medplum_agent_operator.api.agent import API_VERSION, KIND, MedplumAgent
from medplum_agent_operator.api.crd import crd
from medplum_agent_operator.api.reasons import ConditionType, Reason
from medplum_agent_operator.core.objects.gate_pod import CLUSTER_ROLE, HTTP_PORT
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.gate.metrics import PREFIX, Metrics
from medplum_agent_operator.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[2]
BASE = ROOT / "manifests" / "base"
ONE_NAMESPACE = ROOT / "manifests" / "overlays" / "one-namespace"
MONITORING = ROOT / "manifests" / "monitoring"
INSTALL = ROOT / "docs" / "how-to" / "install.md"
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

OWN_POD = "medplum-agent-operator-self"
"""The Role, and its binding, in the operator's own namespace."""
NODES = "medplum-agent-operator-nodes"
"""The ClusterRole, and its binding, for cluster-scoped objects."""

Raw = dict[str, Any]


def read(path: Path) -> list[Raw]:
    """The objects in a file."""
    return [item for item in yaml.safe_load_all(path.read_text(encoding="utf-8")) if item]


def base(kind: str, name: str = "medplum-agent-operator") -> Raw:
    """The one object of a kind and a name in the base."""
    everything = [item for path in BASE.glob("*.yaml") for item in read(path) if item["kind"] == kind]
    (found,) = (item for item in everything if item["metadata"]["name"] == name)
    return found


def pod() -> Raw:
    """The pod of the operator's Deployment."""
    found: Raw = base("Deployment")["spec"]["template"]["spec"]
    return found


def container() -> Raw:
    """The operator's own container."""
    (found,) = pod()["containers"]
    return dict(found)


def rules() -> list[Raw]:
    """The rules of the operator's two ClusterRoles."""
    found: list[Raw] = base("ClusterRole")["rules"] + base("ClusterRole", NODES)["rules"]
    return found


def unknown_fields(schema: Raw, value: object, path: str = "") -> list[str]:
    """Return fields of a value that the schema does not know: the API server would drop them silently."""
    if isinstance(value, list):
        return [found for item in value for found in unknown_fields(schema.get("items", {}), item, f"{path}[]")]
    if not isinstance(value, dict) or "properties" not in schema:
        return []
    known = schema["properties"]
    strange = [f"{path}.{key}" for key in value if key not in known]
    return strange + [
        found
        for key, part in value.items()
        if key in known
        for found in unknown_fields(known[key], part, f"{path}.{key}")
    ]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_valid_agents(sample: Path) -> None:
    """Every sample fits the models, has a version that the core can read, and no field that the CRD does not know."""
    for raw in read(sample):
        assert (API_VERSION, KIND) == (raw["apiVersion"], raw["kind"])
        assert [] == unknown_fields(SCHEMA["properties"]["spec"], raw["spec"], "spec")
        agent = MedplumAgent.parse({**raw, "metadata": {"namespace": "clinic", "uid": "1", **raw["metadata"]}})
        assert agent.spec.version == AgentVersion.parse(agent.spec.version).text


def test_unknown_fields_are_found_at_every_depth() -> None:
    """The check above finds errors: it names a misspelt field in a list."""
    spec = {"channels": [{"name": "adt", "prot": 2575}], "servre": {}}
    assert ["spec.servre", "spec.channels[].prot"] == unknown_fields(SCHEMA["properties"]["spec"], spec, "spec")


def test_the_policies_are_yaml() -> None:
    """`tests/behaviour/test_policies.py` lets an API server compile them."""
    kinds = [raw["kind"] for path in sorted((ROOT / "manifests" / "policies").glob("op*.yaml")) for raw in read(path)]
    assert ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] == kinds


def test_no_right_on_secrets() -> None:
    """The operator has no right on Secrets: the kubelet gives the pod its credentials."""
    assert [] == [rule for rule in rules() if "secrets" in rule["resources"]]


def test_no_wildcard_in_rights() -> None:
    """Every group, resource and verb is written out."""
    assert [] == [rule for rule in rules() if "*" in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])]


def test_no_right_to_delete_anything_but_revisions() -> None:
    """Garbage collection deletes children. The operator itself deletes outdated revisions alone, and can change none."""
    verbs = {verb for rule in rules() for verb in rule["verbs"]}
    assert {"get", "list", "watch", "create", "patch", "update", "bind", "delete"} == verbs
    assert [["controllerrevisions"]] == [rule["resources"] for rule in rules() if "delete" in rule["verbs"]]


def test_update_is_only_for_owner_references() -> None:
    """The operator has `update` only where OwnerReferencesPermissionEnforcement requires it."""
    updated = [resource for rule in rules() if "update" in rule["verbs"] for resource in rule["resources"]]
    assert ["medplumagents/finalizers"] == updated


def test_no_right_to_change_a_spec() -> None:
    """The operator reads MedplumAgents and writes only their status. So it cannot approve a downgrade."""
    (rule,) = (rule for rule in rules() if "medplumagents" in rule["resources"])
    assert {"get", "list", "watch"} == set(rule["verbs"])


def test_pods_are_read_only() -> None:
    """The operator sees pods; it cannot change, enter or delete them, or read their logs."""
    granted = {res: set(rule["verbs"]) for rule in rules() for res in rule["resources"] if res.startswith("pods")}
    assert {"pods": {"list", "watch"}} == granted


def test_nodes_are_read_only_and_have_a_role_of_their_own() -> None:
    """The one cluster-scoped right: to see nodes. It stays bound where the overlay deletes the other binding."""
    granted = {res: set(rule["verbs"]) for rule in base("ClusterRole", NODES)["rules"] for res in rule["resources"]}
    assert {"nodes": {"get", "list", "watch"}} == granted
    assert [] == [rule for rule in base("ClusterRole")["rules"] if "nodes" in rule["resources"]]
    binding = base("ClusterRoleBinding", NODES)
    assert NODES == binding["roleRef"]["name"]
    assert base("ClusterRoleBinding")["subjects"] == binding["subjects"]


def test_the_gate_s_role_is_the_only_one_that_can_be_bound() -> None:
    """The operator creates no role; it binds one, which allows only to see addresses."""
    (binds,) = (rule for rule in rules() if "bind" in rule["verbs"])
    assert (["clusterroles"], [CLUSTER_ROLE], ["bind"]) == (binds["resources"], binds["resourceNames"], binds["verbs"])
    assert [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}] == base(
        "ClusterRole", CLUSTER_ROLE
    )["rules"]


def test_the_operator_can_get_pods_of_its_own_namespace() -> None:
    """It reads its own pod for the image of gates; the manifests pass the pod's name and namespace."""
    (rule,) = base("Role", OWN_POD)["rules"]
    assert (["pods"], ["get"]) == (rule["resources"], rule["verbs"])
    assert base("ClusterRoleBinding")["subjects"] == base("RoleBinding", OWN_POD)["subjects"]
    fields = {
        one["name"]: one["valueFrom"]["fieldRef"]["fieldPath"] for one in container()["env"] if "valueFrom" in one
    }
    assert {f"{ENV_PREFIX}POD": "metadata.name", f"{ENV_PREFIX}POD_NAMESPACE": "metadata.namespace"} == fields


def test_rights_are_for_kinds_that_the_code_requests() -> None:
    """Every right is on a kind that the client talks to, in its own API group."""
    known = {(resource.api_version.rpartition("/")[0], resource.plural) for resource in RESOURCES.values()}
    granted = {
        (group, resource.partition("/")[0])
        for rule in rules()
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    granted = {(group.partition("/")[0], resource) for group, resource in granted}
    assert known == granted - {("rbac.authorization.k8s.io", "clusterroles")}


def test_one_service_account_under_one_name() -> None:
    """The Deployment runs as the ServiceAccount that the bindings of base and overlay name."""
    account = base("ServiceAccount")["metadata"]
    subject = {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    role = {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": base("ClusterRole")["metadata"]["name"],
    }
    for binding in (base("ClusterRoleBinding"), *read(ONE_NAMESPACE / "rolebinding.yaml")):
        assert [subject] == binding["subjects"]
        assert role == binding["roleRef"]
    assert account["name"] == pod()["serviceAccountName"]
    assert base("Namespace")["metadata"]["name"] == account["namespace"] == base("Deployment")["metadata"]["namespace"]


def test_the_overlay_watches_where_it_has_rights() -> None:
    """The overlay's setting and its RoleBinding name one namespace, and it deletes the ClusterRoleBinding."""
    (binding,) = read(ONE_NAMESPACE / "rolebinding.yaml")
    (kustomization,) = read(ONE_NAMESPACE / "kustomization.yaml")
    patches = {patch["target"]["kind"]: yaml.safe_load(patch["patch"]) for patch in kustomization["patches"]}
    (addition,) = patches["Deployment"]
    assert {"name": f"{ENV_PREFIX}NAMESPACES", "value": binding["metadata"]["namespace"]} == addition["value"]
    assert "delete" == patches["ClusterRoleBinding"]["$patch"]
    assert base("ClusterRoleBinding")["metadata"]["name"] == patches["ClusterRoleBinding"]["metadata"]["name"]


@pytest.mark.parametrize("folder", [BASE, ONE_NAMESPACE, ROOT / "crds"], ids=lambda path: path.name)
def test_kustomizations_list_all_their_manifests(folder: Path) -> None:
    """Every resource of a kustomization exists, and every manifest beside it is a resource of it."""
    (path,) = (path for path in folder.iterdir() if path.stem.lower() == "kustomization")
    (kustomization,) = read(path)
    named = kustomization["resources"]
    assert [] == [name for name in named if not (folder / name).exists()]
    beside = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert beside == {name for name in named if name.endswith(".yaml")}


def test_a_folder_of_definitions_holds_only_definitions() -> None:
    """`kubectl apply -f crds/` reads each .yaml, .yml and .json of the folder, and ends with an error at anything else."""
    found = [
        raw for path in (ROOT / "crds").iterdir() if path.suffix in {".yaml", ".yml", ".json"} for raw in read(path)
    ]
    assert {"CustomResourceDefinition"} == {raw["kind"] for raw in found}


def test_the_operator_s_pod_is_restricted() -> None:
    """The operator's pod satisfies Pod Security 'restricted', which its namespace enforces.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    """
    labels = base("Namespace")["metadata"]["labels"]
    assert "restricted" == labels["pod-security.kubernetes.io/enforce"]
    context = pod()["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert {"type": "RuntimeDefault"} == context["seccompProfile"]
    own = container()["securityContext"]
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"] is True
    assert {"drop": ["ALL"]} == own["capabilities"]
    assert set() == {"hostNetwork", "hostPID", "hostIPC", "volumes"} & set(pod())
    assert [] == [port for port in container()["ports"] if "hostPort" in port]


def test_one_operator_at_a_time() -> None:
    """One replica, and the old pod ends before a new one starts, because there is no leader election yet."""
    spec = base("Deployment")["spec"]
    assert (1, "Recreate") == (spec["replicas"], spec["strategy"]["type"])


def test_the_image_s_tag_is_the_one_in_the_docs() -> None:
    """Manifests and docs name the same tag, which is no version: users choose their own."""
    image = container()["image"]
    name, _, tag = image.partition(":")
    assert ("medplum-agent-operator", "dev") == (name, tag)
    install = INSTALL.read_text(encoding="utf-8")
    assert f"newTag: {tag}\n" in install
    assert f"docker push registry.example.org/{image}\n" in install
    for page in (ROOT / "README.md", ROOT / "docs" / "getting-started.md"):
        commands = page.read_text(encoding="utf-8")
        assert f"docker build -t {image} .\nkind load docker-image {image}\n" in commands
        assert {tag} == set(re.findall(rf"{name}:([\w.]+)", commands))


def test_environment_variables_in_manifests_are_settings() -> None:
    """A misspelt variable ends the program: each one in the manifests is a setting of the operator."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    overlay = (ONE_NAMESPACE / "kustomization.yaml").read_text(encoding="utf-8")
    used = {variable["name"] for variable in container()["env"]}
    used |= {word for word in overlay.split() if word.startswith(ENV_PREFIX)}
    assert used <= known


def test_no_service_gives_the_operator_a_variable_that_looks_like_a_setting() -> None:
    """A Service medplum-agent-operator in its namespace would: MEDPLUM_AGENT_OPERATOR_PORT, which ends the program."""
    assert pod()["enableServiceLinks"] is False


def test_alerts_use_existing_metrics() -> None:
    """A gate's registry or the configuration of kube-state-metrics has each metric, condition type and reason of an alert."""
    (found,) = read(MONITORING / "alerts.yaml")
    asked = " ".join(rule["expr"] for group in found["spec"]["groups"] for rule in group["rules"])
    gates = {f"{family.name}_total" for family in Metrics(answer_seconds=60).registry.collect()}
    assert set(re.findall(rf"{PREFIX}\w+", asked)) <= gates
    (configuration,) = read(MONITORING / "kube-state-metrics.yaml")
    (resource,) = configuration["spec"]["resources"]
    kinds = {f"{resource['metricNamePrefix']}_{metric['name']}" for metric in resource["metrics"]}
    assert set(re.findall(r"medplum_agent_(?!gate_)\w+", asked)) <= kinds
    group, _, version = API_VERSION.partition("/")
    assert {"group": group, "version": version, "kind": KIND} == resource["groupVersionKind"]
    assert set(re.findall(r'type="(\w+)"', asked)) <= set(ConditionType)
    assert set(re.findall(r'reason="(\w+)"', asked)) <= set(Reason)


def test_gates_are_scraped_on_their_own_port() -> None:
    """The PodMonitor selects gates by their label and scrapes the port that they serve metrics on."""
    (found,) = read(MONITORING / "gates.yaml")
    (endpoint,) = found["spec"]["podMetricsEndpoints"]
    assert (HTTP_PORT, "/metrics") == (endpoint["portNumber"], endpoint["path"])
    golden = next(
        item
        for item in read(ROOT / "tests" / "golden" / "gate.yaml")
        if item["metadata"]["name"] == "lab-gate" and item["kind"] == "Deployment"
    )
    labels = golden["spec"]["template"]["metadata"]["labels"]
    assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert set(found["spec"]["podTargetLabels"]) <= set(labels)


def test_the_guide_sets_the_image_repository_by_its_place() -> None:
    """The patch in the guide replaces the first environment variable, which is the image repository."""
    assert f"{ENV_PREFIX}IMAGE_REPOSITORY" == container()["env"][0]["name"]
    assert "path: /spec/template/spec/containers/0/env/0/value\n" in INSTALL.read_text(encoding="utf-8")


def test_probes_ask_where_the_operator_answers() -> None:
    """Liveness and readiness ask the paths and the port that the operator serves by default."""
    (port,) = container()["ports"]
    assert Settings.model_fields["health_port"].default == port["containerPort"]
    asked = [container()[probe]["httpGet"] for probe in ("livenessProbe", "readinessProbe")]
    assert [{"path": "/healthz", "port": port["name"]}, {"path": "/readyz", "port": port["name"]}] == asked
