"""The sentences that people read: in `status.plan`, conditions, Events and log lines. Whole sentences, for somebody at night.

Called by `plan`. Each function says what is the case, why, and what to do now; none of them decides anything.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.annotations import FORCE_DOWNGRADE, GATE_LABEL, NOW, REFRESH, RETRY
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.objects.gate_pod import HTTP_PORT
from medplum_agent_operator.core.observed.identity import Claim, normalised
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import Failure
from medplum_agent_operator.core.observed.version import ZERO_DOWNTIME, AgentVersion
from medplum_agent_operator.core.policy.approval import Approval
from medplum_agent_operator.core.policy.strategy import Mechanics
from medplum_agent_operator.core.policy.windows import Moment


def annotate_command(agent: MedplumAgent, target: AgentVersion) -> str:
    """The command that approves going down to `target`, ready to copy: with words that have not been used up."""
    spent = agent.status.spent_approvals
    value = target.text
    for number in range(2, len(spent) + 3):
        if value not in spent:
            break
        value = f"{target} approval {number}"
    return f'kubectl annotate medplumagent {agent.name} -n {agent.namespace} --overwrite {FORCE_DOWNGRADE}="{value}"'


def refusal(
    agent: MedplumAgent,
    *,
    baseline: str,
    target: AgentVersion,
    approval: Approval,
    serving: Collection[str],
    under_way: str | None,
) -> str:
    """Why a downgrade is refused, what forcing it means, and how to do it.

    Args:
        agent: the agent.
        baseline: the version that it is a downgrade from.
        target: the version that was asked for.
        approval: what the annotation says.
        serving: versions that serve.
        under_way: the version of a rollout that has not ended yet; None where there is none.
    """
    alive = sorted(set(serving))
    goes_on = (
        f"{' and '.join(alive)} {'goes' if len(alive) == 1 else 'go'} on serving"
        if alive
        else "no agent was stopped for it"
    )
    if under_way is not None:
        goes_on += f", and the rollout of {under_way} that is under way goes on"
    parts = [approval.correction] if approval.correction else []
    parts.append(
        f"Refused: spec.version asks to go down from {baseline} to {target}, and that is not approved. Nothing was changed; {goes_on}. Other edits of the "
        "spec wait with it."
    )
    if target.hands_over:
        parts.append(
            f"Why: the server, the channels and what {baseline} keeps in its durable queue may rely on the newer version. If it is forced: the two "
            f"agents hand over without downtime, and what {baseline} still holds in its durable queue, {target} may not be able to read."
        )
    else:
        parts.append(
            f"Why: agents from {ZERO_DOWNTIME} on hand over side by side, older ones expect their predecessor to have stopped; together they would fight "
            "over the agent's identity, its PID file and its ports. If it is forced: "
            f"(1) {baseline} is stopped before {target} starts, and {in_between(agent.spec)}; "
            f"(2) each later upgrade from {target} costs downtime again; "
            f"(3) what {baseline} still holds in its durable queue stays behind, {target} cannot read it."
        )
    parts.append(
        "Before: see whether another way will do (a newer version with a fix, a change of configuration), choose an off-peak hour or a maintenance "
        "window, and back up the agent's configuration and data (of these the operator keeps only the spec and the pod template). After: check on every "
        "channel that messages arrive."
    )
    parts.append(f'To stay, set spec.version back to "{baseline}".')
    parts.append(
        f"To go ahead, a cluster admin runs (a change ticket may follow the version): {annotate_command(agent, target)}"
    )
    return " ".join(parts)


def cannot_become_again(holder: Claim) -> str:
    """Why a failed change of the server is not taken back."""
    name = f"{holder.namespace}/{holder.name}"
    return (
        f"The change has failed, and what was active before it is not brought back: it ran with another server, and MedplumAgent {name} holds that identity "
        f"by now: the server would send each message for a device to both. Nothing was changed. It goes on by itself when {name} has been deleted and its "
        "pods are gone; or mend the cause of the failure, or set spec.server to a server that can be reached."
    )


def identity_taken(agent: MedplumAgent, holder: Claim, *, made: bool, before: MedplumAgentSpec | None) -> str:
    """Why an agent may not be who its spec says, and what each way out is.

    `made`: whether it has a Deployment; `before`: the spec that it then goes on with, as far as the cluster tells.
    """
    server, name = agent.spec.server, f"{holder.namespace}/{holder.name}"
    held = (
        f"is still held by what is left of MedplumAgent {name}, which has been deleted: its Deployment or a pod of it is not gone yet"
        if holder.remains
        else f"is held by MedplumAgent {name}"
    )
    refused = (
        f"Refused: the identity that spec.server asks for, agent {server.agent_id} on {server.base_url}, {held}. The server would send each message for a "
        f"device to both, and agents before {ZERO_DOWNTIME} would fight over the identity."
    )
    parts = [refused]
    both = before is not None and normalised(before.server.base_url) == normalised(server.base_url)
    if not made:
        parts.append("Nothing was made for this one.")
        what = "The installation goes on"
    elif both:
        parts.append("Both run; neither was stopped, and edits of this one's spec wait.")
        what = "They are acted on"
    else:
        goes_on = f"; this agent goes on with {before.server.base_url}" if before is not None else ""
        parts.append(f"Nothing was changed{goes_on}. Other edits of the spec wait with it.")
        what = "The change goes on"
    if holder.remains:
        parts.append(
            f"{what} by itself when that has gone. If it stays, as after kubectl delete --cascade=orphan: kubectl -n {holder.namespace} delete deployment "
            f"{holder.name}."
        )
        return " ".join(parts)
    parts.append(
        f"{what} by itself when {name} has been deleted and its pods are gone, or when it runs with another server."
    )
    if before is not None and not both:
        parts.append(f'To stay, set spec.server.baseUrl back to "{before.server.base_url}".')
    else:
        parts.append(
            "If both are needed: make another Agent on the Medplum server and a new MedplumAgent with its id, and delete this one, because "
            "spec.server.agentId cannot be changed. If this one is not needed, delete it."
        )
    return " ".join(parts)


def backup_refused(name: str, fault: str) -> str:
    """A downgrade that does not begin because its backup cannot be written."""
    return (
        f"ControllerRevision {name}, the backup before an approved downgrade, cannot be written, so nothing was stopped or changed, and the approval is not "
        f"used up: {fault} Correct what it names (a quota, or the operator's rights: manifests/base/rbac.yaml of its release); it is tried again every minute."
    )


def node_lost(*, node: str, since: datetime, pod: str, hands_over: bool) -> str:
    """A node that is not heard of, with an agent on it that may run on: what Kubernetes does, and what an admin may do."""
    what = f"Node {node} has not been heard of since {since:%Y-%m-%dT%H:%M:%SZ}: nobody knows whether the agent in pod {pod} still runs there."
    if hands_over:
        return (
            f"{what} Kubernetes starts it on another node when it gives the pod up, by default five minutes later (tolerations of "
            "node.kubernetes.io/unreachable in spec.podTemplate say when)."
        )
    return (
        f"{what} No other agent is started until the cluster knows that it has ended, because two must not run where one is older than {ZERO_DOWNTIME}. If "
        f"the node comes back, all goes on by itself. If you know that it is off: kubectl taint nodes {node} "
        f"node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, or kubectl delete node {node}."
    )


def latched(observed: Observed, failed: Failure, approval: Approval | None) -> str:
    """A change that failed, was taken back, and is not tried again by itself: the cause, what serves, and the ways out."""
    agent = observed.agent
    before = observed.last_good
    alive = " and ".join(sorted({pod.version.text for pod in observed.serving_pods if pod.version is not None}))
    state = f"{alive} goes on serving" if alive else "No agent serves right now"
    if before is None or before.text == failed.version:
        what, back = f"The change of {failed.version}'s settings has failed", "or undo that change"
    else:
        what = f"The change from {before} to {failed.version} has failed"
        back = f'or set spec.version back to "{before}", which needs no approval'
    if approval is None or approval.granted:
        again = f'kubectl annotate medplumagent {agent.name} -n {agent.namespace} --overwrite {RETRY}="$(date +%FT%T)"'
    else:
        again = f"{annotate_command(agent, AgentVersion.parse(agent.spec.version))} (each approval counts once)"
    return f"{what}: {failed.message} {state}. The change is not tried again by itself. Mend the cause, then try again: {again}; or change the spec; {back}."


def awaits_window(
    agent: MedplumAgent, mechanics: Mechanics, *, approval: str, opening: Moment | None, faults: Iterable[str]
) -> str:
    """A change that costs downtime and waits for a maintenance window: for which, what goes on meanwhile, and how not to wait."""
    version = agent.spec.version
    approved = f', approved by "{approval}",' if approval else ""
    when = (
        f"the next maintenance window, which opens {opening}"
        if opening is not None
        else f"a maintenance window, and none ever opens: {' '.join(faults)} Correct spec.maintenanceWindows, or take them out"
    )
    return (
        f"The change to {version}{approved} stops the agent first, because {mechanics.why}, so it waits for {when}. Until then nothing is changed, and what "
        f"runs goes on. At once: kubectl annotate medplumagent {agent.name} -n {agent.namespace} --overwrite "
        f'{NOW}="{version} $(date +%FT%T)"'
    )


def waits(agent: MedplumAgent, pod: str, gate: str) -> str:
    """What a newer release of the operator would render otherwise; empty where there is nothing."""
    parts = [f"{whose} ({where})" for whose, where in (("the agent's pod", pod), ("its gate's pods", gate)) if where]
    if not parts:
        return ""
    return (
        f"This release of the operator would make {' and '.join(parts)} otherwise, and leaves them as they are until the next change of the agent that "
        f'replaces them. At once: kubectl annotate medplumagent {agent.name} -n {agent.namespace} --overwrite {REFRESH}="$(date +%FT%T)"'
    )


def gate_not_serving(agent: MedplumAgent, *, there: bool) -> str:
    """Why devices reach the agent without the gate that the spec asks for."""
    if there:
        return (
            f"Note: no gate takes connections yet, so devices reach the agent directly. See kubectl -n {agent.namespace} get pods -l "
            f"{GATE_LABEL}={agent.name}."
        )
    return (
        "Note: the gate is not there yet, and until it takes connections devices reach the agent directly. If it does not come, the operator does not "
        "know its own image: set --gate-image."
    )


def gate_not_updated(agent: MedplumAgent, why: str) -> str:
    """A change of the gates that does not get on: those before it go on serving."""
    return (
        f"Note: the gates are not what the spec says, and a channel or a setting that is new there is not in force; those before go on. Their Deployment "
        f"says: {why.rstrip('.')}. See kubectl -n {agent.namespace} get pods -l {GATE_LABEL}={agent.name}."
    )


def gates_unreachable(agent: MedplumAgent) -> str:
    """Why nothing is known of the traffic."""
    return (
        "Gates take connections, and none of them could be asked how it goes; devices are not concerned. The operator asks each gate's pod on port "
        f"{HTTP_PORT}: a NetworkPolicy in {agent.namespace} may have to let it in."
    )


def agent_silent(agent: MedplumAgent, since: Mapping[str, datetime]) -> str:
    """An agent that takes messages and answers none: what that may be, and what to do."""
    channels = ", ".join(f"{name} (since {at:%Y-%m-%dT%H:%M:%SZ})" for name, at in sorted(since.items()))
    return (
        f"The agent takes messages and answers none on {channels}. Its connection to Medplum may be lost, the channel switched off there, or a bot fail on "
        f"every message: see the agent's log and its page in Medplum. If it hangs: kubectl -n {agent.namespace} rollout restart deployment {agent.name}."
    )


def in_between(spec: MedplumAgentSpec) -> str:
    """What becomes of messages while no agent runs."""
    if spec.gated:
        return f"messages wait in the gate in between, for {seconds(spec.gate.hold_seconds)} at most"
    return "messages are not accepted in between"


def seconds(count: int) -> str:
    """A number of seconds, in words.

    >>> seconds(1), seconds(5)
    ('1 second', '5 seconds')
    """
    return "1 second" if count == 1 else f"{count} seconds"
