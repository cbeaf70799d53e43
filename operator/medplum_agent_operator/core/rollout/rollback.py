"""After a failed change: apply the previous spec and template again, and latch the change.

Called by `plan`. It must not judge: `policy.failure` says when a change has failed, and `policy.verdict` which spec a latch leaves in
force.
"""

from dataclasses import replace

from medplum_agent_operator.api.changes import OnFailure
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.rollout_record import LastGood, RolloutRecord
from medplum_agent_operator.core.policy import failure
from medplum_agent_operator.core.report import progress
from medplum_agent_operator.core.report.progress import Progress
from medplum_agent_operator.core.rollout import revisions
from medplum_agent_operator.core.rollout.actions import apply_if_different, as_stored, supporting_actions
from medplum_agent_operator.core.rollout.records import begin_rollback, current_record
from medplum_agent_operator.core.rollout.steps import Pass, Step
from medplum_agent_operator.core.rollout.template_in_force import of_agent
from medplum_agent_operator.core.rollout.upkeep import report_first


def roll_back(this: Pass, spec: MedplumAgentSpec) -> Step | None:
    """The step that applies exactly the previous state after a failure; None if no rollout failed, or none may be rolled back."""
    observed, now = this.observed, this.now
    live = observed.deployment
    if live is None or not failure.should_roll_back(observed, spec, now=now):
        return None
    previous = live.last_good
    if previous is None:
        return None
    if not observed.rollout_in_status:
        return report_first(this, spec)
    # The user's spec may have failed before. If something else fails while it is latched, the latch stays.
    failed = failure.latched(observed) or failure.record_failure(
        observed.agent, spec, progress.what_failed(observed, spec, now=now)
    )
    choice = revisions.way_back(observed, previous)
    record = begin_rollback(observed, previous, choice, failed, now=now)
    back = revisions.put_in_force(this, previous, choice.strategy, record, before=previous)
    # The agent first: a refused write beside it must not delay its return.
    actions = (
        *back.create,
        *apply_if_different(back.body, live.raw, disruptive=True),
        *supporting_actions(observed, previous.spec, this.config),
    )
    state = progress.beginning(observed, record, previous.spec, now=now)
    return Step(replace(state, defer_reporting=False), record, actions, begins=True, revision=back.revision)


def latch(this: Pass, spec: MedplumAgentSpec, state: Progress, record: RolloutRecord) -> Step | None:
    """The step that latches a change which failed before its rollout began; None if it did not fail or must not be latched."""
    observed = this.observed
    live, before = observed.deployment, observed.applied_spec
    if state.failed is None or spec.handoff.on_failure is not OnFailure.ROLLBACK or live is None or before is None:
        return None
    failed = failure.record_failure(observed.agent, spec, state.failed)
    applied = LastGood(before, of_agent(observed, before, this.config, refreshes=False).applied)
    latched = current_record(observed, before, now=this.now).model_copy(update={"failed": failed})
    same = revisions.put_in_force(this, applied, live.mechanics.strategy, latched, before=live.last_good)
    beside = supporting_actions(observed, before, this.config)
    actions = (*same.create, *beside, *apply_if_different(as_stored(same.body, live), live.raw))
    # The next pass finds the latch and reports it.
    state = replace(state, findings=(), defer_reporting=True, requeue_at=this.now)
    return Step(state, record, actions, revision=same.revision)
