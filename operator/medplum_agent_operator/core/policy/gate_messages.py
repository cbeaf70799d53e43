"""Messages about gates and the traffic through them, and about an update that waits for the next rollout.

Called by `plan` and by the modules of `report`. This module must never decide anything.
"""

from collections.abc import Mapping
from datetime import datetime

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.annotations import GATE_LABEL, REFRESH
from medplum_agent_operator.core.objects.gate_pod import HTTP_PORT
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.policy.phrases import annotate, listed, reported


def pending_update(agent: MedplumAgent, pod: str, gate: str) -> str:
    """What this operator release renders differently; empty if nothing.

    Args:
        agent: the agent.
        pod: first field of the agent's pod template that differs; empty if none does.
        gate: first field of the gate's pod template that differs; empty if none does.
    """
    parts = [f"{whose} ({where})" for whose, where in (("the agent's pod", pod), ("its gate's pods", gate)) if where]
    if not parts:
        return ""
    return str(
        Message(
            f"This operator release renders {' and '.join(parts)} differently.",
            impact="None; the running pods are kept, and the update comes with the agent's next rollout.",
            fix="None needed. To update now, run the command.",
            command=annotate(agent, REFRESH, "$(date +%FT%T)"),
        )
    )


def _gate_pods(agent: MedplumAgent) -> str:
    return f"kubectl -n {agent.namespace} get pods -l {GATE_LABEL}={agent.name}"


def gate_not_serving(agent: MedplumAgent, *, exists: bool) -> Message:
    """Why devices reach the agent without the gate that the spec asks for. `exists`: whether the gate's Deployment exists."""
    if exists:
        return Message(
            "No gate accepts connections, so devices connect to the agent directly.",
            impact="Until a gate serves, each change of the agent closes devices' connections.",
            fix="Find out with the command why no gate pod is ready; the operator switches to the gate automatically once one is.",
            command=_gate_pods(agent),
        )
    return Message(
        "The gate does not exist yet, so devices connect to the agent directly.",
        impact="Until a gate serves, each change of the agent closes devices' connections.",
        fix="None needed in the first minute. If the command then lists no pod, set --gate-image in the operator's Deployment.",
        command=_gate_pods(agent),
    )


def gate_not_updated(agent: MedplumAgent, why: str) -> Message:
    """A change of the gates that does not progress. `why`: the words of their Deployment's condition."""
    return Message(
        "The gates cannot be updated to the spec.",
        cause=reported("The gate's Deployment", why),
        impact="The existing gates keep serving. Devices on a new channel cannot connect, and new settings of the gate are not in effect.",
        fix="Find out with the command why the new gate pods are not ready; the update then resumes automatically.",
        command=_gate_pods(agent),
    )


def gates_unreachable(agent: MedplumAgent) -> Message:
    """Why nothing is known about the traffic."""
    return Message(
        f"The operator cannot reach any gate on port {HTTP_PORT}, so it sees no traffic.",
        impact="None for devices; status.channels and the condition Forwarding are not up to date.",
        fix=f"Allow TCP port {HTTP_PORT} from the operator to the gates' pods; the command lists the NetworkPolicies that may block it.",
        command=f"kubectl -n {agent.namespace} get networkpolicies",
    )


def agent_silent(agent: MedplumAgent, since: Mapping[str, datetime]) -> Message:
    """An agent that accepts messages and answers none. `since`: by channel, when its oldest unanswered message arrived."""
    channels = listed([f"{name} (since {at:%Y-%m-%dT%H:%M:%SZ})" for name, at in sorted(since.items())])
    logs = f"kubectl -n {agent.namespace} logs deployment/{agent.name} -c agent"
    return Message(
        "The agent accepts messages but does not answer them.",
        cause=f"No answer on channel {channels}. The agent may have lost its connection to Medplum, the channel may be disabled there, or a bot may "
        "fail on every message.",
        impact="Devices on these channels get no acknowledgements and will send again.",
        fix=f"Read the agent's log ({logs}) and its page in Medplum. If the log shows no activity, restart the agent with the command.",
        command=f"kubectl -n {agent.namespace} rollout restart deployment/{agent.name}",
    )
