"""Which spec is in force: the user's, or the one that was applied last while the user's is refused.

Called by `plan`. Two outcomes with nothing in between: `Allowed`, or `Refused` with the reason and what stays in force.
"""

from dataclasses import dataclass
from datetime import datetime

from medplum_agent_operator.api.annotations import FORCE_DOWNGRADE
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Phase
from medplum_agent_operator.core.observed.findings import Finding, Message, warning
from medplum_agent_operator.core.observed.model import Config, Observed
from medplum_agent_operator.core.observed.rollout_record import Change, Failure
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy import identity_messages, messages
from medplum_agent_operator.core.policy.approval import Approval, judge
from medplum_agent_operator.core.policy.failure import failed_before, latched
from medplum_agent_operator.core.policy.strategy import classify, needs_approval


@dataclass(frozen=True, slots=True)
class Allowed:
    """The user's spec is in force.

    Attributes:
        change: what the user's version means, seen from the version that became active last.
        target: the version that the user asked for.
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
        change: what the user's version means, seen from the version that became active last.
        target: the version that the user asked for.
        refusal: why.
        spec: the spec that stays in force; None if the cluster does not have it any more.
        approval: for a downgrade that needs one, what the annotation says.
        latched: whether the change was made once and failed.
        until: when the refusal ends automatically; None if it does not.
    """

    change: Change
    target: AgentVersion
    refusal: Finding
    spec: MedplumAgentSpec | None
    approval: Approval | None = None
    latched: bool = False
    until: datetime | None = None

    @property
    def phase(self) -> Phase:
        """The agent's phase while it is refused."""
        if self.refusal.reason is Reason.AWAITING_WINDOW:
            return Phase.AWAITING_WINDOW
        return Phase.FAILED if self.approval is None else Phase.AWAITING_APPROVAL

    @property
    def awaits_decision(self) -> bool:
        """Whether the change can still be made: status then shows how."""
        return self.phase in {Phase.AWAITING_APPROVAL, Phase.AWAITING_WINDOW}


Verdict = Allowed | Refused


def decide(observed: Observed, config: Config) -> Verdict:
    """Decide which spec is in force."""
    spec = observed.agent.spec
    target = AgentVersion.parse(spec.version)
    change = classify(observed, target)
    refusal, approval = _identity_taken(observed), None
    if refusal is None:
        refusal, approval = _approval(observed, change, target)
    failed = latched(observed)
    if failed is not None and not _identity_taken(observed) and _latch_holds(failed, approval):
        refusal, approval = warning(failed.reason, messages.latched(observed, failed, approval)), None
    if refusal is None and not (spec.image.repository or config.image_repository):
        refusal = warning(Reason.IMAGE_REPOSITORY_MISSING, _NO_IMAGE)
    if refusal is None:
        return Allowed(change, target, spec, approval)
    applied = spec_before(observed)
    known = applied is not None and (applied.image.repository or config.image_repository)
    return Refused(change, target, refusal, applied if known else None, approval, latched=failed is not None)


_NO_IMAGE = Message(
    "There is no image to run: neither spec.image.repository nor the operator's default is set.",
    impact="Nothing was changed; a running agent keeps serving.",
    fix="Set spec.image.repository, or the operator's setting MEDPLUM_AGENT_OPERATOR_IMAGE_REPOSITORY. "
    "Medplum publishes no image; docs/how-to/build-an-agent-image.md in the operator's sources shows how to build one.",
)


def _approval(observed: Observed, change: Change, target: AgentVersion) -> tuple[Finding | None, Approval | None]:
    """What the annotation says about a downgrade, and the refusal if that does not approve it."""
    agent, baseline = observed.agent, observed.baseline
    if baseline is None or not needs_approval(change, target, agent.spec):
        return None, None
    approval = judge(agent.annotations.get(FORCE_DOWNGRADE), target=target, spent=agent.status.spent_approvals)
    return None if approval.granted else _not_approved(observed, baseline, target, approval), approval


def _latch_holds(failed: Failure, approval: Approval | None) -> bool:
    """Whether a failed change stays latched: only an approval that is newer than the failure opens it."""
    return approval is None or not approval.granted or approval.text == failed.approval


def _identity_taken(observed: Observed) -> Finding | None:
    """The server was edited and its identity is held by another. Without a Deployment, `checks` has refused it already."""
    holder = observed.holder
    if holder is None:
        return None
    message = identity_messages.identity_taken(observed.agent, holder, made=True, before=spec_before(observed))
    return warning(Reason.IDENTITY_TAKEN, message)


def _not_approved(observed: Observed, baseline: AgentVersion, target: AgentVersion, approval: Approval) -> Finding:
    return warning(
        approval.reason,
        messages.refusal(
            observed.agent,
            baseline=baseline.text,
            target=target,
            approval=approval,
            serving=[pod.version.text for pod in observed.serving_pods if pod.version is not None],
            under_way=_under_way(observed),
        ),
    )


def _under_way(observed: Observed) -> str | None:
    """The version of a rollout that has neither completed nor failed; None without one."""
    record = observed.record
    if record is None or observed.activation.settled or failed_before(observed, record):
        return None
    return record.to


def spec_before(observed: Observed) -> MedplumAgentSpec | None:
    """The spec that was applied last, as the Deployment records it.

    Without a Deployment (somebody deleted it) the version that was active is known from status. The rest of the user's spec
    then serves with that version, unless it pins an image of its own, which would be the refused one's.
    """
    if observed.deployment is not None:
        return observed.deployment.applied_spec
    baseline, spec = observed.baseline, observed.agent.spec
    if baseline is None or spec.image.tag or spec.image.digest:
        return None
    return spec.model_copy(update={"version": baseline.text})
