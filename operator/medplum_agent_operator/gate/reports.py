"""The state of one channel, in the few fields that the operator copies into the agent's `status`.

`metrics` fills it; `__main__` serves it as JSON on `/status`, together with the takeovers. The operator parses it in
`core.observed.gate_reports`. Operators and gates of different releases talk to each other: never rename a JSON key.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from medplum_agent_operator.gate.effects import Kind
from medplum_agent_operator.gate.routes import Life

Clock = Callable[[], float]
"""Returns seconds since 1970."""


class ChannelReport:
    """The report of one channel."""

    def __init__(self, name: str, *, answer_seconds: float, clock: Clock = time.time) -> None:
        """`answer_seconds`: an agent that received a message and answered nothing for so long is silent."""
        self._name = name
        self._answer_seconds = answer_seconds
        self._clock = clock
        self._connected: Callable[[], Mapping[str, int]] = dict
        self._answered_at: float | None = None
        self._unanswered_since: float | None = None

    def count_devices(self, connected: Callable[[], Mapping[str, int]]) -> None:
        """`connected`: returns the number of connections by address; called for each report."""
        self._connected = connected

    def note(self, kind: Kind) -> None:
        """Record what happened with a message.

        Any answer shows that the agent is not silent, also one to a later message: a server may leave single messages unanswered.
        """
        match kind:
            case Kind.SENT if self._unanswered_since is None:
                self._unanswered_since = self._clock()
            case Kind.ANSWERED | Kind.LATE:
                self._unanswered_since = None
                self._answered_at = self._clock()

    def agent_is(self, _: Life | None) -> None:
        """Another agent is the current one. Messages that the previous agent left unanswered do not count against it."""
        self._unanswered_since = None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object for `/status`. Unknown values are absent.

        >>> report = ChannelReport("adt", answer_seconds=60, clock=lambda: 0)
        >>> report.note(Kind.ANSWERED)
        >>> report.as_json()
        {'name': 'adt', 'connectedDevices': 0, 'lastMessageAt': '1970-01-01T00:00:00Z'}
        """
        report: dict[str, Any] = {"name": self._name, "connectedDevices": sum(self._connected().values())}
        if self._answered_at is not None:
            report["lastMessageAt"] = _timestamp(self._answered_at)
        if self._unanswered_since is not None and self._clock() >= self._unanswered_since + self._answer_seconds:
            report["silentSince"] = _timestamp(self._unanswered_since)
        return report


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
