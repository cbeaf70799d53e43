"""What the harness tells a person while it works: short lines on standard error, never on standard output."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

QUIET_SECONDS = 30.0
"""Where nobody watches (a log of CI), a running step is mentioned this often."""


def say(text: str) -> None:
    """Tell the person something."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Steps:
    """Progress through steps of known rough length: `[3/7] kube-controller-manager … 81 s, about 3 min left`.

    The estimates come from a machine with two cores. What is left is scaled by how this machine did on the steps that it
    has finished: 500 s for steps estimated at 250 s double the rest.
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
        """A step starts."""
        self._current, self._since = name, time.monotonic()
        self._mentioned = self._since
        self._show("")

    def tick(self) -> None:
        """The step is still running; call it about once a second."""
        now = time.monotonic()
        if self._live or now - self._mentioned >= QUIET_SECONDS:
            self._mentioned = now
            self._show(f" {now - self._since:.0f} s,")

    def end(self) -> None:
        """The step is done."""
        seconds = time.monotonic() - self._since
        self._spent[self._current] = seconds
        self._write(f"{self._label()} done in {seconds:.0f} s", last=True)

    def left(self) -> float:
        """Seconds that the current and the coming steps will probably take."""
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
