"""The API as users see it, on a real API server without an operator.

Which input is refused and with which message, which defaults are set, what `kubectl explain` and `kubectl get` show.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import subprocess

    from tests.support.cluster import Cluster

DEFINITION = Path(__file__).parents[2] / "crds" / "medplumagents.yaml"

GOOD_VERSION = "such as 5.1.15 or 5.1.15-abc1234"
ADT = {"name": "adt", "port": 2575}


def agent(changes: dict[str, Any] | None = None, name: str = "front-desk") -> dict[str, Any]:
    """Build the smallest MedplumAgent, plus these fields, given by path: `image.tag`."""
    spec: dict[str, Any] = {
        "version": "5.1.15",
        "server": {
            "baseUrl": "https://api.medplum.com/",
            "agentId": "a1",
            "credentialsSecretRef": {"name": "front-desk"},
        },
        "channels": [ADT],
    }
    for path, value in (changes or {}).items():
        *way, last = path.split(".")
        place = spec
        for step in way:
            place = place.setdefault(step, {})
        place[last] = copy.deepcopy(value)
    return {
        "apiVersion": "agents.medplum.com/v1alpha1",
        "kind": "MedplumAgent",
        "metadata": {"name": name},
        "spec": spec,
    }


@pytest.fixture(scope="session")
def api(cluster: Cluster) -> Cluster:
    """The cluster, with the CRD from crds/ applied as a user does it."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "--filename", str(DEFINITION))
    cluster.kubectl("wait", "crd/medplumagents.agents.medplum.com", "--for=condition=Established", "--timeout=30s")
    return cluster


def submit(api: Cluster, manifest: dict[str, Any], namespace: str, *how: str) -> subprocess.CompletedProcess[str]:
    """Let the API server validate an object. It is stored only if `how` says so."""
    how = how or ("create", "--dry-run=server")
    return api.kubectl(
        *how, "--namespace", namespace, "--filename", "-", "-o", "json", input=json.dumps(manifest), check=False
    )


def channels(*some: dict[str, Any]) -> dict[str, Any]:
    """Replace the channels."""
    return {"channels": list(some)}


