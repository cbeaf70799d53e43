"""Splits a byte stream into MLLP frames, complete and unchanged: 0B, the message, 1C 0D.

`conversation` uses one deframer for the device and one for each link to an agent. No I/O, and no copy: a frame of 16 MiB is
in memory once. A frame ends at its first 1C 0D, as in the agent from 5.0.0 on. That agent ignores bytes before a 0B, but
older agents never recover from them. So the deframer returns them as `Junk`, and the gate never passes them on.
"""

from dataclasses import dataclass
from typing import Final

START: Final = 0x0B
END: Final = b"\x1c\r"


@dataclass(frozen=True, slots=True)
class Frame:
    """One complete frame, with its 0B and its 1C 0D. Its bytes must not be changed."""

    data: bytearray


@dataclass(frozen=True, slots=True)
class Junk:
    """Bytes outside any frame.

    Attributes:
        size: how many bytes.
    """

    size: int


@dataclass(frozen=True, slots=True)
class TooLong:
    """A frame over the limit. The deframer has dropped it, and everything buffered behind it.

    Attributes:
        size: how many bytes of it had arrived.
    """

    size: int


class Deframer:
    r"""Finds frames.

    >>> deframer = Deframer(limit=100)
    >>> deframer.feed(b"\n\x0bMSH|1\x1c\r\x0bMSH|")
    >>> [deframer.next() for _ in range(3)]
    [Junk(size=1), Frame(data=bytearray(b'\x0bMSH|1\x1c\r')), None]
    """

    def __init__(self, *, limit: int) -> None:
        """`limit`: the longest frame, in bytes."""
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> None:
        """Add bytes that were read."""
        self._buffer += data

    def __len__(self) -> int:
        """Return the number of buffered bytes: of frames not taken yet, and of an unfinished one."""
        return len(self._buffer)

    @property
    def in_frame(self) -> bool:
        """Whether the buffer starts with a frame."""
        return bool(self._buffer) and self._buffer[0] == START

    def next(self) -> Frame | Junk | TooLong | None:
        """Take the next item from the buffer; None if more bytes are needed."""
        buffer = self._buffer
        if not buffer:
            return None
        if buffer[0] != START:
            start = buffer.find(START)
            size = len(buffer) if start < 0 else start
            del buffer[:size]
            return Junk(size)
        end = buffer.find(END, self._searched)
        if end < 0:
            # The last byte may be the first of the two that end the frame.
            self._searched = max(len(buffer) - 1, 0)
            return self._too_long(len(buffer)) if len(buffer) >= self._limit else None
        size = end + len(END)
        if size > self._limit:
            return self._too_long(size)
        self._searched = 0
        return Frame(self._take(size))

    def _take(self, size: int) -> bytearray:
        """Take the first `size` bytes from the buffer.

        This copies the smaller part: a large frame keeps its memory, and each of many small frames does not move all bytes behind it.
        """
        buffer = self._buffer
        if 2 * size < len(buffer):
            taken = buffer[:size]
            del buffer[:size]
            return taken
        self._buffer = buffer[size:]
        del buffer[size:]
        return buffer

    def _too_long(self, size: int) -> TooLong:
        """Report the frame once and empty the buffer. A caller that reads until None would never end with the bytes still there."""
        self.clear()
        return TooLong(size)

    def clear(self) -> None:
        """Empty the buffer."""
        self._buffer.clear()
        self._searched = 0


class EndCounter:
    r"""Counts the frames that end in bytes that are dropped.

    >>> counter = EndCounter()
    >>> counter.count(b"MSH|1\x1c"), counter.count(b"\r\x0bMSH|2\x1c\r\x0bMSH|")
    (0, 2)
    """

    def __init__(self) -> None:
        self._last = b""

    def count(self, data: bytes) -> int:
        """Return how many frames end in these bytes, which follow those of the last call."""
        data = self._last + data
        # A complete end is not carried over, so it does not count twice.
        self._last = END[:1] if data.endswith(END[:1]) else b""
        return data.count(END)
