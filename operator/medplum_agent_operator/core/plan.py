"""From what was observed to what is to be done: one pure function, at most one disruptive action.

Called by `reconcile`, twice where something is to be written: once on what the watches saw, once on what was just read.
The same observation, settings and time always give the same plan; applying it and observing again leads to no action.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Outcome, Phase, Strategy
from medplum_agent_operator.core import diagnosis, messages
from medplum_agent_operator.core.checks import first_blocker
from medplum_agent_operator.core.drift import first_difference
from medplum_agent_operator.core.findings import Finding, Severity
from medplum_agent_operator.core.model import Change, Config, Observed, RolloutRecord
from medplum_agent_operator.core.pod_template import image_reference, render_pod_template, uses_host_ports
from medplum_agent_operator.core.resources import render_deployment, render_supporting
from medplum_agent_operator.core.strategy import Mechanics, choose
from medplum_agent_operator.core.verdict import Verdict, decide
from medplum_agent_operator.core.version import AgentVersion


@dataclass(frozen=True, slots=True)
class Apply:
    """One idempotent effect: server-side apply of `body`.

    Attributes:
        body: the object as it should be.
        live: what it is now; None where it does not exist.
        difference: the path of the first field that differs; `missing` where there is no object.
        disruptive: whether pods are replaced by it.
    """

    body: Mapping[str, Any] = field(repr=False)
    live: Mapping[str, Any] | None = field(repr=False)
    difference: str
    disruptive: bool = False

    @property
    def kind(self) -> str:
        """The object's kind."""
        return str(self.body["kind"])


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
        strategy: how the rollout under way, or the one just ended, is made.
        refusal: why the user's spec is not in force; None where it is.
        look_again_at: when to observe again although nothing may have happened.
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


def make_plan(observed: Observed, *, config: Config, now: datetime) -> Plan:
    """Plan one pass."""
    blocker = first_blocker(observed)
    if blocker is not None:
        found = blocker.finding
        return Plan(blocker.phase, found.reason, found.message, findings=(found,))
    verdict = decide(observed, config)
    if verdict.spec is None:
        return _undecidable(verdict)
    return _towards(observed, verdict, verdict.spec, now=now)


def _undecidable(verdict: Verdict) -> Plan:
    """The user's spec is refused and what ran before it is not known: then nothing may be touched."""
    refusal = verdict.refusal
    unknown = Finding(
        Reason.LAST_SPEC_UNKNOWN,
        Severity.WARNING,
        "What was applied before cannot be told from the cluster, so nothing is repaired until this is decided.",
    )
    if refusal is None:
        return Plan(Phase.FAILED, unknown.reason, unknown.message, findings=(unknown,))
    return Plan(
        _refused_phase(verdict),
        refusal.reason,
        f"{refusal.message} {unknown.message}",
        findings=(refusal,),
        refusal=refusal,
    )


def _refused_phase(verdict: Verdict) -> Phase:
    return Phase.FAILED if verdict.approval is None else Phase.AWAITING_APPROVAL


def _towards(observed: Observed, verdict: Verdict, spec: MedplumAgentSpec, *, now: datetime) -> Plan:
    """Bring the cluster to a spec that is in force."""
    agent = observed.agent
    target = AgentVersion.parse(spec.version)
    template = render_pod_template(agent, spec, image=image_reference(spec, verdict.repository))
    mechanics = choose(observed, target, host_ports=uses_host_ports(spec))
    deployment = observed.deployment
    live_template = None if deployment is None else deployment.template
    # The fingerprint within the template tells of fields that are no longer rendered.
    begins = live_template is None or first_difference(template, live_template) is not None
    record = _begin(observed, verdict, spec, mechanics, now=now) if begins else _current_record(observed, spec, now=now)
    # In the middle of a rollout its strategy is left alone; settled, it is made ready for the next one, be it ours
    # or a `kubectl rollout restart`.
    keep = deployment is not None and not begins and not observed.settled
    strategy = deployment.strategy if keep and deployment is not None else mechanics.strategy
    body = render_deployment(agent, spec, template=template, strategy=strategy, record=record)
    actions = _supporting(observed, spec)
    if begins and not observed.noted:
        # Status does not tell yet of the rollout before this one: note it first, or a crash now would forget it.
        return _report(observed, verdict, spec, actions=(), now=now, look_again_at=now)
    found = _apply(body, None if deployment is None else deployment.raw, disruptive=begins)
    if found is not None:
        actions = (*actions, found)
    if begins:
        return _beginning(verdict, spec, record, actions=actions, was_missing=deployment is None)
    return _report(observed, verdict, spec, actions=actions, now=now)


