"""What a pass does and says, as a value; and how what goes on, what is refused and what waits become one plan.

Called by `plan` and `rollback`, which decide what is done. Pure.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Phase, Strategy
from medplum_agent_operator.core.objects import gate_pod
from medplum_agent_operator.core.objects.agent_pod import selector
from medplum_agent_operator.core.observed.findings import Finding, Severity
from medplum_agent_operator.core.observed.model import Config, Observed
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.policy import messages, windows
from medplum_agent_operator.core.policy.strategy import choose
from medplum_agent_operator.core.policy.verdict import Verdict
from medplum_agent_operator.core.report import progress, traffic
from medplum_agent_operator.core.report.progress import Progress
from medplum_agent_operator.core.rollout.actions import Apply
from medplum_agent_operator.core.rollout.records import current

_NOTES: Final = {f"metadata.annotations.{name}" for name in (names.ROLLOUT, names.APPLIED_TEMPLATE, names.LAST_GOOD)}
"""Where the operator keeps what it has to remember."""


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
        waits: what this release of the operator would render otherwise, and does not before the next change; empty where nothing is.
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
    waits: str = ""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass decides on."""

    observed: Observed = field(repr=False)
    verdict: Verdict
    config: Config
    now: datetime


def told(
    this: Pass,
    state: Progress,
    *,
    actions: tuple[Apply, ...],
    record: RolloutRecord,
    begins: bool = False,
) -> Plan:
    """Put what is going on, what is refused or waits, and what cannot be read into one plan. A refusal speaks first."""
    observed, verdict = this.observed, this.verdict
    phase, reason, sentence, findings = state.phase, state.reason, state.sentence, state.findings
    for fault in windows.read(observed.agent.spec.maintenance_windows).faults:
        sentence = f"{sentence} Note: {fault}"
        findings = (*findings, Finding(Reason.WINDOW_INVALID, Severity.WARNING, fault))
    strategy = None if record.from_version is None else record.strategy
    refusal = verdict.refusal
    if verdict.latched and not observed.settled:
        refusal = None  # what failed is being taken back, and that is what goes on
    if refusal is not None:
        if verdict.approval is not None or refusal.reason is Reason.AWAITING_WINDOW:  # how it would be made
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


def report(this: Pass, spec: MedplumAgentSpec, *, actions: tuple[Apply, ...]) -> Plan:
    """The plan of a pass that begins nothing: how far the rollout under way has got, or that all is well."""
    observed = this.observed
    record = current(observed, spec, now=this.now)
    state = progress.under_way_or_at_rest(observed, record, spec, now=this.now)
    # The strategy that is set when a recreate is over is no news, nor is that devices are led to a gate, or past it, nor what we note.
    news = [
        action
        for action in actions
        if not (observed.settled and action.difference == "spec.strategy.type")
        and action.difference not in _NOTES
        and not _leads_elsewhere(action, observed)
    ]
    if news:
        drifted = observed.agent.status.observed_generation == observed.agent.generation
        what = ", ".join(f"{action.kind} ({action.difference})" for action in news)
        found = (
            Finding(Reason.DRIFT_REPAIRED, Severity.NORMAL, f"Brought back to what the spec says: {what}.")
            if drifted
            else Finding(Reason.SPEC_APPLIED, Severity.NORMAL, f"Brought to what the spec says: {what}.")
        )
        state = replace(state, findings=(*state.findings, found))
    return told(this, state, actions=actions, record=record)


def undecidable(verdict: Verdict) -> Plan:
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


def with_traffic(plan: Plan, observed: Observed, config: Config, *, now: datetime) -> Plan:
    """The plan, and what is wrong with the way of devices to the agent; a refusal speaks alone."""
    patience = gate_pod.patience_until(observed.children.get("GateDeployment"), now=now)
    waits = observed.agent.spec.gated and patience is not None
    if waits and patience is not None and config.gate_image is not None and now < patience:
        again = patience if plan.look_again_at is None else min(plan.look_again_at, patience)
        plan, waits = replace(plan, look_again_at=again), False
    there = "GateDeployment" in observed.children
    since = traffic.silent(observed)
    deployment = observed.children.get("GateDeployment")
    why_stuck = gate_pod.stuck(deployment) if observed.agent.spec.gated and gate_pod.available(deployment) else ""
    for why, note in (
        (Reason.GATE_NOT_SERVING, messages.gate_not_serving(observed.agent, there=there) if waits else ""),
        (Reason.GATE_NOT_UPDATED, messages.gate_not_updated(observed.agent, why_stuck) if why_stuck else ""),
        (Reason.AGENT_SILENT, messages.agent_silent(observed.agent, since) if since else ""),
    ):
        if note:
            sentence = plan.sentence if plan.refusal else f"{plan.sentence} {note}"
            found = Finding(why, Severity.WARNING, note)
            plan = replace(plan, sentence=sentence, findings=(*plan.findings, found))
    return plan


def _refused_phase(verdict: Verdict) -> Phase:
    if verdict.refusal is not None and verdict.refusal.reason is Reason.AWAITING_WINDOW:
        return Phase.AWAITING_WINDOW
    return Phase.FAILED if verdict.approval is None else Phase.AWAITING_APPROVAL


def _leads_elsewhere(action: Apply, observed: Observed) -> bool:
    """Whether an action only moves the Service from the agent to its gate, or back."""
    if action.kind != "Service" or action.live is None or not action.difference.startswith("spec.selector"):
        return False
    ours = (gate_pod.gate_selector(observed.agent), selector(observed.agent))
    return (action.live.get("spec") or {}).get("selector") in ours
