"""Parsing a MedplumAgent: defaults, rejected values, the dumped pod template, and broken statuses."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.pod import PodTemplateSpec
from medplum_agent_operator.api.spec import (
    DowngradeApproval,
    LogLevel,
    MedplumAgentSpec,
    OnFailure,
    Protocol,
    PullPolicy,
    ServiceType,
)
from medplum_agent_operator.api.status import (
    ConditionStatus,
    MedplumAgentStatus,
    Outcome,
    Phase,
    Strategy,
    parse_status,
)

SMALLEST: dict[str, Any] = {
    "version": "5.1.15",
    "server": {"baseUrl": "https://api.medplum.com/", "agentId": "a1", "credentialsSecretRef": {"name": "front-desk"}},
    "channels": [{"name": "adt", "port": 2575}],
}
STATUS: dict[str, Any] = {
    "observedGeneration": 3,
    "phase": "HandingOff",
    "activeVersion": "5.1.14",
    "targetVersion": "5.1.15",
    "lastGoodVersion": "5.1.14",
    "strategy": "RollingHandoff",
    "plan": "Going from 5.1.14 to 5.1.15.",
    "conditions": [
        {
            "type": "Available",
            "status": "True",
            "reason": "Serving",
            "message": "",
            "lastTransitionTime": "2026-09-01T08:00:00Z",
            "observedGeneration": 3,
        }
    ],
    "channels": [
        {
            "name": "adt",
            "connectedDevices": 3,
            "lastMessageAt": "2026-09-01T07:59:58Z",
            "observedAt": "2026-09-01T08:00:00Z",
        }
    ],
    "rollout": {
        "from": "5.1.14",
        "to": "5.1.15",
        "strategy": "RollingHandoff",
        "startedAt": "2026-09-01T08:00:00.123456Z",
        "deadline": "2026-09-01T08:05:00.123456Z",
        "oldEndedAt": "2026-09-01T08:00:05.310000Z",
    },
    "history": [
        {
            "from": "5.1.15",
            "to": "4.2.3",
            "strategy": "Recreate",
            "outcome": "Completed",
            "startedAt": "2026-08-01T08:00:00Z",
            "completedAt": "2026-08-01T08:00:09Z",
            "gapSeconds": 3.2,
            "overlapSeconds": 0.0,
            "approval": {"text": "4.2.3 CHG-1042", "by": "kubectl-annotate"},
            "gate": {"connectionsMoved": 3, "messagesHeld": 2, "messagesRepeated": 1},
            "backup": "front-desk-1",
        },
        {"to": "5.1.15", "outcome": "Completed"},
    ],
    "spentApprovals": ["4.2.3 CHG-1042"],
    "spentFingerprints": ["0123456789abcdef"],
}


def spec_with(path: str, value: Any) -> dict[str, Any]:
    """Return the smallest spec with one field set, given by its path: `channels.0.port`."""
    spec = copy.deepcopy(SMALLEST)
    place: Any = spec
    *way, last = path.split(".")
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
    place[int(last) if isinstance(place, list) else last] = value
    return spec


def test_smallest_spec_gets_the_documented_defaults() -> None:
    """Version, server and one channel are enough: all other fields have defaults."""
    spec = MedplumAgentSpec.model_validate(SMALLEST)
    assert (None, None, None) == (spec.image.repository, spec.image.tag, spec.image.digest)
    assert (PullPolicy.IF_NOT_PRESENT, ("/srv/medplum-agent",)) == (spec.image.pull_policy, spec.image.command)
    assert ("clientId", "clientSecret") == (
        spec.server.credentials_secret_ref.client_id_key,
        spec.server.credentials_secret_ref.client_secret_key,
    )
    assert (Protocol.HL7, None, None) == (
        spec.channels[0].protocol,
        spec.channels[0].node_port,
        spec.channels[0].host_port,
    )
    assert ServiceType.CLUSTER_IP is spec.service.type
    assert (LogLevel.INFO, LogLevel.WARN) == (spec.logging.level, spec.logging.channel_level)
    assert (5, 5, 300) == (
        spec.handoff.min_ready_seconds,
        spec.handoff.drain_seconds,
        spec.handoff.progress_deadline_seconds,
    )
    assert OnFailure.ROLLBACK is spec.handoff.on_failure
    assert DowngradeApproval.ALWAYS is spec.downgrade_policy.approval
    assert ((), False) == (spec.maintenance_windows, spec.paused)
    assert 5678 == spec.pod_template.security_context.run_as_user


@pytest.mark.parametrize(
    "version", ["5.1.15", "5.1.15-abc1234", "4.1.12-2", "0.0.0", "999999999.0.1", "5.1.15-" + "a" * 40]
)
def test_full_versions_are_accepted(version: str) -> None:
    """Three numbers, and an optional build id."""
    assert version == MedplumAgentSpec.model_validate(spec_with("version", version)).version


@pytest.mark.parametrize(
    "version",
    [
        "latest",
        "v5.1.15",
        "5.1",
        "5.1.15.2",
        "",
        "5.1.15\n",
        "\n5.1.15",
        "5.1.15-",
        "5.1.15-abc.1",
        "5.1.15+abc",
        "05.1.15",
        "5.1.x",
        ">=5.1.15",
        " 5.1.15",
        "1234567890.1.1",
        "\u0665.1.15",  # an Arabic digit five
        "5.1.15-" + "a" * 41,
    ],
)
def test_other_versions_are_rejected_with_an_example(version: str) -> None:
    """The operator never interprets an invalid version, even without the CRD's rules."""
    with pytest.raises(ValidationError, match=r"such as 5\.1\.15 or 5\.1\.15-abc1234"):
        MedplumAgentSpec.model_validate(spec_with("version", version))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("server.baseUrl", "https://api.medplum.com/?a=b"),
        ("server.baseUrl", "https://api.medplum.com/\nclientId=mine"),
        ("server.baseUrl", "https://me:secret@api.medplum.com/"),
        ("server.baseUrl", "ftp://api.medplum.com/"),
        ("server.baseUrl", "https://"),
        ("server.agentId", "a1\n"),
        ("server.agentId", "Agent/a1"),
        ("server.agentId", "a" * 65),
        ("server.credentialsSecretRef.name", "Front_Desk"),
        ("server.credentialsSecretRef.clientIdKey", "client id"),
        ("image.repository", "registry.example.org/agent:5.1.15"),
        ("image.repository", "registry.example.org/agent@sha256:00"),
        ("image.tag", "5.1.15 "),
        ("image.digest", "sha256:00"),
        ("image.command", []),
        ("channels", []),
        ("channels.0.name", "ADT"),
        ("channels.0.name", "a--b"),
        ("channels.0.name", "12"),
        ("channels.0.name", "sixteen-letters-"),
        ("channels.0.port", 0),
        ("channels.0.port", 65536),
        ("channels.0.protocol", "hl7"),
        ("handoff.drainSeconds", -1),
        ("podTemplate.securityContext.runAsUser", 0),
        ("podTemplate.resources.requests", {"memory": "1Gx"}),
        ("podTemplate.resources.requests", {"memory": "-1Gi"}),
        ("podTemplate.labels", {"team": "front desk"}),
    ],
)
def test_values_that_would_break_the_agent_are_rejected(path: str, value: Any) -> None:
    """Parsing checks each value that the operator writes into a pod or a file, and the error names the field."""
    with pytest.raises(ValidationError) as fault:
        MedplumAgentSpec.model_validate(spec_with(path, value))
    where = ".".join(str(step) for step in fault.value.errors()[0]["loc"])
    assert where.startswith(path), where


