"""The conditions of a MedplumAgent, as metav1.Condition defines them. Called by `status`; pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from medplum_agent_operator.api.reasons import ConditionType, Reason
from medplum_agent_operator.api.status import UNDER_WAY, Condition, ConditionStatus, Phase
from medplum_agent_operator.core.report.statement import Statement
from medplum_agent_operator.core.report.traffic import ConditionValue

LONGEST_MESSAGE: Final = 32_768
"""Characters of a condition's message (metav1.Condition)."""


def plan_conditions(plan: Statement, *, serving: bool) -> dict[ConditionType, ConditionValue]:
    """The value of each condition that follows from the plan."""
    ready = plan.phase is Phase.RUNNING and serving
    under_way = plan.phase in UNDER_WAY
    stalled = plan.phase is Phase.FAILED
    waiting = plan.phase is Phase.AWAITING_APPROVAL
    # No pod names and no counts: they change within a handoff, and each change would cost a write.
    available = "A ready agent pod accepts connections on every channel port." if serving else "No agent pod is ready."
    yes, no = ConditionStatus.TRUE, ConditionStatus.FALSE
    at_rest = (no, str(Reason.SETTLED), "")
    return {
        ConditionType.READY: (yes if ready else no, str(plan.reason), plan.message.summary),
        ConditionType.RECONCILING: (yes, str(plan.reason), plan.message.summary) if under_way else at_rest,
        ConditionType.STALLED: (yes, str(plan.reason), plan.message.summary) if stalled else at_rest,
        ConditionType.AVAILABLE: (
            yes if serving else no,
            str(Reason.SERVING if serving else Reason.NOT_SERVING),
            available,
        ),
        ConditionType.APPROVAL_REQUIRED: (
            (yes, str(plan.reason), plan.message.summary) if waiting else (no, str(Reason.NO_APPROVAL_NEEDED), "")
        ),
    }


def conditions(
    previous: Sequence[Condition],
    values: Mapping[ConditionType, ConditionValue],
    *,
    generation: int,
    now: datetime,
) -> list[Condition]:
    """Update conditions as metav1.Condition demands: the transition time changes only with the status.

    Each stays at its place, and a new one comes last: a pass that has nothing to say about one must not write status.
    """
    before = {condition.type: condition for condition in previous}
    result = dict(before)
    for kind, (status, reason, message) in values.items():
        known = before.get(str(kind))
        # Whole seconds, as metav1.Time has them.
        since = (
            known.last_transition_time if known is not None and known.status is status else now.replace(microsecond=0)
        )
        result[str(kind)] = Condition(
            type=str(kind),
            status=status,
            reason=reason,
            message=message[:LONGEST_MESSAGE],
            last_transition_time=since,
            observed_generation=generation,
        )
    return list(result.values())
