"""A clock that the test moves, with the two functions of a loop that the gate's limits use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timers:
    """Calls back while time passes."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def __len__(self) -> int:
        """Return how many calls are due at some time."""
        return len(self._due)

    def clock(self) -> float:
        """Return the time."""
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back after so many seconds."""
        self._number += 1
        self._due.append((self.now + seconds, self._number, callback))

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self._due and min(self._due)[0] <= until:
            first = min(self._due)
            self._due.remove(first)
            self.now = max(self.now, first[0])
            first[2]()
        self.now = until