def window(**changes: str) -> dict[str, Any]:
    """Replace the maintenance windows by one."""
    return {"maintenanceWindows": [{"schedule": "0 2 * * SUN", "duration": "2h", **changes}]}


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    # The input, the field that the answer names, and words of the answer.
    ({"version": "latest"}, "spec.version", GOOD_VERSION),
    ({"version": "v5.1.15"}, "spec.version", "no v in front"),
    ({"version": "5.1"}, "spec.version", GOOD_VERSION),
    ({"version": "5.1.15.2"}, "spec.version", GOOD_VERSION),
    ({"version": ""}, "spec.version", GOOD_VERSION),
    ({"version": "5.1.15\n"}, "spec.version", "no white space or line break"),
    ({"version": "\n5.1.15"}, "spec.version", GOOD_VERSION),
    ({"version": "5.1.15\n4.2.3"}, "spec.version", GOOD_VERSION),
    ({"version": "5.1.x"}, "spec.version", "no range"),
    ({"version": ">=5.1.15"}, "spec.version", "no range"),
    ({"version": "05.1.15"}, "spec.version", GOOD_VERSION),
    ({"version": "5.1.15-rc.1"}, "spec.version", GOOD_VERSION),
    ({"version": "5.1.15-" + "a" * 41}, "spec.version", GOOD_VERSION),
    ({"version": "1234567890.1.1"}, "spec.version", GOOD_VERSION),
    ({"image.tag": "4.2.3"}, "spec.image.tag", "another version than spec.version"),
    ({"image.tag": "v4.2.3-debian"}, "spec.image.tag", "leave spec.image.tag out"),
    ({"image.tag": "5.1.150"}, "spec.image.tag", "another version than spec.version"),
    ({"image.tag": "5.1.15 "}, "spec.image.tag", "such as 5.1.15-debian"),
    ({"image.repository": "example.org/agent:4.2.3"}, "spec.image.repository", "put the tag in spec.image.tag"),
    ({"image.digest": "sha256:abc"}, "spec.image.digest", "64 hexadecimal digits"),
    ({"image.pullPolicy": "Sometimes"}, "spec.image.pullPolicy", '"IfNotPresent"'),
    ({"image.command": []}, "spec.image.command", "at least 1"),
    ({"server.baseUrl": "api.medplum.com"}, "spec.server.baseUrl", "such as https://api.medplum.com/"),
    ({"server.baseUrl": "https://api.medplum.com/?a=b"}, "spec.server.baseUrl", "cuts a value at its first '='"),
    ({"server.baseUrl": "https://api.medplum.com/\nagentId=b"}, "spec.server.baseUrl", "white space"),
    ({"server.baseUrl": "https://api. medplum.com/"}, "spec.server.baseUrl", "white space"),
    ({"server.agentId": "Agent/a1"}, "spec.server.agentId", "1 to 64 letters, digits"),
    ({"server.agentId": "a" * 65}, "spec.server.agentId", "1 to 64 letters, digits"),
    ({"server.agentId": "a1\n"}, "spec.server.agentId", "1 to 64 letters, digits"),
    ({"server.credentialsSecretRef": {}}, "spec.server.credentialsSecretRef.name", "Required value"),
    ({"server.credentialsSecretRef.name": "A_B"}, "spec.server.credentialsSecretRef.name", "lower-case letters"),
    (channels(), "spec.channels", "at least 1"),
    (channels(*({"name": f"c{n}", "port": 2000 + n} for n in range(33))), "spec.channels", "at most 32"),
    (channels(ADT, {"name": "adt", "port": 2576}), "spec.channels", "two channels have the same name; give each"),
    (
        channels(ADT, {"name": "lab", "port": 2575}),
        "spec.channels",
        "two channels have the same port; the agent listens once",
    ),
    (
        channels(ADT | {"nodePort": 30001}, {"name": "lab", "port": 1, "nodePort": 30001})
        | {"service.type": "NodePort"},
        "spec.channels",
        "two channels have the same nodePort",
    ),
    (
        channels(ADT | {"hostPort": 2575}, {"name": "lab", "port": 1, "hostPort": 2575}),
        "spec.channels",
        "two channels have the same hostPort",
    ),
    (channels(ADT | {"nodePort": 30001}), "spec.channels", "needs spec.service.type NodePort or LoadBalancer"),
    (
        channels(ADT | {"hostPort": 2576}) | {"podTemplate.hostNetwork": True},
        "spec.channels",
        "hostPort must equal port; leave hostPort out",
    ),
    (channels(ADT | {"port": 0}), "spec.channels[0].port", "greater than or equal to 1"),
    (channels(ADT | {"port": 65536}), "spec.channels[0].port", "less than or equal to 65535"),
    (channels(ADT | {"port": "2575"}), "spec.channels[0].port", "must be of type integer"),
    (channels(ADT | {"nodePort": 65536}), "spec.channels[0].nodePort", "less than or equal to 65535"),
    (channels(ADT | {"hostPort": 0}), "spec.channels[0].hostPort", "greater than or equal to 1"),
    (channels(ADT | {"name": "ADT"}), "spec.channels[0].name", "such as adt or lab-2"),
    (channels(ADT | {"name": "a--b"}), "spec.channels[0].name", "single '-'"),
    (channels(ADT | {"name": "2575"}), "spec.channels[0].name", "at least one letter"),
    (channels(ADT | {"name": "x" * 16}), "spec.channels[0].name", "15"),
    (channels(ADT | {"protocol": "hl7"}), "spec.channels[0].protocol", '"HL7", "DICOM", "ASTM", "TCP"'),
    ({"service.externalTrafficPolicy": "Local"}, "spec.service.externalTrafficPolicy", "type NodePort or LoadBalancer"),
    ({"service.loadBalancerClass": "example.org/lb"}, "spec.service.loadBalancerClass", "type LoadBalancer"),
    (
        {"service.loadBalancerSourceRanges": ["10.0.0.0/8"]},
        "spec.service.loadBalancerSourceRanges",
        "type LoadBalancer",
    ),
    (
        {"service.type": "LoadBalancer", "service.loadBalancerSourceRanges": ["10.0.0.0"]},
        "spec.service.loadBalancerSourceRanges[0]",
        "such as 10.20.0.0/16",
    ),
    ({"service.labels": {"agents.medplum.com/agent": "x"}}, "spec.service.labels", "operator's own; use other keys"),
    (
        {"service.annotations": {"agents.medplum.com/x": "x"}},
        "spec.service.annotations",
        "operator's own; use other keys",
    ),
    ({"logging.level": "info"}, "spec.logging.level", '"DEBUG", "INFO", "WARN", "ERROR"'),
    (
        {"handoff.minReadySeconds": 300},
        "spec.handoff.progressDeadlineSeconds",
        "must be greater than spec.handoff.minReadySeconds",
    ),
    ({"handoff.minReadySeconds": 3601}, "spec.handoff.minReadySeconds", "less than or equal to 3600"),
    ({"handoff.drainSeconds": 601}, "spec.handoff.drainSeconds", "less than or equal to 600"),
    ({"handoff.drainSeconds": -1}, "spec.handoff.drainSeconds", "greater than or equal to 0"),
    ({"handoff.onFailure": "Retry"}, "spec.handoff.onFailure", '"Rollback", "Hold"'),
    ({"downgradePolicy.approval": "Never"}, "spec.downgradePolicy.approval", '"Always", "BelowZeroDowntime"'),
    (window(schedule="0 2 * *"), "spec.maintenanceWindows[0].schedule", "five fields"),
    (window(schedule="60 2 * * *"), "spec.maintenanceWindows[0].schedule", "five fields"),
    (window(schedule="0 2 * * SUNDAY"), "spec.maintenanceWindows[0].schedule", "for Sundays at 02:00"),
    (window(schedule="@daily"), "spec.maintenanceWindows[0].schedule", "five fields"),
    (window(duration="2"), "spec.maintenanceWindows[0].duration", "such as 2h, 90m or 1h30m"),
    (window(duration=""), "spec.maintenanceWindows[0].duration", "such as 2h, 90m or 1h30m"),
    (window(duration="0m"), "spec.maintenanceWindows[0].duration", "such as 2h, 90m or 1h30m"),
    (window(duration="169h"), "spec.maintenanceWindows[0].duration", "at most 168h"),
    (window(timeZone="Mars City"), "spec.maintenanceWindows[0].timeZone", "such as UTC or Europe/Berlin"),
    (
        {"podTemplate.labels": {"agents.medplum.com/x": "y"}},
        "spec.podTemplate.labels",
        "operator's own; use other keys",
    ),
    (
        {"podTemplate.labels": {"app.kubernetes.io/name": "x"}},
        "spec.podTemplate.labels",
        "operator's own; use other keys",
    ),
    ({"podTemplate.labels": {"team": "front desk"}}, "spec.podTemplate.labels[team]", "at most 63 letters"),
    ({"podTemplate.labels": {"my team": "x"}}, "spec.podTemplate.labels", "such as example.org/team"),
    ({"podTemplate.annotations": {"agents.medplum.com/x": "y"}}, "spec.podTemplate.annotations", "use other keys"),
    (
        {"podTemplate.securityContext.runAsUser": 0},
        "spec.podTemplate.securityContext.runAsUser",
        "greater than or equal to 1",
    ),
    ({"podTemplate.resources.requests": {"memory": "1Gx"}}, "spec.podTemplate.resources.requests", "such as 500m"),
    ({"podTemplate.resources.limits": {"cpu": "-1"}}, "spec.podTemplate.resources.limits", "not negative"),
    ({"podTemplate.resources.claims": []}, "spec.podTemplate.resources.claims", "unknown field"),
    (
        {"podTemplate.tolerations": [{"operator": "Equals"}]},
        "spec.podTemplate.tolerations[0].operator",
        '"Equal", "Exists"',
    ),
    ({"vesion": "5.1.15"}, "spec.vesion", "unknown field"),
]


