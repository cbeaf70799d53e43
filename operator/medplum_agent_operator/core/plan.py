"""Turn an observation into a plan: one pure function, at most one disruptive action.

Called by `reconcile`, twice if something has to be written: once on the cache, once on live reads. The same observation,
settings and time always give the same plan. Once a plan is applied, the next observation leads to no action.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.observed.findings import warning
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.revision import KIND, Revision
from medplum_agent_operator.core.observed.rollout_record import LastGood
from medplum_agent_operator.core.observed.scope import Config
from medplum_agent_operator.core.policy import gate_messages, messages, revision_messages
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.checks import Blocker, first_blocker
from medplum_agent_operator.core.policy.strategy import choose
from medplum_agent_operator.core.policy.verdict import Refused, decide, while_blocked
from medplum_agent_operator.core.report import progress, rollout_messages
from medplum_agent_operator.core.report.notices import notices
from medplum_agent_operator.core.report.statement import Statement
from medplum_agent_operator.core.report.traffic import traffic_unconfirmed
from medplum_agent_operator.core.rollout import actions, backup, records, revisions, rollback, upkeep, waits
from medplum_agent_operator.core.rollout.actions import Apply
from medplum_agent_operator.core.rollout.desired import Desired, desired, move_if_departing
from medplum_agent_operator.core.rollout.steps import Pass, Step
from medplum_agent_operator.core.rollout.template_in_force import of_gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Statement):
    """What a pass does and says.

    Attributes:
        actions: the writes, in this order; at most one is disruptive.
        requeue_at: when to reconcile again without an event; None if events suffice.
        defer_reporting: whether to report nothing yet, because the report would change within a second.
        outdated: revisions to delete once the actions are done.
    """

    actions: tuple[Apply, ...] = ()
    requeue_at: datetime | None = None
    defer_reporting: bool = False
    outdated: tuple[Revision, ...] = ()


def make_plan(observed: Observed, *, config: Config, now: datetime) -> Plan:
    """Plan one pass."""
    blocker = first_blocker(observed)
    if blocker is not None:
        looked_after = _look_after(observed, blocker, config, now=now)
        return _blocked(blocker) if looked_after is None else _with_restored_record(looked_after, observed)
    this = Pass(observed, decide(observed, config), config, now)
    if (refused := this.refused) is not None and refused.spec is None:
        return _undecidable(observed, refused)
    return _with_restored_record(_with_notices(_reconcile(this), observed, config, now=now), observed)


def _reconcile(this: Pass) -> Plan:
    """Bring the cluster to the spec in force: roll back, replace no pod, wait, or begin a rollout."""
    wanted = desired(this)
    if not wanted.begins:
        if (step := rollback.roll_back(this, wanted.spec)) is not None:
            return _compose(this, step)
        wanted = move_if_departing(this, wanted)
    if not wanted.begins:
        return _reconcile_without_rollout(this, wanted)
    for gate in waits.BEFORE_A_ROLLOUT:
        match gate(this, wanted):
            case Refused() as refused:
                return _reconcile_applied_spec(this, refused)
            case Step() as step:
                return _compose(this, step)
    return _compose(this, _begin(this, wanted))


def _reconcile_applied_spec(this: Pass, refused: Refused) -> Plan:
    """Reconcile the applied spec while the user's waits; requeue at the end of the refusal."""
    plan = _reconcile(replace(this, verdict=refused))
    return replace(plan, requeue_at=min(filter(None, (plan.requeue_at, refused.until)), default=None))


def _begin(this: Pass, wanted: Desired) -> Step:
    """Replace the agent's pod."""
    observed, spec, template = this.observed, wanted.spec, wanted.template
    record = records.begin(observed, this.verdict, spec, wanted.choice, moved=wanted.moved, now=this.now)
    record = record.model_copy(update={"restart_mark": records.restart_mark(observed, template.body)})
    if observed.deployment is not None and template.newly_rendered and wanted.choice.mechanics.stops_first:
        number = observed.recreate_count + 1
        record, template = record.model_copy(update={"recreate_count": number}), template.with_stop_number(number)
    record, saved = backup.with_backup(observed, record)
    before, live = records.state_before(observed), observed.deployment
    state = LastGood(spec, template.applied)
    new = revisions.put_in_force(this, state, wanted.choice.strategy, record, before=before)
    change = actions.apply_if_different(new.body, None if live is None else live.raw, disruptive=True)
    first, *rest = (*actions.supporting_actions(observed, spec, this.config), *change)
    if wanted.choice.mechanics.stops_first:  # before anything that devices notice
        first = replace(first, rehearsal=revisions.rehearsal(this, spec, before))
    return Step(
        progress.beginning(observed, record, spec, now=this.now),
        record,
        (*saved, *new.create, first, *rest),
        begins=True,
        revision=new.revision,
    )


