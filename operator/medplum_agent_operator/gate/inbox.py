"""The bytes that a device has sent and the gate has not taken yet, and the time limits for the rest.

Part of a `conversation`, which decides when to take a frame and what an ending means. Bytes in, frames out; no I/O, and the
time is an argument.
"""

from medplum_agent_operator.gate.effects import Ending, Rules
from medplum_agent_operator.gate.framing import Deframer, Frame, Junk, TooLong
from medplum_agent_operator.gate.hl7 import has_header
from medplum_agent_operator.gate.limits import SMALL_BYTES


class Inbox:
    """The device's side of a conversation, up to the current message."""

    def __init__(self, rules: Rules, now: float) -> None:
        """`now`: seconds of a monotonic clock, here and below."""
        self._rules = rules
        self._frames = Deframer(limit=rules.frame_bytes)
        self._last_data_at = now
        self._progress_at: float | None = None
        """When the unfinished frame got on last; None without one, or if a complete one is before it."""
        self._progress_bytes = 0
        self._paused = False
        self._hurried = False
        self.closed_at: float | None = None
        """Since when the gate takes nothing more from the device; None while it does."""

    def __len__(self) -> int:
        """Return the number of buffered bytes."""
        return len(self._frames)

    @property
    def in_frame(self) -> bool:
        """Whether the buffer starts with a frame."""
        return self._frames.in_frame

    def feed(self, data: bytes, now: float) -> None:
        """Add bytes that were read."""
        self._last_data_at = now
        self._frames.feed(data)
        # A small frame costs no more than an idle connection. A larger one needs bytes of the budget, so single bytes do not count.
        size = len(self)
        if self._progress_at is not None and (size < SMALL_BYTES or size >= self._progress_bytes + SMALL_BYTES):
            self._get_on(now)

    def close(self, now: float) -> None:
        """Accept no more bytes. Frames in the buffer can still be taken."""
        if self.closed_at is None:
            self.closed_at = now

    def pause(self) -> None:
        """The relay stops reading: this time does not count against the device."""
        self._paused = True

    def resume(self, now: float) -> None:
        """The relay reads again: an unfinished frame gets its full time."""
        self._paused = False
        self._last_data_at = now
        if self._progress_at is not None:
            self._get_on(now)

    def hurry(self) -> None:
        """The gate stops: an unfinished frame may arrive slowly, but without a pause."""
        self._hurried = True

    def next(self, now: float) -> Frame | Junk | TooLong | None:
        """Take the next item from the buffer; None if more bytes are needed, whose time limit starts now."""
        found = self._frames.next()
        match found:
            case None:
                if not self.in_frame:
                    self._progress_at = None
                elif self._progress_at is None:
                    self._get_on(now)
            case Frame():
                self._progress_at = None
        return found

    def _get_on(self, now: float) -> None:
        self._progress_at, self._progress_bytes = now, len(self)

    def take_all(self) -> int:
        """Empty the buffer and return how many complete messages it had."""
        number = sum(isinstance(found, Frame) and has_header(found.data) for found in iter(self._frames.next, None))
        self._frames.clear()
        return number

    @property
    def deadlines(self) -> "tuple[float | None, float]":
        """When an unfinished frame is too slow (None if there is no such frame, or reading is paused), and when the device is idle."""
        rules, frame = self._rules, None
        if self._progress_at is not None and not self._paused:
            hurried = self._last_data_at + rules.stop_seconds if self._hurried else float("inf")
            frame = min(hurried, self._progress_at + rules.frame_seconds)
        return frame, self._last_data_at + rules.idle_seconds

    def overdue(self, now: float) -> Ending | None:
        """Return the time limit that the device has exceeded, if any."""
        frame, idle = self.deadlines
        if frame is not None and now >= frame:
            return Ending.TOO_SLOW
        return Ending.IDLE if now >= idle else None
