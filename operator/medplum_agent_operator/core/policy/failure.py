"""When a change has failed for sure, and what keeps it from being tried again by itself: the latch.

Called by `plan`, `verdict`, `progress` and `status`. It judges what is observed, never a single probe: what may still come right
waits for its deadline, and a state that no waiting mends fails at once, in the container's own words (docs/adr/0017).
"""

from datetime import datetime
from typing import Final

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.annotations import FORCE_DOWNGRADE, RETRY
from medplum_agent_operator.api.changes import OnFailure
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Outcome
from medplum_agent_operator.core.observed.activation import Activation
from medplum_agent_operator.core.observed.drift import fingerprint, first_difference
from medplum_agent_operator.core.observed.findings import Finding
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import Failure, RolloutRecord
from medplum_agent_operator.core.policy import diagnosis
from medplum_agent_operator.core.policy.approval import kept

LONGEST_MESSAGE: Final = 2000
"""Characters of what went wrong that are kept on the Deployment."""


def is_over(observed: Observed, *, now: datetime) -> bool:
    """Whether the rollout under way has failed: it missed its deadline, nothing can mend it, or that was said of it before."""
    deployment = observed.deployment
    if deployment is None:
        return False
    if deployment.progress_deadline_exceeded(now):
        return True
    if observed.activation.became_active or deployment.record is None:
        return False
    overdue = observed.overdue_at
    if overdue is not None and overdue <= now:
        return True
    return failed_before(observed, deployment.record) or diagnosis.hopeless(observed)


def is_to_be_rolled_back(observed: Observed, spec: MedplumAgentSpec, *, now: datetime) -> bool:
    """Whether the rollout under way has failed and what was active before it is to be brought back.

    Not the first installation, which has nothing to go back to; not a move off a cordoned node, which stops nobody and goes on
    when a node takes it; not a rollback, which would lead to itself. And not where the new version serves, or somebody has asked for new
    pods of it since: then it may have become active while nobody looked, and going back from it would be a downgrade.
    """
    deployment = observed.deployment
    record = None if deployment is None else deployment.record
    if deployment is None or record is None or record.moved_off is not None or record.from_version is None:
        return False
    if spec.handoff.on_failure is not OnFailure.ROLLBACK or observed.activation.became_active:
        return False
    if observed.activation is Activation.POSSIBLY or any(pod in observed.current_pods for pod in observed.serving_pods):
        return False
    good = deployment.last_good
    if good is None or first_difference(good.applied.template, deployment.template) is None:
        return False
    return is_over(observed, now=now)


def failed_before(observed: Observed, record: RolloutRecord) -> bool:
    """A failure stays one until the agent serves: a container that runs for a moment once more has not mended it."""
    return any(
        entry.started_at == record.started_at and entry.outcome is Outcome.FAILED
        for entry in observed.agent.status.history
    )


def note(agent: MedplumAgent, spec: MedplumAgentSpec, found: Finding) -> Failure:
    """What is kept of a failed change: enough to tell it, and to know it again."""
    message = " ".join(part for part in (found.message.summary, found.message.cause) if part)
    if len(message) > LONGEST_MESSAGE:
        message = message[: LONGEST_MESSAGE - 1] + "…"
    return Failure(
        version=spec.version,
        spec=_known_by(spec),
        reason=found.reason,
        message=message,
        retry=_text(agent, RETRY),
        approval=_text(agent, FORCE_DOWNGRADE),
    )


def latched(observed: Observed) -> Failure | None:
    """The failed change that the user's spec still asks for and that nobody has asked to try again; None where there is none."""
    record = observed.record
    failed = None if record is None else record.failed
    if failed is None or failed.spec != _known_by(observed.agent.spec):
        return None
    retry = _text(observed.agent, RETRY)
    return None if retry and retry != failed.retry else failed


def _text(agent: MedplumAgent, annotation: str) -> str | None:
    """An annotation as it is kept: words that differ in their spaces alone, or a very long one, are told apart all the same."""
    text = agent.annotations.get(annotation, "")
    return kept(text) if text.strip() else None


def _known_by(spec: MedplumAgentSpec) -> str:
    """What tells one spec from another. Defaults are left out: a later release of the operator may add some, and a pause that ended is none."""
    return fingerprint(spec.model_dump(by_alias=True, exclude_defaults=True, mode="json"))
