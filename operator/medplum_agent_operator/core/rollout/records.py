"""Make rollout records: for the rollout that a disruptive write begins, and for the rollout under way.

Called by `plan`, `rollback`, `upkeep` and `template_in_force`. It must not read the clock. `rollout_record` defines the stored form.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.annotations import NOW, REFRESH, RESTARTED_AT
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Outcome, Strategy
from medplum_agent_operator.core.observed import requests
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.pods import Pod
from medplum_agent_operator.core.observed.rollout_record import Change, Failure, LastGood, RolloutRecord
from medplum_agent_operator.core.policy.approval import stored_form
from medplum_agent_operator.core.policy.failure import latched
from medplum_agent_operator.core.policy.strategy import Choice
from medplum_agent_operator.core.policy.verdict import Allowed, Refused, Verdict


def begin(
    observed: Observed, verdict: Verdict, spec: MedplumAgentSpec, choice: Choice, *, moved: Pod | None, now: datetime
) -> RolloutRecord:
    """Make the record of the rollout that begins now. It is written to the Deployment in the same request as the template."""
    allowed = verdict if isinstance(verdict, Allowed) else None
    baseline = observed.baseline
    approval, approved_by = None, None
    if allowed is not None and allowed.approval is not None:
        approval, approved_by = allowed.approval.text, observed.agent.field_manager_of_approval
    # Neither a move nor a repair of the applied spec while a change is refused changes the version.
    change = allowed.change if allowed is not None and moved is None else Change.NONE
    live = observed.record
    if observed.deployment is None:
        previous = None
    elif observed.activation.became_active:
        previous = Outcome.COMPLETED
    else:
        previous = Outcome.ABORTED if change is Change.ABORT else Outcome.SUPERSEDED
        if change is Change.NONE and live is not None and live.change is not Change.ROLLBACK:
            # Other settings during a change of version: it is still that change, with that approval.
            change, approval, approved_by = live.change, live.approval, live.approved_by
    return RolloutRecord(
        change=change,
        from_version=None if baseline is None else baseline.text,
        to=spec.version,
        strategy=choice.strategy,
        why=choice.why,
        started_at=now,
        revision=requests.highest_revision(observed.deployment, writes=1),
        previous_outcome=previous,
        approval=approval,
        approved_by=approved_by,
        moved_off=None if moved is None else moved.node,
        recreate_count=observed.recreate_count or None,
        failed=latched(observed) if isinstance(verdict, Refused) and verdict.latched else None,
        refresh=acted_on_refresh(observed, counts=allowed is not None),
        now=used_now_text(observed, spec),
    )


def restart_mark(observed: Observed, template: Mapping[str, Any]) -> str | None:
    """The restart mark that the live template will have after the write: the template's own, or the live one of `kubectl`, which stays."""
    own = (template["metadata"].get("annotations") or {}).get(RESTARTED_AT)
    return own or (None if observed.deployment is None else requests.restart_mark(observed.deployment))


def used_now_text(observed: Observed, spec: MedplumAgentSpec) -> str | None:
    """The text of the annotation `agents.medplum.com/now` if it is used up: by this rollout, or by an earlier one; None if not."""
    text = observed.agent.annotations.get(NOW, "")
    live = observed.record
    used = text.split(maxsplit=1)[:1] == [spec.version] or (live is not None and live.now == stored_form(text))
    return stored_form(text) if used else None


def requested_refresh(agent: MedplumAgent) -> str | None:
    """The text of the annotation `agents.medplum.com/refresh`, in its stored form; None without one."""
    text = agent.annotations.get(REFRESH, "")
    return stored_form(text) if text.strip() else None


def acted_on_refresh(observed: Observed, *, counts: bool) -> str | None:
    """The refresh text that the operator has acted on: the current one or, if that does not count yet, the recorded one."""
    asked = requested_refresh(observed.agent)
    if counts or asked is None:
        return asked
    return None if observed.record is None else observed.record.refresh


def begin_rollback(
    observed: Observed, previous: LastGood, choice: Choice, failed: Failure, *, now: datetime
) -> RolloutRecord:
    """Make the record of the rollout that rolls back a failed change."""
    live = observed.record
    return RolloutRecord(
        change=Change.ROLLBACK,
        from_version=previous.spec.version,
        to=previous.spec.version,
        strategy=choice.strategy,
        why=choice.why,
        started_at=now,
        restart_mark=restart_mark(observed, previous.applied.template),
        revision=requests.highest_revision(observed.deployment, writes=1),
        previous_outcome=Outcome.FAILED,
        rolled_back_from=failed.version,
        recreate_count=observed.recreate_count or None,
        failed=failed,
        refresh=None if live is None else live.refresh,
        now=None if live is None else live.now,
    )


def state_before(observed: Observed) -> LastGood | None:
    """What was active before a rollout that begins now: the live state, or if that never became active, what was active before it."""
    live = observed.deployment
    if live is None:
        return None
    return live.as_last_good() if observed.is_rollback_target else live.last_good


def refreshed_record(record: RolloutRecord, observed: Observed, *, refreshes: bool) -> RolloutRecord:
    """Update the live record: the latch, if a user opened it; the last refresh; a restart by hand before the template was active."""
    failed = record.failed if latched(observed) is not None else None
    text = observed.agent.annotations.get(NOW, "")
    used = record.now if record.now == stored_form(text) else None
    mark, revision = record.restart_mark, record.revision
    if observed.deployment is not None and observed.activation_ruled_out and not observed.activation.became_active:
        # The pods that prove it will be gone. What was asked for would then look like a restart of an active template (docs/adr/0028).
        mark = requests.restart_mark(observed.deployment)
        revision = requests.revision_of_a_template_that_cannot_be_active(observed.deployment, revision or 0)
    return record.model_copy(
        update={
            "failed": failed,
            "refresh": acted_on_refresh(observed, counts=refreshes),
            "now": used,
            "restart_mark": mark,
            "revision": revision,
        }
    )


def current_record(observed: Observed, spec: MedplumAgentSpec, *, now: datetime) -> RolloutRecord:
    """The live record; if a user removed it, a record from the history in status, or else a new one for the live state."""
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
