"""From what was observed to what is to be done: one pure function, at most one disruptive action.

Called by `reconcile`, twice where something is to be written: once on what the watches saw, once on what was just read.
The same observation, settings and time always give the same plan; applying it and observing again leads to no action.
"""

from dataclasses import replace
from datetime import datetime

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Strategy
from medplum_agent_operator.core.objects.agent_pod import image_of
from medplum_agent_operator.core.objects.children import render_deployment
from medplum_agent_operator.core.observed.findings import Finding, Severity
from medplum_agent_operator.core.observed.model import Config, Observed
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy import downtime, drain, messages, prepull
from medplum_agent_operator.core.policy.checks import first_blocker
from medplum_agent_operator.core.policy.prepull import Fetch
from medplum_agent_operator.core.policy.strategy import Mechanics, choose
from medplum_agent_operator.core.policy.verdict import decide
from medplum_agent_operator.core.report import progress
from medplum_agent_operator.core.rollout import revisions
from medplum_agent_operator.core.rollout.actions import Apply, as_kept, compared, supporting
from medplum_agent_operator.core.rollout.compose import Pass, Plan, report, told, undecidable, with_traffic
from medplum_agent_operator.core.rollout.records import begin, current, kept_up, last_good, restart_mark
from medplum_agent_operator.core.rollout.rollback import latching, noting_first, taking_back
from medplum_agent_operator.core.rollout.template_in_force import Template, of_agent, of_gate


def make_plan(observed: Observed, *, config: Config, now: datetime) -> Plan:
    """Plan one pass."""
    blocker = first_blocker(observed)
    if blocker is not None:
        found = blocker.finding
        return Plan(blocker.phase, found.reason, found.message, findings=(found,))
    verdict = decide(observed, config)
    if verdict.spec is None:
        return undecidable(verdict)
    plan = _towards(Pass(observed, verdict, config, now), verdict.spec)
    return with_traffic(plan, observed, config, now=now)


def _towards(this: Pass, spec: MedplumAgentSpec) -> Plan:
    """Bring the cluster to a spec that is in force."""
    observed, config, now = this.observed, this.config, this.now
    refused = this.verdict.refusal is not None
    template = of_agent(observed, spec, config, refreshes=not refused)
    mechanics = choose(observed, AgentVersion.parse(spec.version), host_ports=spec.uses_host_ports)
    deployment = observed.deployment
    begins = deployment is None or deployment.differs_from(template.body)
    if not begins and (back := taking_back(this, spec)) is not None:
        return back
    moved = None
    if not begins and mechanics.strategy is Strategy.ROLLING_HANDOFF:
        moved = drain.to_move(observed, spec, nodes_watched=config.nodes_watched)
    if moved is not None:
        begins, template = True, template.moved_off(drain.note(moved))
    if begins:
        record = begin(observed, this.verdict, spec, mechanics, moved=moved, now=now)
    else:
        record = kept_up(current(observed, spec, now=now), observed, refreshes=not refused)
    # In the middle of a rollout its strategy is left alone; settled, it is made ready for the next one, be it ours
    # or a `kubectl rollout restart`.
    keep = deployment is not None and not begins and not observed.settled
    strategy = deployment.strategy if keep and deployment is not None else mechanics.strategy
    if (
        begins
        and mechanics.strategy is Strategy.RECREATE
        and (waiting := _for_a_window(this, spec, template, mechanics)) is not None
    ):
        return waiting
    if begins and not observed.noted:
        return noting_first(this, spec)
    if begins and (waiting := _before_it_begins(this, spec, template, record)) is not None:
        return waiting
    if begins:
        record, template = _as_it_begins(observed, record, template)
    record, saving = revisions.first(observed, record, begins=begins)
    body = render_deployment(
        observed.agent,
        spec,
        template=template.applied,
        strategy=strategy,
        record=record,
        last_good=last_good(observed, begins=begins),
    )
    written = body if begins else as_kept(body, deployment)
    change = compared(written, None if deployment is None else deployment.raw, disruptive=begins)
    actions = (*saving, *supporting(observed, spec, config), *change)
    if begins:
        state = progress.beginning(observed, record, spec, now=now)
        return told(this, state, actions=actions, record=record, begins=True)
    return _with_what_waits(report(this, spec, actions=actions), this, spec, template)


def _as_it_begins(observed: Observed, record: RolloutRecord, template: Template) -> tuple[RolloutRecord, Template]:
    """Record and template as they are written: what tells this rollout from others is in both."""
    record = record.model_copy(update={"restart_mark": restart_mark(observed, template.body)})
    if observed.deployment is None or not template.anew or record.strategy is not Strategy.RECREATE:
        return record, template
    number = observed.stops + 1
    return record.model_copy(update={"stops": number}), template.stopped_first(number)


def _for_a_window(this: Pass, spec: MedplumAgentSpec, template: Template, mechanics: Mechanics) -> Plan | None:
    """Until a window opens what was applied stays in force, as while a change is refused; None where there is nothing to wait for."""
    observed, verdict = this.observed, this.verdict
    before = observed.applied_spec
    if before is None or not downtime.is_bound(observed, verdict, spec, template.body, now=this.now):
        return None
    opening, closed = downtime.waits_for(spec, now=this.now)
    if not closed:
        return None
    why = downtime.sentence(observed.agent, spec, verdict, mechanics, opening)
    severity = Severity.WARNING if opening is None else Severity.NORMAL
    waits = replace(verdict, refusal=Finding(Reason.AWAITING_WINDOW, severity, why))
    plan = _towards(replace(this, verdict=waits), before)
    if opening is None:
        return plan
    again = opening.at if plan.look_again_at is None else min(opening.at, plan.look_again_at)
    return replace(plan, look_again_at=again)


def _before_it_begins(this: Pass, spec: MedplumAgentSpec, template: Template, record: RolloutRecord) -> Plan | None:
    """What a rollout that stops first waits for; None where it may begin."""
    if record.strategy is not Strategy.RECREATE:
        return None
    fetch = prepull.wanted(this.observed, spec, image=image_of(template.body))
    if fetch is None:
        return None
    state = progress.fetching(record, spec, fetch, now=this.now)
    failed = latching(this, spec, state, record)
    return failed or told(this, state, actions=_meanwhile(this, fetch), record=record)


def _meanwhile(this: Pass, fetch: Fetch) -> tuple[Apply, ...]:
    """While the image is fetched, all that serves stays as the applied spec says; and the Job that fetches it."""
    observed = this.observed
    before = observed.applied_spec
    actions = () if before is None else supporting(observed, before, this.config)
    return actions if fetch.job is not None else (*actions, Apply(fetch.body, None, "missing"))


def _with_what_waits(plan: Plan, this: Pass, spec: MedplumAgentSpec, template: Template) -> Plan:
    """The plan, and what this release would render otherwise."""
    gates = of_gate(this.observed, spec, this.config) if spec.gated else None
    return replace(
        plan, waits=messages.waits(this.observed.agent, template.waits, "" if gates is None else gates.waits)
    )
