"""Messages about the operator's memory: one that somebody changed, one that cannot be written, a way back that would be refused.

Called by `plan` and by the shell, which alone sees how requests end. This module must never decide anything.
"""

from collections.abc import Sequence
from typing import Final

from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.phrases import listed

_CORRECT: Final = (
    "Correct what the cause names: a quota, an admission policy, the operator's RBAC or the size of the spec."
)


def record_restored(agent: str, namespace: str, altered: Sequence[str], available: Availability) -> Message:
    """Somebody has changed what the operator remembers. `altered`: what, in words."""
    return Message(
        f"Another user or program changed the operator's record: {listed(altered)}.",
        cause="A person, a program or an older operator release changed it, for example by kubectl rollout undo.",
        impact=f"{available.now} The operator ignores the change and restores its record.",
        fix=f"None needed if you know who did it. Otherwise find out who may edit Deployments in namespace {namespace}; the command shows the latest "
        "write of each program.",
        command=f"kubectl -n {namespace} get deployment {agent} -o yaml --show-managed-fields",
    )


def revision_refused(name: str, fault: str, available: Availability, begins: RolloutRecord | None) -> Message:
    """A revision that the API server refuses. `fault`: the server's words. `begins`: the rollout that waits for it."""
    what = "Nothing is changed" if begins is None else f"The change to {begins.to} does not start"
    return Message(
        f"{what}: the operator cannot record what it would apply.",
        cause=f"ControllerRevision {name}: {fault}",
        impact=f"{available.now} The operator stopped no agent. Until it can record, it applies no edit and repairs no drift.",
        fix=f"{_CORRECT} The operator retries every minute.{'' if begins is None else _then(begins, available)}",
    )


def way_back_refused(begins: RolloutRecord, what: str, fault: str, available: Availability) -> Message:
    """A change that stops first, and whose rollback the API server would refuse. `what`: the object; `fault`: the server's words."""
    return Message(
        f"The change to {begins.to} does not start: if it failed, it could not be rolled back.",
        cause=f"In a dry run, the API server refuses {what}: {fault}",
        impact=f"{available.now} The operator stopped no agent.",
        fix=f"{_CORRECT} The operator retries every minute.{_then(begins, available)} To start it without a possible rollback, set spec.handoff.onFailure to Hold.",
    )


def _then(begins: RolloutRecord, available: Availability) -> str:
    """What the start of the change means, once nothing refuses it."""
    if not begins.mechanics.stops_first or not available.serving:
        return " The change then starts automatically."
    return f" The change then starts automatically: {available.stop_first(listed(available.serving), begins.to)}"