@pytest.mark.parametrize(("changes", "field", "words"), REFUSED, ids=[json.dumps(row[0])[:70] for row in REFUSED])
def test_bad_input_is_refused_with_the_field_and_the_fix(
    api: Cluster, changes: dict[str, Any], field: str, words: str
) -> None:
    """`kubectl apply` fails, and its message is enough to fix the object."""
    answer = submit(api, agent(changes), "default")
    assert answer.returncode != 0, answer.stdout
    lines = [line for line in answer.stderr.splitlines() if field in line]
    assert any(words in line for line in lines), answer.stderr


@pytest.mark.parametrize(
    "name",
    ["1st-desk", "front.desk", "front-desk-", "x" * 53],
)
def test_name_that_no_service_can_have_is_refused(api: Cluster, name: str) -> None:
    """The agent's Service has its name, so the name must be valid for a Service, with room for a suffix."""
    answer = submit(api, agent(name=name), "default")
    assert answer.returncode != 0
    assert "metadata.name" in answer.stderr


ACCEPTED: list[dict[str, Any]] = [
    {"version": "5.1.15"},
    {"version": "5.1.15-abc1234"},
    {"version": "4.1.12-2"},
    {"version": "5.1.15-abc1234", "image.tag": "v5.1.15-debian"},
    {"image.tag": "stable"},
    {"image.repository": "registry.example.org:5000/clinic/medplum-agent", "image.digest": "sha256:" + "0a" * 32},
    {"server.baseUrl": "http://10.0.0.5:8103/fhir-server/"},
    channels(ADT | {"nodePort": 30001}, {"name": "lab", "port": 2576}) | {"service.type": "NodePort"},
    channels(ADT | {"hostPort": 12575}),
    channels(ADT | {"hostPort": 2575}) | {"podTemplate.hostNetwork": True},
    {
        "service.type": "LoadBalancer",
        "service.externalTrafficPolicy": "Local",
        "service.loadBalancerSourceRanges": ["10.0.0.0/8"],
    },
    window(schedule="*/15 0-6,22 1 JAN,JUL MON-FRI", duration="1h30m", timeZone="America/Argentina/Buenos_Aires"),
    {"podTemplate.resources": {"requests": {"cpu": 1, "memory": "512Mi"}, "limits": {"memory": "1.5Gi"}}},
    {"podTemplate.labels": {"team": "integration", "example.org/tier": ""}},
    {"image": None, "paused": None, "service": {"type": None}},
]


