"""What is done about a change that failed: what was active before is brought back, and what failed is latched.

Called by `plan`. When a change has failed is `failure`'s to say; what a latch means for the spec in force is `verdict`'s.
"""

from dataclasses import replace

from medplum_agent_operator.api.changes import OnFailure
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.objects.children import render_deployment
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy import failure
from medplum_agent_operator.core.policy.strategy import choose
from medplum_agent_operator.core.report import progress
from medplum_agent_operator.core.report.progress import Progress
from medplum_agent_operator.core.rollout.actions import as_kept, compared, supporting
from medplum_agent_operator.core.rollout.compose import Pass, Plan, report, told
from medplum_agent_operator.core.rollout.records import current, noted_last_good, roll_back
from medplum_agent_operator.core.rollout.template_in_force import of_agent


def taking_back(this: Pass, spec: MedplumAgentSpec) -> Plan | None:
    """The plan that takes a failed change back, exactly to what was active before; None where nothing has failed, or it is held."""
    observed, now = this.observed, this.now
    live = observed.deployment
    if live is None or not failure.is_to_be_taken_back(observed, spec, now=now):
        return None
    good = live.last_good
    if good is None:
        return None
    if not observed.noted:
        return noting_first(this, spec)
    # What the user asks for may have failed before: other things fail while that is latched, and it stays so.
    failed = failure.latched(observed) or failure.note(observed.agent, spec, progress.what_failed(observed, spec))
    mechanics = choose(observed, AgentVersion.parse(good.spec.version), host_ports=good.spec.uses_host_ports)
    record = roll_back(observed, good, mechanics, failed, now=now)
    body = render_deployment(
        observed.agent,
        good.spec,
        template=good.applied,
        strategy=mechanics.strategy,
        record=record,
        last_good=noted_last_good(observed),
    )
    # The agent first: nothing beside it that is refused keeps it from coming back.
    actions = (*compared(body, live.raw, disruptive=True), *supporting(observed, good.spec, this.config))
    state = progress.beginning(observed, record, good.spec, now=now)
    return replace(told(this, state, actions=actions, record=record, begins=True), silent=False)


def noting_first(this: Pass, spec: MedplumAgentSpec) -> Plan:
    """Status does not tell yet of the rollout before the one that is to begin: note it first, or a crash now would forget it."""
    return replace(report(this, spec, actions=()), silent=False, look_again_at=this.now)


def latching(this: Pass, spec: MedplumAgentSpec, state: Progress, record: RolloutRecord) -> Plan | None:
    """The plan that latches a change which failed before anything of it was done; None where it is held."""
    observed = this.observed
    live, before = observed.deployment, observed.applied_spec
    if state.failed is None or spec.handoff.on_failure is not OnFailure.ROLLBACK or live is None or before is None:
        return None
    failed = failure.note(observed.agent, spec, state.failed)
    body = render_deployment(
        observed.agent,
        before,
        template=of_agent(observed, before, this.config, refreshes=False).applied,
        strategy=live.strategy,
        record=current(observed, before, now=this.now).model_copy(update={"failed": failed}),
        last_good=noted_last_good(observed),
    )
    actions = (*supporting(observed, before, this.config), *compared(as_kept(body, live), live.raw))
    # The next pass finds the latch, and tells of it.
    plan = told(this, state, actions=actions, record=record)
    return replace(plan, findings=(), silent=True, look_again_at=this.now)
