"""How far the rollout under way has come, or that nothing is pending: phase, reason and message.

Called by the modules of `rollout` and by `plan`, which decide; this module must only report. Pure.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from medplum_agent_operator.api.annotations import AGENT_LABEL
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Outcome, Phase
from medplum_agent_operator.core.observed.findings import Finding, Message, Severity, news, warning
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.policy import diagnosis, endings, failure, prepull
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.prepull import Fetch
from medplum_agent_operator.core.report import failure_messages, rollout_messages

DEFERRAL: Final = timedelta(seconds=1)
"""How long to defer a report while the old agent stops: it might be outdated at once. Status is written once, when the old agent
has ended or after this time."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rollout has come.

    Attributes:
        phase: the agent's phase.
        reason: why.
        message: the same for people.
        findings: what deserves an Event when it is new.
        requeue_at: when to reconcile again without an event; None if events suffice.
        defer_reporting: whether to report nothing yet, because the report would change within a second.
        failed: why the change failed before its rollout began; None if it did not.
    """

    phase: Phase
    reason: Reason
    message: Message
    findings: tuple[Finding, ...] = ()
    requeue_at: datetime | None = None
    defer_reporting: bool = False
    failed: Finding | None = None


def beginning(observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec, *, now: datetime) -> Progress:
    """A rollout that begins in this pass."""
    now_serving = Availability.of(observed)
    available = replace(
        now_serving, earlier_serves=bool(now_serving.serving)
    )  # the live template becomes an earlier one
    message, severity = rollout_messages.under_way(record, spec, available), Severity.NORMAL
    if observed.deployment is None and record.from_version is not None:
        message = rollout_messages.recreated_deployment(message, record, available)
        severity = Severity.NORMAL if available.serving else Severity.WARNING
    reason, phase = _kind(record)
    stopping = record.mechanics.stops_first and bool(observed.serving_pods)
    return Progress(
        phase,
        reason,
        message,
        findings=_announcements(record, reason, message, severity),
        requeue_at=now + DEFERRAL if stopping else _after_deadline(record, spec),
        defer_reporting=stopping,
    )


def fetching(
    observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec, fetch: Fetch, *, now: datetime
) -> Progress:
    """A change that stops first and waits for its image while the old agent serves."""
    found, available = prepull.trouble(fetch), Availability.of(observed)
    deadline = fetch.deadline(spec, now=now)
    if now >= deadline or prepull.hopeless(fetch):
        found = found or prepull.unknown_trouble(fetch)
        message = failure_messages.not_fetched(
            record, image=fetch.image, node=fetch.node, trouble=found.message, available=available
        )
        failed = warning(found.reason, message)
        return Progress(Phase.FAILED, found.reason, message, findings=(failed,), failed=failed)
    message = rollout_messages.fetching(record, image=fetch.image, node=fetch.node, available=available)
    findings: tuple[Finding, ...] = (news(Reason.FETCHING_IMAGE, message),)
    if found is not None:
        findings = (*findings, found)
        message = failure_messages.blocked(message, found.message, message.impact)
    return Progress(
        record.mechanics.phase,
        Reason.FETCHING_IMAGE,
        message,
        findings=findings,
        requeue_at=deadline + timedelta(seconds=1),
    )


def under_way_or_at_rest(
    observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec, *, now: datetime
) -> Progress:
    """A rollout that began in an earlier pass, or none."""
    deployment = observed.deployment
    if failure.has_failed(observed, now=now):
        return _failed(observed, record, spec, now=now)
    if not observed.activation.settled:
        return _under_way(observed, record, spec, now=now)
    if deployment is not None and deployment.replacing:
        mechanics = deployment.mechanics
        message = rollout_messages.restarting(
            observed.agent, spec, Availability.of(observed), stops_first=mechanics.stops_first
        )
        return Progress(mechanics.phase, Reason.RESTARTING, message, findings=(news(Reason.RESTARTING, message),))
    return _at_rest(observed, record, spec)


def _after_deadline(record: RolloutRecord, spec: MedplumAgentSpec) -> datetime:
    """When to reconcile even if the watch misses what the Deployment controller reports at the deadline."""
    return record.started_at + timedelta(seconds=spec.handoff.progress_deadline_seconds + 1)


def _kind(record: RolloutRecord) -> tuple[Reason, Phase]:
    """Reason and phase of a rollout."""
    if record.from_version is None:
        return Reason.INSTALLING, Phase.INSTALLING
    if record.rolled_back_from is not None:
        return Reason.ROLLING_BACK, Phase.ROLLING_BACK
    if record.moved_off is not None and not record.mechanics.stops_first:
        return Reason.MOVING_OFF_NODE, record.mechanics.phase
    return record.mechanics.reason, record.mechanics.phase


def _announcements(
    record: RolloutRecord, reason: Reason, message: Message, severity: Severity = Severity.NORMAL
) -> tuple[Finding, ...]:
    """The Events of a rollout that has begun: its approval, what it replaces, what it does."""
    findings = []
    if record.approval is not None:
        findings.append(news(Reason.DOWNGRADE_APPROVED, rollout_messages.approved(record)))
    if record.rolled_back_from is not None and record.failed is not None:
        return (*findings, warning(record.failed.reason, message))
    match record.previous_outcome:
        case Outcome.ABORTED:
            return (*findings, news(Reason.ROLLOUT_ABORTED, message))
        case Outcome.SUPERSEDED:
            findings.append(news(Reason.ROLLOUT_SUPERSEDED, rollout_messages.superseded(message)))
    return (*findings, Finding(reason, severity, message))


def _under_way(observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec, *, now: datetime) -> Progress:
    message = rollout_messages.under_way(record, spec, Availability.of(observed))
    reason, phase = _kind(record)
    # Status may not have it yet: the pass that began it deferred its report or was killed.
    findings = () if observed.rollout_in_status else _announcements(record, reason, message)
    found = _trouble(observed, record, spec, now=now)
    if found is not None:
        findings = (*findings, found)
        impact = failure_messages.while_blocked(record, Availability.of(observed))
        message = failure_messages.blocked(message, found.message, impact)
    deferred = _is_deferred(observed, record, now=now)
    requeue_at = record.started_at + DEFERRAL if deferred else _requeue_at(observed, record, spec, now=now)
    return Progress(
        phase,
        reason,
        message,
        findings=findings,
        requeue_at=requeue_at if requeue_at > now else None,
        defer_reporting=deferred,
    )


def _requeue_at(observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec, *, now: datetime) -> datetime:
    overdue, after_deadline = observed.overdue_at, _after_deadline(record, spec)
    if overdue is not None and (after_deadline <= now or overdue < after_deadline):
        return overdue + timedelta(seconds=1)
    return after_deadline


def _is_deferred(observed: Observed, record: RolloutRecord, *, now: datetime) -> bool:
    """Whether the old agent is still stopping and status does not have the rollout yet."""
    return (
        record.mechanics.stops_first
        and not observed.rollout_in_status
        and any(pod.ports_open for pod in observed.earlier_pods)
        and now < record.started_at + DEFERRAL
    )


def _trouble(observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec, *, now: datetime) -> Finding | None:
    """What blocks the rollout. If a move finds no node, the message says what happens to the node drain."""
    found = diagnosis.lost_node(observed) or endings.not_ending(observed, now=now) or diagnosis.trouble(observed, spec)
    if found is None or record.moved_off is None or found.reason is not Reason.UNSCHEDULABLE:
        return found
    return replace(found, message=failure_messages.no_other_node(node=record.moved_off, trouble=found.message))


def what_failed(observed: Observed, spec: MedplumAgentSpec, *, now: datetime) -> Finding:
    """Why the rollout under way has failed, as its pods show it."""
    agent = observed.agent
    pods = " ".join(pod.name for pod in observed.current_pods if not pod.terminating)
    described = f"pod {pods}" if pods else f"pods -l {AGENT_LABEL}={agent.name}"
    unknown = Message(
        "The new pod did not become available, and the cluster reports no reason.",
        fix="Read the events of the new pod with the command; then read the log of its container agent.",
        command=f"kubectl -n {agent.namespace} describe {described}",
    )
    return (
        endings.not_ending(observed, now=now)
        or diagnosis.trouble(observed, spec)
        or diagnosis.not_ready(observed, spec)
        or warning(Reason.PROGRESS_DEADLINE_EXCEEDED, unknown)
    )


def _failed(observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec, *, now: datetime) -> Progress:
    found = what_failed(observed, spec, now=now)
    late = observed.deployment is not None and observed.deployment.progress_deadline_exceeded(now)
    message = failure_messages.of_rollout(observed, record, spec, found.message, late=late)
    # A failure found before the deadline is checked again at the deadline: the pod may have become available.
    again = None if late else _after_deadline(record, spec)
    return Progress(
        Phase.FAILED,
        found.reason,
        message,
        findings=(warning(found.reason, message),),
        requeue_at=again if again is not None and again > now else None,
    )


def _at_rest(observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec) -> Progress:
    findings: tuple[Finding, ...] = ()
    if not observed.completed(record):
        findings = (news(Reason.ROLLOUT_COMPLETED, rollout_messages.completed(record)),)
    if observed.pods_with_open_ports:
        return Progress(Phase.RUNNING, Reason.SERVING, rollout_messages.at_rest(spec), findings=findings)
    found = diagnosis.lost_node(observed) or diagnosis.trouble(observed, spec)
    message = failure_messages.installed_but_not_ready(
        observed.agent, spec, None if found is None else found.message, Availability.of(observed)
    )
    if found is None:
        return Progress(Phase.RUNNING, Reason.NOT_SERVING, message, findings=findings)
    return Progress(Phase.RUNNING, found.reason, message, findings=(*findings, found))
