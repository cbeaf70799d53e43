"""What the gates of an agent tell of its traffic, as values. Read from their JSON by `adapters.gates`; `traffic` says what it means.

Reports are the gates' word: nothing is done because of one, and a field that is not as it should be reads as absent. What a gate
writes is in `medplum_agent_operator.gate.reports`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel, of one gate or of all together.

    Attributes:
        devices: connections of devices.
        last_message_at: when a message was last answered; None where none was, or what is carried is no messages.
        silent_since: when the first of the messages was given to the agent that it has answered none of, for longer than
            `spec.gate.answerSeconds`; None where it answers.
    """

    name: str
    devices: int = 0
    last_message_at: datetime | None = None
    silent_since: datetime | None = None

    def with_another(self, other: Self) -> "Channel":
        """Both together. An answer through one gate shows that an agent is not silent to another."""
        last = max((at for at in (self.last_message_at, other.last_message_at) if at is not None), default=None)
        since = min((at for at in (self.silent_since, other.silent_since) if at is not None), default=None)
        if since is not None and last is not None and last > since:
            since = None
        return Channel(self.name, self.devices + other.devices, last, since)


@dataclass(frozen=True, slots=True)
class Takeover:
    """What devices noticed when an agent took over: connections that moved, messages that were held or came twice."""

    moved: int = 0
    held: int = 0
    longest_hold_seconds: float = 0
    repeated: int = 0

    def with_another(self, other: Self) -> "Takeover":
        """Both together."""
        return Takeover(
            self.moved + other.moved,
            self.held + other.held,
            max(self.longest_hold_seconds, other.longest_hold_seconds),
            self.repeated + other.repeated,
        )


@dataclass(frozen=True, slots=True)
class Traffic:
    """What all gates of an agent tell.

    Attributes:
        gates: how many did.
        channels: by name.
        takeovers: by the name of the pod whose agent took over.
    """

    gates: int = 0
    channels: Mapping[str, Channel] = field(default_factory=dict)
    takeovers: Mapping[str, Takeover] = field(default_factory=dict)

    @classmethod
    def read(cls, reports: Iterable[object]) -> Self:
        """Read the JSON of each gate that answered.

        >>> Traffic.read([{"channels": [{"name": "adt", "connectedDevices": 2}]}, "nonsense"]).channels["adt"].devices
        2
        """
        told = [report for report in reports if isinstance(report, Mapping)]
        channels: dict[str, Channel] = {}
        takeovers: dict[str, Takeover] = {}
        for report in told:
            for channel in map(_channel, _list(report.get("channels"))):
                known = channels.get(channel.name)
                channels[channel.name] = channel if known is None else known.with_another(channel)
            for pod, takeover in _takeovers(report.get("takeovers")).items():
                before = takeovers.get(pod)
                takeovers[pod] = takeover if before is None else before.with_another(takeover)
        return cls(len(told), channels, takeovers)


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
            moved=int(_number(told.get("moved"))),
            held=int(_number(told.get("held"))),
            longest_hold_seconds=_number(told.get("longestHoldSeconds")),
            repeated=int(_number(told.get("repeated"))),
        )
        for pod, told in raw.items()
        if isinstance(told, Mapping)
    }


def _number(raw: object) -> float:
    """A number that counts something; 0 for anything else."""
    known = isinstance(raw, int | float) and raw == raw  # noqa: PLR0124 - not NaN
    # Compared as it is: an integer may be larger than any float.
    return float(max(0, min(raw, 1e12))) if known and isinstance(raw, int | float) else 0.0


def _time(raw: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(raw) if isinstance(raw, str) else None
    except ValueError:
        return None
    return found if found is None or found.tzinfo is not None else None
