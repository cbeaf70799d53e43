"""The rollout under way and the history in status. Called by `status`; pure."""

from datetime import datetime, timedelta

from medplum_agent_operator.api.status import HistoryApproval, HistoryEntry, Outcome, Rollout
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.policy import failure
from medplum_agent_operator.core.report.downtime_measurement import Measurement, gap_and_overlap, measure
from medplum_agent_operator.core.report.statement import Statement


def rollout_and_history(
    observed: Observed, plan: Statement, *, now: datetime
) -> tuple[Rollout | None, list[HistoryEntry]]:
    """`status.rollout` and `status.history` after this pass. A rollout that completes or is replaced moves to the history."""
    previous = observed.agent.status
    current = plan.begins or observed.record
    history = list(previous.history)
    if previous.rollout is not None and (current is None or previous.rollout.started_at != current.started_at):
        _close(history, previous.rollout, _outcome_of_previous(current), now=now)
    if current is None:
        return None, history
    rollout = _rollout(previous.rollout, current, observed, plan, now=now)
    if plan.begins is not None:
        return rollout, history
    if observed.activation.settled:
        _close(history, rollout, Outcome.COMPLETED, now=now, measured=gap_and_overlap(rollout, current, observed))
        return None, history
    if failure.has_failed(observed, now=now):
        _close(history, rollout, Outcome.FAILED, now=now)
    return rollout, history


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
    """Put a rollout's end into history, newest first. One entry for each rollout: if a failed one succeeds later, it becomes completed."""
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


def _rollout(
    previous: Rollout | None, current: RolloutRecord, observed: Observed, plan: Statement, *, now: datetime
) -> Rollout:
    """The rollout under way, with the moments measured so far."""
    known = Measurement()
    if previous is not None and previous.started_at == current.started_at:
        known = Measurement(previous.old_ended_at, previous.new_ready_at)
    seen = measure(known, current, observed, begins=plan.begins is not None, now=now)
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
