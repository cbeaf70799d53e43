"""Writes frames to an agent so that every version reads them completely, without a copy of a large frame.

Used by `agent_connection`. Agents before 5.0.0 treat a message as complete only when one read ends with 1C 0D, and one read
takes at most 65,536 bytes. So they never answer a frame of 65,537 or 131,073 bytes, nor one that the network splits between
its last two bytes. The writer therefore sends the last bytes of a frame in their own TCP segment. After a long frame it waits
until the agent has probably read the bytes before.

The gate cannot see how fast an agent reads. An agent that reads late reads 65,536 bytes at a time. Its last read then splits the
end of a frame whose length is one more than a multiple of that. For those few lengths the writer waits a full second.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from medplum_agent_operator.gate.sockets import send_fin

ONE_SEGMENT_BYTES: Final = 1_200
"""What any network carries in one piece."""
ONE_FLIGHT_BYTES: Final = 14_000
"""What TCP sends without waiting: ten segments (RFC 6928). The kernel may split longer data anywhere."""
TAIL_BYTES: Final = 16
TAIL_DELAY_SECONDS: Final = 0.01
"""With 5 ms the agent was measured to read the tail separately. It reads longer data at 25 MB a second or more."""
READ_BYTES_PER_SECOND: Final = 25_000_000
READ_BYTES: Final = 65_536
"""What Node.js reads at most at once."""
SPLIT_TAIL_DELAY_SECONDS: Final = 1.0


class FrameWriter:
    """Writes frames in order, and never gives the transport more than it accepts."""

    def __init__(self, transport: asyncio.Transport, call_later: Callable[..., asyncio.TimerHandle]) -> None:
        self._transport = transport
        self._call_later = call_later
        self._frames: deque[memoryview] = deque()
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    def write(self, frame: bytearray) -> None:
        """Write a frame behind the earlier ones."""
        if not self._frames and len(frame) <= ONE_SEGMENT_BYTES and not self._paused:
            self._transport.write(frame)
            return
        self._frames.append(memoryview(frame))
        self._write_more()

    def finish(self) -> None:
        """Send FIN behind everything written before."""
        self._closing = True
        self._write_more()

    @property
    def flushed(self) -> bool:
        """Whether the transport has everything."""
        return not self._frames

    def pause(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resume(self) -> None:
        """The transport accepts more."""
        self._paused = False
        self._write_more()

    def abandon(self) -> None:
        """The connection is lost: drop all frames."""
        self._frames.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _write_more(self) -> None:
        if self._timer is not None:
            return
        while self._frames and not self._paused:
            rest = self._frames[0]
            if len(rest) <= TAIL_BYTES:
                self._transport.write(rest)
                self._frames.popleft()
                continue
            size = min(READ_BYTES, len(rest) - TAIL_BYTES)
            self._transport.write(rest[:size])
            self._frames[0] = rest[size:]
            length = len(rest.obj)  # type: ignore[arg-type] # the complete frame that `rest` is a part of
            if len(self._frames[0]) == TAIL_BYTES and length > ONE_FLIGHT_BYTES:
                self._timer = self._call_later(_tail_delay(length), self._write_tail)
                return
        if self._closing and not self._frames and not self._transport.is_closing():
            send_fin(self._transport)

    def _write_tail(self) -> None:
        """Write the last bytes after the others have left the transport; if they have not, try again a little later."""
        self._timer = None
        if self._transport.get_write_buffer_size():
            self._timer = self._call_later(TAIL_DELAY_SECONDS, self._write_tail)
        else:
            self._write_more()


def _tail_delay(length: int) -> float:
    """Return how many seconds an agent gets to read a long frame of `length` bytes before its tail is written."""
    if length % READ_BYTES == 1:
        return SPLIT_TAIL_DELAY_SECONDS
    return TAIL_DELAY_SECONDS + length / READ_BYTES_PER_SECOND
