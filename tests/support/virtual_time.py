"""A clock for asyncio tests that does not depend on the speed of the machine.

While a task is ready, no time passes. When all tasks wait, the clock jumps to the next timer at once. So `asyncio.sleep`, `asyncio.timeout`
and `call_later` keep their order and their exact times, and a slow machine cannot miss a deadline.
For code without sockets and threads only: their answers take real time, during which this clock jumps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    import pytest


def use_virtual_time(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the clock of an event loop until the end of the test."""
    now = 0.0
    selector = loop._selector  # type: ignore[attr-defined]
    select = selector.select

    def jump(timeout: float | None = None) -> list[tuple[Any, int]]:
        """Return the pending events; without any, let the time pass until the next timer."""
        nonlocal now
        if timeout is None:  # no timer: only a signal or another thread can wake the loop
            found: list[tuple[Any, int]] = select(None)
            return found
        found = select(0)
        if not found:
            now += max(0.0, timeout)
        return found

    monkeypatch.setattr(loop, "time", lambda: now)
    monkeypatch.setattr(selector, "select", jump)
