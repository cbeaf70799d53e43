"""The gates' reports about an agent's traffic, as values.

`adapters.gates` reads them from JSON, and `report.traffic` interprets them. The operator shows them and never acts on them.
An invalid field counts as absent. `medplum_agent_operator.gate.reports` writes these reports.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel, of one gate or of all gates together.

    Attributes:
        devices: open connections of devices.
        last_message_at: when a message was last answered; None if none was, or if the channel carries no messages.
        silent_since: when the agent got the first of the messages that it has not answered, if it has answered none for
            longer than `spec.gate.answerSeconds`; None if it answers.
    """

    name: str
    devices: int = 0
    last_message_at: datetime | None = None
    silent_since: datetime | None = None

    def combined_with(self, other: Self) -> "Channel":
        """The sum of two gates' channels. An answer through one gate proves that the agent is not silent."""
        last = max((at for at in (self.last_message_at, other.last_message_at) if at is not None), default=None)
        since = min((at for at in (self.silent_since, other.silent_since) if at is not None), default=None)
        if since is not None and last is not None and last > since:
            since = None
        return Channel(self.name, self.devices + other.devices, last, since)


@dataclass(frozen=True, slots=True)
class Takeover:
    """What devices noticed when an agent took over.

    Attributes:
        moved: connections that moved to the new agent.
        held: messages that a gate held until the new agent was ready.
        longest_hold_seconds: the longest of these waits, in seconds.
        repeated: messages sent to the new agent because an earlier one ended without answering them.
    """

    moved: int = 0
    held: int = 0
    longest_hold_seconds: float = 0
    repeated: int = 0

    def combined_with(self, other: Self) -> "Takeover":
        """The sum of two gates' reports."""
        return Takeover(
            self.moved + other.moved,
            self.held + other.held,
            max(self.longest_hold_seconds, other.longest_hold_seconds),
            self.repeated + other.repeated,
        )


@dataclass(frozen=True, slots=True)
class Traffic:
    """What all gates of an agent report.

    Attributes:
        gates: the number of gates that reported.
        channels: by name.
        takeovers: by the name of the pod whose agent took over.
    """

    gates: int = 0
    channels: Mapping[str, Channel] = field(default_factory=dict)
    takeovers: Mapping[str, Takeover] = field(default_factory=dict)

    @classmethod
    def read(cls, reports: Iterable[object]) -> Self:
        """Read and add up the JSON of each gate that answered; anything that is not an object is ignored.

        >>> Traffic.read([{"channels": [{"name": "adt", "connectedDevices": 2}]}, "nonsense"]).channels["adt"].devices
        2
        """
        valid = [report for report in reports if isinstance(report, Mapping)]
        channels: dict[str, Channel] = {}
        takeovers: dict[str, Takeover] = {}
        for report in valid:
            for channel in map(_channel, _list(report.get("channels"))):
                known = channels.get(channel.name)
                channels[channel.name] = channel if known is None else known.combined_with(channel)
            for pod, takeover in _takeovers(report.get("takeovers")).items():
                earlier = takeovers.get(pod)
                takeovers[pod] = takeover if earlier is None else earlier.combined_with(takeover)
        return cls(len(valid), channels, takeovers)


def _list(raw: object) -> list[Mapping[str, Any]]:
    return [item for item in raw if isinstance(item, Mapping)] if isinstance(raw, list) else []


def _channel(raw: Mapping[str, Any]) -> Channel:
    return Channel(
        name=str(raw.get("name", "")),
        devices=int(_number(raw.get("connectedDevices"))),
        last_message_at=_time(raw.get("lastMessageAt")),
        silent_since=_time(raw.get("silentSince")),
    )


def _takeovers(raw: object) -> dict[str, Takeover]:
    if not isinstance(raw, Mapping):
        return {}
    return {
        str(pod): Takeover(
            moved=int(_number(takeover.get("moved"))),
            held=int(_number(takeover.get("held"))),
            longest_hold_seconds=_number(takeover.get("longestHoldSeconds")),
            repeated=int(_number(takeover.get("repeated"))),
        )
        for pod, takeover in raw.items()
        if isinstance(takeover, Mapping)
    }


def _number(raw: object) -> float:
    """A count, at least 0 and at most 1e12; 0 for anything that is not a number."""
    known = isinstance(raw, int | float) and raw == raw  # noqa: PLR0124 - not NaN
    # Compare before the conversion: an integer may be larger than any float.
    return float(max(0, min(raw, 1e12))) if known and isinstance(raw, int | float) else 0.0


def _time(raw: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(raw) if isinstance(raw, str) else None
    except ValueError:
        return None
    return found if found is None or found.tzinfo is not None else None
