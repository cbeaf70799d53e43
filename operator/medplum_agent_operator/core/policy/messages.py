"""Messages about a change that does not begin: refused, waiting for a person, or waiting for a window.

Called by the other modules of this wing and by `reconcile`. Each message says what happened, who is affected and what to do
(docs/style.md). This module must never decide anything.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Final

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.annotations import FORCE_DOWNGRADE, NOW, RETRY
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import Failure
from medplum_agent_operator.core.observed.version import ZERO_DOWNTIME, AgentVersion
from medplum_agent_operator.core.policy.approval import Approval
from medplum_agent_operator.core.policy.phrases import annotate, in_between, numbered, who_serves
from medplum_agent_operator.core.policy.strategy import Choice
from medplum_agent_operator.core.policy.windows import Moment


def annotate_command(agent: MedplumAgent, target: AgentVersion) -> str:
    """The command that approves a downgrade to `target`, with a text that is not spent yet."""
    spent = agent.status.spent_approvals
    value = target.text
    for number in range(2, len(spent) + 3):
        if value not in spent:
            break
        value = f"{target} approval {number}"
    return annotate(agent, FORCE_DOWNGRADE, value)


def refusal(
    agent: MedplumAgent,
    *,
    baseline: str,
    target: AgentVersion,
    approval: Approval,
    serving: Collection[str],
    under_way: str | None,
) -> Message:
    """Why a downgrade is refused, what approving it means, and how to approve it.

    Args:
        agent: the agent.
        baseline: the version that `target` is a downgrade from.
        target: the target version.
        approval: what the annotation says.
        serving: versions that serve.
        under_way: the version of a rollout that has not ended yet; None without such a rollout.
    """
    now = who_serves(serving) if serving else "no agent was stopped for this change."
    if under_way is not None:
        now += f" The rollout of {under_way} continues."
    return Message(
        f"Downgrade from {baseline} to {target} is refused until a cluster admin approves it.",
        cause=approval.correction,
        impact=f"None so far; {now} Other edits of the spec wait too.",
        before_you_approve=numbered(*_risks(agent.spec, baseline, target), *_ADVICE),
        fix=f'To stay, set spec.version back to "{baseline}". To downgrade, a cluster admin runs the command; a change ticket may follow the version.',
        command=annotate_command(agent, target),
    )


def _risks(spec: MedplumAgentSpec, baseline: str, target: AgentVersion) -> tuple[str, ...]:
    if target.hands_over:
        return (
            f"The server, the channels and the durable queue of {baseline} may rely on the newer version.",
            f"{target} may not be able to read the messages in the durable queue of {baseline}.",
            "The two agents hand over without downtime.",
        )
    return (
        f"{baseline} stops before {target} starts; {in_between(spec)}.",
        f"Every later upgrade from {target} costs downtime again.",
        f"Messages in the durable queue of {baseline} stay behind; {target} cannot read them.",
        f"Agents older than {ZERO_DOWNTIME} cannot run beside another: both would compete for identity, PID file and ports.",
    )


_ADVICE: Final = (
    "Consider a newer version with a fix, or a change of configuration.",
    "Choose an off-peak hour or a maintenance window.",
    "Back up the agent's configuration and data; the operator keeps only the spec and the pod template.",
    "Afterwards, check on every channel that messages arrive.",
)


def latched(observed: Observed, failed: Failure, approval: Approval | None) -> Message:
    """A change that failed, was rolled back and is not retried automatically."""
    agent, before = observed.agent, observed.last_active
    if before is None or before.text == failed.version:
        what, back = f"The change of {failed.version}'s settings failed", "undo that change"
    else:
        what = f"The change from {before} to {failed.version} failed"
        back = f'set spec.version back to "{before}", which needs no approval'
    if approval is None or approval.granted:
        again = annotate(agent, RETRY, "$(date +%FT%T)")
        fix = f"Fix the cause and retry with the command; or edit the spec; or {back}."
    else:
        again = annotate_command(agent, AgentVersion.parse(agent.spec.version))
        fix = f"Fix the cause and approve again with the command (each approval counts once); or edit the spec; or {back}."
    return Message(
        f"{what} and is not retried automatically.",
        cause=failed.message,
        impact=who_serves(pod.version.text for pod in observed.serving_pods if pod.version is not None),
        fix=fix,
        command=again,
    )


def awaits_window(
    agent: MedplumAgent, choice: Choice, *, approval: str, opening: Moment | None, faults: Iterable[Message]
) -> Message:
    """A change that costs downtime and waits for a maintenance window."""
    version = agent.spec.version
    cause = f"The change stops the agent first, because {choice.why}."
    if approval:
        cause += f' It is approved by "{approval}".'
    if opening is None:
        summary = f"The change to {version} waits for a maintenance window, but none ever opens."
        cause = " ".join((cause, *(f"{fault.summary} {fault.cause}" for fault in faults)))
        fix = "Correct spec.maintenanceWindows or remove them. To start the change now, run the command."
    else:
        summary = f"The change to {version} waits for the window on {opening}."
        fix = "None needed; the change starts when the window opens. To start it now, run the command."
    return Message(
        summary,
        cause=cause,
        impact="None so far; the running agent is left alone.",
        fix=fix,
        command=annotate(agent, NOW, f"{version} $(date +%FT%T)"),
    )


def backup_refused(name: str, fault: str) -> Message:
    """A downgrade that does not begin because its backup cannot be written."""
    return Message(
        f"The approved downgrade does not start: its backup, ControllerRevision {name}, cannot be written.",
        cause=fault,
        impact="None; nothing was stopped, and the approval is not used up.",
        fix="Correct the quota or the operator's rights that the cause names (manifests/base/rbac.yaml). The operator retries every minute.",
    )


def write_refused(kind: str, name: str, fault: str) -> Message:
    """A write that the API server refuses. `fault`: the server's words."""
    around = " Or set spec.handoff.prePull to false." if kind == "Job" else ""
    return Message(
        f"The API server refuses {kind} {name}, which this spec leads to.",
        cause=fault,
        impact="Nothing after this write was changed; running pods are left alone.",
        fix=f"Correct the spec or the operator's rights, as the cause says.{around} The operator retries every minute.",
    )


