"""What goes wrong at one write: three modes, each an Interceptor that counts writes after it is armed.

Made by `enumeration`, one for each run. A write counts when it reaches the proxy. Except in `LATE`, which delays the write,
the API server answers it before the fault strikes.
"""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum
from typing import TYPE_CHECKING

from tests.support.http_proxy import Answer, Call, Cut, Interceptor

if TYPE_CHECKING:
    from collections.abc import Callable


class Mode(StrEnum):
    """What goes wrong."""

    KILLED = "killed"
    """SIGKILL after the API server has answered the write; the operator never sees the answer. Then a new operator starts.

    A kill after the answer arrived would leave the same state in the cluster, and an operator has no other state."""
    UNANSWERED = "unanswered"
    """The write is done, but its answer is lost with the connection. The operator survives."""
    LATE = "late"
    """The write is delayed. A new operator starts beside the old one and finishes the scenario, then the write arrives."""


class Counting(Interceptor):
    """Counts writes, and strikes once, at the write with this number."""

    def __init__(self, number: int | None = None) -> None:
        self._number = number
        self._armed = False
        self.writes: list[str] = []
        """The label of each write since `arm`."""
        self.last_write = time.monotonic()
        self.struck = asyncio.Event()

    def arm(self) -> None:
        """Start to count."""
        self._armed = True

    def quiet_seconds(self) -> float:
        """The seconds since the last write."""
        return time.monotonic() - self.last_write

    async def before(self, call: Call) -> Answer | None:
        """Count a write, and strike if it is due."""
        if not call.writes:
            return None
        self.last_write = time.monotonic()
        if self._armed:
            self.writes.append(call.label)
            if self.is_due(call) and not self.struck.is_set():
                return await self.strike(call)
        return None

    def is_due(self, call: Call) -> bool:  # noqa: ARG002 - subclasses use it
        """Whether to strike at this write, the last one that was counted."""
        return len(self.writes) == self._number

    async def strike(self, call: Call) -> Answer | None:  # noqa: ARG002 - subclasses use it
        """Record that the write has come. Nothing goes wrong."""
        self.struck.set()
        return None


class Killing(Counting):
    """`Mode.KILLED`."""

    def __init__(self, number: int | None, kill: Callable[[], None]) -> None:
        super().__init__(number)
        self._kill = kill
        self._due: Call | None = None

    async def strike(self, call: Call) -> Answer | None:
        """Let the write through; `after` kills the operator."""
        self._due = call
        return None

    async def after(self, call: Call, answer: Answer) -> Answer:
        """Kill the operator instead of answering it."""
        if call is not self._due:
            return answer
        self._due = None
        self._kill()
        self.struck.set()
        raise Cut


class Aiming(Killing):
    """`Mode.KILLED` at the first successful write that `aim` selects, if its number is not known."""

    def __init__(self, aim: Callable[[Call], bool], kill: Callable[[], None]) -> None:
        super().__init__(None, kill)
        self._aim = aim

    def is_due(self, call: Call) -> bool:
        """Whether `aim` selects the write."""
        return self._aim(call)

    async def after(self, call: Call, answer: Answer) -> Answer:
        """Let the operator survive a refused write; it tries again."""
        return answer if answer.status >= 300 else await super().after(call, answer)


class Swallowing(Killing):
    """`Mode.UNANSWERED`: like `KILLED`, but only the connection breaks."""

    def __init__(self, number: int) -> None:
        super().__init__(number, lambda: None)


class Delaying(Counting):
    """`Mode.LATE`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.release = asyncio.Event()

    async def strike(self, call: Call) -> Answer | None:  # noqa: ARG002 - every write is delayed alike
        """Delay the write until `release`."""
        self.struck.set()
        await self.release.wait()
        self.last_write = time.monotonic()
        return None
