"""The sentences that people read: in `status.plan`, conditions, Events and log lines. Whole sentences, for somebody at night.

Called by `plan`. Each function says what is the case, why, and what to do now; none of them decides anything.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import assert_never

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.annotations import FORCE_DOWNGRADE, GATE_LABEL, NOW, REFRESH, RETRY
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Strategy
from medplum_agent_operator.core.approval import Approval
from medplum_agent_operator.core.gate import HTTP_PORT
from medplum_agent_operator.core.identity import Claim, normalised
from medplum_agent_operator.core.model import Observed
from medplum_agent_operator.core.strategy import Mechanics
from medplum_agent_operator.core.version import ZERO_DOWNTIME, AgentVersion
from medplum_agent_operator.core.windows import Moment
from medplum_agent_operator.core.workload import Change, Failure, RolloutRecord


def annotate_command(agent: MedplumAgent, target: AgentVersion) -> str:
    """The command that approves going down to `target`, ready to copy: with words that have not been used up."""
    spent = agent.status.spent_approvals
    value = target.text
    for number in range(2, len(spent) + 3):
        if value not in spent:
            break
        value = f"{target} approval {number}"
    return f'kubectl annotate medplumagent {agent.name} -n {agent.namespace} --overwrite {FORCE_DOWNGRADE}="{value}"'


def refusal(agent: MedplumAgent, *, baseline: str, target: AgentVersion, approval: Approval, serving: bool) -> str:
    """Why a downgrade is refused, what forcing it means, and how to do it."""
    goes_on = f"{baseline} goes on serving" if serving else "no agent was stopped"
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
            f"(1) {baseline} is stopped before {target} starts, and {_in_between(agent.spec)}; "
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


def under_way(record: RolloutRecord, spec: MedplumAgentSpec) -> str:
    """What a rollout that has begun is doing, and why in this way."""
    before, to = record.from_version, record.to
    settle = _seconds(spec.handoff.min_ready_seconds)
    if before is None:
        return f"Installing {to}: the agent counts as active once every channel port has been open for {settle}."
    what = _what(record)
    if record.approval:
        what += f', approved by "{record.approval}"'
    if record.backup:
        what += f", with a backup in ControllerRevision {record.backup},"
    drain = _seconds(spec.handoff.drain_seconds)
    if record.moved_off:
        return (
            f"Moving the agent, {to}, off node {record.moved_off}, which is cordoned, by a rolling handoff: the new agent starts on another node; once "
            f"every channel port has been open for {settle} the old one gets no new connections, drains for {drain} and stops. A drain of the node "
            "waits until then and goes on by itself."
        )
    if record.strategy is Strategy.ROLLING_HANDOFF and record.change in {Change.ABORT, Change.ROLLBACK}:
        return f"{what}. Its agent, which still runs, stays as it is unless other settings have changed too; the other one drains for {drain} and stops."
    if record.strategy is Strategy.ROLLING_HANDOFF:
        return (
            f"{what} by a rolling handoff, because {record.why}: the new agent starts beside the old one; once every channel port has been open for "
            f"{settle} the old one gets no new connections, drains for {drain} and stops."
        )
    return (
        f"{what} by stopping first, because {record.why}: the old agent drains for {drain} {'at most ' if spec.gated else ''}and stops, and the new one "
        f"starts when it is gone; {_in_between(spec)}."
    )


def approved(record: RolloutRecord) -> str:
    """That a downgrade goes ahead, by what and whom it was approved, and where what was active before is kept."""
    by = f" (set with {record.approved_by})" if record.approved_by else ""
    kept = (
        f"What was active before is kept in ControllerRevision {record.backup}."
        if record.backup
        else "There is no backup: the cluster does not tell what was active before."
    )
    return f'The downgrade from {record.from_version} to {record.to} is approved by "{record.approval}"{by}. {kept}'


def backup_refused(name: str, fault: str) -> str:
    """A downgrade that does not begin because its backup cannot be written."""
    return (
        f"ControllerRevision {name}, the backup before an approved downgrade, cannot be written, so nothing was stopped or changed, and the approval is not "
        f"used up: {fault} Correct what it names (a quota, or the operator's rights: manifests/base/rbac.yaml of its release); it is tried again every minute."
    )


def _what(record: RolloutRecord) -> str:
    """What a rollout does, as the beginning of a sentence."""
    match record.change:
        case Change.ABORT:
            return f"Going back to {record.to}, which was active last, from a target that never became active"
        case Change.NONE:
            return f"Replacing the agent's pod, {record.to}, by one with other settings"
        case Change.INSTALL:
            return f"Installing {record.to} again"
        case Change.ROLLBACK:
            return f"{_why_back(record)} Going back to {record.to}, exactly as it was"
        case Change.UPGRADE | Change.DOWNGRADE:
            return f"Going from {record.from_version} to {record.to}"
        case _ as never:
            assert_never(never)


def _why_back(record: RolloutRecord) -> str:
    """What failed before a rollback."""
    failed = record.failed
    why = f": {failed.message}" if failed is not None else "."
    return f"The change to {record.rolled_back_from} has failed{why}"


def _in_between(spec: MedplumAgentSpec) -> str:
    """What becomes of messages while no agent runs."""
    if spec.gated:
        return f"messages wait in the gate in between, for {_seconds(spec.gate.hold_seconds)} at most"
    return "messages are not accepted in between"


def fetching(record: RolloutRecord, *, image: str, node: str) -> str:
    """A change that stops first, whose image is fetched before: nothing has been stopped yet."""
    approved = f', approved by "{record.approval}",' if record.approval else ""
    what = "The agent's pod is to be replaced by one with another image"
    if record.from_version != record.to:
        what = f"{record.from_version or 'What runs'} is to give way to {record.to}"
    return (
        f"{what}{approved} by stopping first, because {record.why}. Before that, image {image} is fetched to node {node}; the old agent goes on serving "
        "until it is there."
    )


def not_fetched(*, image: str, node: str, trouble: str) -> str:
    """Why a change that stops first was not begun."""
    return (
        f"Image {image} could not be fetched to node {node}, so nothing was stopped. {trouble} Look at the image's name, spec.image.pullSecrets and the "
        "registry. (With spec.handoff.prePull false the old agent would be stopped at once, whether the image can be pulled or not.)"
    )


def fetch_failed(record: RolloutRecord, *, what: str) -> str:
    """The image did not come: nothing was stopped, and the ways out."""
    back = (
        f'; or set spec.version back to "{record.from_version}"'
        if record.from_version != record.to
        else "; or undo the change"
    )
    return f"{what} The old agent goes on serving. Mend the cause, and the change goes on by itself{back}."


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


def no_other_node(*, node: str, trouble: str) -> str:
    """A move that no node takes: nothing was stopped, and what lets the drain go on."""
    return (
        f"No other node takes the agent, so it goes on serving on {node} and a drain of that node waits. {trouble.rstrip('.')}. Add a node, make room or "
        "correct the scheduling in spec.podTemplate, and it goes on by itself; or take the cordon back; or let the drain stop the agent by setting "
        "spec.handoff.onNodeDrain to Evict."
    )


def move_failed(*, node: str, version: str, trouble: str, serving: bool, deadline_seconds: int) -> str:
    """A move off a cordoned node that missed its deadline."""
    state = f"{version} goes on serving" if serving else "No agent serves right now"
    return (
        f"The agent, {version}, could not be moved off node {node} within {_seconds(deadline_seconds)}; a drain of the node waits. {trouble} {state}. Mend "
        "the cause, and it goes on by itself; or let the drain stop the agent by setting spec.handoff.onNodeDrain to Evict."
    )


def failed(
    record: RolloutRecord, *, trouble: str, serving: Iterable[str], deadline_seconds: int | None, held: str
) -> str:
    """A rollout that has failed: the cause in words, what serves now, and the ways out.

    Args:
        record: the rollout.
        trouble: the cause.
        serving: versions that serve.
        deadline_seconds: the deadline that it missed; None where it was given up before.
        held: why it is not taken back, where it could be; empty where there is nothing to go back to.
    """
    alive = " and ".join(sorted(set(serving)))
    before, to = record.from_version, record.to
    if record.rolled_back_from:
        what = f"Going back to {to}, which was active before,"
    else:
        what = f"The change from {before} to {to}" if before else f"The installation of {to}"
    how = f"was not done within {_seconds(deadline_seconds)}" if deadline_seconds else "has failed"
    state = f"{alive} goes on serving" if alive else "No agent serves right now"
    if before is None or record.rolled_back_from:
        back = " or change the spec"
    elif before == to:
        back = " or undo the change of the spec"
    else:
        back = f' or set spec.version back to "{before}", which needs no approval'
    parts = [f"{what} {how}. {trouble} {state}.", held, f"Mend the cause, and it goes on by itself;{back}."]
    return " ".join(part for part in parts if part)


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


def restart_failed(*, version: str, trouble: str, serving: bool, deadline_seconds: int) -> str:
    """New pods of the same version, asked for by somebody else than the operator, that did not become available."""
    state = "The pod before it goes on serving." if serving else "No agent serves right now."
    return (
        f"The restart of {version} that somebody asked for was not done within {_seconds(deadline_seconds)}. {trouble} {state} "
        "Mend the cause, and it goes on by itself; or take it back with kubectl rollout undo."
    )


def completed(record: RolloutRecord) -> str:
    """A rollout that ended well."""
    if record.from_version is None:
        return f"{record.to} is installed and serves."
    if record.rolled_back_from:
        return f"{record.to} serves as before; the change to {record.rolled_back_from} had failed and was taken back."
    if record.change is Change.ABORT:
        return f"{record.to} serves as before; the change from it was given up."
    if record.moved_off:
        return f"{record.to} serves; it was moved off node {record.moved_off} by a rolling handoff."
    how = "by a rolling handoff" if record.strategy is Strategy.ROLLING_HANDOFF else "by stopping first"
    return f"{record.to} serves; it took over from {record.from_version} {how}."


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


def _seconds(count: int) -> str:
    return "1 second" if count == 1 else f"{count} seconds"
