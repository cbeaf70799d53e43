"""The whole status, projected from what was observed, what is planned and what status said before.

Called by `reconcile` at the end of a pass; it writes the result only where it differs. Nothing in here is a memory that the
operator would need to act rightly: it is lost with a wiped status only that an approval was taken off and set again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from medplum_agent_operator.api.annotations import FORCE_DOWNGRADE
from medplum_agent_operator.api.reasons import ConditionType, Reason
from medplum_agent_operator.api.status import (
    UNDER_WAY,
    Condition,
    ConditionStatus,
    HistoryApproval,
    HistoryEntry,
    MedplumAgentStatus,
    Outcome,
    Phase,
    Rollout,
)
from medplum_agent_operator.core.observed.findings import Finding
from medplum_agent_operator.core.observed.model import Observed, Ownership, ownership
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.policy import failure
from medplum_agent_operator.core.report import traffic
from medplum_agent_operator.core.report.downtime_measurement import Moments, figures, notice
from medplum_agent_operator.core.report.traffic import Told
from medplum_agent_operator.core.rollout.compose import Plan

LONGEST_HISTORY: Final = 10
LONGEST_MESSAGE: Final = 32_768
"""Characters of a condition's message (metav1.Condition)."""


def project(observed: Observed, plan: Plan, *, now: datetime) -> MedplumAgentStatus:
    """The status that goes with this observation and this plan."""
    observed = _without_somebody_else_s(observed)
    previous = observed.agent.status
    current = plan.begins or observed.record
    settled = plan.begins is None and observed.settled
    rollout = None
    history = list(previous.history)
    if previous.rollout is not None and (current is None or previous.rollout.started_at != current.started_at):
        _close(history, previous.rollout, _outcome_of_previous(current), now=now)
    if current is not None:
        rollout = _follow(previous.rollout, current, observed, plan, now=now)
        if settled:
            measured = figures(rollout, current, observed)
            _close(history, rollout, Outcome.COMPLETED, now=now, measured=measured)
            rollout = None
        elif plan.begins is None and failure.is_over(observed, now=now):
            _close(history, rollout, Outcome.FAILED, now=now)
    told = plan_conditions(plan, serving=bool(observed.open_pods))
    forwarding = traffic.forwarding(observed)
    if forwarding is not None:
        told[ConditionType.FORWARDING] = forwarding
    gated = observed.agent.spec.gated
    return MedplumAgentStatus(
        observed_generation=observed.agent.generation,
        phase=plan.phase,
        active_version=_active_version(observed),
        target_version=observed.agent.spec.version,
        last_good_version=_last_good_version(observed),
        strategy=plan.strategy,
        plan=plan.sentence,
        waiting_for_next_change=plan.waits or None,
        conditions=conditions(
            [known for known in previous.conditions if gated or known.type != ConditionType.FORWARDING],
            told,
            generation=observed.agent.generation,
            now=now,
        ),
        channels=traffic.channels(observed, now=now),
        rollout=rollout,
        history=traffic.with_figures(history, observed, now=now)[:LONGEST_HISTORY],
        spent_approvals=_spent(observed, current),
    )


def _without_somebody_else_s(observed: Observed) -> Observed:
    """The same without a Deployment that is not this agent's: a deleted namesake's tells of rollouts that this one never had."""
    if observed.deployment is None or ownership(observed.deployment.raw, observed.agent) is Ownership.OURS:
        return observed
    return replace(observed, deployment=None)


def unreadable(previous: MedplumAgentStatus, finding: Finding, *, generation: int, now: datetime) -> MedplumAgentStatus:
    """The status of an object whose spec does not fit the model: everything known stays, the fault is told."""
    plan = Plan(Phase.FAILED, finding.reason, finding.message)
    serving = any(c.type == ConditionType.AVAILABLE and c.status is ConditionStatus.TRUE for c in previous.conditions)
    told = plan_conditions(plan, serving=serving)
    return previous.model_copy(
        update={
            "observed_generation": generation,
            "phase": plan.phase,
            "plan": plan.sentence,
            "conditions": tuple(conditions(previous.conditions, told, generation=generation, now=now)),
        }
    )


def _outcome_of_previous(current: RolloutRecord | None) -> Outcome:
    if current is None or current.previous_outcome is None:
        return Outcome.SUPERSEDED
    return current.previous_outcome


def _close(
    history: list[HistoryEntry],
    rollout: Rollout,
    outcome: Outcome,
    *,
    now: datetime,
    measured: tuple[float | None, float | None] = (None, None),
) -> None:
    """Put a rollout's end into history, newest first. One entry a rollout: a failed one that comes right is completed."""
    known = next((entry for entry in history if entry.started_at == rollout.started_at), None)
    if known is not None:
        if known.outcome is outcome or (known.outcome is Outcome.FAILED and outcome is not Outcome.COMPLETED):
            return
        history.remove(known)
    approval = HistoryApproval(text=rollout.approval, by=rollout.approved_by) if rollout.approval else None
    gap_seconds, overlap_seconds = measured
    history.insert(
        0,
        HistoryEntry(
            from_version=rollout.from_version,
            to=rollout.to,
            strategy=rollout.strategy,
            outcome=outcome,
            started_at=rollout.started_at,
            completed_at=now,
            gap_seconds=gap_seconds,
            overlap_seconds=overlap_seconds,
            approval=approval,
            moved_off=rollout.moved_off,
            rolled_back_from=rollout.rolled_back_from,
            backup=rollout.backup,
        ),
    )


