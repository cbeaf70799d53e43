"""How far the rollout under way has got, or that all is well: the phase, the reason and the sentence for it.

Called by `plan`, which decides what is done; this module only tells. Pure.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from medplum_agent_operator.api.changes import OnFailure
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Outcome, Phase, Strategy
from medplum_agent_operator.core.observed.findings import Finding, Severity
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.policy import diagnosis, failure, prepull
from medplum_agent_operator.core.policy.prepull import Fetch
from medplum_agent_operator.core.report import rollout_messages

SILENCE: Final = timedelta(seconds=1)
"""When the old agent is about to be stopped, what status says may not hold for long: it is told once, when the old agent has
ended, or after this time at the latest."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What is going on.

    Attributes:
        phase: in one word.
        reason: why, in one word.
        sentence: in whole sentences.
        findings: what of it is worth an Event when it is new.
        look_again_at: when to observe again although nothing may have happened.
        silent: whether to say nothing yet.
        failed: why the change has failed before anything of it was done; None where it has not.
    """

    phase: Phase
    reason: Reason
    sentence: str
    findings: tuple[Finding, ...] = ()
    look_again_at: datetime | None = None
    silent: bool = False
    failed: Finding | None = None


def beginning(observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec, *, now: datetime) -> Progress:
    """A rollout that begins in this pass."""
    sentence = rollout_messages.under_way(record, spec)
    if observed.deployment is None and record.from_version is not None:
        sentence = f"The Deployment was missing and is made again. {sentence}"
    reason, phase = _way(record)
    stopping = record.strategy is Strategy.RECREATE and bool(observed.serving_pods)
    return Progress(
        phase,
        reason,
        sentence,
        findings=_announcements(record, reason, sentence),
        look_again_at=now + SILENCE if stopping else _after_deadline(record, spec),
        silent=stopping,
    )


def fetching(record: RolloutRecord, spec: MedplumAgentSpec, fetch: Fetch, *, now: datetime) -> Progress:
    """A change that stops first and waits for its image: the old agent serves."""
    found = prepull.trouble(fetch)
    deadline = fetch.deadline(spec, now=now)
    if now >= deadline or prepull.hopeless(fetch):
        found = found or prepull.unknown_trouble(fetch)
        what = rollout_messages.not_fetched(image=fetch.image, node=fetch.node, trouble=found.message)
        sentence = rollout_messages.fetch_failed(record, what=what)
        told = Finding(found.reason, Severity.WARNING, sentence)
        failed = Finding(found.reason, Severity.WARNING, what)
        return Progress(Phase.FAILED, found.reason, sentence, findings=(told,), failed=failed)
    sentence = rollout_messages.fetching(record, image=fetch.image, node=fetch.node)
    findings: tuple[Finding, ...] = (Finding(Reason.FETCHING_IMAGE, Severity.NORMAL, sentence),)
    if found is not None:
        findings = (*findings, found)
        sentence = f"{sentence} Not so far: {found.message}"
    return Progress(
        Phase.RECREATING,
        Reason.FETCHING_IMAGE,
        sentence,
        findings=findings,
        look_again_at=deadline + timedelta(seconds=1),
    )


def under_way_or_at_rest(
    observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec, *, now: datetime
) -> Progress:
    """A rollout that began in an earlier pass, or none."""
    deployment = observed.deployment
    if failure.is_over(observed, now=now):
        return _failed(observed, record, spec, now=now)
    if not observed.settled:
        return _under_way(observed, record, spec, now=now)
    if deployment is not None and deployment.replacing:
        sentence = f"Somebody asked for new pods of {spec.version} (kubectl rollout restart or the like); they replace the old ones."
        return Progress(
            Phase.RECREATING if deployment.strategy is Strategy.RECREATE else Phase.HANDING_OFF,
            Reason.RESTARTING,
            sentence,
            findings=(Finding(Reason.RESTARTING, Severity.NORMAL, sentence),),
        )
    return _at_rest(observed, record, spec)


def _after_deadline(record: RolloutRecord, spec: MedplumAgentSpec) -> datetime:
    """A look of our own, should the watch lose what the Deployment controller says at the deadline."""
    return record.started_at + timedelta(seconds=spec.handoff.progress_deadline_seconds + 1)


def _way(record: RolloutRecord) -> tuple[Reason, Phase]:
    if record.from_version is None:
        return Reason.INSTALLING, Phase.INSTALLING
    if record.rolled_back_from is not None:
        return Reason.ROLLING_BACK, Phase.ROLLING_BACK
    if record.strategy is Strategy.RECREATE:
        return Reason.RECREATING, Phase.RECREATING
    if record.moved_off is not None:
        return Reason.MOVING_OFF_NODE, Phase.HANDING_OFF
    return Reason.HANDING_OFF, Phase.HANDING_OFF


def _announcements(record: RolloutRecord, reason: Reason, sentence: str) -> tuple[Finding, ...]:
    """What is worth telling of a rollout that has begun: that it was approved, what it gives up, what it does."""
    findings = []
    if record.approval is not None:
        findings.append(Finding(Reason.DOWNGRADE_APPROVED, Severity.NORMAL, rollout_messages.approved(record)))
    if record.rolled_back_from is not None and record.failed is not None:
        return (*findings, Finding(record.failed.reason, Severity.WARNING, sentence))
    match record.previous_outcome:
        case Outcome.ABORTED:
            return (*findings, Finding(Reason.ROLLOUT_ABORTED, Severity.NORMAL, sentence))
        case Outcome.SUPERSEDED:
            text = f"The rollout before was not done yet and is given up for this one. {sentence}"
            findings.append(Finding(Reason.ROLLOUT_SUPERSEDED, Severity.NORMAL, text))
    return (*findings, Finding(reason, Severity.NORMAL, sentence))


def _under_way(observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec, *, now: datetime) -> Progress:
    sentence = rollout_messages.under_way(record, spec)
    reason, phase = _way(record)
    # Status does not tell of it yet: the pass that began it kept silent, or was ended before it could speak.
    findings = () if observed.noted else _announcements(record, reason, sentence)
    found = _trouble(observed, record, spec)
    if found is not None:
        findings = (*findings, found)
        sentence = f"{sentence} Not so far: {found.message}"
    overdue = observed.overdue_at
    look_again_at = _after_deadline(record, spec)
    if overdue is not None and (look_again_at <= now or overdue < look_again_at):
        look_again_at = overdue + timedelta(seconds=1)
    old_serves = any(pod.open for pod in observed.earlier_pods)
    silent = (
        record.strategy is Strategy.RECREATE and not observed.noted and old_serves and now < record.started_at + SILENCE
    )
    if silent:
        look_again_at = record.started_at + SILENCE
    return Progress(
        phase,
        reason,
        sentence,
        findings=findings,
        look_again_at=look_again_at if look_again_at > now else None,
        silent=silent,
    )


def _trouble(observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec) -> Finding | None:
    """What stands in the way; where a move finds no node, in words that say what becomes of the drain."""
    found = diagnosis.lost_node(observed) or diagnosis.trouble(observed, spec)
    if found is None or record.moved_off is None or found.reason is not Reason.UNSCHEDULABLE:
        return found
    return replace(found, message=rollout_messages.no_other_node(node=record.moved_off, trouble=found.message))


def what_failed(observed: Observed, spec: MedplumAgentSpec) -> Finding:
    """Why the rollout under way has failed, in the words of its pods."""
    unknown = "Its pod did not become available, and the cluster gives no reason."
    return (
        diagnosis.trouble(observed, spec)
        or diagnosis.unready_ports(observed, spec)
        or Finding(Reason.PROGRESS_DEADLINE_EXCEEDED, Severity.WARNING, unknown)
    )


def _failed(observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec, *, now: datetime) -> Progress:
    found = what_failed(observed, spec)
    trouble = found.message
    late = observed.deployment is not None and observed.deployment.gave_up(now)
    deadline = spec.handoff.progress_deadline_seconds
    if observed.settled:
        sentence = rollout_messages.restart_failed(
            version=record.to, trouble=trouble, serving=bool(observed.serving_pods), deadline_seconds=deadline
        )
    elif record.moved_off is not None:
        sentence = rollout_messages.move_failed(
            node=record.moved_off,
            version=record.to,
            trouble=trouble,
            serving=bool(observed.serving_pods),
            deadline_seconds=deadline,
        )
    else:
        sentence = rollout_messages.failed(
            record,
            trouble=trouble,
            serving=[pod.version.text for pod in observed.serving_pods if pod.version is not None],
            deadline_seconds=deadline if late else None,
            held=_held(observed, spec),
            was_active=observed.counts_as_active,
        )
    told = Finding(found.reason, Severity.WARNING, sentence)
    # A failure that was judged before the deadline is looked at again then: it may have come right.
    again = None if late else _after_deadline(record, spec)
    return Progress(
        Phase.FAILED,
        found.reason,
        sentence,
        findings=(told,),
        look_again_at=again if again is not None and again > now else None,
    )


def _held(observed: Observed, spec: MedplumAgentSpec) -> str:
    """Why a change that failed is not taken back, where there would be something to go back to."""
    if spec.handoff.on_failure is OnFailure.HOLD:
        return "It is not taken back, because spec.handoff.onFailure is Hold."
    if observed.deployment is not None and observed.deployment.last_good is None:
        return "It is not taken back, because an older release of the operator began it and did not note what was active before."
    if observed.may_have_been_active:
        return (
            "It is not taken back, because its pods were restarted by hand since: it may have been active before that."
        )
    return ""


def _at_rest(observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec) -> Progress:
    findings: list[Finding] = []
    if not any(
        entry.started_at == record.started_at and entry.outcome is Outcome.COMPLETED
        for entry in observed.agent.status.history
    ):
        findings.append(Finding(Reason.ROLLOUT_COMPLETED, Severity.NORMAL, rollout_messages.completed(record)))
    if observed.open_pods:
        sentence = f"{spec.version} serves; there is nothing to do."
        return Progress(Phase.RUNNING, Reason.SERVING, sentence, findings=tuple(findings))
    found = diagnosis.lost_node(observed) or diagnosis.trouble(observed, spec)
    reason = Reason.NOT_SERVING if found is None else found.reason
    why = "Kubernetes starts it again by itself." if found is None else found.message
    if found is not None:
        findings.append(found)
    sentence = f"{spec.version} is installed, but no pod of it is ready. {why}"
    return Progress(Phase.RUNNING, reason, sentence, findings=tuple(findings))
