"""Messages about a change that does not begin: refused, waiting for a person, or waiting for a window.

Called by the other modules of this wing and by `reconcile`. Each message says what happened, who is affected and what to do
(docs/style.md). This module must never decide anything.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from medplum_agent_operator.api.agent import SINGULAR, MedplumAgent
from medplum_agent_operator.api.annotations import FORCE_DOWNGRADE, NOW, RETRY
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.nodes import Taint
from medplum_agent_operator.core.observed.rollout_record import Failure
from medplum_agent_operator.core.observed.version import ZERO_DOWNTIME, AgentVersion
from medplum_agent_operator.core.policy.approval import Approval, Spent
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.phrases import annotate, listed, numbered
from medplum_agent_operator.core.policy.strategy import Choice
from medplum_agent_operator.core.policy.windows import Moment


def annotate_command(agent: MedplumAgent, target: AgentVersion) -> str:
    """The command that approves a downgrade to `target`, with a text that is not spent yet."""
    spent = Spent.of(agent.status)
    value = target.text
    for number in range(2, len(spent) + 3):
        if value not in spent:
            break
        value = f"{target} approval {number}"
    return annotate(agent, FORCE_DOWNGRADE, value)


@dataclass(frozen=True, slots=True)
class Situation:
    """What a refused downgrade would meet.

    Attributes:
        available: who serves devices.
        under_way: the version of a rollout that has not ended yet; None without such a rollout.
        stops_first: whether the downgrade would stop what runs before the target starts.
    """

    available: Availability
    under_way: str | None
    stops_first: bool


def refusal(agent: MedplumAgent, *, baseline: str, target: AgentVersion, approval: Approval, now: Situation) -> Message:
    """Why a downgrade is refused, what approving it means, and how to approve it.

    Args:
        agent: the agent.
        baseline: the version that `target` is a downgrade from.
        target: the target version.
        approval: what the annotation says.
        now: what the downgrade would meet.
    """
    available, under_way = now.available, now.under_way
    impact = f"None so far; {available.now} Other edits of the spec wait too."
    stay = f'To stay, set spec.version back to "{baseline}".'
    if under_way is not None:
        stay = f'To keep the change to {under_way}, set spec.version to "{under_way}". To return to {baseline}, set it to "{baseline}".'
        impact = f"The rollout of {under_way} continues. {available.now} This refusal delays neither."
    return Message(
        f"Downgrade from {baseline} to {target} is refused until a cluster admin approves it.",
        cause=approval.correction,
        impact=impact,
        before_you_approve=numbered(*_risks(baseline, target, available, stops_first=now.stops_first), *_ADVICE),
        fix=f'{stay} To downgrade, a cluster admin runs the command. A change ticket may follow the version: "{target} CHG-1042".',
        command=annotate_command(agent, target),
    )


def _risks(baseline: str, target: AgentVersion, available: Availability, *, stops_first: bool) -> tuple[str, ...]:
    queue = f"Messages that still wait in the durable queue of {baseline} are lost with its pod."
    if not stops_first:
        return (
            f"The server, the channels or the bots may need {baseline}.",
            queue,
            f"No outage expected: {target} starts before {baseline} stops.",
        )
    running = " and ".join(available.serving) or "What runs"
    risks = (available.stop_first(running, target.text), queue)
    if target.hands_over:
        return (f"The server, the channels or the bots may need {baseline}.", *risks)
    later = (
        f"Every later upgrade from {target} has such an outage too: agents older than {ZERO_DOWNTIME} cannot run beside another, because both would "
        "compete for identity, PID file and ports."
    )
    return (*risks, later)


_ADVICE: Final = (
    "Consider a newer version that fixes your problem, or a change of configuration in Medplum.",
    "Choose an off-peak hour or a maintenance window.",
    "Copy the Agent and its Endpoints in Medplum; the operator backs up only the MedplumAgent and its pod template.",
    "Afterwards, check on every channel that messages arrive.",
)


def latched(observed: Observed, failed: Failure, approval: Approval | None) -> Message:
    """A change that failed and is not retried automatically."""
    agent, before, record = observed.agent, observed.last_active, observed.record
    if before is None or before.text == failed.version:
        what, back = f"The change of {failed.version}'s settings failed", "undo that change"
    else:
        what = f"The change from {before} to {failed.version} failed"
        back = f'set spec.version back to "{before}", which needs no approval'
    rolled_back = record is not None and record.rolled_back_from is not None
    end = "was rolled back; it is not retried automatically" if rolled_back else "is not retried automatically"
    if approval is None or approval.granted:
        again, retry = annotate(agent, RETRY, "$(date +%FT%T)"), "retry with the command"
    else:
        again = annotate_command(agent, AgentVersion.parse(agent.spec.version))
        retry = "approve it again with the command (each approval counts once)"
    return Message(
        f"{what} and {end}.",
        cause=failed.message,
        impact=Availability.of(observed).now,
        fix=f"{failed.fix or 'Fix the cause.'} Then {retry}. Or edit the spec, or {back}.",
        command=again,
    )


def awaits_window(
    observed: Observed, choice: Choice, *, approval: str, opening: Moment | None, faults: Iterable[Message]
) -> Message:
    """A change that costs downtime and waits for a maintenance window."""
    agent, available, version = observed.agent, Availability.of(observed), observed.agent.spec.version
    old = " and ".join(available.serving) or "what runs"
    then = f"When the change starts, {available.stop_first(old, version)}"
    rollout = f"Recreate, because {choice.why}."
    if approval:
        rollout += f' The downgrade is approved by "{approval}".'
    if opening is None:
        summary = f"The change to {version} waits for a maintenance window, but none ever opens."
        fix = "Correct spec.maintenanceWindows. If you remove them, or run the command, the change starts at once."
    else:
        summary = f"The change to {version} waits for the window on {opening}."
        fix = "None needed; the change starts when the window opens. To start it now, run the command."
    return Message(
        summary,
        rollout=rollout,
        cause=" ".join(f"{fault.summary} {fault.cause} {fault.fix}" for fault in faults) if opening is None else "",
        impact=f"{available.now} {then}",
        fix=fix,
        command=annotate(agent, NOW, f"{version} $(date +%FT%T)"),
    )


_CORRECT: Final = "Correct what the cause names: a quota, an admission policy, the operator's RBAC or the spec."


def backup_refused(name: str, fault: str, available: Availability) -> Message:
    """A downgrade that does not begin because its backup cannot be written."""
    return Message(
        f"The approved downgrade does not start: its backup, ControllerRevision {name}, cannot be written.",
        cause=fault,
        impact=f"{available.now} The operator stopped no agent, and the approval is not used up.",
        fix=f"{_CORRECT} The operator retries every minute.",
    )


def last_spec_unknown() -> Message:
    """The user's spec is refused, and the applied one is unknown."""
    return Message(
        "The previously applied spec is not recorded in the cluster, so no drift is repaired.",
        impact="None for devices; manual edits of the operator's objects stay.",
        fix="None of its own; the operator records the spec again when the problem above is solved.",
    )


