"""What a conversation asks the relay to do, what it reports for metrics, and the limits that it applies.

`conversation` and `delivery` make these values; `device_connection` carries them out. Values only: no I/O, no clock.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

Agent = Hashable
"""One life of one agent. Another pod is another value, and so is the same pod after its agent was seen to stop."""


class Ending(StrEnum):
    """Why the gate closes a device's connection. The device has to resend a message that was not answered."""

    DONE = "the device has closed, and everything is answered"
    TOO_LONG = "a message is longer than the limit"
    TOO_SLOW = "a message did not arrive completely in time"
    IDLE = "the device sent nothing for too long"
    NO_AGENT = "no agent was ready in time"
    UNANSWERED = "an agent ended without answering a message, and the gate must not resend it"
    MOVE_LATE = "the previous agent did not answer in time after the move"
    STOPPED = "the gate is stopping"
    UNREAD = "the device did not read its answers"
    DISPLACED = "another device needed its place"


class Kind(StrEnum):
    """What happened, for metrics and logs. The number of a `Count` is 1 unless the kind states another meaning."""

    SENT = "a message that asks for an answer was written to an agent"
    SENT_SILENT = "a message that asks for no answer was written to an agent"
    ANSWERED = "a message got its first answer; the number: seconds since it was written"
    LATE = "an answer that no message waits for: an application acknowledgement after the commit, a repeat, or one after the time-out"
    UNANSWERED = "a message got no answer in time, and the gate moved to the next message"
    REPEATED = "a message was sent again to the next agent, because its agent stopped without answering"
    HELD = "a message had to wait for an agent; the number: seconds"
    MOVED = "a device's connection moved to another agent"
    MISSED = "an application acknowledgement will not arrive, because its link is closed; the number: how many"
    JUNK = "bytes outside frames were dropped; the number: how many bytes"
    EMPTY = "a frame without an HL7 header was dropped"
    BATCH = "a batch or a file of messages was dropped, because no agent takes one"
    CUT = "a frame that the device or the agent did not complete was dropped"
    UNDELIVERED = "a complete message of a disconnected device went to no agent; the number: how many"
    DROPPED = "a complete message of a connected device went to no agent before its connection was closed; the number: how many"


@dataclass(frozen=True, slots=True)
class OpenLink:
    """Connect to an agent. The relay calls `link_opened` or `link_failed` afterwards."""

    link: int
    agent: Agent


@dataclass(frozen=True, slots=True)
class SendToAgent:
    """Write one complete frame to an agent."""

    link: int
    data: bytearray


@dataclass(frozen=True, slots=True)
class CloseLink:
    """Send FIN to the agent after everything written before. The relay reports nothing back."""

    link: int


@dataclass(frozen=True, slots=True)
class SendToDevice:
    """Write one complete frame to the device."""

    data: bytearray


@dataclass(frozen=True, slots=True)
class CloseDevice:
    """Send FIN to the device after everything written before."""

    why: Ending


@dataclass(frozen=True, slots=True)
class Count:
    """Something to count. `agent`: the one that a message was written to, where the kind concerns one."""

    kind: Kind
    number: float = 1
    agent: Agent | None = None


Effect = OpenLink | SendToAgent | CloseLink | SendToDevice | CloseDevice | Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The limits of a conversation. All times are in seconds.

    Attributes:
        frame_bytes: the longest message, in both directions.
        hold_seconds: how long the gate holds a message that waits for an agent.
        answer_seconds: how long a message blocks the next one while it has no answer.
        move_seconds: how long a message may stay with the previous agent after a move. Then the device has to resend it.
        late_seconds: how long the gate waits for an application acknowledgement when a connection closes or moves. It counts from the
            commit and from the close or move; the earlier end applies.
        flush_seconds: how long an idle agent gets after its last answer to pass on messages that it acknowledged without a commit.
        frame_seconds: how long a message may take to get on: from one byte to the next, and above `SMALL_BYTES` for as many bytes.
        stop_seconds: when the gate stops, how long a device may pause within a message.
        silent_seconds: how long the next message waits after one that asks for no answer, so that an agent reads them separately.
        idle_seconds: how long a device may send nothing before the gate closes its connection.
        send_again: whether the gate resends an unanswered message to the next agent when its agent stops.
    """

    frame_bytes: int = 16 * 1024 * 1024
    hold_seconds: float = 20
    answer_seconds: float = 60
    move_seconds: float = 30
    late_seconds: float = 30
    flush_seconds: float = 0.2
    frame_seconds: float = 60
    stop_seconds: float = 1
    silent_seconds: float = 0.1
    idle_seconds: float = 86_400
    send_again: bool = True


MAX_SENDS: Final = 2
"""How often the gate writes a message to agents at most. After two agents stopped on it, no third gets it."""
