"""The traffic generator as a process of its own in the clinic's pod of devices. `run` starts and ends it.

Everywhere else it hangs on a `kubectl exec`, which ends with the API server.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.support.cluster import KubectlError
from tests.support.real_nodes.clinic import SHAPES

if TYPE_CHECKING:
    from tests.support.real_nodes.clinic import Clinic

PLACE: Final = "/tmp/chaos"  # noqa: S108 - in its pod
SCRIPT: Final = f"""\
(
  python3 -m tests.support.traffic "$@" --output {PLACE}.json --series {PLACE}.series & echo $! > {PLACE}.pid
  wait $!
  echo $? > {PLACE}.code
) > {PLACE}.log 2>&1 < /dev/null &
"""
END_SECONDS: Final = 90
"""For finishing, settling and writing the report."""


@dataclass(frozen=True, slots=True)
class DetachedTraffic:
    """Traffic whose generator runs detached in its pod."""

    clinic: Clinic

    def start(self) -> None:
        """Start to send, and return when messages arrive at the server."""
        self._exec(SCRIPT, *self.clinic.route(), *SHAPES)
        self.clinic.wait(lambda: self.clinic.ask("counts")["messages"] >= 20, "messages arrive at the server")

    def stop(self) -> dict[str, Any]:
        """End the sending in good order; returns the report."""
        self._exec(f"kill -TERM $(cat {PLACE}.pid)")
        self.clinic.wait(self._ended, "the traffic has ended", END_SECONDS)
        report: dict[str, Any] = json.loads(self._exec(f"cat {PLACE}.json"))
        return report

    def series(self) -> dict[str, Any]:
        """The run over time, for the picture (docs/internals/traffic.md)."""
        found: dict[str, Any] = json.loads(self._exec(f"cat {PLACE}.series"))
        return found

    def text(self) -> str:
        """What it has printed: the report as a table, once it has ended."""
        return self._exec(f"cat {PLACE}.log")

    def _ended(self) -> bool:
        try:
            return bool(self._exec(f"cat {PLACE}.code"))
        except KubectlError:
            return False

    def _exec(self, script: str, *arguments: str) -> str:
        return self.clinic.kubectl("exec", "devices", "--", "sh", "-c", script, "traffic", *arguments)
