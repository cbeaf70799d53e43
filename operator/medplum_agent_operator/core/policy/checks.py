"""What forbids to apply an agent's spec: an ordered chain of small checks over one frozen observation.

Called by `plan`. Each check is named after the fault that it finds, and the operator reports the first one. While a check finds a
fault, the operator applies no change of the spec. A fault that does not concern the agent's own Deployment does not stop a rollback,
a move off a cordoned node or a repair of that Deployment.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Phase
from medplum_agent_operator.core.objects.children import ALWAYS
from medplum_agent_operator.core.observed.findings import Finding, news, warning
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.ownership import Ownership, agent_that_owns, ownership
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy import blocker_messages, drain, identity_messages, messages
from medplum_agent_operator.core.policy.availability import Availability


@dataclass(frozen=True, slots=True)
class Blocker:
    """Why the spec may not be applied.

    Attributes:
        phase: the agent's phase meanwhile.
        finding: the reason.
        spares_the_agent: whether the agent's own Deployment is still looked after by the spec that was applied last.
    """

    phase: Phase
    finding: Finding
    spares_the_agent: bool = False


def _owned(observed: Observed, wanted: Ownership) -> list[str]:
    """The parts whose live object has this ownership. A gate's parts count only if the spec asks for a gate."""
    live = {} if observed.deployment is None else {"Deployment": observed.deployment.raw}
    live |= {part: raw for part, raw in observed.children.items() if observed.agent.spec.gated or part in ALWAYS}
    return [part for part, raw in live.items() if ownership(raw, observed.agent) is wanted]


def _is_looked_after(observed: Observed) -> bool:
    """Whether the agent has a Deployment of its own that the operator may write: it is not paused, and its spec is known."""
    live = observed.deployment
    if live is None or live.paused or observed.agent.spec.paused or live.applied_spec is None:
        return False
    return ownership(live.raw, observed.agent) is Ownership.OURS


def being_deleted(observed: Observed) -> Blocker | None:
    """A finalizer of another program keeps the deleted MedplumAgent: its agent runs on until that program removes it."""
    agent = observed.agent
    if not agent.finalizers:
        return None
    message = messages.being_deleted(
        agent, agent.finalizers, Availability.of(observed), looked_after=_is_looked_after(observed)
    )
    return Blocker(Phase.FAILED, warning(Reason.BEING_DELETED, message), _is_looked_after(observed))


def invalid_spec(observed: Observed) -> Blocker | None:
    """The spec does not fit the model."""
    if not observed.agent.fault:
        return None
    message = messages.invalid_spec(observed.agent.fault, serving=bool(Availability.of(observed).serving))
    return Blocker(Phase.FAILED, warning(Reason.INVALID_SPEC, message), _is_looked_after(observed))


def leftovers_of_a_deleted_namesake(observed: Observed) -> Blocker | None:
    """Objects of a deleted MedplumAgent of the same name await garbage collection: writes to them would be lost."""
    parts = _owned(observed, Ownership.LEFTOVER)
    if not parts:
        return None
    looked_after = _is_looked_after(observed)
    message = blocker_messages.leftovers(observed, parts, looked_after=looked_after)
    return Blocker(Phase.INSTALLING, news(Reason.AWAITING_GARBAGE_COLLECTION, message), looked_after)


def newer_pods_of_a_deleted_namesake(observed: Observed) -> Blocker | None:
    """Newer pods of a deleted namesake still run: an older agent beside them would be a downgrade, after them it is an installation."""
    if observed.deployment is not None or observed.baseline is not None:
        return None
    target = AgentVersion.parse(observed.agent.spec.version)
    newer = [pod for pod in observed.live_pods if pod.version is not None and pod.version > target]
    if not newer:
        return None
    message = blocker_messages.pods_of_namesake(observed.agent, target, newer)
    return Blocker(Phase.INSTALLING, news(Reason.AWAITING_GARBAGE_COLLECTION, message))


def names_taken_by_others(observed: Observed) -> Blocker | None:
    """Objects with our names and another owner: the operator never takes them over."""
    parts = _owned(observed, Ownership.FOREIGN)
    if not parts:
        return None
    installed = _is_looked_after(observed)
    owners = sorted({name for part in parts if (name := agent_that_owns(observed.live_object(part)))})
    message = blocker_messages.name_taken(observed, parts, owners, installed=installed)
    return Blocker(Phase.FAILED, warning(Reason.NAME_TAKEN, message), installed)


def paused_by_the_user(observed: Observed) -> Blocker | None:
    """`spec.paused`: the user asks the operator to write nothing."""
    agent = observed.agent
    if not agent.spec.paused:
        return None
    spec, drained = observed.applied_spec or agent.spec, ""
    stuck = drain.on_departing_node(observed, spec)
    node = None if stuck is None else observed.node_of(stuck)
    if node is not None and _protected(observed):
        drained = f"Node {node.name} {drain.why_departing(node, spec)}"
    return Blocker(Phase.PAUSED, news(Reason.PAUSED, blocker_messages.paused(observed, drained=drained)))


def deployment_paused(observed: Observed) -> Blocker | None:
    """`kubectl rollout pause`: Kubernetes replaces no pod, so a rollout could neither complete nor fail.

    Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#pausing-and-resuming-a-deployment
    """
    if observed.deployment is None or not observed.deployment.paused:
        return None
    return Blocker(Phase.PAUSED, warning(Reason.PAUSED, blocker_messages.deployment_paused(observed)))


def _protected(observed: Observed) -> bool:
    """Whether the live PodDisruptionBudget blocks evictions. The spec does not decide: while paused, it may ask for another budget."""
    budget = observed.children.get("PodDisruptionBudget") or {}
    return bool((budget.get("spec") or {}).get("minAvailable"))


def identity_held_by_another(observed: Observed) -> Blocker | None:
    """Another MedplumAgent has the identity: the operator never creates a second agent for it. With a Deployment, `verdict` refuses instead."""
    holder = observed.holder
    if holder is None or observed.deployment is not None:
        return None
    message = identity_messages.identity_taken(observed.agent, holder, available=None, before=None)
    return Blocker(Phase.FAILED, warning(Reason.IDENTITY_TAKEN, message))


CHAIN: Final[tuple[Callable[[Observed], Blocker | None], ...]] = (
    being_deleted,
    invalid_spec,
    leftovers_of_a_deleted_namesake,
    newer_pods_of_a_deleted_namesake,
    names_taken_by_others,
    paused_by_the_user,
    deployment_paused,
    identity_held_by_another,
)


def first_blocker(observed: Observed) -> Blocker | None:
    """The first reason not to apply the spec; None without one. It spares the agent only if every other reason does."""
    found = [blocker for check in CHAIN if (blocker := check(observed)) is not None]
    return replace(found[0], spares_the_agent=all(each.spares_the_agent for each in found)) if found else None
