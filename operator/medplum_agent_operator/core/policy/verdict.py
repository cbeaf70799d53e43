"""Which spec is in force: the one that the user wrote, or, while that one is refused, the one that was applied last.

Called by `plan`. This is how a refused change changes nothing: everything goes on being reconciled, drift repaired and dead
pods replaced, towards the spec that ran before.
"""

from dataclasses import dataclass

from medplum_agent_operator.api.annotations import FORCE_DOWNGRADE
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.findings import Finding, Severity
from medplum_agent_operator.core.observed.model import Config, Observed
from medplum_agent_operator.core.observed.rollout_record import Change
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy import messages
from medplum_agent_operator.core.policy.approval import Approval, judge
from medplum_agent_operator.core.policy.failure import latched, told_before
from medplum_agent_operator.core.policy.strategy import classify, needs_approval


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be done.

    Attributes:
        change: what the user's version means, seen from what became active last.
        target: the version that the user asked for.
        spec: the spec in force; None where the cluster does not tell what ran before a refused change.
        repository: the image repository for that spec; empty where there is no spec.
        approval: for a downgrade that needs one, what the annotation says.
        refusal: why the user's spec is not in force; None where it is.
        latched: whether that is because it has been tried and has failed.
    """

    change: Change
    target: AgentVersion
    spec: MedplumAgentSpec | None
    repository: str
    approval: Approval | None = None
    refusal: Finding | None = None
    latched: bool = False


def decide(observed: Observed, config: Config) -> Verdict:
    """Decide which spec is in force."""
    agent = observed.agent
    spec = agent.spec
    target = AgentVersion.parse(spec.version)
    change = classify(observed, target)
    approval = None
    refusal = taken = _identity_taken(observed)
    baseline = observed.baseline
    if taken is None and baseline is not None and needs_approval(change, target, spec):
        approval = judge(agent.annotations.get(FORCE_DOWNGRADE), target=target, spent=agent.status.spent_approvals)
        if not approval.granted:
            refusal = _not_approved(observed, baseline, target, approval)
    failed = latched(observed)
    if (
        failed is not None
        and taken is None
        and (approval is None or not approval.granted or approval.text == failed.approval)
    ):
        told = messages.latched(observed, failed, approval)
        refusal, approval = Finding(failed.reason, Severity.WARNING, told), None
    repository = spec.image.repository or config.image_repository
    if refusal is None and repository is None:
        refusal = Finding(
            Reason.IMAGE_REPOSITORY_MISSING,
            Severity.WARNING,
            "There is no image to run: set spec.image.repository, or give the operator a default by MEDPLUM_AGENT_OPERATOR_IMAGE_REPOSITORY. "
            "Nothing was changed. (Upstream publishes no image; docs/user-guide.md shows how to build one.)",
        )
    if refusal is None and repository is not None:
        return Verdict(change, target, spec, repository, approval)
    before = spec_before(observed)
    repository = (before.image.repository if before else None) or config.image_repository
    spec_in_force = before if repository else None
    return Verdict(change, target, spec_in_force, repository or "", approval, refusal, latched=failed is not None)


def _identity_taken(observed: Observed) -> Finding | None:
    """The server was edited, and who the agent would be then another one is. Without a Deployment `checks` has refused it already."""
    holder = observed.holder
    if holder is None:
        return None
    sentence = messages.identity_taken(observed.agent, holder, made=True, before=spec_before(observed))
    return Finding(Reason.IDENTITY_TAKEN, Severity.WARNING, sentence)


def _not_approved(observed: Observed, baseline: AgentVersion, target: AgentVersion, approval: Approval) -> Finding:
    return Finding(
        approval.reason,
        Severity.WARNING,
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
    """The version of a rollout that has not ended yet, one way or the other; None where there is none."""
    record = observed.record
    return None if record is None or observed.settled or told_before(observed, record) else record.to


def spec_before(observed: Observed) -> MedplumAgentSpec | None:
    """The spec that was applied last, from the Deployment's own note of it.

    Without a Deployment (somebody deleted it) the version that was active is known from status; the rest of the user's spec
    then serves with that version, unless it pins an image of its own, which would be the refused one's.
    """
    if observed.deployment is not None:
        return observed.deployment.applied_spec
    baseline, spec = observed.baseline, observed.agent.spec
    if baseline is None or spec.image.tag or spec.image.digest:
        return None
    return spec.model_copy(update={"version": baseline.text})