def _reconcile_without_rollout(this: Pass, wanted: Desired) -> Plan:
    """Replace no pod: repair drift, apply the rest of the spec, report."""
    observed, spec, template, live = this.observed, wanted.spec, wanted.template, this.observed.deployment
    record = records.current_record(observed, spec, now=this.now)
    record = records.refreshed_record(record, observed, refreshes=this.allowed is not None)
    # The strategy does not change during a rollout. At rest it is set for the next one: ours or a `kubectl rollout restart`.
    under_way = live is not None and not observed.activation.settled
    strategy = live.mechanics.strategy if live is not None and under_way else wanted.choice.strategy
    before = None if live is None else live.last_good
    new = revisions.put_in_force(this, LastGood(spec, template.applied), strategy, record, before=before)
    change = actions.apply_if_different(actions.as_stored(new.body, live), None if live is None else live.raw)
    beside = actions.supporting_actions(observed, spec, this.config)
    step = upkeep.upkeep(this, spec, (*new.create, *beside, *change))
    plan = _compose(this, replace(step, revision=new.revision))
    gate = of_gate(observed, spec, this.config) if spec.gated else None
    pending = gate_messages.pending_update(
        observed.agent, template.pending_update, "" if gate is None else gate.pending_update
    )
    return replace(plan, pending_update=pending)


def _creates_revision(step: Step) -> bool:
    return any(action.kind == KIND and action.name == step.revision for action in step.actions)


def _compose(this: Pass, step: Step) -> Plan:
    """Make the plan of a step. A refusal of the user's spec is its main message, unless a failed change is being rolled back."""
    observed, refused, state = this.observed, this.refused, step.progress
    plan = Plan(
        phase=state.phase,
        reason=state.reason,
        message=state.message,
        findings=state.findings,
        begins=step.record if step.begins else None,
        strategy=None if step.record.from_version is None else step.record.strategy,
        actions=step.actions,
        requeue_at=state.requeue_at,
        defer_reporting=state.defer_reporting,
        revision=step.revision,
        outdated=revisions.outdated(observed, creates=_creates_revision(step), in_force=step.revision),
    )
    if refused is None or ((refused.latched or refused.blocked) and not observed.activation.settled):
        return plan
    strategy = plan.strategy
    if refused.awaits_decision:
        strategy = choose(observed, refused.target, host_ports=observed.agent.spec.uses_host_ports).strategy
    return replace(
        plan,
        phase=refused.phase,
        reason=refused.refusal.reason,
        message=refused.refusal.message,
        findings=(refused.refusal, *plan.findings),
        strategy=strategy,
        refusal=refused.refusal,
        defer_reporting=False,
    )


def _look_after(observed: Observed, blocker: Blocker, config: Config, *, now: datetime) -> Plan | None:
    """Reconcile the applied spec while a check stops the user's; None if nothing may be written."""
    found = blocker.finding
    refused = while_blocked(observed, found) if blocker.spares_the_agent else None
    if refused is None:
        return None
    plan = _reconcile(Pass(observed, refused, config, now))
    notices = () if plan.reason is found.reason else (plan.message,)
    return replace(
        plan,
        phase=blocker.phase,
        reason=found.reason,
        message=found.message,
        notices=(*notices, *plan.notices),
        findings=(found, *(each for each in plan.findings if each != found)),
        refusal=found,
    )


def _blocked(blocker: Blocker) -> Plan:
    found = blocker.finding
    return Plan(phase=blocker.phase, reason=found.reason, message=found.message, findings=(found,))


def _undecidable(observed: Observed, refused: Refused) -> Plan:
    """Write nothing: the user's spec is refused and the applied one is unknown."""
    unknown = warning(Reason.LAST_SPEC_UNKNOWN, messages.last_spec_unknown())
    found = refused.refusal
    return Plan(
        phase=refused.phase,
        reason=found.reason,
        message=found.message,
        notices=() if observed.deployment is None else (unknown.message,),
        findings=(found,) if observed.deployment is None else (found, unknown),
        refusal=found,
    )


def _with_notices(plan: Plan, observed: Observed, config: Config, *, now: datetime) -> Plan:
    """Add what else is wrong to a plan."""
    found = notices(observed, config, known=plan.findings, now=now)
    shown = found.messages
    if (silent := found.silent_agent) is not None and plan.reason is Reason.SERVING:
        # "No changes are pending" would mislead: the silence is the main message.
        shown = tuple(message for message in shown if message is not silent)
        plan = replace(plan, message=replace(silent, rollout=rollout_messages.active(observed.agent.spec)))
    if plan.reason is Reason.AWAITING_WINDOW:  # its message explains the windows that never open
        faults = {each.message for each in found.findings if each.reason is Reason.WINDOW_INVALID}
        shown = tuple(message for message in shown if message not in faults)
    return replace(
        plan,
        notices=(*plan.notices, *shown),
        findings=(*plan.findings, *found.findings),
        requeue_at=min(filter(None, (plan.requeue_at, found.requeue_at)), default=None),
        defer_reporting=plan.defer_reporting or (not plan.actions and _waits_for_gates(observed)),
    )


def _with_restored_record(plan: Plan, observed: Observed) -> Plan:
    """Add what somebody changed of the operator's memory, to a plan that writes it again."""
    altered, agent = observed.memory.altered, observed.agent
    if not altered or not any(action.kind in {"Deployment", KIND} for action in plan.actions):
        return plan
    said = revision_messages.record_restored(agent.name, agent.namespace, altered, Availability.of(observed))
    return replace(plan, findings=(*plan.findings, warning(Reason.RECORD_RESTORED, said)), defer_reporting=False)


def _waits_for_gates(observed: Observed) -> bool:
    """Whether to report nothing until the gates were asked: within seconds of a start, and only if no rollout waits for status."""
    return observed.rollout_in_status and traffic_unconfirmed(observed)


def without_actions(plan: Plan, *, requeue_at: datetime) -> Plan:
    """The plan of a pass that ends before its next write."""
    return replace(plan, actions=(), outdated=(), revision=None, defer_reporting=False, requeue_at=requeue_at)
