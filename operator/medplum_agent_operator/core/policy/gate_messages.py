"""Messages about gates and the traffic through them, and about an update that waits for the next rollout.

Called by `plan` and by the modules of `report`. This module must never decide anything.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.annotations import GATE_LABEL, REFRESH
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.objects.gate_pod import HTTP_PORT
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.phrases import annotate, listed, reported

_WITHOUT_A_GATE: Final = (
    "Until a gate (the relay in front of the agent) serves, each change of the agent closes devices' connections. No message is held while no agent "
    "serves."
)


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
            impact="None; the running pods stay as they are, and the difference is applied with the agent's next rollout.",
            fix=f"None needed. To apply it now, run the command.{_effect_of_refresh(agent, pod, gate)}",
            command=annotate(agent, REFRESH, "$(date +%FT%T)"),
        )
    )


def _effect_of_refresh(agent: MedplumAgent, pod: str, gate: str) -> str:
    """What an update now means for devices."""
    held = agent.spec.gate.hold_seconds if agent.spec.gated else 0
    agent_pod = f" {Availability(hold_seconds=held).replacement(agent.spec)}" if pod else ""
    return agent_pod + (" The gates are replaced one at a time; their devices reconnect." if gate else "")


def _gate_pods(agent: MedplumAgent, verb: str = "describe") -> str:
    return f"kubectl -n {agent.namespace} {verb} pods -l {GATE_LABEL}={agent.name}"


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
            impact=_WITHOUT_A_GATE,
            fix="Correct what the cause names: a quota, the Pod Security level or an admission policy. The operator then switches to the gate "
            "automatically. The command lists the refusals.",
            command=f"kubectl -n {agent.namespace} get events --field-selector reason=FailedCreate",
        )
    if exists:
        return Message(
            "No gate accepts connections, so devices connect to the agent directly.",
            impact=_WITHOUT_A_GATE,
            fix="Find out with the command why no gate pod is ready; the operator switches to the gate automatically once one is.",
            command=_gate_pods(agent),
        )
    return Message(
        "The gate does not exist yet, so devices connect to the agent directly.",
        impact=_WITHOUT_A_GATE,
        fix="None needed in the first minute. If the command still lists no pod then, the operator does not know the gate's image: add the argument "
        "--gate-image, with the operator's own image, to the operator's Deployment.",
        command=_gate_pods(agent, "get"),
    )


def gate_not_updated(agent: MedplumAgent, why: str) -> Message:
    """A change of the gates that does not progress. `why`: the words of their Deployment's condition."""
    return Message(
        "The gates cannot be updated to the spec.",
        cause=reported("The gate's Deployment", why),
        impact="The existing gates keep serving devices. Devices on a new channel cannot connect, and new settings of the gate are not in effect.",
        fix="Find out with the command why the new gate pods are not ready, and fix that; the update then resumes automatically.",
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


def agent_silent(agent: MedplumAgent, runs: MedplumAgentSpec, since: Mapping[str, datetime]) -> Message:
    """An agent that accepts messages and answers none.

    Args:
        agent: the agent.
        runs: the spec that it runs with.
        since: by channel, when its oldest unanswered message arrived.
    """
    effect = Availability(hold_seconds=runs.gate.hold_seconds).replacement(runs)
    channels = listed([f"{name} (since {at:%Y-%m-%dT%H:%M:%SZ})" for name, at in sorted(since.items())])
    logs = f"kubectl -n {agent.namespace} logs deployment/{agent.name} -c agent"
    return Message(
        "The agent accepts messages but does not answer them.",
        cause=f"No answer on channel {channels}. The agent may have lost its connection to Medplum, the channel may be disabled there, or a bot may "
        "fail on every message.",
        impact="Devices on these channels get no acknowledgements and will send again; other channels are not affected. The pod is ready, so Kubernetes does "
        "not restart it.",
        fix=f"Read the agent's log ({logs}) and its page in Medplum. If a channel is disabled or a bot fails there, correct that; a restart does not help. If the log "
        f"shows no activity, restart the agent with the command. {effect}",
        command=f"kubectl -n {agent.namespace} rollout restart deployment/{agent.name}",
    )
