"""Messages about nodes: one that is lost, and one with a taint that may announce a drain. Called by `diagnosis` and by `report`."""

from datetime import datetime

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.nodes import Taint
from medplum_agent_operator.core.observed.version import ZERO_DOWNTIME
from medplum_agent_operator.core.policy.availability import Availability


def node_lost(
    agent: MedplumAgent, *, node: str, since: datetime, pod: str, hands_over: bool, available: Availability
) -> Message:
    """An unreachable node with an agent that may still run on it."""
    summary = f"Node {node} has been unreachable since {since:%Y-%m-%dT%H:%M:%SZ}; pod {pod} may still run there."
    if hands_over:
        outage = available.outage("Kubernetes has started it on another node")
        return Message(
            summary,
            impact=available.now if available.serving else f"No agent is known to serve; {outage}.",
            fix="None needed; Kubernetes replaces the pod when its toleration of node.kubernetes.io/unreachable expires, by default five minutes "
            "after the node was lost. To see where it runs, run the command.",
            command=f"kubectl -n {agent.namespace} get pods -o wide",
        )
    outage = available.outage("the node returns, or another node runs the agent")
    return Message(
        summary,
        cause=f"Two agents must not run at once where one is older than {ZERO_DOWNTIME}, so Kubernetes starts no other agent before this one has ended.",
        impact=available.now if available.serving else f"No agent is known to serve; {outage}.",
        fix="If the node returns, the agent serves again automatically. Only if you know that the machine is off, run the command: Kubernetes then "
        "deletes all pods of the node by force, and the agent starts on another node. If the machine still ran, two agents would compete. "
        f"When the node is back, remove the taint: kubectl taint nodes {node} node.kubernetes.io/out-of-service-",
        command=f"kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
    )


def unknown_taint(agent: MedplumAgent, node: str, taint: Taint) -> Message:
    """A taint on the agent's node that a tool may have set before it drains the node. The agent can hand over."""
    return Message(
        f"Node {node} has taint {taint.key}:{taint.effect}, which the agent does not tolerate.",
        impact="The agent keeps serving devices. If a tool is draining the node, the drain waits: the PodDisruptionBudget blocks the eviction.",
        fix="None needed if the node is not being drained. If it is, run the command: a new pod starts on another node before the old one stops; no "
        f"outage is expected. Then add {taint.key} to the operator's setting --eviction-taints, so that the next drain moves the agent automatically. "
        "If the agent may stay on such nodes, add a toleration to spec.podTemplate.tolerations, which replaces the pod without an outage.",
        command=f"kubectl -n {agent.namespace} rollout restart deployment/{agent.name}",
    )