def _follow(
    previous: Rollout | None, current: RolloutRecord, observed: Observed, plan: Plan, *, now: datetime
) -> Rollout:
    """The rollout under way, with the moments of its takeover that have been seen so far."""
    known = Moments()
    if previous is not None and previous.started_at == current.started_at:
        known = Moments(previous.old_ended_at, previous.new_ready_at)
    seen = notice(known, current, observed, begins=plan.begins is not None, now=now)
    deadline = observed.agent.spec.handoff.progress_deadline_seconds
    return Rollout(
        from_version=current.from_version,
        to=current.to,
        strategy=None if current.from_version is None else current.strategy,
        started_at=current.started_at,
        deadline=current.started_at + timedelta(seconds=deadline),
        old_ended_at=seen.old_ended_at,
        new_ready_at=seen.new_ready_at,
        approval=current.approval,
        approved_by=current.approved_by,
        moved_off=current.moved_off,
        rolled_back_from=current.rolled_back_from,
        backup=current.backup,
    )


def _active_version(observed: Observed) -> str | None:
    """The version that the agent's pods run, the active one where there are two; None in the gap of a recreate."""
    last_good = observed.last_good
    if observed.deployment is not None and observed.became_active:
        return None if last_good is None else last_good.text
    # In a handoff the old one counts until the new one is active; where nothing serves, one on its way out does not count.
    serving = bool(observed.open_pods)
    running = [pod.version for pod in observed.live_pods if serving or not pod.terminating]
    if last_good is not None and last_good in running:
        return last_good.text
    ready = [pod.version.text for pod in observed.open_pods if pod.version is not None]
    return ready[0] if ready else None


def _last_good_version(observed: Observed) -> str | None:
    last_good = observed.last_good
    return observed.agent.status.last_good_version if last_good is None else last_good.text


def _spent(observed: Observed, current: RolloutRecord | None) -> list[str]:
    """Approvals that cannot be used again: all that were, until somebody takes the annotation off."""
    agent = observed.agent
    if FORCE_DOWNGRADE not in agent.annotations:
        return []
    spent = list(agent.status.spent_approvals)
    noted = observed.noted and current == observed.record
    if current is not None and current.approval is not None and not noted and current.approval not in spent:
        spent.append(current.approval)
    return spent


def plan_conditions(plan: Plan, *, serving: bool) -> dict[ConditionType, Told]:
    """What each condition says: whether it holds, the reason, the message."""
    ready = plan.phase is Phase.RUNNING and serving
    under_way = plan.phase in UNDER_WAY
    stalled = plan.phase is Phase.FAILED
    waiting = plan.phase is Phase.AWAITING_APPROVAL
    # No pod names and no counts: what changes within a handoff must not cost a write.
    available = "A ready agent pod takes connections on every channel port." if serving else "No agent pod is ready."
    yes, no = ConditionStatus.TRUE, ConditionStatus.FALSE
    at_rest = (no, str(Reason.SETTLED), "")
    return {
        ConditionType.READY: (yes if ready else no, str(plan.reason), plan.sentence),
        ConditionType.RECONCILING: (yes, str(plan.reason), plan.sentence) if under_way else at_rest,
        ConditionType.STALLED: (yes, str(plan.reason), plan.sentence) if stalled else at_rest,
        ConditionType.AVAILABLE: (
            yes if serving else no,
            str(Reason.SERVING if serving else Reason.NOT_SERVING),
            available,
        ),
        ConditionType.APPROVAL_REQUIRED: (
            (yes, str(plan.reason), plan.sentence) if waiting else (no, str(Reason.NO_APPROVAL_NEEDED), "")
        ),
    }


def conditions(
    previous: Sequence[Condition],
    told: Mapping[ConditionType, Told],
    *,
    generation: int,
    now: datetime,
) -> list[Condition]:
    """Conditions as metav1.Condition wants them: the transition time moves only when the status does."""
    before = {condition.type: condition for condition in previous}
    result = [condition for condition in previous if condition.type not in told]
    for kind, (status, reason, message) in told.items():
        known = before.get(str(kind))
        # Whole seconds, as metav1.Time has them.
        since = (
            known.last_transition_time if known is not None and known.status is status else now.replace(microsecond=0)
        )
        result.append(
            Condition(
                type=str(kind),
                status=status,
                reason=reason,
                message=message[:LONGEST_MESSAGE],
                last_transition_time=since,
                observed_generation=generation,
            )
        )
    return result
