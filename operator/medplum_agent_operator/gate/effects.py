"""What a conversation asks its shell to do, what it tells of itself, and the rules that it keeps.

Made by `conversation`, carried out by `relay`. Values only.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

Agent = Hashable
"""One life of one agent: another pod, or the same pod's agent after it was seen gone, is another value."""


class Ending(StrEnum):
    """Why the gate closes a device's connection. A message that was not answered is the device's to send again."""

    DONE = "the device has closed, and everything is answered"
    TOO_LONG = "a message is longer than the limit"
    TOO_SLOW = "a message did not end in time"
    IDLE = "nothing was sent for long"
    NO_AGENT = "no agent was ready in time"
    UNANSWERED = "the agent went away with a message unanswered, which may not be sent again to it"
    MOVE_LATE = "the agent that was left did not answer in time"
    STOPPED = "the gate ends"


class Kind(StrEnum):
    """What happened, for metrics and logs. The number beside it is 1 unless said otherwise."""

    SENT = "a message was written to an agent"
    ANSWERED = "a message got its first answer; the number: seconds since it was written"
    LATE = "an answer to a message that needed none any more: the application's after the commit, a repeat, or after the time-out"
    UNANSWERED = "a message got no answer in time, and the next one goes on"
    REPEATED = "a message that died unanswered with its agent was sent again to the next one"
    HELD = "a message had to wait for an agent; the number: seconds"
    MOVED = "a connection has gone on with another agent"
    MISSED = "an application's answer that will not come, because its agent has gone; the number: how many"
    JUNK = "bytes between frames were left out; the number: how many"
    EMPTY = "a frame without a header of HL7 was left out"
    CUT = "a frame that the device or the agent did not finish was left out"
    UNDELIVERED = "a whole message of a device that has gone found no agent in time"


@dataclass(frozen=True, slots=True)
class Open:
    """Connect to an agent. Answered by `opened` or `failed`."""

    link: int
    agent: Agent


@dataclass(frozen=True, slots=True)
class ToAgent:
    """Write one whole frame."""

    link: int
    data: bytearray


@dataclass(frozen=True, slots=True)
class CloseLink:
    """Close towards the agent by FIN, after what was written. Nothing is answered."""

    link: int


@dataclass(frozen=True, slots=True)
class ToDevice:
    """Write one whole frame."""

    data: bytearray


@dataclass(frozen=True, slots=True)
class CloseDevice:
    """Close towards the device by FIN, after what was written."""

    why: Ending


@dataclass(frozen=True, slots=True)
class Note:
    """Something to count; with a message to an agent, which one."""

    kind: Kind
    number: float = 1
    agent: Agent | None = None


Effect = Open | ToAgent | CloseLink | ToDevice | CloseDevice | Note


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The limits of a conversation. All times in seconds.

    Attributes:
        frame_bytes: the longest message, either way.
        hold_seconds: how long a message waits for an agent.
        answer_seconds: how long the next message waits for the answer to the one before.
        move_seconds: how long a message may stay with the agent that was left; then the device is to send it again.
        late_seconds: how long an application's answer is waited for where a connection ends or has moved on, since the acknowledgement too.
        flush_seconds: how long an agent is given, after its last answer, to pass on what it has acknowledged without saying so.
        frame_seconds: how long a message may take from its first byte to its last.
        idle_seconds: after how long of silence a device's connection is closed.
        send_again: whether a message that died unanswered with its agent is sent to the next one.
    """

    frame_bytes: int = 16 * 1024 * 1024
    hold_seconds: float = 20
    answer_seconds: float = 60
    move_seconds: float = 30
    late_seconds: float = 30
    flush_seconds: float = 0.2
    frame_seconds: float = 60
    idle_seconds: float = 86_400
    send_again: bool = True


MOST_SENDS: Final = 2
"""How often a message is written to agents at most: what ended two of them is not tried on a third."""