@pytest.mark.parametrize(
    "url", ["https://api.medplum.com", "http://10.0.0.5:8103/", "https://[fd00::5]:8103/fhir-server/"]
)
def test_server_urls_are_accepted(url: str) -> None:
    """With a port, with a path, or with an address in place of a name."""
    assert url == MedplumAgentSpec.model_validate(spec_with("server.baseUrl", url)).server.base_url


@pytest.mark.parametrize("name", ["adt", "lab-2", "2-lab", "3com", "a", "a1-b2-c3"])
def test_channel_names_are_valid_port_names(name: str) -> None:
    """A channel may have any name that Kubernetes accepts for a container port."""
    assert name == MedplumAgentSpec.model_validate(spec_with("channels.0.name", name)).channels[0].name


@pytest.mark.parametrize(
    "schedule",
    [
        "0 2 * * 0",
        "*/15 0-6,22,23 1 1-12 *",
        "30 23 L * *",
        "60 2 * * *",
        "0 2 * * SUN",
        "0 2 * JAN,JUL MON-FRI",
        "0 2 * *",
        "@daily",
        "0  2 * * 7",
    ],
)
def test_schedules_are_cron_schedules_of_five_fields(schedule: str) -> None:
    """Numbers in range, names of months and days, lists, ranges and steps; no extensions of single cron programs."""
    window = {"schedule": schedule, "duration": "2h"}
    if schedule in {"30 23 L * *", "60 2 * * *", "0 2 * *", "@daily"}:
        with pytest.raises(ValidationError, match="five fields"):
            MedplumAgentSpec.model_validate(spec_with("maintenanceWindows", [window]))
    else:
        spec = MedplumAgentSpec.model_validate(spec_with("maintenanceWindows", [window]))
        assert (schedule, "2h", "UTC") == (
            spec.maintenance_windows[0].schedule,
            spec.maintenance_windows[0].duration,
            spec.maintenance_windows[0].time_zone,
        )