def _begin(
    observed: Observed, verdict: Verdict, spec: MedplumAgentSpec, mechanics: Mechanics, *, now: datetime
) -> RolloutRecord:
    """The record of the rollout that begins now."""
    baseline = observed.baseline
    granted = verdict.approval if verdict.refusal is None and verdict.approval is not None else None
    # A refused change that has to be put back is no change of version.
    change = verdict.change if verdict.refusal is None else Change.NONE
    if observed.deployment is None:
        previous = None
    elif observed.became_active:
        previous = Outcome.COMPLETED
    else:
        previous = Outcome.ABORTED if change is Change.ABORT else Outcome.SUPERSEDED
    return RolloutRecord(
        change=change,
        from_version=None if baseline is None else baseline.text,
        to=spec.version,
        strategy=mechanics.strategy,
        why=mechanics.why,
        started_at=now,
        previous_outcome=previous,
        approval=None if granted is None else granted.text,
        approved_by=None if granted is None else observed.agent.field_manager_of_approval,
    )


def _current_record(observed: Observed, spec: MedplumAgentSpec, *, now: datetime) -> RolloutRecord:
    """The live record; where somebody removed it, what status knows of it; else a new one for what is there."""
    deployment = observed.deployment
    if deployment is not None and deployment.record is not None:
        return deployment.record
    strategy = deployment.strategy if deployment is not None else Strategy.ROLLING_HANDOFF
    for entry in observed.agent.status.history[:1]:
        if entry.to == spec.version and entry.strategy is not None and entry.started_at is not None:
            return RolloutRecord(
                change=Change.NONE,
                from_version=entry.from_version,
                to=entry.to,
                strategy=entry.strategy,
                started_at=entry.started_at,
            )
    return RolloutRecord(change=Change.NONE, to=spec.version, strategy=strategy, started_at=now)


def _supporting(observed: Observed, spec: MedplumAgentSpec) -> tuple[Apply, ...]:
    found = (_apply(body, observed.children.get(body["kind"])) for body in render_supporting(observed.agent, spec))
    return tuple(action for action in found if action is not None)


def _apply(body: Mapping[str, Any], live: Mapping[str, Any] | None, *, disruptive: bool = False) -> Apply | None:
    if live is None:
        difference: str | None = "missing"
    else:  # what the object is about first, then its metadata
        difference = first_difference({"spec": body.get("spec", {})}, live) or first_difference(body, live)
    return None if difference is None else Apply(body, live, difference, disruptive)


def _beginning(
    verdict: Verdict,
    spec: MedplumAgentSpec,
    record: RolloutRecord,
    *,
    actions: tuple[Apply, ...],
    was_missing: bool,
) -> Plan:
    """The plan of a pass that begins a rollout."""
    sentence = messages.under_way(record, spec)
    reason, phase = _way(record)
    if was_missing and record.from_version is not None:
        sentence = f"The Deployment was missing and is made again. {sentence}"
    findings = [Finding(reason, Severity.NORMAL, sentence)]
    if record.previous_outcome is Outcome.ABORTED:
        findings = [Finding(Reason.ROLLOUT_ABORTED, Severity.NORMAL, sentence)]
    elif record.previous_outcome is Outcome.SUPERSEDED:
        text = f"The rollout before was not done yet and is given up for this one. {sentence}"
        findings.insert(0, Finding(Reason.ROLLOUT_SUPERSEDED, Severity.NORMAL, text))
    if record.approval is not None:
        findings.insert(
            0, Finding(Reason.DOWNGRADE_APPROVED, Severity.NORMAL, f'Approved by "{record.approval}": {sentence}')
        )
    sentence, findings = _with_notes(sentence, findings, spec)
    if verdict.refusal is not None:
        # The spec in force had to be put back (its Deployment or template was changed by hand) while a change is refused.
        return Plan(
            _refused_phase(verdict),
            verdict.refusal.reason,
            verdict.refusal.message,
            actions=actions,
            findings=(verdict.refusal, *findings),
            begins=record,
            strategy=record.strategy,
            refusal=verdict.refusal,
        )
    return Plan(
        phase, reason, sentence, actions=actions, findings=tuple(findings), begins=record, strategy=record.strategy
    )


def _way(record: RolloutRecord) -> tuple[Reason, Phase]:
    if record.from_version is None:
        return Reason.INSTALLING, Phase.INSTALLING
    if record.strategy is Strategy.RECREATE:
        return Reason.RECREATING, Phase.RECREATING
    return Reason.HANDING_OFF, Phase.HANDING_OFF


def _with_notes(sentence: str, findings: list[Finding], spec: MedplumAgentSpec) -> tuple[str, list[Finding]]:
    note = messages.not_yet_acted_on(spec)
    if not note:
        return sentence, findings
    return f"{sentence} {note}", [*findings, Finding(Reason.NOT_YET_ACTED_ON, Severity.WARNING, note)]


