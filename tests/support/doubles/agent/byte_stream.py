"""Messages of a byte-stream channel (`tcp://…?startChar=…&endChar=…`). Pure; called by the listener.

A message is what stands between the two characters; control characters are removed and the rest is forwarded as text. What is
not simulated: the sequence mappings of an Endpoint's extensions, and `mode=astm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENT_TYPE: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Delimiters:
    """The two characters."""

    start: int
    end: int

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Self:
        """Read the address' parameters; both are needed."""
        start, end = parameters.get("startChar"), parameters.get("endChar")
        if not start or not end:
            raise ValueError("Failed to parse startChar and/or endChar query param(s)")
        return cls(ord(start[0]), ord(end[0]))


class ByteStream:
    """One connection of a device."""

    def __init__(self, delimiters: Delimiters) -> None:
        self._delimiters = delimiters
        self._message: bytearray | None = None

    def feed(self, read: bytes) -> list[str]:
        """Take one read; return the messages that are complete now."""
        messages = []
        for byte in read:
            if byte == self._delimiters.start:
                self._message = bytearray()
            elif self._message is None:
                continue
            elif byte == self._delimiters.end:
                messages.append(self._message.decode("latin-1"))
                self._message = None
            elif byte >= 0x20:
                self._message.append(byte)
        return messages