def test_fields_of_a_newer_release_are_ignored() -> None:
    """An older operator can parse objects of a newer CRD."""
    spec = MedplumAgentSpec.model_validate(SMALLEST | {"mirror": {"enabled": True}})
    assert MedplumAgentSpec.model_validate(SMALLEST) == spec


def test_a_spec_is_immutable() -> None:
    """Decisions rest on values that cannot change in the meantime."""
    spec = MedplumAgentSpec.model_validate(SMALLEST)
    with pytest.raises(ValidationError, match="frozen"):
        spec.version = "4.2.3"  # type: ignore[misc]


def test_a_spec_survives_a_round_trip() -> None:
    """The recorded JSON of an applied spec parses to the same spec."""
    spec = MedplumAgentSpec.model_validate(
        spec_with("podTemplate.tolerations", [{"key": "dedicated", "operator": "Exists"}])
    )
    assert spec == MedplumAgentSpec.model_validate_json(spec.model_dump_json(by_alias=True, exclude_none=True))


def test_parsing_includes_the_metadata_that_decisions_need() -> None:
    """Identity, generation, annotations, and an empty status if the object has none."""
    metadata = {"namespace": "clinic", "name": "front-desk", "uid": "u1", "generation": 4, "annotations": {"a": "b"}}
    agent = MedplumAgent.parse({"metadata": metadata, "spec": SMALLEST})
    assert ("clinic", "front-desk", "u1", 4) == (agent.namespace, agent.name, agent.uid, agent.generation)
    assert {"a": "b"} == agent.annotations
    assert MedplumAgentStatus() == agent.status


def test_the_error_for_a_bad_spec_names_the_field() -> None:
    """The error names the field, so that status can name it too."""
    metadata = {"namespace": "clinic", "name": "front-desk", "uid": "u1"}
    with pytest.raises(ValidationError) as fault:
        MedplumAgent.parse({"metadata": metadata, "spec": spec_with("channels.0.port", "many")})
    assert ("channels", 0, "port") == fault.value.errors()[0]["loc"]


def test_pod_template_is_dumped_in_the_form_of_kubernetes() -> None:
    """The dump is exactly what the user wrote, in names and shapes; only the user ids are added."""
    selector = {"matchLabels": {"app": "gateway"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}
    terms = [{"matchExpressions": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]}]}]
    near = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": selector,
        "namespaceSelector": {},
        "matchLabelKeys": ["rev"],
    }
    wire: dict[str, Any] = {
        "labels": {"team": "integration"},
        "annotations": {"example.org/owner": "it@example.org"},
        "resources": {"requests": {"cpu": 1, "memory": "512Mi"}, "limits": {"memory": "1.5Gi"}},
        "nodeSelector": {"zone": "clinic"},
        "tolerations": [
            {"key": "dedicated", "operator": "Equal", "value": "hl7", "effect": "NoExecute", "tolerationSeconds": 60}
        ],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "preference": terms[0]}],
            },
            "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [near]},
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": near}]
            },
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": selector,
                "nodeTaintsPolicy": "Honor",
            }
        ],
        "priorityClassName": "clinical",
        "runtimeClassName": "kata",
        "serviceAccountName": "agents",
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "dnsConfig": {
            "nameservers": ["10.0.0.2"],
            "searches": ["clinic.example.org"],
            "options": [{"name": "ndots", "value": "2"}],
        },
        "hostAliases": [{"ip": "10.0.0.9", "hostnames": ["pacs", "pacs.clinic.example.org"]}],
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
    }
    template = PodTemplateSpec.model_validate(wire)
    assert wire == template.model_dump(by_alias=True, exclude_none=True, mode="json")


