"""Messages about gates and the traffic through them, and about an update that waits for the next rollout.

Called by `plan` and by the modules of `report`. This module must never decide anything.
"""

from collections.abc import Mapping
from datetime import datetime

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.annotations import GATE_LABEL, REFRESH
from medplum_agent_operator.core.objects.gate_pod import HTTP_PORT
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.policy.phrases import annotate, reported


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


def gate_not_serving(agent: MedplumAgent, *, exists: bool, refused: str = "") -> Message:
    """Why devices reach the agent without the gate that the spec asks for.

    Args:
        agent: the agent.
        exists: whether the gate's Deployment exists.
        refused: why none of its pods can be created, in the API server's words; empty if they can.
    """
    if refused:
        return Message(
            "The cluster refuses to create the gate's pods, so devices connect to the agent directly.",
            cause=reported("Kubernetes", refused),
            impact="The next change of the agent closes devices' connections.",
            fix="Correct what the cause names: a quota, the Pod Security level or an admission policy. The operator then switches to the gate automatically.",
            command=f"kubectl -n {agent.namespace} get events --field-selector reason=FailedCreate",
        )
    if exists:
        return Message(
            "No gate accepts connections, so devices connect to the agent directly.",
            impact="The next change of the agent closes devices' connections.",
            fix="Find out why no gate pod is ready; the operator switches to the gate automatically.",
            command=_gate_pods(agent),
        )
    return Message(
        "The gate does not exist yet, so devices connect to the agent directly.",
        impact="The next change of the agent closes devices' connections.",
        fix="Wait; if the gate does not appear, the operator may not know its own image: set its flag --gate-image.",
        command=_gate_pods(agent),
    )


def gate_not_updated(agent: MedplumAgent, why: str) -> Message:
    """A change of the gates that does not progress. `why`: the words of their Deployment's condition."""
    return Message(
        "The gates cannot be updated to the spec.",
        cause=why,
        impact="The gates of before keep serving; a new channel or setting of the gate is not in effect.",
        fix="Fix the cause and the update resumes automatically.",
        command=_gate_pods(agent),
    )


def gates_unreachable(agent: MedplumAgent) -> str:
    """Why nothing is known about the traffic."""
    return f"The operator cannot reach port {HTTP_PORT} of any gate; a NetworkPolicy in {agent.namespace} may block it. Devices are not affected."


def agent_silent(agent: MedplumAgent, since: Mapping[str, datetime]) -> Message:
    """An agent that accepts messages and answers none. `since`: by channel, when its oldest unanswered message arrived."""
    channels = ", ".join(f"{name} since {at:%Y-%m-%dT%H:%M:%SZ}" for name, at in sorted(since.items()))
    return Message(
        "The agent accepts messages and answers none.",
        cause=f"Channel {channels}. Its connection to Medplum may be lost, the channel disabled there, or a bot fails on every message.",
        impact="Devices on these channels get no acknowledgements.",
        fix="Check the agent's log and its page in Medplum. If it hangs, restart it with the command.",
        command=f"kubectl -n {agent.namespace} rollout restart deployment {agent.name}",
    )
