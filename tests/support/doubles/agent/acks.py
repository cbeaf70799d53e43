"""What one HL7 connection does with a read, and with an answer of the server. Pure; called by the listener.

Original mode: nothing goes to the device until the server has answered. Enhanced: CA at once and in order, the server's
answer later. Enhanced `aa`: AA at once, the server's answer is swallowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.support.doubles import hl7
from tests.support.doubles.agent.framers import FrameFinder, ReadEndFramer, frame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from tests.support.doubles.agent.framers import Framer
    from tests.support.doubles.agent.version import AckMode, AgentTraits

_APPLICATION_CODES: Final = frozenset({"AA", "AE", "AR"})
_LINE_END: Final = re.compile("[\r\n]+")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a channel speaks; from its Endpoint's address and the agent's version."""

    ack_mode: AckMode
    encoding: str
    finds_frames: bool
    rebuilds_messages: bool

    @classmethod
    def of(cls, traits: AgentTraits, parameters: Mapping[str, str]) -> Dialect:
        """Read the address' parameters as this version does."""
        return cls(
            ack_mode=traits.ack_mode(parameters.get("enhanced")),
            encoding=parameters.get("encoding", "utf-8"),
            finds_frames=traits.finds_frames,
            rebuilds_messages=traits.rebuilds_messages,
        )

    @property
    def keeps_in_memory(self) -> bool:
        """Whether a message is acknowledged while only this process has it."""
        return self.ack_mode != "original"

    def written(self, text: str) -> str:
        """Return a message as this version passes it on, in either direction."""
        return _LINE_END.sub("\r", text) if self.rebuilds_messages else text

    def framer(self) -> Framer:
        """Make the framer of one connection."""
        return FrameFinder(self.encoding) if self.finds_frames else ReadEndFramer(self.encoding)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message for the server, and the immediate answer to the device, if any."""

    text: str
    control_id: str
    ack: bytes | None


class Hl7Conversation:
    """One connection of a device."""

    def __init__(self, dialect: Dialect, now: Callable[[], datetime]) -> None:
        self._dialect = dialect
        self._framer = dialect.framer()
        self._now = now

    def feed(self, read: bytes) -> list[Arrival]:
        """Take one read; Garbage means silence."""
        return [self._arrive(text) for text in self._framer.feed(read)]

    def _arrive(self, text: str) -> Arrival:
        text = self._dialect.written(text)
        code = {"original": None, "enhanced": "CA", "enhanced-aa": "AA"}[self._dialect.ack_mode]
        ack = None
        if code is not None:
            ack = frame(hl7.acknowledgement(text, code, at=self._now()), self._dialect.encoding)
        return Arrival(text, hl7.control_id(text), ack)


def answer_for_device(dialect: Dialect, response: Mapping[str, Any]) -> bytes | None:
    """Return what the device gets for an answer of the server: the body, with any MSA, or nothing.

    Errors (status 400 and above) and what is not HL7 give silence: a failing bot looks like a lost message.
    """
    body = response.get("body")
    if int(response.get("statusCode") or 200) >= 400 or not isinstance(body, str) or not hl7.is_hl7(body):
        return None
    if dialect.ack_mode == "enhanced-aa" and hl7.field(body, "MSA", 1).upper() in _APPLICATION_CODES:
        return None
    return frame(dialect.written(body), dialect.encoding)
