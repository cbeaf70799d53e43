"""MLLP frames out of a stream of bytes, unchanged and whole: 0B, the message, 1C 0D.

Used by `conversation`, once for what a device sends and once for what an agent answers. No I/O, and no copy: a frame of 16 MiB
is in memory once. A frame ends at its first 1C 0D, as for the agent from 5.0.0 on; that agent ignores what stands
before a 0B, older ones choke on it for good, so it is told apart here and never handed on.
"""

from dataclasses import dataclass
from typing import Final

START: Final = 0x0B
END: Final = b"\x1c\r"


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole frame, with its 0B and its 1C 0D. Nobody changes its bytes."""

    data: bytearray


@dataclass(frozen=True, slots=True)
class Junk:
    """Bytes that belong to no frame."""

    size: int


@dataclass(frozen=True, slots=True)
class TooLong:
    """A frame that does not end within the limit. What was read of it, and after it, is gone."""

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
        """Take what was read."""
        self._buffer += data

    def __len__(self) -> int:
        """How many bytes are held: those of frames that were not asked for yet, and of one that has not ended."""
        return len(self._buffer)

    @property
    def in_frame(self) -> bool:
        """Whether what is held begins a frame."""
        return bool(self._buffer) and self._buffer[0] == START

    def next(self) -> Frame | Junk | TooLong | None:
        """Take out what comes first; None where more has to be read."""
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
            # The last byte may be the first of the two that end it.
            self._searched = max(len(buffer) - 1, 0)
            return self._too_long(len(buffer)) if len(buffer) >= self._limit else None
        size = end + len(END)
        if size > self._limit:
            return self._too_long(size)
        self._searched = 0
        return Frame(self._take(size))

    def _take(self, size: int) -> bytearray:
        """Take the first bytes out of what is held.

        Whichever part is the smaller is copied: a large frame keeps its memory, and many small ones do not each move what is behind.
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
        """Said once: what is held goes, or whoever asks until there is nothing more would ask for ever."""
        self.clear()
        return TooLong(size)

    def clear(self) -> None:
        """Forget what is held."""
        self._buffer.clear()
        self._searched = 0
