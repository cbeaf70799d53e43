"""Progress for people: short lines on standard error, never on standard output."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

QUIET_SECONDS = 30.0
"""In a log, such as CI's, a running step appears this often."""


def say(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Steps:
    """Progress through steps of roughly known length: `[3/7] kube-controller-manager … 81 s, about 3 min left`.

    The estimates are for a machine with two cores. The remaining time is scaled by the finished steps: 500 s for steps
    estimated at 250 s double the rest.
    """

    def __init__(self, estimates: Mapping[str, float]) -> None:
        self._estimates = dict(estimates)
        self._names = list(estimates)
        self._live = sys.stderr.isatty()
        self._spent: dict[str, float] = {}
        self._current = ""
        self._since = 0.0
        self._mentioned = 0.0

    def begin(self, name: str) -> None:
        """Begin a step."""
        self._current, self._since = name, time.monotonic()
        self._mentioned = self._since
        self._show("")

    def tick(self) -> None:
        """Show that the step still runs. Call it about once a second."""
        now = time.monotonic()
        if self._live or now - self._mentioned >= QUIET_SECONDS:
            self._mentioned = now
            self._show(f" {now - self._since:.0f} s,")

    def end(self) -> None:
        """End the step."""
        seconds = time.monotonic() - self._since
        self._spent[self._current] = seconds
        self._write(f"{self._label()} done in {seconds:.0f} s", last=True)

    def left(self) -> float:
        """Return the estimated seconds for the current and the remaining steps."""
        expected = sum(self._estimates[name] for name in self._spent)
        pace = sum(self._spent.values()) / expected if expected else 1.0
        coming = sum(self._estimates[name] for name in self._names if name not in self._spent) * pace
        current = min(time.monotonic() - self._since, self._estimates[self._current] * pace)
        return coming - current

    def _show(self, elapsed: str) -> None:
        self._write(f"{self._label()} …{elapsed} {_about(self.left())} left", last=False)

    def _label(self) -> str:
        return f"[{self._names.index(self._current) + 1}/{len(self._names)}] {self._current}"

    def _write(self, text: str, *, last: bool) -> None:
        if self._live:
            sys.stderr.write(f"\r\033[K{text}" + ("\n" if last else ""))
            sys.stderr.flush()
        else:
            say(text)


def _about(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {max(seconds, 1):.0f} s"
