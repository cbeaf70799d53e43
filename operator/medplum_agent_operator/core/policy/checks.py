"""What can stand in the way of touching anything at all: an ordered chain of small questions about one frozen snapshot.

Called by `plan`. Each is named after the fault that it finds; the first one that finds it speaks. None of them changes a
thing, and what they find leaves the cluster exactly as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Phase
from medplum_agent_operator.core.objects.children import ALWAYS, kind_of, name_of
from medplum_agent_operator.core.observed.findings import Finding, Severity
from medplum_agent_operator.core.observed.model import Observed, Ownership, ownership
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy import drain, messages


@dataclass(frozen=True, slots=True)
class Blocker:
    """Why nothing may be touched, and what that makes of the agent's phase."""

    phase: Phase
    finding: Finding


def _owned(observed: Observed, wanted: Ownership) -> list[str]:
    """The parts whose live object is owned so. What only a gate needs counts where there is to be one."""
    live = {} if observed.deployment is None else {"Deployment": observed.deployment.raw}
    live |= {part: raw for part, raw in observed.children.items() if observed.agent.spec.gated or part in ALWAYS}
    return [part for part, raw in live.items() if ownership(raw, observed.agent) is wanted]


def leftovers_of_a_deleted_namesake(observed: Observed) -> Blocker | None:
    """Objects of a deleted MedplumAgent of the same name: about to be garbage-collected, so writing to them is in vain."""
    kinds = _owned(observed, Ownership.LEFTOVER)
    if not kinds:
        return None
    return Blocker(
        Phase.INSTALLING,
        Finding(
            Reason.AWAITING_GARBAGE_COLLECTION,
            Severity.NORMAL,
            f"Waiting for Kubernetes to remove the {' and '.join(map(kind_of, kinds))} of an earlier MedplumAgent named {observed.agent.name}; "
            "the installation goes on by itself.",
        ),
    )


def newer_pods_of_a_deleted_namesake(observed: Observed) -> Blocker | None:
    """Once they are gone, an older agent is an installation like any other; beside them it would be a downgrade."""
    if observed.deployment is not None or observed.baseline is not None:
        return None
    agent = observed.agent
    target = AgentVersion.parse(agent.spec.version)
    newer = [pod for pod in observed.live_pods if pod.version is not None and pod.version > target]
    if not newer:
        return None
    shown = " and ".join(f"{pod.name} ({pod.version})" for pod in newer)
    return Blocker(
        Phase.INSTALLING,
        Finding(
            Reason.AWAITING_GARBAGE_COLLECTION,
            Severity.NORMAL,
            f"Waiting for pod {shown} of an earlier MedplumAgent named {agent.name} to end, before the older {target} starts; the installation goes on "
            f"by itself. If nothing else ends it: kubectl -n {agent.namespace} delete pod {' '.join(pod.name for pod in newer)}.",
        ),
    )


def names_taken_by_others(observed: Observed) -> Blocker | None:
    """Objects of our names that are not ours are never taken over."""
    parts = _owned(observed, Ownership.FOREIGN)
    if not parts:
        return None
    agent = observed.agent
    shown = " and ".join(f"{kind_of(part)} {name_of(part, agent.name)}" for part in parts)
    return Blocker(
        Phase.FAILED,
        Finding(
            Reason.NAME_TAKEN,
            Severity.WARNING,
            f"In namespace {agent.namespace} there is already a {shown} that this MedplumAgent does not own; it is left alone, and nothing was changed. "
            "Delete or rename it, or create the MedplumAgent under another name.",
        ),
    )


def paused_by_the_user(observed: Observed) -> Blocker | None:
    """`spec.paused`: hands off."""
    if not observed.agent.spec.paused:
        return None
    sentence = "Paused by spec.paused: the operator changes nothing and repairs nothing; what runs, runs on. Set spec.paused to false to go on."
    stuck = drain.on_cordoned_node(observed)
    if stuck is not None and _holds_evictions_back(observed):
        sentence += (
            f" Node {stuck.node} is cordoned: the agent is not moved off it while it is paused, and a drain of the node waits. To move it by hand: "
            f"kubectl -n {observed.agent.namespace} rollout restart deployment/{observed.agent.name}."
        )
    return Blocker(Phase.PAUSED, Finding(Reason.PAUSED, Severity.NORMAL, sentence))


def deployment_paused_by_somebody(observed: Observed) -> Blocker | None:
    """`kubectl rollout pause`: Kubernetes replaces no pod, so a change would neither be made nor ever fail.

    Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#pausing-and-resuming-a-deployment
    """
    if observed.deployment is None or not observed.deployment.paused:
        return None
    agent = observed.agent
    sentence = (
        f"Deployment {agent.name} is paused (kubectl rollout pause), so Kubernetes replaces no pod of it. The operator changes nothing and repairs nothing "
        f"meanwhile; what runs, runs on. To go on: kubectl -n {agent.namespace} rollout resume deployment/{agent.name}."
    )
    return Blocker(Phase.PAUSED, Finding(Reason.PAUSED, Severity.WARNING, sentence))


def _holds_evictions_back(observed: Observed) -> bool:
    """What the live budget says: while an agent is paused, the spec may want another one."""
    budget = observed.children.get("PodDisruptionBudget") or {}
    return bool((budget.get("spec") or {}).get("minAvailable"))


def identity_held_by_another(observed: Observed) -> Blocker | None:
    """Two agents of one identity are never made. One that has a Deployment goes on with what was applied: `verdict` refuses there."""
    holder = observed.holder
    if holder is None or observed.deployment is not None:
        return None
    sentence = messages.identity_taken(observed.agent, holder, made=False, before=None)
    return Blocker(Phase.FAILED, Finding(Reason.IDENTITY_TAKEN, Severity.WARNING, sentence))


CHAIN: Final[tuple[Callable[[Observed], Blocker | None], ...]] = (
    leftovers_of_a_deleted_namesake,
    newer_pods_of_a_deleted_namesake,
    names_taken_by_others,
    paused_by_the_user,
    deployment_paused_by_somebody,
    identity_held_by_another,
)


def first_blocker(observed: Observed) -> Blocker | None:
    """The first reason not to touch anything."""
    return next((found for check in CHAIN if (found := check(observed)) is not None), None)
