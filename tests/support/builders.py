"""Small builders of what a pass observes: a MedplumAgent, its pods, the objects that others own. Read by unit and property tests.

What a whole cluster would make of them is in `simulated_cluster`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import API_VERSION, KIND, MedplumAgent
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.revision import Memory
from medplum_agent_operator.core.observed.scope import Config
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy.verdict import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from medplum_agent_operator.api.spec import MedplumAgentSpec
    from medplum_agent_operator.core.observed.findings import Finding
    from medplum_agent_operator.core.policy.verdict import Verdict

Raw = dict[str, Any]

NAMESPACE: Final = "clinic"
NAME: Final = "lab"
REPOSITORY: Final = "registry.example.org/medplum-agent"
CONFIG: Final = Config(image_repository=REPOSITORY)
NOW: Final = datetime(2026, 9, 1, 12, 0, 0, tzinfo=UTC)
SERVER: Final[Mapping[str, Any]] = {
    "baseUrl": "https://api.medplum.com/",
    "agentId": "7ee1a9a5-6b6f-4d8c-9a55-0d3c2c5f4e21",
    "credentialsSecretRef": {"name": "lab-credentials"},
}
CHANNELS: Final = ({"name": "adt", "port": 2575},)
ABSENT: Final = object()
"""As a value of a spec's field: leave the field out."""


def refusal_of(verdict: Verdict) -> Finding | None:
    """Why the user's spec is not in force; None if it is."""
    return verdict.refusal if isinstance(verdict, Refused) else None


def v(text: str) -> AgentVersion:
    """Short for a version."""
    return AgentVersion.parse(text)


def stamp(moment: datetime) -> str:
    """A time as the API server writes it: whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def agent(
    version: str = "5.1.15",
    *,
    annotations: Mapping[str, str] | None = None,
    status: Mapping[str, Any] | None = None,
    generation: int = 1,
    **spec: Any,
) -> Raw:
    """A MedplumAgent as the API server gives it; further keywords are fields of its spec (`ABSENT` leaves one out).

    Without a gate: what is tested with one says so.
    """
    fields = {
        "version": version,
        "server": dict(SERVER),
        "channels": list(CHANNELS),
        "gate": {"enabled": False},
        **spec,
    }
    raw: Raw = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "uid": "agent-1",
            "generation": generation,
            "resourceVersion": "1",
            "annotations": dict(annotations or {}),
        },
        "spec": {key: value for key, value in fields.items() if value is not ABSENT},
    }
    if status is not None:
        raw["status"] = dict(status)
    return raw


def spec_of(version: str = "5.1.15", **fields: Any) -> MedplumAgentSpec:
    """A parsed spec."""
    return parsed(version, **fields).spec


def parsed(version: str = "5.1.15", **fields: Any) -> MedplumAgent:
    """A parsed MedplumAgent."""
    return MedplumAgent.parse(agent(version, **fields))


def approving(text: str) -> dict[str, str]:
    """The annotation that approves a downgrade."""
    return {names.FORCE_DOWNGRADE: text}


def observed(
    raw: Mapping[str, Any],
    *,
    deployment: Mapping[str, Any] | None = None,
    children: Mapping[str, Mapping[str, Any] | None] | None = None,
    pods: Iterable[Mapping[str, Any]] = (),
    nodes: Iterable[Mapping[str, Any]] = (),
) -> Observed:
    """One frozen snapshot."""
    found = Observed.of(MedplumAgent.parse(raw), deployment=deployment, children=children or {}, pods=pods, nodes=nodes)
    return found.with_memory(Memory.of(raw, found.agent.status, deployment=deployment))


def owned_by(raw: Raw, uid: str, *, kind: str = KIND, name: str = NAME) -> Raw:
    """The object with another controller."""
    owner = {"apiVersion": API_VERSION, "kind": kind, "name": name, "uid": uid, "controller": True}
    return {**raw, "metadata": {**raw["metadata"], "ownerReferences": [owner]}}


def stranger(kind: str) -> Raw:
    """An object of the agent's name that nobody of ours made."""
    return {"kind": kind, "metadata": {"name": NAME, "namespace": NAMESPACE, "uid": f"foreign-{kind}"}, "spec": {}}


def container_status(name: str, **fields: Any) -> Raw:
    """An entry of `status.containerStatuses`."""
    return {"name": name, "ready": False, "restartCount": 0, "state": {"running": {}}, **fields}


def pod(
    version: str | None = "5.1.15",
    *,
    name: str = "lab-1",
    template_hash: str | None = "hash",
    phase: str = "Running",
    **fields: Any,
) -> Raw:
    """A pod as the API server gives it.

    Args:
        version: the version label; None for a pod without one.
        name: its name.
        template_hash: fingerprint of its template; None for none.
        phase: its phase.
        fields: `ready_since`, `unready_since`, `ended_at` (of the agent's container), `created`, `terminating`, `node`, `unschedulable` (the scheduler's
            words), `image`, `containers` and `init_containers`
            (statuses).
    """
    ready_since = fields.get("ready_since")
    conditions = [{"type": "Ready", "status": "True" if ready_since else "False"}]
    if ready_since:
        conditions[0]["lastTransitionTime"] = stamp(ready_since)
    elif fields.get("unready_since"):
        conditions[0]["lastTransitionTime"] = stamp(fields["unready_since"])
    if fields.get("unschedulable"):
        conditions.append(
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": fields["unschedulable"]}
        )
    raw: Raw = {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"pod-{name}",
            "labels": {names.AGENT_LABEL: NAME} | ({names.VERSION_LABEL: version} if version else {}),
            "annotations": {names.TEMPLATE_HASH: template_hash} if template_hash else {},
        },
        "spec": {
            "nodeName": fields.get("node", ""),
            "containers": [{"name": "agent", "image": fields.get("image", "agent")}],
        },
        "status": {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": fields.get("containers", []),
            "initContainerStatuses": fields.get("init_containers", []),
        },
    }
    if fields.get("ended_at"):
        ended = {"terminated": {"exitCode": 0, "finishedAt": stamp(fields["ended_at"])}}
        raw["status"]["containerStatuses"] = [container_status("agent", state=ended)]
    if fields.get("created"):
        raw["metadata"]["creationTimestamp"] = stamp(fields["created"])
    if fields.get("terminating"):
        raw["metadata"]["deletionTimestamp"] = stamp(NOW)
    return raw
