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
from medplum_agent_operator.core.objects.children import ALWAYS, kind_of, name_of
from medplum_agent_operator.core.observed.findings import Finding, Message, news, warning
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.ownership import Ownership, agent_that_owns, ownership
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy import drain, identity_messages, messages
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.phrases import listed

_ONLY_LOOKED_AFTER: Final = "No change of the spec is applied. The agent's own Deployment is still repaired, rolled back and moved off cordoned nodes."


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
    kinds = _owned(observed, Ownership.LEFTOVER)
    if not kinds:
        return None
    return Blocker(
        Phase.INSTALLING,
        news(
            Reason.AWAITING_GARBAGE_COLLECTION,
            Message(
                f"Waiting for garbage collection of the {listed([kind_of(kind) for kind in kinds])} of a deleted MedplumAgent {observed.agent.name}.",
                impact=_ONLY_LOOKED_AFTER
                if _is_looked_after(observed)
                else "This MedplumAgent is not installed yet and serves no devices.",
                fix="None needed; the installation starts automatically. If an object stays, look for a finalizer on it.",
            ),
        ),
        spares_the_agent=_is_looked_after(observed),
    )


def newer_pods_of_a_deleted_namesake(observed: Observed) -> Blocker | None:
    """Newer pods of a deleted namesake still run: an older agent beside them would be a downgrade, after them it is an installation."""
    if observed.deployment is not None or observed.baseline is not None:
        return None
    agent = observed.agent
    target = AgentVersion.parse(agent.spec.version)
    newer = [pod for pod in observed.live_pods if pod.version is not None and pod.version > target]
    if not newer:
        return None
    shown = listed([f"{pod.name} ({pod.version})" for pod in newer])
    return Blocker(
        Phase.INSTALLING,
        news(
            Reason.AWAITING_GARBAGE_COLLECTION,
            Message(
                f"Waiting for {'pod' if len(newer) == 1 else 'pods'} {shown} of a deleted MedplumAgent {agent.name} to end before the older {target} starts.",
                impact="This MedplumAgent is not installed yet. The old pod may still serve devices until it has ended.",
                fix="None needed; the installation starts automatically. If the pod does not terminate, run the command.",
                command=f"kubectl -n {agent.namespace} delete pod {' '.join(pod.name for pod in newer)}",
            ),
        ),
    )


def names_taken_by_others(observed: Observed) -> Blocker | None:
    """Objects with our names and another owner: the operator never takes them over."""
    parts = _owned(observed, Ownership.FOREIGN)
    if not parts:
        return None
    agent = observed.agent
    shown = listed([f"{kind_of(part)} {name_of(part, agent.name)}" for part in parts])
    cause = f"An object of that name in namespace {agent.namespace} has no owner reference to this MedplumAgent."
    installed = _is_looked_after(observed)
    fix = "Look at the object with the command. If it is not needed, delete it. Otherwise create the MedplumAgent under another name."
    if installed:
        fix = (
            "Look at the object with the command. If it is not needed, delete it: the operator then creates its own. "
            "Devices that connect through the object cannot deliver messages meanwhile. If another program needs it, delete this "
            "MedplumAgent in a maintenance window and create it under another name; no agent serves in between."
        )
    others = sorted({name for part in parts if (name := agent_that_owns(observed.live_object(part)))})
    if others:
        owners = listed([f"MedplumAgent {name}" for name in others])
        cause = f"It belongs to {owners}. The objects of a MedplumAgent have its name, or its name with -agent, -gate or -moves-by-handoff."
        fix = "Do not delete the object: the other agent needs it. Create this MedplumAgent under another name."
        if installed:
            fix += " Delete it first, in a maintenance window: no agent serves in between."
    only = f" {_ONLY_LOOKED_AFTER}" if installed else ""
    message = Message(
        f"{shown} already {'exists and does' if len(parts) == 1 else 'exist and do'} not belong to this MedplumAgent.",
        cause=cause,
        impact=f"{Availability.of(observed).now}{only} The operator leaves the foreign object alone.",
        fix=fix,
        command=f"kubectl -n {agent.namespace} get {kind_of(parts[0]).lower()} {name_of(parts[0], agent.name)} -o yaml",
    )
    return Blocker(Phase.FAILED, warning(Reason.NAME_TAKEN, message), _is_looked_after(observed))


def paused_by_the_user(observed: Observed) -> Blocker | None:
    """`spec.paused`: the user asks the operator to write nothing."""
    agent = observed.agent
    if not agent.spec.paused:
        return None
    impact = f"{Availability.of(observed).now} The operator makes no changes and repairs no drift."
    fix, command = "Set spec.paused to false; pending changes then start.", ""
    spec = observed.applied_spec or agent.spec
    stuck = drain.on_departing_node(observed, spec)
    node = None if stuck is None else observed.node_of(stuck)
    if node is not None and _protected(observed):
        impact += (
            f" Node {node.name} {drain.why_departing(node, spec)}, and a drain of it waits while the agent is paused."
        )
        fix += " To move the agent off the node now, run the command."
        command = f"kubectl -n {agent.namespace} rollout restart deployment/{agent.name}"
    message = Message("Paused by spec.paused.", impact=impact, fix=fix, command=command)
    return Blocker(Phase.PAUSED, news(Reason.PAUSED, message))


def deployment_paused(observed: Observed) -> Blocker | None:
    """`kubectl rollout pause`: Kubernetes replaces no pod, so a rollout could neither complete nor fail.

    Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#pausing-and-resuming-a-deployment
    """
    if observed.deployment is None or not observed.deployment.paused:
        return None
    agent = observed.agent
    message = Message(
        f"Deployment {agent.name} is paused (kubectl rollout pause), so no change of the agent can roll out.",
        impact=f"{Availability.of(observed).now} The operator makes no changes and repairs no drift.",
        fix="Resume the Deployment with the command; pending changes then start.",
        command=f"kubectl -n {agent.namespace} rollout resume deployment/{agent.name}",
    )
    return Blocker(Phase.PAUSED, warning(Reason.PAUSED, message))


def _protected(observed: Observed) -> bool:
    """Whether the live PodDisruptionBudget blocks evictions. The spec does not decide: while paused, it may ask for another budget."""
    budget = observed.children.get("PodDisruptionBudget") or {}
    return bool((budget.get("spec") or {}).get("minAvailable"))


def identity_held_by_another(observed: Observed) -> Blocker | None:
    """Another MedplumAgent has the identity: the operator never creates a second agent for it. With a Deployment, `verdict` refuses instead."""
    holder = observed.holder
    if holder is None or observed.deployment is not None:
        return None
    message = identity_messages.identity_taken(observed.agent, holder, installed=False, before=None)
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
