"""Messages about what forbids to apply a spec: objects of another owner or of a deleted namesake, and pauses.

Called by `checks`. This module must never decide anything.
"""

from collections.abc import Sequence
from typing import Final

from medplum_agent_operator.api.agent import SINGULAR, MedplumAgent
from medplum_agent_operator.core.objects.children import kind_of, name_of
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.pods import Pod
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.phrases import listed
from medplum_agent_operator.core.policy.strategy import choose

_ONLY_LOOKED_AFTER: Final = "No change of the spec is applied. The agent's own Deployment is still repaired, rolled back and moved off cordoned nodes."


_PAUSED: Final = "The operator is paused for this agent, because spec.paused is true."


def leftovers(observed: Observed, parts: Sequence[str], *, looked_after: bool) -> Message:
    """Objects of a deleted namesake that the garbage collector has not removed yet. `looked_after`: whether our own Deployment exists."""
    agent = observed.agent
    impact, what = "This MedplumAgent is not installed yet and serves no devices.", "the installation starts"
    if looked_after:
        impact, what = f"{Availability.of(observed).now} {_ONLY_LOOKED_AFTER}", "the operator continues"
    return Message(
        f"Waiting for garbage collection of the {listed([kind_of(part) for part in parts])} of a deleted MedplumAgent {agent.name}.",
        impact=impact,
        fix=f"None needed; {what} automatically when the garbage collector has removed what is left. If that takes longer than some minutes, run the command and "
        "look at metadata.finalizers: the program that set a finalizer has to remove it.",
        command=_get(agent, parts[0]),
    )


def pods_of_namesake(agent: MedplumAgent, target: AgentVersion, pods: Sequence[Pod]) -> Message:
    """Pods of a deleted namesake with a newer version: an older agent waits for their end."""
    shown, names = listed([f"{pod.name} ({pod.version})" for pod in pods]), " ".join(pod.name for pod in pods)
    return Message(
        f"Waiting for {'pod' if len(pods) == 1 else 'pods'} {shown} of a deleted MedplumAgent {agent.name} to end before the older {target} starts.",
        impact="This MedplumAgent is not installed yet. The old pod may still serve devices until it has ended; then none serves until the new one is ready.",
        fix="Look at the pod with the command. None needed if it is Terminating; the installation starts automatically when it has ended. If it is not "
        f"Terminating, delete it (kubectl -n {agent.namespace} delete pod {names}); its devices then have no agent until the new one is ready. "
        "If it stays Terminating, repair its node; do not delete it by force, because two agents could then run at once.",
        command=f"kubectl -n {agent.namespace} get pod {names}",
    )


def name_taken(observed: Observed, parts: Sequence[str], owners: Sequence[str], *, installed: bool) -> Message:
    """Objects with our names and another owner. `owners`: the MedplumAgents that own them; empty if none does."""
    agent = observed.agent
    shown = listed([f"{kind_of(part)} {name_of(part, agent.name)}" for part in parts])
    cause = f"An object of that name in namespace {agent.namespace} has no owner reference to this MedplumAgent."
    if owners:
        names = listed([f"MedplumAgent {name}" for name in owners])
        cause = f"It belongs to {names}. The objects of a MedplumAgent have its name, or its name with -agent, -gate or -moves-by-handoff."
    save = f"kubectl -n {agent.namespace} get {SINGULAR} {agent.name} -o yaml > {agent.name}.yaml"
    return Message(
        f"{shown} already {'exists and does' if len(parts) == 1 else 'exist and do'} not belong to this MedplumAgent.",
        cause=cause,
        impact=f"{Availability.of(observed).now}{_effect(parts, installed=installed)} The operator leaves the foreign object alone.",
        fix=_ways_out(agent, "" if owners else _delete(agent, parts[0]), installed=installed),
        command=save if owners else _get(agent, parts[0]),
    )


