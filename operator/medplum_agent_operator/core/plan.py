"""From what was observed to what is to be done: one pure function, at most one disruptive action.

Called by `reconcile`, twice where something is to be written: once on what the watches saw, once on what was just read.
The same observation, settings and time always give the same plan; applying it and observing again leads to no action.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Phase, Strategy
from medplum_agent_operator.core import drain, gate, messages, prepull, progress, traffic
from medplum_agent_operator.core.actions import Apply, compared, supporting
from medplum_agent_operator.core.checks import first_blocker
from medplum_agent_operator.core.drift import first_difference
from medplum_agent_operator.core.findings import Finding, Severity
from medplum_agent_operator.core.model import Config, Observed
from medplum_agent_operator.core.pod_template import image_reference, render_pod_template, selector
from medplum_agent_operator.core.prepull import Fetch
from medplum_agent_operator.core.progress import Progress
from medplum_agent_operator.core.records import begin, current
from medplum_agent_operator.core.resources import render_deployment
from medplum_agent_operator.core.strategy import choose
from medplum_agent_operator.core.verdict import Verdict, decide
from medplum_agent_operator.core.version import AgentVersion
from medplum_agent_operator.core.workload import RolloutRecord


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pass does and says.

    Attributes:
        phase: what the agent is in once the actions are done.
        reason: why, in one word; the conditions' reason.
        sentence: why and what comes next, in whole sentences: `status.plan`.
        actions: what is to be applied, in this order; at most one is disruptive.
        findings: what is worth an Event when it is new.
        begins: the rollout that the disruptive action begins.
        strategy: how the rollout under way, or the latest, is made; for a refused one, how it would be; None for a first install.
        refusal: why the user's spec is not in force; None where it is.
        look_again_at: when to observe again although nothing may have happened.
        silent: whether to say nothing yet: what there is to say changes within the second.
    """

    phase: Phase
    reason: Reason
    sentence: str
    actions: tuple[Apply, ...] = ()
    findings: tuple[Finding, ...] = ()
    begins: RolloutRecord | None = None
    strategy: Strategy | None = None
    refusal: Finding | None = None
    look_again_at: datetime | None = None
    silent: bool = False


def make_plan(observed: Observed, *, config: Config, now: datetime) -> Plan:
    """Plan one pass."""
    blocker = first_blocker(observed)
    if blocker is not None:
        found = blocker.finding
        return Plan(blocker.phase, found.reason, found.message, findings=(found,))
    verdict = decide(observed, config)
    if verdict.spec is None:
        return _undecidable(verdict)
    return _with_traffic(_towards(observed, verdict, verdict.spec, config=config, now=now), observed, config, now=now)


def _with_traffic(plan: Plan, observed: Observed, config: Config, *, now: datetime) -> Plan:
    """The plan, and what is wrong with the way of devices to the agent; a refusal speaks alone."""
    patience = gate.patience_until(observed.children.get("GateDeployment"), now=now)
    waits = observed.agent.spec.gated and patience is not None
    if waits and patience is not None and config.gate_image is not None and now < patience:
        again = patience if plan.look_again_at is None else min(plan.look_again_at, patience)
        plan, waits = replace(plan, look_again_at=again), False
    there = "GateDeployment" in observed.children
    since = traffic.silent(observed)
    for why, note in (
        (Reason.GATE_NOT_SERVING, messages.gate_not_serving(observed.agent, there=there) if waits else ""),
        (Reason.AGENT_SILENT, messages.agent_silent(observed.agent, since) if since else ""),
    ):
        if note:
            sentence = plan.sentence if plan.refusal else f"{plan.sentence} {note}"
            found = Finding(why, Severity.WARNING, note)
            plan = replace(plan, sentence=sentence, findings=(*plan.findings, found))
    return plan


def _undecidable(verdict: Verdict) -> Plan:
    """The user's spec is refused and what ran before it is not known: then nothing may be touched."""
    unknown = Finding(
        Reason.LAST_SPEC_UNKNOWN,
        Severity.WARNING,
        "What was applied before cannot be told from the cluster, so nothing is repaired until this is decided.",
    )
    refusal = verdict.refusal or unknown
    return Plan(
        _refused_phase(verdict),
        refusal.reason,
        f"{refusal.message} {unknown.message}",
        findings=(refusal, unknown),
        refusal=refusal,
    )


def _refused_phase(verdict: Verdict) -> Phase:
    return Phase.FAILED if verdict.approval is None else Phase.AWAITING_APPROVAL


