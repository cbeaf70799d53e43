"""Which rollout this is: the record that begins with a disruptive write, and the one that is under way.

Called by `plan`. It reads no clock and writes nothing; its form on the Deployment is `notes`' affair.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.annotations import LAST_GOOD, NOW, REFRESH, RESTARTED_AT
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Outcome, Strategy
from medplum_agent_operator.core.objects.children import render_deployment
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.pods import Pod
from medplum_agent_operator.core.observed.rollout_record import (
    AppliedTemplate,
    Change,
    Failure,
    LastGood,
    RolloutRecord,
)
from medplum_agent_operator.core.policy.approval import kept
from medplum_agent_operator.core.policy.failure import latched
from medplum_agent_operator.core.policy.strategy import Choice
from medplum_agent_operator.core.policy.verdict import Allowed, Refused, Verdict


def begin(
    observed: Observed, verdict: Verdict, spec: MedplumAgentSpec, choice: Choice, *, moved: Pod | None, now: datetime
) -> RolloutRecord:
    """The record of the rollout that begins now, written to the Deployment in the same request as the template."""
    allowed = verdict if isinstance(verdict, Allowed) else None
    baseline = observed.baseline
    approval, approved_by = None, None
    if allowed is not None and allowed.approval is not None:
        approval, approved_by = allowed.approval.text, observed.agent.field_manager_of_approval
    # Restoring the applied spec while a change is refused is no change of version, and neither is a move.
    change = allowed.change if allowed is not None and moved is None else Change.NONE
    live = observed.record
    if observed.deployment is None:
        previous = None
    elif observed.activation.became_active:
        previous = Outcome.COMPLETED
    else:
        previous = Outcome.ABORTED if change is Change.ABORT else Outcome.SUPERSEDED
        if change is Change.NONE and live is not None and live.change is not Change.ROLLBACK:
            # Other settings in the middle of a change of version: it is still that change, with that approval.
            change, approval, approved_by = live.change, live.approval, live.approved_by
    return RolloutRecord(
        change=change,
        from_version=None if baseline is None else baseline.text,
        to=spec.version,
        strategy=choice.strategy,
        why=choice.why,
        started_at=now,
        previous_outcome=previous,
        approval=approval,
        approved_by=approved_by,
        moved_off=None if moved is None else moved.node,
        recreate_count=observed.recreate_count or None,
        failed=latched(observed) if isinstance(verdict, Refused) and verdict.latched else None,
        refresh=refreshed(observed, counts=allowed is not None),
        now=now_used(observed, spec),
    )


def restart_mark(observed: Observed, template: Mapping[str, Any]) -> str | None:
    """The mark that the live template will have once this one is written: one of its own, or what `kubectl` has left there, which stays."""
    return (template["metadata"].get("annotations") or {}).get(RESTARTED_AT) or observed.restart_mark


def now_used(observed: Observed, spec: MedplumAgentSpec) -> str | None:
    """The text that asks for a change at once and has been used up: by this one, or before, for as long as it stands there."""
    text = observed.agent.annotations.get(NOW, "")
    live = observed.record
    used = text.split(maxsplit=1)[:1] == [spec.version] or (live is not None and live.now == kept(text))
    return kept(text) if used else None


def refresh_asked_for(agent: MedplumAgent) -> str | None:
    """The text by which somebody asks for pods as this release renders them; None where nobody does."""
    text = agent.annotations.get(REFRESH, "")
    return kept(text) if text.strip() else None


def refreshed(observed: Observed, *, counts: bool) -> str | None:
    """The text that asks for such pods and has been acted on: the one that stands there or, where it does not count yet, the one before it."""
    asked = refresh_asked_for(observed.agent)
    if counts or asked is None:
        return asked
    return None if observed.record is None else observed.record.refresh


def roll_back(observed: Observed, good: LastGood, choice: Choice, failed: Failure, *, now: datetime) -> RolloutRecord:
    """Return the record of the rollout that takes a failed change back."""
    live = observed.record
    return RolloutRecord(
        change=Change.ROLLBACK,
        from_version=good.spec.version,
        to=good.spec.version,
        strategy=choice.strategy,
        why=choice.why,
        started_at=now,
        restart_mark=restart_mark(observed, good.applied.template),
        previous_outcome=Outcome.FAILED,
        rolled_back_from=failed.version,
        recreate_count=observed.recreate_count or None,
        failed=failed,
        refresh=None if live is None else live.refresh,
        now=None if live is None else live.now,
    )


def last_good(observed: Observed, *, begins: bool) -> str | None:
    """What is noted on the Deployment as active before its template: what is active now if a rollout begins, else as it stands."""
    live = observed.deployment
    if live is not None and begins and observed.is_rollback_target:
        return live.as_last_good()
    return recorded_last_good(observed)


def recorded_last_good(observed: Observed) -> str | None:
    """What is noted on the Deployment as active before its template, as it stands; None where there is none."""
    return None if observed.deployment is None else observed.deployment.annotations.get(LAST_GOOD)


def deployment(
    observed: Observed,
    spec: MedplumAgentSpec,
    template: AppliedTemplate,
    strategy: Strategy,
    record: RolloutRecord,
    *,
    begins: bool,
) -> dict[str, Any]:
    """The Deployment with its record, its template and what was active before."""
    return render_deployment(
        observed.agent,
        spec,
        template=template,
        strategy=strategy,
        record=record,
        last_good=last_good(observed, begins=begins),
    )


def refreshed_record(record: RolloutRecord, observed: Observed, *, refreshes: bool) -> RolloutRecord:
    """The live record as it is now: the latch, open or not; the last refresh; a restart by hand before the template was active."""
    failed = record.failed if latched(observed) is not None else None
    text = observed.agent.annotations.get(NOW, "")
    used = record.now if record.now == kept(text) else None
    mark = record.restart_mark
    if observed.deployment is not None and observed.activation_ruled_out and not observed.activation.became_active:
        # The pods that show it will be gone, and then nothing would tell it from a restart of what was active.
        mark = observed.deployment.restart_mark
    return record.model_copy(
        update={"failed": failed, "refresh": refreshed(observed, counts=refreshes), "now": used, "restart_mark": mark}
    )


def current(observed: Observed, spec: MedplumAgentSpec, *, now: datetime) -> RolloutRecord:
    """Return the live record; where somebody removed it, what status knows of it; else a new one for what is there."""
    deployment = observed.deployment
    if deployment is not None and deployment.record is not None:
        return deployment.record
    strategy = deployment.mechanics.strategy if deployment is not None else Strategy.ROLLING_HANDOFF
    for entry in observed.agent.status.history[:1]:
        if entry.to == spec.version and entry.strategy is not None and entry.started_at is not None:
            return RolloutRecord(
                change=Change.NONE,
                from_version=entry.from_version,
                to=entry.to,
                strategy=entry.strategy,
                started_at=entry.started_at,
                recreate_count=observed.recreate_count or None,
            )
    return RolloutRecord(
        change=Change.NONE,
        to=spec.version,
        strategy=strategy,
        started_at=now,
        recreate_count=observed.recreate_count or None,
    )
