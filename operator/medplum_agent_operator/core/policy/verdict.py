"""Which spec is in force: the user's, or the spec applied last while the user's is refused.

Called by `plan`. There are only two outcomes: `Allowed`, or `Refused` with the reason and the spec that stays in force.
"""

from dataclasses import dataclass
from datetime import datetime

from medplum_agent_operator.api.annotations import FORCE_DOWNGRADE
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Phase
from medplum_agent_operator.core.observed.findings import Finding, Message, warning
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import Change, Failure
from medplum_agent_operator.core.observed.scope import Config
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy import allowances, downgrade_messages, identity_messages, messages
from medplum_agent_operator.core.policy.approval import Approval, Spent, judge
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.failure import latched, recorded_as_failed
from medplum_agent_operator.core.policy.strategy import choose, classify, needs_approval


@dataclass(frozen=True, slots=True)
class Allowed:
    """The user's spec is in force.

    Attributes:
        change: what the target version means, compared with the active version.
        target: the target version.
        spec: the user's spec.
        approval: for a downgrade that needs one, the approval that allowed it.
    """

    change: Change
    target: AgentVersion
    spec: MedplumAgentSpec
    approval: Approval | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The user's spec is not in force.

    Attributes:
        change: what the target version means, compared with the active version.
        target: the target version.
        refusal: why.
        spec: the spec that stays in force; None if the cluster no longer has it.
        approval: for a downgrade that needs one, what the annotation says.
        latched: whether the change was tried once and failed.
        until: when the refusal ends automatically; None if it does not.
        blocked: whether a check stops the spec before it is judged (`checks`); a rollout under way is then reported beside it.
    """

    change: Change
    target: AgentVersion
    refusal: Finding
    spec: MedplumAgentSpec | None
    approval: Approval | None = None
    latched: bool = False
    until: datetime | None = None
    blocked: bool = False

    @property
    def phase(self) -> Phase:
        """The agent's phase while the spec is refused."""
        if self.refusal.reason is Reason.AWAITING_WINDOW:
            return Phase.AWAITING_WINDOW
        return Phase.FAILED if self.approval is None else Phase.AWAITING_APPROVAL

    @property
    def awaits_decision(self) -> bool:
        """Whether the change can still begin; status then shows its strategy."""
        return self.phase in {Phase.AWAITING_APPROVAL, Phase.AWAITING_WINDOW}


Verdict = Allowed | Refused


def decide(observed: Observed, config: Config) -> Verdict:
    """Decide which spec is in force."""
    spec = observed.agent.spec
    target = AgentVersion.parse(spec.version)
    change = classify(observed, target)
    forbidden = _not_allowed(observed, config) or _identity_taken(observed)
    refusal, approval = (forbidden, None) if forbidden is not None else _approval(observed, change, target)
    failed = latched(observed)
    if failed is not None and forbidden is None and _latch_holds(failed, approval):
        refusal, approval = warning(failed.reason, messages.latched(observed, failed, approval)), None
    if refusal is None and not (spec.image.repository or config.image_repository):
        refusal = warning(Reason.IMAGE_REPOSITORY_MISSING, _no_image(observed))
    if refusal is None:
        return Allowed(change, target, spec, approval)
    # Without a Deployment, the last applied spec is a guess from the user's, which is not allowed.
    guessed = observed.deployment is None and refusal.reason is Reason.NOT_ALLOWED
    applied = None if guessed else last_applied_spec(observed)
    recorded = observed.deployment is not None and observed.deployment.applied_template is not None
    known = applied is not None and (recorded or applied.image.repository or config.image_repository)
    return Refused(change, target, refusal, applied if known else None, approval, latched=failed is not None)


def while_blocked(observed: Observed, found: Finding) -> Refused | None:
    """The verdict while a check stops the spec: the applied spec stays in force. None if that is unknown."""
    applied = observed.applied_spec
    if applied is None:
        return None
    target = AgentVersion.parse(applied.version)
    return Refused(Change.NONE, target, found, applied, latched=latched(observed) is not None, blocked=True)


def _no_image(observed: Observed) -> Message:
    return Message(
        "There is no image to run: neither spec.image.repository nor the operator's default is set.",
        impact=Availability.of(observed).now,
        fix="Set spec.image.repository, or the environment variable MEDPLUM_AGENT_OPERATOR_IMAGE_REPOSITORY of the operator's Deployment; the operator "
        "then continues automatically. "
        "Medplum publishes no image; docs/how-to/build-an-agent-image.md in the operator's sources shows how to build one.",
    )


def _approval(observed: Observed, change: Change, target: AgentVersion) -> tuple[Finding | None, Approval | None]:
    """Judge the approval of a downgrade, and refuse the downgrade if it is not approved."""
    agent, baseline = observed.agent, observed.baseline
    if baseline is None or not needs_approval(change, target, agent.spec):
        return None, None
    approval = judge(agent.annotations.get(FORCE_DOWNGRADE), target=target, spent=Spent.of(agent.status))
    return None if approval.granted else _not_approved(observed, baseline, target, approval), approval


def _latch_holds(failed: Failure, approval: Approval | None) -> bool:
    """Whether a failed change stays latched: an approval opens the latch only if it is newer than the failure."""
    return approval is None or not approval.granted or approval.text == failed.approval


def _not_allowed(observed: Observed, config: Config) -> Finding | None:
    """The refusal if the spec uses what the operator's settings do not allow."""
    message = allowances.not_allowed(observed, config)
    return None if message is None else warning(Reason.NOT_ALLOWED, message)


def _identity_taken(observed: Observed) -> Finding | None:
    """The refusal if another MedplumAgent has the identity in the spec. Without a Deployment, `checks` refuses first."""
    holder = observed.holder
    if holder is None:
        return None
    message = identity_messages.identity_taken(
        observed.agent, holder, available=Availability.of(observed), before=last_applied_spec(observed)
    )
    return warning(Reason.IDENTITY_TAKEN, message)


def _not_approved(observed: Observed, baseline: AgentVersion, target: AgentVersion, approval: Approval) -> Finding:
    spec = observed.agent.spec
    now = downgrade_messages.Situation(
        Availability.of(observed),
        under_way=_under_way(observed),
        stops_first=choose(observed, target, host_ports=spec.uses_host_ports).mechanics.stops_first,
    )
    message = downgrade_messages.refusal(
        observed.agent, baseline=baseline.text, target=target, approval=approval, now=now
    )
    return warning(approval.reason, message)


def _under_way(observed: Observed) -> str | None:
    """The version of a rollout that has neither completed nor failed; None without one."""
    record = observed.record
    if record is None or observed.activation.settled or recorded_as_failed(observed, record):
        return None
    return record.to


def last_applied_spec(observed: Observed) -> MedplumAgentSpec | None:
    """The spec applied last, as the Deployment records it; None if it is unknown.

    If a user deleted the Deployment, status knows the version that was active. The result is then the user's spec with that
    version, unless the spec pins an image: that image would be the refused version's.
    """
    if observed.deployment is not None:
        return observed.deployment.applied_spec
    baseline, spec = observed.baseline, observed.agent.spec
    if baseline is None or spec.image.tag or spec.image.digest:
        return None
    return spec.model_copy(update={"version": baseline.text})