@pytest.mark.parametrize("changes", ACCEPTED, ids=[json.dumps(row)[:70] for row in ACCEPTED])
def test_good_input_is_accepted(api: Cluster, changes: dict[str, Any]) -> None:
    """Valid input is accepted; null means that a field is not set."""
    answer = submit(api, agent(changes), "default")
    assert "" == answer.stderr
    assert 0 == answer.returncode


def test_one_answer_lists_all_faults(api: Cluster) -> None:
    """A user does not have to fix one field to learn of the next fault."""
    answer = submit(api, agent({"version": "latest", "server.baseUrl": "nowhere", "image.tag": "a b"}), "default")
    for field in ("spec.version", "spec.server.baseUrl", "spec.image.tag"):
        assert f"{field}: Invalid value" in answer.stderr


def test_definition_is_established_and_its_schema_is_structural(api: Cluster) -> None:
    """The API server accepts the whole CRD: no condition reports a non-structural schema."""
    definition = api.read("crd", "medplumagents.agents.medplum.com")
    conditions = {condition["type"]: condition["status"] for condition in definition["status"]["conditions"]}
    assert {"NamesAccepted": "True", "Established": "True"} == conditions


def test_identity_never_changes(api: Cluster, namespace: str) -> None:
    """A change of agentId is refused, with what to do instead; other fields of spec.server may change."""
    assert 0 == submit(api, agent(), namespace, "apply").returncode
    answer = submit(api, agent({"server.agentId": "a2"}), namespace, "apply")
    assert answer.returncode != 0
    assert "spec.server.agentId" in answer.stderr
    assert "create a new MedplumAgent" in answer.stderr
    assert 0 == submit(api, agent({"server.baseUrl": "https://other.example.org/"}), namespace, "apply").returncode


def test_defaults_appear_in_the_stored_object(api: Cluster, namespace: str) -> None:
    """`kubectl get -o yaml` shows the values in force, not only the ones that the user wrote."""
    submit(api, agent({"handoff": {"drainSeconds": 20}}), namespace, "apply")
    spec = api.read("mpa", "front-desk", "--namespace", namespace)["spec"]
    assert {
        "minReadySeconds": 5,
        "drainSeconds": 20,
        "progressDeadlineSeconds": 300,
        "onFailure": "Rollback",
        "onNodeDrain": "Handoff",
        "prePull": True,
    } == spec["handoff"]
    assert {"approval": "Always"} == spec["downgradePolicy"]
    assert {"level": "INFO", "channelLevel": "WARN"} == spec["logging"]
    assert {"type": "ClusterIP"} == spec["service"]
    assert {"pullPolicy": "IfNotPresent", "command": ["/srv/medplum-agent"]} == spec["image"]
    assert {"clientIdKey": "clientId", "clientSecretKey": "clientSecret", "name": "front-desk"} == spec["server"][
        "credentialsSecretRef"
    ]
    assert [{"name": "adt", "port": 2575, "protocol": "HL7"}] == spec["channels"]
    assert {"runAsUser": 5678, "runAsGroup": 5678, "fsGroup": 5678} == spec["podTemplate"]["securityContext"]
    assert (False, False) == (spec["paused"], spec["podTemplate"]["hostNetwork"])


