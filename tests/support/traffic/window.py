"""What a long-lived device still has to get acknowledged, without sockets. `senders` asks it what to send next.

The window holds at most `size` messages that were offered and not acknowledged: one for a device that waits for each
ACK, more for one that pipelines. When a connection breaks, all that were on it are sent again, oldest first, with the
control ids they had.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OnTheWire:
    """A message that was written and waits for its acknowledgement until `deadline`."""

    number: int
    attempt: int
    deadline: float


class Window:
    """Which messages wait to be sent, and which for their ACK."""

    __slots__ = ("_size", "_to_send", "_waiting")

    def __init__(self, size: int) -> None:
        self._size = size
        self._to_send: deque[int] = deque()
        self._waiting: dict[int, OnTheWire] = {}

    @property
    def room(self) -> bool:
        """Whether the device may begin another message."""
        return len(self._to_send) + len(self._waiting) < self._size

    @property
    def empty(self) -> bool:
        """Whether everything is acknowledged."""
        return not self._to_send and not self._waiting

    @property
    def waiting(self) -> bool:
        """Whether an acknowledgement is awaited."""
        return bool(self._waiting)

    @property
    def deadline(self) -> float | None:
        """When the oldest message on the wire is overdue."""
        return min((entry.deadline for entry in self._waiting.values()), default=None)

    def head(self) -> int | None:
        """The message that would be sent next."""
        return self._to_send[0] if self._to_send else None

    def add(self, number: int) -> None:
        """A new message, to be sent after those that wait already."""
        self._to_send.append(number)

    def sent(self, entry: OnTheWire) -> None:
        """The head is on the wire."""
        self._to_send.remove(entry.number)
        self._waiting[entry.number] = entry

    def answered(self, number: int, *, done: bool) -> OnTheWire | None:
        """An answer came. When it does not settle the message, it will be sent again, first. None: not awaited."""
        entry = self._waiting.pop(number, None)
        if entry is not None and not done:
            self._to_send.appendleft(number)
        return entry

    def broken(self) -> list[OnTheWire]:
        """The connection is gone: what was on it has to be sent again, before anything newer."""
        lost = list(self._waiting.values())
        self._waiting.clear()
        self._to_send.extendleft(entry.number for entry in reversed(lost))
        return lost

    def drop(self) -> list[int]:
        """Give up everything. Returns what was given up."""
        given_up = [*self._waiting, *self._to_send]
        self._waiting.clear()
        self._to_send.clear()
        return given_up