def _effect(parts: Sequence[str], *, installed: bool) -> str:
    if not installed:
        return ""
    reach = " Devices reach it only if that Service selects its pods (spec.selector)." if "Service" in parts else ""
    return f"{reach} {_ONLY_LOOKED_AFTER}"


def _ways_out(agent: MedplumAgent, delete: str, *, installed: bool) -> str:
    """What to do. `delete`: the command that deletes the object; empty if another MedplumAgent needs it."""
    first = "Do not delete the object: the other MedplumAgent needs it. "
    if delete:
        then = "the operator then creates its own, and devices that connect through the object cannot deliver messages until it has"
        first = "Look at the object with the command. "
        first += f"If it is not needed, delete it ({delete}); {then if installed else 'the installation then starts automatically'}. "
        first += "If another program needs it: "
    move = "delete this MedplumAgent, and create it under another name."
    if installed:
        move = (
            f"in a maintenance window, delete MedplumAgent {agent.name} and create it under another name. No agent serves its devices in between, and "
            "they have to connect to the new Service."
        )
    return first + (
        move if delete else f"Save this MedplumAgent with the command. Then{',' if installed else ''} {move}"
    )


def _delete(agent: MedplumAgent, part: str) -> str:
    return f"kubectl -n {agent.namespace} delete {kind_of(part).lower()} {name_of(part, agent.name)}"


def _get(agent: MedplumAgent, part: str) -> str:
    return f"kubectl -n {agent.namespace} get {kind_of(part).lower()} {name_of(part, agent.name)} -o yaml"


def paused(observed: Observed, *, drained: str) -> Message:
    """`spec.paused`. `drained`: the node that the agent has to leave and why, as a sentence's beginning; empty without one."""
    agent = observed.agent
    impact = f"{Availability.of(observed).now} The operator makes no changes and repairs no drift."
    fix = f"None needed while the pause is intended. To end it, {{}}; the operator then repairs drift.{_pending(observed)}"
    command = (
        f'kubectl -n {agent.namespace} patch {SINGULAR} {agent.name} --type=merge -p \'{{"spec":{{"paused":false}}}}\''
    )
    if not drained:
        return Message(_PAUSED, impact=impact, fix=fix.format("run the command"), command=command)
    return Message(
        _PAUSED,
        impact=f"{impact} {drained}, and a drain of it waits while the agent is paused.",
        fix=f"{fix.format('set spec.paused to false')} To move the agent off the node during the pause, run the command: a new pod starts on another node before the old one stops; no outage "
        "is expected.",
        command=f"kubectl -n {agent.namespace} rollout restart deployment/{agent.name}",
    )


def deployment_paused(observed: Observed) -> Message:
    """`kubectl rollout pause`."""
    agent = observed.agent
    return Message(
        f"Deployment {agent.name} is paused (kubectl rollout pause), so no change of the agent can roll out.",
        impact=f"{Availability.of(observed).now} The operator makes no changes and repairs no drift.",
        fix=f"Resume the Deployment with the command; the operator then repairs drift.{_pending(observed)}",
        command=f"kubectl -n {agent.namespace} rollout resume deployment/{agent.name}",
    )


def _pending(observed: Observed) -> str:
    """What starts when a pause ends, and what that means for devices."""
    spec, applied, available = observed.agent.spec, observed.applied_spec, Availability.of(observed)
    if observed.deployment is None:
        return " The operator then installs the agent."
    if applied is None:
        return " Edits of the spec that wait are then applied."
    if spec.model_copy(update={"paused": applied.paused}) == applied:
        return " No edit of the spec is waiting."
    choice = choose(observed, AgentVersion.parse(spec.version), host_ports=spec.uses_host_ports)
    if not choice.mechanics.stops_first:
        return " The waiting edit of the spec is then applied; no outage is expected."
    old = listed(available.serving) or "the old agent"
    return f" The waiting edit of the spec is then applied. If it replaces the pod, {available.stop_first(old, spec.version)}"
