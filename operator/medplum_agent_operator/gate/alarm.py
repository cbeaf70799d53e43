"""A timer that follows a deadline. `device_connection` sets it after each event, so setting it is cheap."""

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls back at a deadline, or earlier: after an early call the caller sets it again."""

    __slots__ = ("_callback", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._timer: asyncio.TimerHandle | None = None

    def set(self, deadline: float | None) -> None:
        """Call back at `deadline` (seconds of the loop's clock) at the latest; None: not at all. An earlier timer stays as it is."""
        timer = self._timer
        if deadline is None:
            self.cancel()
        elif timer is None or deadline < timer.when():
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(deadline, self._ring)

    def cancel(self) -> None:
        """Do not call back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._callback()