def _towards(observed: Observed, verdict: Verdict, spec: MedplumAgentSpec, *, config: Config, now: datetime) -> Plan:
    """Bring the cluster to a spec that is in force."""
    agent = observed.agent
    target = AgentVersion.parse(spec.version)
    image = image_reference(spec, verdict.repository)
    rendered = render_pod_template(agent, spec, image=image)
    # What the live template was moved off stays noted on it: without the note it would be another template.
    template = drain.noted(rendered, drain.live_note(observed))
    mechanics = choose(observed, target, host_ports=spec.uses_host_ports)
    deployment = observed.deployment
    live_template = None if deployment is None else deployment.template
    # The fingerprint within the template tells of fields that are no longer rendered.
    begins = live_template is None or first_difference(template, live_template) is not None
    moved = None
    if not begins and mechanics.strategy is Strategy.ROLLING_HANDOFF:
        moved = drain.to_move(observed, spec, nodes_watched=config.nodes_watched)
    if moved is not None:
        begins, template = True, drain.noted(rendered, drain.note(moved))
    if begins:
        record = begin(observed, verdict, spec, mechanics, moved=moved, now=now)
    else:
        record = current(observed, spec, now=now)
    # In the middle of a rollout its strategy is left alone; settled, it is made ready for the next one, be it ours
    # or a `kubectl rollout restart`.
    keep = deployment is not None and not begins and not observed.settled
    strategy = deployment.strategy if keep and deployment is not None else mechanics.strategy
    body = render_deployment(agent, spec, template=template, strategy=strategy, record=record)
    actions = supporting(observed, spec, config)
    if begins and not observed.noted:
        # Status does not tell yet of the rollout before this one: note it first, or a crash now would forget it.
        return replace(_report(observed, verdict, spec, actions=(), now=now), silent=False, look_again_at=now)
    if begins and record.strategy is Strategy.RECREATE:
        fetch = prepull.wanted(observed, spec, image=image)
        if fetch is not None:
            waiting = progress.fetching(record, spec, fetch, now=now)
            return _told(observed, waiting, verdict, actions=_meanwhile(observed, fetch, config), record=record)
    found = compared(body, None if deployment is None else deployment.raw, disruptive=begins)
    if found is not None:
        actions = (*actions, found)
    if begins:
        state = progress.beginning(observed, record, spec, now=now)
        return _told(observed, state, verdict, actions=actions, record=record, begins=True)
    return _report(observed, verdict, spec, actions=actions, now=now)


def _meanwhile(observed: Observed, fetch: Fetch, config: Config) -> tuple[Apply, ...]:
    """While the image is fetched, all that serves stays as the applied spec says; and the Job that fetches it."""
    before = None if observed.deployment is None else observed.deployment.applied_spec
    actions = () if before is None else supporting(observed, before, config)
    return actions if fetch.job is not None else (*actions, Apply(fetch.body, None, "missing"))


def _report(
    observed: Observed, verdict: Verdict, spec: MedplumAgentSpec, *, actions: tuple[Apply, ...], now: datetime
) -> Plan:
    """The plan of a pass that begins nothing: how far the rollout under way has got, or that all is well."""
    record = current(observed, spec, now=now)
    state = progress.under_way_or_at_rest(observed, record, spec, now=now)
    # The strategy that is set when a recreate is over is no news, and neither is that devices are led to a gate, or past it.
    told = [
        action
        for action in actions
        if not (observed.settled and action.difference == "spec.strategy.type")
        and not _leads_elsewhere(action, observed)
    ]
    if told:
        drifted = observed.agent.status.observed_generation == observed.agent.generation
        what = ", ".join(f"{action.kind} ({action.difference})" for action in told)
        news = (
            Finding(Reason.DRIFT_REPAIRED, Severity.NORMAL, f"Brought back to what the spec says: {what}.")
            if drifted
            else Finding(Reason.SPEC_APPLIED, Severity.NORMAL, f"Brought to what the spec says: {what}.")
        )
        state = replace(state, findings=(*state.findings, news))
    return _told(observed, state, verdict, actions=actions, record=record)


def _leads_elsewhere(action: Apply, observed: Observed) -> bool:
    """Whether an action only moves the Service from the agent to its gate, or back."""
    if action.kind != "Service" or action.live is None or not action.difference.startswith("spec.selector"):
        return False
    ours = (gate.gate_selector(observed.agent), selector(observed.agent))
    return (action.live.get("spec") or {}).get("selector") in ours


def _told(
    observed: Observed,
    state: Progress,
    verdict: Verdict,
    *,
    actions: tuple[Apply, ...],
    record: RolloutRecord,
    begins: bool = False,
) -> Plan:
    """Put what is going on, what is refused and what is not acted on into one plan. A refusal speaks first."""
    phase, reason, sentence, findings = state.phase, state.reason, state.sentence, state.findings
    note = messages.not_yet_acted_on(observed.agent.spec)
    if note:
        sentence = f"{sentence} {note}"
        findings = (*findings, Finding(Reason.NOT_YET_ACTED_ON, Severity.WARNING, note))
    strategy = None if record.from_version is None else record.strategy
    refusal = verdict.refusal
    if refusal is not None:
        if verdict.approval is not None:  # how it would be made if it were approved
            strategy = choose(observed, verdict.target, host_ports=observed.agent.spec.uses_host_ports).strategy
        phase, reason, sentence = _refused_phase(verdict), refusal.reason, refusal.message
        findings = (refusal, *findings)
    return Plan(
        phase,
        reason,
        sentence,
        actions=actions,
        findings=findings,
        begins=record if begins else None,
        strategy=strategy,
        refusal=refusal,
        look_again_at=state.look_again_at,
        silent=state.silent and refusal is None,
    )
