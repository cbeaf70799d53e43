"""From reads of a socket to HL7 messages, as the agent does it: the framer up to 4.5.2, and the one from 5.0.0, faults included.

Pure: `feed` takes what one read brought and returns the messages that it completed. A read is at most 65,536 bytes, which
matters to the old framer; the listener sees to that. `Garbage` is what the agent answers with silence.
"""

from __future__ import annotations

from typing import Final, Protocol

from tests.support.doubles.hl7 import is_hl7

VT: Final = b"\x0b"
END: Final = b"\x1c\r"
READ_BYTES: Final = 65_536
_BYTE_ORDER_MARK: Final = "\ufeff"


class Garbage(ValueError):  # noqa: N818 - it names what was read
    """The read contains no message. Devices get no answer."""


class Framer(Protocol):
    """What both have in common."""

    def feed(self, read: bytes) -> list[str]:
        """Take one read; return the messages that are complete now, or raise Garbage."""


def frame(text: str, encoding: str = "utf-8") -> bytes:
    """Wrap a message for the wire."""
    return VT + text.encode(encoding, "replace") + END


def _message(content: bytes | bytearray, encoding: str) -> str:
    """Decode as upstream's iconv-lite does: a byte order mark is taken off. Garbage if that is no message."""
    try:
        text = content.decode(encoding, "replace").removeprefix(_BYTE_ORDER_MARK)
    except LookupError as error:
        raise Garbage(f"Encoding not recognized: {encoding!r}") from error
    if not is_hl7(text):
        raise Garbage("Invalid HL7 message")
    return text


class ReadEndFramer:
    """Up to 4.5.2: a message is complete when *a read ends* with 1C 0D, and it is everything since the last completion.

    So several frames in one read become one message; an end that is split over two reads is never seen (a frame of 65,537
    bytes is split so by the size of a read); and what does not begin with a frame poisons the connection, because the buffer
    is emptied only after a message was understood.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._buffer = bytearray()

    def feed(self, read: bytes) -> list[str]:
        """Take one read."""
        self._buffer += read
        if not read.endswith(END):
            return []
        # Blindly: the first byte is taken for 0B. What is no message stays in the buffer, so the connection is poisoned.
        text = _message(self._buffer[1 : -len(END)], self._encoding)
        self._buffer.clear()
        return [text]


class FrameFinder:
    """From 5.0.0: bytes before 0B are ignored and a message ends at the first 1C 0D, wherever reads begin and end.

    A frame without MSH drops everything that was read together with it.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, read: bytes) -> list[str]:
        """Take one read."""
        self._buffer += read
        messages = []
        at = 0
        while True:
            start = self._buffer.find(VT, at)
            if start < 0:
                at = len(self._buffer)
                break
            at = start
            end = self._buffer.find(END, max(start + 1, self._searched))
            if end < 0:
                break
            content = self._buffer[start + 1 : end]
            at = end + len(END)
            self._searched = 0
            try:
                messages.append(_message(content, self._encoding))
            except Garbage:
                self._buffer.clear()
                raise
        del self._buffer[:at]
        # An end may be split between 1C and 0D: look at the last byte again. Large messages are not searched from the start.
        self._searched = max(len(self._buffer) - 1, 0)
        return messages
