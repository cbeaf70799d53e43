"""Writing frames to an agent so that every version reads them whole, without a copy of a large one.

Used by `relay`. Agents before 5.0.0 take a message as complete only when one read ends with 1C 0D, and read at most 65,536 bytes:
a frame of 65,537 or 131,073 bytes is never answered, and neither is one that the network cuts between its last two bytes. So
the last bytes of a frame travel in a segment of their own; after a long one, once what came before has been read. How soon an agent
reads is not to be seen: one that is late reads 65,536 bytes at a time, and what its last read then cuts is the end of a frame whose length
is one more than a multiple of that. To those few a whole second is given.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from medplum_agent_operator.gate.sockets import end

ONE_SEGMENT: Final = 1_200
"""Bytes that any network carries in one piece."""
ONE_FLIGHT: Final = 14_000
"""Bytes that TCP sends without waiting: ten segments (RFC 6928). Beyond, the kernel cuts as it likes."""
TAIL: Final = 16
TAIL_AFTER_SECONDS: Final = 0.01
"""With 5 ms the agent was seen to read them apart; of what is longer it reads 25 MB a second or more."""
READ_BYTES_A_SECOND: Final = 25_000_000
READ_BYTES: Final = 65_536
"""That Node.js reads at once at most."""
TAIL_AFTER_SECONDS_WHERE_CUT: Final = 1.0


class FrameWriter:
    """Writes frames one after the other, never more into the transport than it wants."""

    def __init__(self, transport: asyncio.Transport, call_later: Callable[..., asyncio.TimerHandle]) -> None:
        self._transport = transport
        self._call_later = call_later
        self._frames: deque[memoryview] = deque()
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    def write(self, frame: bytearray) -> None:
        """Write a frame after those before it."""
        if not self._frames and len(frame) <= ONE_SEGMENT and not self._paused:
            self._transport.write(frame)
            return
        self._frames.append(memoryview(frame))
        self._go_on()

    def finish(self) -> None:
        """Send FIN after what was written."""
        self._closing = True
        self._go_on()

    def pause(self) -> None:
        """The transport has enough."""
        self._paused = True

    def resume(self) -> None:
        """The transport wants more."""
        self._paused = False
        self._go_on()

    def abandon(self) -> None:
        """The connection is gone."""
        self._frames.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _go_on(self) -> None:
        if self._timer is not None:
            return
        while self._frames and not self._paused:
            rest = self._frames[0]
            if len(rest) <= TAIL:
                self._transport.write(rest)
                self._frames.popleft()
                continue
            size = min(READ_BYTES, len(rest) - TAIL)
            self._transport.write(rest[:size])
            self._frames[0] = rest[size:]
            length = len(rest.obj)  # type: ignore[arg-type] # the frame itself, of which this is the rest
            if len(self._frames[0]) == TAIL and length > ONE_FLIGHT:
                self._timer = self._call_later(_tail_after(length), self._tail)
                return
        if self._closing and not self._frames and not self._transport.is_closing():
            end(self._transport)

    def _tail(self) -> None:
        """The last bytes, once the others have left; if they have not, a little later."""
        self._timer = None
        if self._transport.get_write_buffer_size():
            self._timer = self._call_later(TAIL_AFTER_SECONDS, self._tail)
        else:
            self._go_on()


def _tail_after(length: int) -> float:
    """How many seconds an agent gets to read a long frame of so many bytes, but for its last."""
    if length % READ_BYTES == 1:
        return TAIL_AFTER_SECONDS_WHERE_CUT
    return TAIL_AFTER_SECONDS + length / READ_BYTES_A_SECOND
