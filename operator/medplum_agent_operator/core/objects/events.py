"""Kubernetes Events, rendered from findings. Called by `report`.

An Event's name contains a fingerprint of the agent's uid and generation, of the reason and text, and of the occurrence. Creating
the same Event again fails with "already exists". So restarts and repeated passes report nothing twice, and the same words said
about something new are another Event.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from medplum_agent_operator.api.agent import API_VERSION, KIND
from medplum_agent_operator.api.annotations import MANAGED_BY
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import MedplumAgentStatus
from medplum_agent_operator.core.observed.drift import fingerprint
from medplum_agent_operator.core.observed.findings import Finding

_ANSWERS: Final = frozenset(
    {
        Reason.DOWNGRADE_NOT_APPROVED,
        Reason.APPROVAL_FOR_OTHER_TARGET,
        Reason.APPROVAL_MALFORMED,
        Reason.APPROVAL_SPENT,
    }
)
"""Reasons that answer what a user did to the object without a new generation: each time deserves an Event."""
_BUCKET_SECONDS: Final = 600
"""How often other words may return as a new Event, so that a state which comes and goes is no flood."""


def is_told(finding: Finding, before: MedplumAgentStatus, generation: int | None) -> bool:
    """Whether the previous status already says this about this generation: then nothing new has happened."""
    lines = (before.plan or "").splitlines()
    if before.observed_generation != generation or finding.message.summary not in lines:
        return False
    if finding.reason not in _ANSWERS:
        return True
    # The first line of every refusal is the same. Reason and cause say which approval it answers.
    cause = finding.message.cause
    return any(c.reason == finding.reason for c in before.conditions) and (not cause or f"Cause: {cause}" in lines)


def occurrence(raw: Mapping[str, Any], finding: Finding, latest: MedplumAgentStatus, *, now: datetime) -> str:
    """What makes a finding another one than the same words before: the user's act, or else the rollout and the time."""
    if finding.reason in _ANSWERS:
        return str(raw["metadata"].get("resourceVersion", ""))
    rollout = latest.rollout or next(iter(latest.history), None)
    began = None if rollout is None else rollout.started_at
    return f"{began} {int(now.timestamp()) // _BUCKET_SECONDS}"


def render_event(
    raw: Mapping[str, Any], finding: Finding, *, now: datetime, instance: str, occurrence: str = ""
) -> dict[str, Any]:
    """An Event about a MedplumAgent.

    Source: https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/ (core/v1 form, which
    `kubectl describe` and every dashboard show).
    """
    metadata = raw["metadata"]
    content = [metadata.get("uid"), metadata.get("generation"), finding.reason, finding.message.summary, occurrence]
    timestamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{fingerprint(content)}", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata.get("uid"),
        },
        "type": str(finding.severity),
        "reason": str(finding.reason),
        "message": finding.message.summary,
        "count": 1,
        "firstTimestamp": timestamp,
        "lastTimestamp": timestamp,
        "source": {"component": MANAGED_BY},
        "reportingComponent": MANAGED_BY,
        "reportingInstance": instance,
    }
