"""How a channel does, in the few words that the operator puts into the agent's `status`.

Filled by `metrics`; `__main__` shows it as JSON on `/status`, together with what was taken over. Read by the operator's `core.traffic`.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from medplum_agent_operator.gate.effects import Kind
from medplum_agent_operator.gate.routes import Life

Clock = Callable[[], float]
"""Seconds since 1970."""


class ChannelReport:
    """One channel's."""

    def __init__(self, name: str, *, answer_seconds: float, clock: Clock = time.time) -> None:
        """`answer_seconds`: an agent that has answered nothing for so long, although it was given something, is silent."""
        self._name = name
        self._answer_seconds = answer_seconds
        self._clock = clock
        self._connected: Callable[[], Mapping[str, int]] = dict
        self._answered_at: float | None = None
        self._waits_since: float | None = None

    def count_devices(self, connected: Callable[[], Mapping[str, int]]) -> None:
        """`connected` tells how many are, by address, whenever that is asked."""
        self._connected = connected

    def note(self, kind: Kind) -> None:
        """Something happened with a message.

        Any answer counts as one, the next message's too: a server that answers one message with silence is no silent agent.
        """
        match kind:
            case Kind.SENT if self._waits_since is None:
                self._waits_since = self._clock()
            case Kind.ANSWERED | Kind.LATE:
                self._waits_since = None
                self._answered_at = self._clock()

    def agent_is(self, _: Life | None) -> None:
        """Another agent is the one to talk to: what the one before left unanswered is not its fault."""
        self._waits_since = None

    def as_json(self) -> dict[str, Any]:
        """In the words of Kubernetes' JSON; absent what is not known.

        >>> report = ChannelReport("adt", answer_seconds=60, clock=lambda: 0)
        >>> report.note(Kind.ANSWERED)
        >>> report.as_json()
        {'name': 'adt', 'connectedDevices': 0, 'lastMessageAt': '1970-01-01T00:00:00Z'}
        """
        told: dict[str, Any] = {"name": self._name, "connectedDevices": sum(self._connected().values())}
        if self._answered_at is not None:
            told["lastMessageAt"] = _stamp(self._answered_at)
        if self._waits_since is not None and self._clock() >= self._waits_since + self._answer_seconds:
            told["silentSince"] = _stamp(self._waits_since)
        return told


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