def request_failing(fault: str) -> Message:
    """A request that fails again and again although the API server does not refuse it. `fault`: the server's words."""
    return Message(
        "A request to the API server fails again and again, so the spec is not applied.",
        cause=fault,
        impact="Nothing after this request was changed; running pods are left alone.",
        fix="Repair what the cause names: often an admission webhook whose backend is away, or a range without free addresses. "
        "The operator retries at least once a minute.",
    )


def conflict_without_end(fault: str) -> Message:
    """A write that always meets an object that has changed since it was read. `fault`: the server's words."""
    return Message(
        "Each try to apply the spec finds an object that has changed meanwhile.",
        cause=fault,
        impact="Nothing after this request was changed; running pods are left alone.",
        fix="Find the other program that writes the object that the cause names (kubectl get --show-managed-fields). "
        "The operator retries at least once a minute.",
    )


def field_contested(kind: str, name: str, field: str, writer: str, *, at_once: bool) -> Message:
    """A field that another program changes each time after the operator has repaired it.

    Args:
        kind: the object's kind.
        name: the object's name.
        field: the field's path.
        writer: the field manager that owns the field; empty if none does.
        at_once: whether the operator repairs this field without a pause.
    """
    impact = (
        "Each time a second agent begins; the operator removes it at once, because the server sends each message to both."
        if at_once
        else "The operator repairs it after growing pauses of up to 5 minutes; until then the other value is in force."
    )
    return Message(
        f"{writer or 'Another program'} changes {kind} {name} ({field}) again and again.",
        impact=impact,
        fix="Let one program alone set this field: correct the other one, such as a second operator with other settings, "
        "an autoscaler or a GitOps tool.",
    )


def invalid_spec(fault: str) -> Message:
    """An object that does not fit this operator's model. `fault`: the first field at fault, and why."""
    return Message(
        "This operator release cannot read the MedplumAgent.",
        cause=fault,
        impact="Nothing was changed; a running agent keeps serving.",
        fix="Correct the field. If the API server accepted it, the cluster's CRD is of another release: apply crds/medplumagents.yaml "
        "of this operator's release.",
    )


def node_lost(agent: MedplumAgent, *, node: str, since: datetime, pod: str, hands_over: bool) -> Message:
    """An unreachable node with an agent that may still run on it."""
    summary = f"Node {node} has been unreachable since {since:%Y-%m-%dT%H:%M:%SZ}; pod {pod} may still run there."
    if hands_over:
        return Message(
            summary,
            impact="Devices may be without an agent until Kubernetes starts it on another node.",
            fix="None needed; Kubernetes replaces the pod after its toleration of node.kubernetes.io/unreachable, five minutes by default. "
            "spec.podTemplate.tolerations can shorten that.",
            command=f"kubectl -n {agent.namespace} get pods -o wide",
        )
    return Message(
        summary,
        cause=f"Two agents must not run at once where one is older than {ZERO_DOWNTIME}, so no other agent starts until this one is known to have ended.",
        impact="Devices may be without an agent until the node returns or is declared off.",
        fix="If the node comes back, none needed. Only if you know that it is off, run the command, or delete the Node.",
        command=f"kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
    )
