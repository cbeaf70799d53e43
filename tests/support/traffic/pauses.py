"""The arithmetic of pauses, without a clock of its own. The ledger keeps one `Pauses` per shape, and one for all.

A pause is a time in which at least one message was waiting for its acknowledgement and none came. It begins with the
last acknowledgement, or with the first message that waits after nothing was waiting, whichever is later. So a device
that sends once in five seconds makes no pause of five seconds, and an outage counts from the first message it held up.

Worked: offered at 1.0, acknowledged at 1.1 (pause 0.1); offered at 5.0 and 6.0, acknowledged at 8.0 and 8.2: 3.0, 0.2.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pause:
    """A stretch without any acknowledgement while something waited for one."""

    start: float
    seconds: float


NONE = Pause(0.0, 0.0)


class Pauses:
    """Keeps every pause, as two arrays of numbers: a run has as many as it has acknowledgements."""

    __slots__ = ("_lengths", "_longest", "_since", "_starts", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self._since = 0.0
        self._starts = array("d")
        self._lengths = array("d")
        self._longest = NONE

    def offered(self, at: float) -> None:
        """One more message waits."""
        if self.waiting == 0:
            self._since = at
        self.waiting += 1

    def acknowledged(self, at: float) -> None:
        """One that waited has its acknowledgement: a pause ends."""
        self._keep(at)
        self._since = at
        self.waiting -= 1

    def given_up(self, at: float) -> None:
        """One that waited will wait no longer. Only the last one ends the pause: nothing was acknowledged."""
        self.waiting -= 1
        if self.waiting == 0:
            self._keep(at)

    def current(self, now: float) -> float:
        """How long the pause that is under way lasts already."""
        return now - self._since if self.waiting else 0.0

    def longest(self, now: float | None = None) -> Pause:
        """The longest pause so far; with `now`, the one under way included."""
        if now is not None and self.current(now) > self._longest.seconds:
            return Pause(self._since, self.current(now))
        return self._longest

    def longest_touching(self, start: float, end: float) -> Pause:
        """The longest pause that lies at least partly in an interval: one that spans two stages counts in both."""
        # Ends only ever grow, but starts may equal ends; a plain scan is quick enough for a report.
        touching = (
            (length, begin)
            for begin, length in zip(self._starts, self._lengths, strict=True)
            if begin < end and begin + length > start
        )
        length, begin = max(touching, default=(0.0, 0.0))
        return Pause(begin, length)

    def _keep(self, at: float) -> None:
        pause = Pause(self._since, at - self._since)
        self._starts.append(pause.start)
        self._lengths.append(pause.seconds)
        if pause.seconds > self._longest.seconds:
            self._longest = pause
