"""MLLP framing, without sockets. Connections feed it bytes; it knows nothing of HL7."""

from __future__ import annotations

from typing import Final

START: Final = b"\x0b"
END: Final = b"\x1c\r"


def frame(payload: bytes) -> bytes:
    r"""Wrap a message.

    >>> frame(b"MSH")
    b'\x0bMSH\x1c\r'
    """
    return START + payload + END


class Deframer:
    """Cuts a stream into messages. Bytes outside a frame are dropped, as lenient receivers do."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take what a read returned; return the messages that are complete now."""
        self._pending += data
        complete = []
        while (end := self._pending.find(END)) >= 0:
            start = self._pending.find(START, 0, end)
            if start >= 0:
                complete.append(self._pending[start + 1 : end])
            self._pending = self._pending[end + len(END) :]
        return complete