def test_empty_string_in_a_toleration_is_absent() -> None:
    """The API server drops it; in a dump it would make an unchanged Deployment look changed in every pass."""
    template = PodTemplateSpec.model_validate(
        {"tolerations": [{"key": "dedicated", "operator": "Exists", "value": ""}]}
    )
    dumped = template.model_dump(by_alias=True, exclude_none=True, mode="json")
    assert [{"key": "dedicated", "operator": "Exists"}] == dumped["tolerations"]


def test_a_status_survives_a_round_trip() -> None:
    """The operator reads back exactly what it reported, to the microsecond."""
    status = parse_status(STATUS)
    assert STATUS == status.model_dump(by_alias=True, exclude_none=True, mode="json")
    assert (Phase.HANDING_OFF, Strategy.ROLLING_HANDOFF) == (status.phase, status.strategy)
    assert ConditionStatus.TRUE is status.conditions[0].status
    assert status.rollout is not None
    assert ("5.1.14", datetime(2026, 9, 1, 8, 0, 0, 123456, tzinfo=UTC)) == (
        status.rollout.from_version,
        status.rollout.started_at,
    )
    assert Outcome.COMPLETED is status.history[0].outcome
    assert status.history[0].approval is not None
    assert "4.2.3 CHG-1042" == status.history[0].approval.text


def broken(path: str, value: Any) -> dict[str, Any]:
    """Return the status with one part overwritten, given by its path: `history.0.startedAt`."""
    status = copy.deepcopy(STATUS)
    place: Any = status
    *way, last = path.split(".")
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[int(last) if isinstance(place, list) else last] = value
    return status


def lacking(path: str) -> dict[str, Any]:
    """Return the status without one part, given by its path."""
    status = copy.deepcopy(STATUS)
    place: Any = status
    *way, last = path.split(".")
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    del place[int(last) if isinstance(place, list) else last]
    return status


@pytest.mark.parametrize(
    ("path", "value", "lost"),
    [
        ("phase", "Dreaming", "phase"),
        ("plan", {"no": "text"}, "plan"),
        ("observedGeneration", "many", "observedGeneration"),
        ("conditions", "none", "conditions"),
        ("conditions.0", 7, "conditions.0"),
        ("conditions.0.status", "Perhaps", "conditions.0"),
        ("conditions.0.lastTransitionTime", "yesterday", "conditions.0"),
        ("rollout", [], "rollout"),
        ("rollout.deadline", "soon", "rollout.deadline"),
        ("rollout.startedAt", "2026-09-01T08:00:00", "rollout.startedAt"),
        ("rollout.to", 5, "rollout"),
        ("history.0.gapSeconds", "long", "history.0.gapSeconds"),
        ("history.0.outcome", "Draw", "history.0.outcome"),
        ("history.0.approval", "by me", "history.0.approval"),
        ("history.1", None, "history.1"),
        ("spentApprovals.0", 4, "spentApprovals.0"),
    ],
)
def test_only_the_part_of_a_status_that_does_not_fit_is_lost(path: str, value: Any, lost: str) -> None:
    """A user edited status, or a newer operator wrote it: all other parts are still read."""
    assert parse_status(lacking(lost)) == parse_status(broken(path, value))


def test_a_condition_without_a_type_is_no_condition() -> None:
    """A part without a required field is lost as a whole."""
    assert parse_status(lacking("conditions.0")) == parse_status(lacking("conditions.0.type"))


def test_several_bad_parts_are_lost_one_by_one() -> None:
    """Several bad parts do not make the whole status unreadable."""
    status = broken("phase", "Dreaming") | {
        "strategy": 1,
        "history": [{"to": 5}, {"to": "5.1.15", "startedAt": 0.5}, "x"],
    }
    read = parse_status(status)
    assert (None, None) == (read.phase, read.strategy)
    assert ["5.1.15"] == [entry.to for entry in read.history]
    assert "5.1.14" == read.active_version


@pytest.mark.parametrize("raw", [None, {}, [], "Running", 7])
def test_no_status_reads_as_an_empty_one(raw: object) -> None:
    """A status that is not an object reads as an empty status."""
    assert MedplumAgentStatus() == parse_status(raw)


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("aT0-:.", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*STATUS, "from", "to", "type", "status"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(list(STATUS)), any_json))
def test_any_status_can_be_parsed(raw: dict[str, Any]) -> None:
    """Parsing never fails, and parsing the dumped result again changes nothing."""
    read = parse_status(raw)
    assert read == parse_status(read.model_dump(by_alias=True, exclude_none=True, mode="json"))