def _report(
    observed: Observed,
    verdict: Verdict,
    spec: MedplumAgentSpec,
    *,
    actions: tuple[Apply, ...],
    now: datetime,
    look_again_at: datetime | None = None,
) -> Plan:
    """The plan of a pass that begins nothing: how far the rollout under way has got, or that all is well."""
    state = _state(observed, spec, now=now)
    findings = list(state.findings)
    told = [action for action in actions if not (observed.settled and action.difference == "spec.strategy.type")]
    if told:
        drifted = observed.agent.status.observed_generation == observed.agent.generation
        what = ", ".join(f"{action.kind} ({action.difference})" for action in told)
        findings.append(
            Finding(Reason.DRIFT_REPAIRED, Severity.NORMAL, f"Brought back to what the spec says: {what}.")
            if drifted
            else Finding(Reason.SPEC_APPLIED, Severity.NORMAL, f"Brought to what the spec says: {what}.")
        )
    sentence, findings = _with_notes(state.sentence, findings, spec)
    phase, reason = state.phase, state.reason
    if verdict.refusal is not None:
        phase, reason, sentence = _refused_phase(verdict), verdict.refusal.reason, verdict.refusal.message
        findings.insert(0, verdict.refusal)
    return Plan(
        phase,
        reason,
        sentence,
        actions=actions,
        findings=tuple(findings),
        strategy=state.strategy,
        refusal=verdict.refusal,
        look_again_at=look_again_at or state.look_again_at,
    )


def _state(observed: Observed, spec: MedplumAgentSpec, *, now: datetime) -> Plan:
    deployment = observed.deployment
    record = _current_record(observed, spec, now=now)
    if deployment is not None and deployment.gave_up(now):
        return _failed(observed, record, spec)
    if not observed.settled:
        sentence = messages.under_way(record, spec)
        reason, phase = _way(record)
        found = diagnosis.trouble(observed, spec)
        findings = () if found is None else (found,)
        if found is not None:
            sentence = f"{sentence} Not so far: {found.message}"
        # A look of our own at the deadline, should the watch lose what the Deployment controller says then.
        deadline = record.started_at + timedelta(seconds=spec.handoff.progress_deadline_seconds + 1)
        return Plan(
            phase,
            reason,
            sentence,
            findings=findings,
            strategy=record.strategy,
            look_again_at=deadline if deadline > now else None,
        )
    if deployment is not None and deployment.replacing:
        sentence = f"Somebody asked for new pods of {spec.version} (kubectl rollout restart or the like); they replace the old ones."
        return Plan(
            Phase.HANDING_OFF,
            Reason.RESTARTING,
            sentence,
            findings=(Finding(Reason.RESTARTING, Severity.NORMAL, sentence),),
        )
    return _at_rest(observed, record, spec)


def _failed(observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec) -> Plan:
    found = diagnosis.trouble(observed, spec) or diagnosis.unready_ports(observed, spec)
    sentence = messages.failed(
        from_version=record.from_version,
        to=record.to,
        trouble=found.message
        if found is not None
        else "Its pod did not become available, and the cluster gives no reason.",
        serving=[pod.version.text for pod in observed.serving_pods if pod.version is not None],
        deadline_seconds=spec.handoff.progress_deadline_seconds,
    )
    reason = found.reason if found is not None else Reason.PROGRESS_DEADLINE_EXCEEDED
    return Plan(
        Phase.FAILED,
        reason,
        sentence,
        findings=(Finding(reason, Severity.WARNING, sentence),),
        strategy=record.strategy,
    )


def _at_rest(observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec) -> Plan:
    findings: list[Finding] = []
    done = messages.completed(record)
    history = observed.agent.status.history
    if not any(e.started_at == record.started_at and e.outcome == Outcome.COMPLETED for e in history):
        findings.append(Finding(Reason.ROLLOUT_COMPLETED, Severity.NORMAL, done))
    if observed.serving_pods:
        return Plan(
            Phase.RUNNING,
            Reason.SERVING,
            f"{spec.version} serves; there is nothing to do.",
            findings=tuple(findings),
            strategy=record.strategy,
        )
    found = diagnosis.trouble(observed, spec)
    if found is not None:
        findings.append(found)
    sentence = f"{spec.version} is installed, but no pod of it is ready. " + (
        found.message if found is not None else "Kubernetes starts it again by itself."
    )
    return Plan(
        Phase.RUNNING,
        found.reason if found is not None else Reason.NOT_SERVING,
        sentence,
        findings=tuple(findings),
        strategy=record.strategy,
    )
