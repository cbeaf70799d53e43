"""What gates tell of an agent's traffic, put into words of `status`: channels, a condition, the figures of a change. Pure.

Called by `status` and `plan`. Where no gate is wanted there is none of it. Where gates were not asked yet, what status says stays: an
operator that starts anew has nothing to add to it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import ChannelStatus, ConditionStatus, GateFigures, HistoryEntry, Outcome
from medplum_agent_operator.core.objects import gate_pod
from medplum_agent_operator.core.observed.gate_reports import Takeover
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.policy import gate_messages

CHANNELS_EVERY: Final = timedelta(minutes=5)
"""How often `status.channels` may change: it is for people and alerts. For charts gates have metrics."""
FIGURES_AFTER: Final = timedelta(seconds=15)
"""After a change: devices have gone on with the new agent, and what waited has reached it. Then its figures are taken, once."""
FIGURES_UNTIL: Final = timedelta(minutes=10)
"""Later, what gates tell of that agent is of other things too."""

ConditionValue = tuple[ConditionStatus, str, str]
"""What a condition says: whether it holds, the reason, the message."""


def forwarding(observed: Observed) -> ConditionValue | None:
    """What the condition `Forwarding` says; None where it stays as it is, or where no gate is wanted."""
    unknown = _why_unknown(observed)
    if not observed.agent.spec.gated or (unknown is None and observed.traffic is None):
        return None
    if unknown is not None:
        reason, message = unknown
        return ConditionStatus.UNKNOWN, str(reason), message
    if since := silent(observed):
        summary = gate_messages.agent_silent(observed.agent, since).summary
        return ConditionStatus.FALSE, str(Reason.AGENT_SILENT), summary
    return ConditionStatus.TRUE, str(Reason.FORWARDING), "No channel waits for an agent that does not answer."


def _why_unknown(observed: Observed) -> tuple[Reason, str] | None:
    if not observed.pods_with_open_ports:
        return Reason.NOT_SERVING, "No agent pod is ready."
    if not gate_pod.available(observed.children.get("GateDeployment")):
        return Reason.GATE_NOT_SERVING, "No gate takes connections."
    if observed.traffic is not None and not observed.traffic.gates:
        return Reason.GATES_UNREACHABLE, gate_messages.gates_unreachable(observed.agent)
    return None


def silent(observed: Observed) -> Mapping[str, datetime]:
    """Channels whose agent takes messages and answers none, and since when."""
    if not observed.agent.spec.gated or observed.traffic is None:
        return {}
    wanted = {channel.name for channel in observed.agent.spec.channels}
    return {
        channel.name: channel.silent_since
        for channel in observed.traffic.channels.values()
        if channel.silent_since is not None and channel.name in wanted
    }


def channels(observed: Observed, *, now: datetime) -> tuple[ChannelStatus, ...]:
    """`status.channels`: what is said there stays for some minutes, of all of them, unless the channels themselves are others."""
    agent, traffic = observed.agent, observed.traffic
    if not agent.spec.gated:
        return ()
    before = {channel.name: channel for channel in agent.status.channels}
    if traffic is None or not traffic.gates:
        return tuple(before[channel.name] for channel in agent.spec.channels if channel.name in before)
    found = []
    told_at = max((known.observed_at for known in before.values() if known.observed_at), default=None)
    waits = told_at is not None and now < told_at + CHANNELS_EVERY
    for channel in agent.spec.channels:
        told = traffic.channels.get(channel.name)
        known = before.get(channel.name)
        if told is None:
            continue
        seconds = now.replace(microsecond=0)
        # A gate that was started anew knows of no message before.
        last = max((at for at in (told.last_message_at, known and known.last_message_at) if at), default=None)
        new = ChannelStatus(
            name=channel.name, connected_devices=told.devices, last_message_at=last, observed_at=seconds
        )
        same = known is not None and known.model_copy(update={"observed_at": seconds}) == new
        found.append(known if known is not None and (waits or same) else new)
    return tuple(found)


def with_figures(history: Sequence[HistoryEntry], observed: Observed, *, now: datetime) -> list[HistoryEntry]:
    """The history, its latest entry with what gates tell of that change, once they can."""
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