def write_refused(kind: str, name: str, fault: str, available: Availability) -> Message:
    """A write that the API server refuses. `fault`: the server's words."""
    around = ""
    if kind == "Job":
        around = " Or set spec.handoff.prePull to false: the old agent then stops without proof that the new image can be pulled."
    return Message(
        f"The API server refuses to write {kind} {name}.",
        cause=fault,
        impact=f"{available.now} The rest of the change waits.",
        fix=f"{_CORRECT} The operator retries every minute.{around}",
    )


def being_deleted(
    agent: MedplumAgent, finalizers: Iterable[str], available: Availability, *, looked_after: bool
) -> Message:
    """A deleted MedplumAgent that finalizers of other programs keep. `looked_after`: whether its Deployment is."""
    shown = listed(list(finalizers))
    still = "The operator makes no changes and creates no missing object again."
    if looked_after:
        still = "No change of the spec is applied. The agent's own Deployment is still repaired, rolled back and moved off cordoned nodes."
    return Message(
        f"This MedplumAgent was deleted, and finalizer {shown} keeps it.",
        cause="Kubernetes removes the object, and then its agent, when the program that set the finalizer has removed it.",
        impact=f"{available.now} {still}",
        fix="A deletion cannot be undone: when the finalizer is removed, the agent stops and no agent serves its devices. If the "
        "deletion was a mistake, save the MedplumAgent's YAML now, and create it again afterwards. Find out why the program does not "
        "remove its finalizer.",
        command=f"kubectl -n {agent.namespace} get {SINGULAR} {agent.name} -o jsonpath='{{.metadata.finalizers}}'",
    )


def invalid_spec(fault: str, *, serving: bool) -> Message:
    """An object that does not fit this operator's model. `fault`: the first field at fault, and why."""
    return Message(
        "This operator release rejects the spec of the MedplumAgent.",
        cause=f"{fault.rstrip('.')}.",
        impact="The running agent keeps serving." if serving else "No agent serves; devices cannot deliver messages.",
        fix="Correct the field. If the API server accepted it, the installed CRD belongs to another operator release: apply "
        "crds/medplumagents.yaml in the operator's sources, of this operator's release.",
    )


def node_lost(agent: MedplumAgent, *, node: str, since: datetime, pod: str, hands_over: bool) -> Message:
    """An unreachable node with an agent that may still run on it."""
    summary = f"Node {node} has been unreachable since {since:%Y-%m-%dT%H:%M:%SZ}; pod {pod} may still run there."
    if hands_over:
        return Message(
            summary,
            impact="Devices may be without an agent until Kubernetes starts it on another node.",
            fix="None needed; Kubernetes replaces the pod when its toleration of node.kubernetes.io/unreachable expires, by default five minutes "
            "after the node was lost. To see where it runs, run the command.",
            command=f"kubectl -n {agent.namespace} get pods -o wide",
        )
    return Message(
        summary,
        cause=f"Two agents must not run at once where one is older than {ZERO_DOWNTIME}, so Kubernetes starts no other agent before this one has ended.",
        impact="Devices may be without an agent until the node returns or is declared off.",
        fix="If the node returns, the agent serves again automatically. Only if you know that the machine is off, run the command; "
        "remove the taint when the node is back.",
        command=f"kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
    )


def unknown_taint(agent: MedplumAgent, node: str, taint: Taint) -> Message:
    """A taint on the agent's node that a tool may have set before it drains the node."""
    return Message(
        f"Node {node} has taint {taint.key}:{taint.effect}, which the agent does not tolerate.",
        impact="The agent keeps serving. If the node is being drained, the drain waits: the PodDisruptionBudget blocks the eviction.",
        fix="If so, move the agent with the command, and name the taint in the operator's setting --eviction-taints for the next time. "
        "If the agent may stay, add a toleration to spec.podTemplate.",
        command=f"kubectl -n {agent.namespace} rollout restart deployment/{agent.name}",
    )
