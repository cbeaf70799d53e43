"""Turn gate reports into parts of `status`: channels, a condition, the figures of a rollout. Pure.

Called by `status` and `notices`. Without a gate in the spec, all of this is empty. Before the first gate report it must keep what
status has: a restarted operator knows nothing newer.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from medplum_agent_operator.api.reasons import ConditionType, Reason
from medplum_agent_operator.api.status import ChannelStatus, ConditionStatus, GateFigures, HistoryEntry, Outcome
from medplum_agent_operator.core.objects import gate_pod
from medplum_agent_operator.core.observed.gate_reports import Takeover
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.policy import gate_messages

CHANNELS_EVERY: Final = timedelta(minutes=5)
"""How often `status.channels` may change: it is for people and alerts. For charts, gates have metrics."""
FIGURES_AFTER: Final = timedelta(seconds=15)
"""When the figures are taken, once, after a rollout: devices then use the new agent, and held messages have reached it."""
FIGURES_UNTIL: Final = timedelta(minutes=10)
"""No figures are taken later: the gate reports then cover more than the rollout."""

ConditionValue = tuple[ConditionStatus, str, str]
"""The value of a condition: status, reason, message."""


def forwarding(observed: Observed) -> ConditionValue | None:
    """The value of the condition `Forwarding`; None if it stays as it is, or without a gate in the spec."""
    unknown = _why_unknown(observed)
    if not observed.agent.spec.gated or (unknown is None and observed.traffic is None):
        return None
    if unknown is not None:
        reason, message = unknown
        return ConditionStatus.UNKNOWN, str(reason), message
    if since := silent_channels(observed):
        summary = gate_messages.agent_silent(observed.agent, observed.agent.spec, since).summary
        return ConditionStatus.FALSE, str(Reason.AGENT_SILENT), summary
    return ConditionStatus.TRUE, str(Reason.FORWARDING), "No channel waits for an agent that does not answer."


def _why_unknown(observed: Observed) -> tuple[Reason, str] | None:
    if not observed.pods_with_open_ports:
        return Reason.NOT_SERVING, "No agent pod is ready."
    if not gate_pod.available(observed.children.get("GateDeployment")):
        return Reason.GATE_NOT_SERVING, "No gate accepts connections."
    if gates_unreachable(observed):
        return Reason.GATES_UNREACHABLE, gate_messages.gates_unreachable(observed.agent).summary
    return None


def gates_unreachable(observed: Observed) -> bool:
    """Whether gates serve and none of them answers the operator."""
    serve = bool(observed.pods_with_open_ports) and gate_pod.available(observed.children.get("GateDeployment"))
    return serve and observed.traffic is not None and not observed.traffic.gates


def traffic_unconfirmed(observed: Observed) -> bool:
    """Whether no gate was asked since the operator's start, and what status reports of the gates may still hold."""
    if not observed.agent.spec.gated or observed.traffic is not None or _why_unknown(observed) is not None:
        return False
    asked = (Reason.AGENT_SILENT, Reason.GATES_UNREACHABLE)
    known = observed.agent.status.conditions
    return any(c.type == ConditionType.FORWARDING and c.reason in asked for c in known)


def silent_channels(observed: Observed) -> Mapping[str, datetime]:
    """Channels whose agent accepts messages and answers none, and since when."""
    if not observed.agent.spec.gated or observed.traffic is None:
        return {}
    wanted = {channel.name for channel in observed.agent.spec.channels}
    return {
        channel.name: channel.silent_since
        for channel in observed.traffic.channels.values()
        if channel.silent_since is not None and channel.name in wanted
    }


def channels(observed: Observed, *, now: datetime) -> tuple[ChannelStatus, ...]:
    """`status.channels`. Its entries stay as they are for `CHANNELS_EVERY`; a new channel gets its entry at once."""
    agent, traffic = observed.agent, observed.traffic
    if not agent.spec.gated:
        return ()
    before = {channel.name: channel for channel in agent.status.channels}
    if traffic is None or not traffic.gates:
        return tuple(before[channel.name] for channel in agent.spec.channels if channel.name in before)
    found = []
    reported_at = max((known.observed_at for known in before.values() if known.observed_at), default=None)
    too_early = reported_at is not None and now < reported_at + CHANNELS_EVERY
    for channel in agent.spec.channels:
        reported = traffic.channels.get(channel.name)
        known = before.get(channel.name)
        if reported is None:
            continue
        seconds = now.replace(microsecond=0)
        # A restarted gate does not know earlier messages.
        last = max((at for at in (reported.last_message_at, known and known.last_message_at) if at), default=None)
        new = ChannelStatus(
            name=channel.name, connected_devices=reported.devices, last_message_at=last, observed_at=seconds
        )
        same = known is not None and known.model_copy(update={"observed_at": seconds}) == new
        found.append(known if known is not None and (too_early or same) else new)
    return tuple(found)


def with_gate_figures(history: Sequence[HistoryEntry], observed: Observed, *, now: datetime) -> list[HistoryEntry]:
    """The history; its latest entry has the gates' figures of that rollout, once gates can report them."""
    traffic = observed.traffic
    if not history or not observed.agent.spec.gated or traffic is None or not traffic.gates:
        return list(history)
    latest, *rest = history
    if (
        latest.outcome is not Outcome.COMPLETED
        or latest.from_version is None
        or latest.gate is not None
        or latest.completed_at is None
        or not latest.completed_at + FIGURES_AFTER <= now <= latest.completed_at + FIGURES_UNTIL
    ):
        return list(history)
    total = Takeover()
    for pod in observed.current_pods:
        total = total.combined_with(traffic.takeovers.get(pod.name, Takeover()))
    figures = GateFigures(connections_moved=total.moved, messages_held=total.held, messages_repeated=total.repeated)
    gap = round(total.longest_hold_seconds, 2) if total.held else latest.gap_seconds
    return [latest.model_copy(update={"gate": figures, "gap_seconds": gap}), *rest]