@pytest.mark.parametrize(
    "how", [("apply",), ("apply", "--server-side", "--field-manager=gitops")], ids=["client-side", "server-side"]
)
def test_both_ways_to_apply_work_and_change_nothing_the_second_time(
    api: Cluster, namespace: str, how: tuple[str, ...]
) -> None:
    """Applying the same manifest again is not a change: generation and resourceVersion stay, despite the defaults."""
    manifest = agent(
        channels({"name": "lab", "port": 2576}, ADT) | {"podTemplate.tolerations": [{"operator": "Exists"}]}
    )
    first = submit(api, manifest, namespace, *how)
    second = submit(api, manifest, namespace, *how)
    assert ("", "") == (first.stderr, second.stderr)
    assert (
        json.loads(first.stdout)["metadata"]["resourceVersion"]
        == json.loads(second.stdout)["metadata"]["resourceVersion"]
    )
    assert ["lab", "adt"] == [channel["name"] for channel in json.loads(second.stdout)["spec"]["channels"]]


def test_status_is_a_subresource_that_spec_writes_cannot_touch(api: Cluster, namespace: str) -> None:
    """The right to write specs does not include status, and a write of status leaves generation alone."""
    sent = agent() | {"status": {"phase": "Running"}}
    stored = json.loads(submit(api, sent, namespace, "apply").stdout)
    assert "status" not in stored
    patch = json.dumps({"status": {"phase": "Running", "activeVersion": "5.1.15"}})
    api.kubectl("patch", "mpa", "front-desk", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
    after = api.read("mpa", "front-desk", "--namespace", namespace)
    assert {"phase": "Running", "activeVersion": "5.1.15"} == after["status"]
    assert stored["metadata"]["generation"] == after["metadata"]["generation"]


def test_listing_shows_version_target_and_health(api: Cluster, namespace: str) -> None:
    """`kubectl get mpa` shows the active version, the target version and the health; the category `medplum` lists it too."""
    submit(api, agent(), namespace, "apply")
    now = "2026-09-01T08:00:00Z"
    conditions = [
        {"type": kind, "status": status, "reason": "Serving", "message": "", "lastTransitionTime": now}
        for kind, status in (("Ready", "False"), ("Available", "True"))
    ]
    status = {"activeVersion": "5.1.14", "phase": "HandingOff", "strategy": "RollingHandoff", "conditions": conditions}
    patch = json.dumps({"status": status})
    api.kubectl("patch", "mpa", "front-desk", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
    for kind in ("mpa", "medplum", "medplumagents"):
        heading, row = api.kubectl("get", kind, "-n", namespace).stdout.splitlines()
        assert ["NAME", "VERSION", "TARGET", "PHASE", "READY", "AVAILABLE", "STRATEGY", "AGE"] == heading.split()
        assert ["front-desk", "5.1.14", "5.1.15", "HandingOff", "False", "True", "RollingHandoff"] == row.split()[:-1]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("mpa", "one running agent"),
        ("mpa.spec.version", "downgrade"),
        ("mpa.spec.handoff", "takes over without downtime"),
        ("mpa.spec.handoff", "drainSeconds"),
        ("mpa.spec.handoff.progressDeadlineSeconds", "default 300"),
        ("mpa.spec.channels.hostPort", "with downtime"),
        ("mpa.spec.maintenanceWindows", "stop the old agent first"),
        ("mpa.spec.podTemplate.affinity.podAntiAffinity", "4.2.4"),
        ("mpa.spec.podTemplate.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution", "stays Pending"),
        ("mpa.status.history.approval.by", "field manager"),
        ("mpa.status.conditions", "the one to alert on"),
    ],
)
def test_explain_is_documentation(api: Cluster, path: str, words: str) -> None:
    """`kubectl explain` shows what a field does, its unit, its default and its consequences."""
    assert words in " ".join(api.kubectl("explain", path).stdout.split())
