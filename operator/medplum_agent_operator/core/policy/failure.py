"""When a rollout has failed, and the latch that prevents an automatic retry.

Called by `verdict`, `downtime`, `progress`, `history`, `records` and `rollback`. It must never judge by a single probe. A rollout
that can still succeed has until its deadline; one that waiting cannot help fails at once (docs/adr/0017, docs/adr/0027).
"""

import re
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
from medplum_agent_operator.core.policy.approval import stored_form

LONGEST_MESSAGE: Final = 2000
"""How many characters of a failure's message the rollout record on the Deployment has at most."""


def has_failed(observed: Observed, *, now: datetime) -> bool:
    """Whether the rollout under way has failed: it missed its deadline, waiting cannot help, or status has recorded its failure."""
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
    return recorded_as_failed(observed, deployment.record) or diagnosis.hopeless(observed)


def should_roll_back(observed: Observed, spec: MedplumAgentSpec, *, now: datetime) -> bool:
    """Whether the rollout under way has failed and the operator should apply the previous spec and template again.

    Not rolled back are:
    - a first installation: there is no previous state;
    - a move off a node before a drain: it stops no agent and resumes when a node accepts the pod;
    - a rollback: it would lead to itself;
    - a version that serves, or whose new pods somebody has asked for since: it may have been active while the operator did not look,
      and returning from it would be a downgrade (docs/adr/0028).
    """
    deployment = observed.deployment
    record = None if deployment is None else deployment.record
    if deployment is None or record is None or record.moved_off is not None or record.from_version is None:
        return False
    if spec.handoff.on_failure is not OnFailure.ROLLBACK or observed.activation.became_active:
        return False
    if observed.activation is Activation.POSSIBLY or any(pod in observed.current_pods for pod in observed.serving_pods):
        return False
    previous = deployment.last_good
    if previous is None or first_difference(previous.applied.template, deployment.template) is None:
        return False
    return has_failed(observed, now=now)


def recorded_as_failed(observed: Observed, record: RolloutRecord) -> bool:
    """Whether history has this rollout as failed. It stays failed until the agent serves: a container that runs briefly is no fix."""
    return any(
        entry.started_at == record.started_at and entry.outcome is Outcome.FAILED
        for entry in observed.agent.status.history
    )


def record_failure(agent: MedplumAgent, spec: MedplumAgentSpec, found: Finding) -> Failure:
    """The record of a failed change: its cause, and what identifies the change later."""
    message = " ".join(part for part in (found.message.summary, found.message.cause) if part)
    if len(message) > LONGEST_MESSAGE:
        message = message[: LONGEST_MESSAGE - 1] + "…"
    return Failure(
        version=spec.version,
        spec=_spec_fingerprint(spec),
        reason=found.reason,
        message=message,
        fix=_lasting(found.message.fix),
        retry=_stored_annotation(agent, RETRY),
        approval=_stored_annotation(agent, FORCE_DOWNGRADE),
    )


def _lasting(fix: str) -> str:
    """The sentences of a fix that are true also after the failure: not those about its command or about what resumes automatically."""
    sentences = re.split(r"(?<=\.) ", fix)
    return " ".join(each for each in sentences if "the command" not in each and "automatically" not in each)


def latched(observed: Observed) -> Failure | None:
    """The failed change that the user's spec still asks for and that no user has retried; None without one."""
    record = observed.record
    failed = None if record is None else record.failed
    if failed is None or observed.agent.fault:  # an unreadable spec does not prove another request
        return failed
    if failed.spec != _spec_fingerprint(observed.agent.spec):
        return None
    retry = _stored_annotation(observed.agent, RETRY)
    return None if retry and retry != failed.retry else failed


def _stored_annotation(agent: MedplumAgent, annotation: str) -> str | None:
    """An annotation in its stored form; None if it is empty. Texts that differ only in spaces stay different."""
    text = agent.annotations.get(annotation, "")
    return stored_form(text) if text.strip() else None


def _spec_fingerprint(spec: MedplumAgentSpec) -> str:
    """Identify a spec. Defaults are left out: a later operator release may add some, and a pause that ended must not count."""
    return fingerprint(spec.model_dump(by_alias=True, exclude_defaults=True, mode="json"))
