"""What a device has sent and nobody has taken yet, and how long it may take for the rest. Bytes in, frames out, time as an argument.

Part of a `conversation`, which says when a frame is taken and what an ending means. No I/O.
"""

from medplum_agent_operator.gate.effects import Ending, Rules
from medplum_agent_operator.gate.framing import Deframer, Frame, Junk, TooLong


class Inbox:
    """The device's side of a conversation, up to the message in hand."""

    def __init__(self, rules: Rules, now: float) -> None:
        """`now`: seconds of a clock that only goes forward, as in all that follows."""
        self._rules = rules
        self._frames = Deframer(limit=rules.frame_bytes)
        self._heard_at = now
        self._begun_at: float | None = None
        self._unread = False
        self.closed_at: float | None = None
        """Since when nothing more is taken from the device; None while it is."""

    def __len__(self) -> int:
        """How many bytes are held."""
        return len(self._frames)

    @property
    def in_frame(self) -> bool:
        """Whether what is held begins a frame."""
        return self._frames.in_frame

    def feed(self, data: bytes, now: float) -> None:
        """Take what was read."""
        self._heard_at = now
        self._frames.feed(data)

    def close(self, now: float) -> None:
        """Nothing more is taken; what is held already can be."""
        if self.closed_at is None:
            self.closed_at = now

    def unread(self) -> None:
        """The shell does not read for now: that time is not the device's."""
        self._unread = True

    def resumed(self, now: float) -> None:
        """The shell reads again."""
        self._unread = False
        if self._begun_at is not None:
            self._begun_at = now

    def next(self, now: float) -> Frame | Junk | TooLong | None:
        """Take out what comes first; None where more has to come, for which the device has its time from now on."""
        found = self._frames.next()
        match found:
            case None:
                self._begun_at = None if not self.in_frame else now if self._begun_at is None else self._begun_at
            case Frame():
                self._begun_at = None
        return found

    def count_frames(self) -> int:
        """How many whole frames are held. They are gone then."""
        return sum(isinstance(found, Frame) for found in iter(self._frames.next, None))

    def clear(self) -> None:
        """Forget what is held."""
        self._frames.clear()

    @property
    def deadlines(self) -> "tuple[float | None, float]":
        """Until when the device may send the rest of what it has begun (None: nothing, or it is not read), and anything at all."""
        frame = None if self._begun_at is None or self._unread else self._begun_at + self._rules.frame_seconds
        return frame, self._heard_at + self._rules.idle_seconds

    def fault(self, now: float) -> Ending | None:
        """What the device is late with."""
        frame, anything = self.deadlines
        if frame is not None and now >= frame:
            return Ending.TOO_SLOW
        return Ending.IDLE if now >= anything else None
