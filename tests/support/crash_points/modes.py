"""What goes wrong at one write: three ways, each a Meddler that counts writes from the moment it is armed.

Made by `enumeration`, one for each run. A write counts when it reaches the proxy; the API server has taken and answered it before
anything is done about it, but for `LATE`, where it is kept back.
"""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum
from typing import TYPE_CHECKING

from tests.support.http_proxy import Answer, Call, Cut, Meddler

if TYPE_CHECKING:
    from collections.abc import Callable


class Mode(StrEnum):
    """What goes wrong."""

    KILLED = "killed"
    """SIGKILL once the API server has answered the write; the answer is never seen. Then a new operator starts.

    A kill after the answer was seen leaves the same in the cluster, and nothing else is left of an operator."""
    UNANSWERED = "unanswered"
    """The write is done, but its answer is lost with the connection; the operator lives on."""
    LATE = "late"
    """The write is kept back, a new operator starts beside the old one and ends the story, and then the write gets through."""


class Counting(Meddler):
    """Counts writes; at the one that it is told to wait for it strikes, once."""

    def __init__(self, number: int | None = None) -> None:
        self._number = number
        self._armed = False
        self.writes: list[str] = []
        """What was written since it was armed, in short."""
        self.last_write = time.monotonic()
        self.struck = asyncio.Event()

    def arm(self) -> None:
        """Count from here on."""
        self._armed = True

    def quiet_seconds(self) -> float:
        """For how long nothing has been written."""
        return time.monotonic() - self.last_write

    async def before(self, call: Call) -> Answer | None:
        """Count a write, and strike before it is done if it is the one."""
        if not call.writes:
            return None
        self.last_write = time.monotonic()
        if self._armed:
            self.writes.append(call.label)
            if self.is_due(call) and not self.struck.is_set():
                return await self.strike(call)
        return None

    def is_due(self, call: Call) -> bool:  # noqa: ARG002 - for those that go by what is written
        """Whether this write, the latest one counted, is the one to strike at."""
        return len(self.writes) == self._number

    async def strike(self, call: Call) -> Answer | None:  # noqa: ARG002 - for those that do something
        """The write has come; nothing goes wrong."""
        self.struck.set()
        return None


class Killing(Counting):
    """`Mode.KILLED`."""

    def __init__(self, number: int | None, kill: Callable[[], None]) -> None:
        super().__init__(number)
        self._kill = kill
        self._due: Call | None = None

    async def strike(self, call: Call) -> Answer | None:
        """Let the write through; what kills comes after it."""
        self._due = call
        return None

    async def after(self, call: Call, answer: Answer) -> Answer:
        """Kill, and answer nobody."""
        if call is not self._due:
            return answer
        self._due = None
        self._kill()
        self.struck.set()
        raise Cut


class Aiming(Killing):
    """`Mode.KILLED` at a write that is known by what it says, where nobody knows how many come before it. It has to be carried out."""

    def __init__(self, aim: Callable[[Call], bool], kill: Callable[[], None]) -> None:
        super().__init__(None, kill)
        self._aim = aim

    def is_due(self, call: Call) -> bool:
        """Whether it says so."""
        return self._aim(call)

    async def after(self, call: Call, answer: Answer) -> Answer:
        """Let one live on that was refused: it will try again."""
        return answer if answer.status >= 300 else await super().after(call, answer)


class Swallowing(Killing):
    """`Mode.UNANSWERED`: as `KILLED`, but only the connection dies."""

    def __init__(self, number: int) -> None:
        super().__init__(number, lambda: None)


class Holding(Counting):
    """`Mode.LATE`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.release = asyncio.Event()

    async def strike(self, call: Call) -> Answer | None:  # noqa: ARG002 - whatever it is
        """Keep the write back until told to let it go."""
        self.struck.set()
        await self.release.wait()
        self.last_write = time.monotonic()
        return None
