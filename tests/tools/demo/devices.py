"""The demo's devices: HL7 traffic from before the first change until after the last, with figures for each step.

Started by `real`, shown by `stage`. Runs `python -m tests.support.traffic` in the pod `devices`, marks each step there, and
reads a line of figures every second. The final figures come from the generator's report.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from tests.support.cluster import wait_for
from tests.support.real_nodes.clinic import SHAPES
from tests.tools.demo.faults import StepFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.real_nodes.clinic import Clinic

FLOWING: Final = 20
"""Messages that have arrived before the first change."""
PLACE: Final = "/tmp/demo"  # noqa: S108 - in the pod
SCRIPT: Final = f'echo $$ > {PLACE}.pid; exec python3 -m tests.support.traffic "$@" --output {PLACE}.json'


class Notice(Enum):
    """What devices may notice during a step. No message is ever lost."""

    NOTHING = "nothing"
    RECONNECT = "each open connection closes once, and the device reconnects"
    LED_ELSEWHERE = "as RECONNECT; an attempt to connect may time out while nodes learn the Service's new endpoints"
    PAUSE = "connections are refused until the new agent serves"


@dataclass(frozen=True, slots=True)
class Tally:
    """The traffic of one step."""

    step: str
    messages: int
    per_second: float
    lost: int
    unacknowledged: int
    refused: int
    broken: int
    timeouts: int
    repeated: int
    longest_pause_seconds: float
    given_up: tuple[str, ...] = ()
    """Attempts that timed out: which device, from when to when, in seconds since the step began."""

    def objection(self, notice: Notice) -> str:
        """Return what devices noticed although they must not; "" if all is well.

        >>> step = Tally("A handoff", 900, 80.0, 0, 0, 0, 24, 0, 0, 0.04)
        >>> step.objection(Notice.RECONNECT), step.objection(Notice.NOTHING)
        ('', 'A handoff: broken 24')
        """
        forbidden = ["lost", "unacknowledged"]
        if notice is not Notice.PAUSE:
            forbidden += ["refused"]
        if notice in {Notice.RECONNECT, Notice.NOTHING}:
            forbidden += ["timeouts"]
        if notice is Notice.NOTHING:
            forbidden += ["broken", "repeated"]
        found = [f"{name} {getattr(self, name)}" for name in forbidden if getattr(self, name)]
        if "timeouts" in forbidden:
            found += self.given_up
        return f"{self.step}: {', '.join(found)}" if found else ""


def tallies(report: Mapping[str, Any]) -> list[Tally]:
    """Read the generator's report, step by step."""
    if report["overall"]["lost"] is None:
        raise StepFailedError("The Medplum server did not say which messages arrived.")
    return [_tally(stage, report["timeouts"]) for stage in report["stages"]]


def _tally(stage: Mapping[str, Any], timeouts: Sequence[Mapping[str, Any]]) -> Tally:
    step, figures, start = stage["name"], stage["overall"], stage["start"]
    own = [one for one in timeouts if start <= one["from"] < start + stage["seconds"]]
    return Tally(
        given_up=tuple(
            f"{one['shape']} {one['connection']} from {one['from'] - start:.1f} to {one['to'] - start:.1f} s"
            for one in own
        ),
        step="Before any change" if step == "start" else step,
        messages=figures["acknowledged"],
        per_second=figures["acknowledged_per_second"],
        lost=figures["lost"],
        unacknowledged=figures["unacknowledged"],
        refused=figures["refused"] + figures["unreachable"],
        broken=figures["reset"] + figures["closed"],
        timeouts=figures["timeouts"],
        repeated=figures["repeated"],
        longest_pause_seconds=figures["longest_pause_seconds"],
    )


def table(steps: Sequence[Tally]) -> str:
    """Return the closing table.

    >>> print(table([Tally("A handoff", 1900, 80.4, 0, 0, 0, 24, 0, 1, 0.0412)]))
    step       messages  per second  lost  refused  closed  came twice  longest pause
    A handoff     1,900          80     0        0      24           1          41 ms
    """
    rows = [["step", "messages", "per second", "lost", "refused", "closed", "came twice", "longest pause"]]
    rows += [
        [
            step.step,
            f"{step.messages:,}",
            f"{step.per_second:.0f}",
            *(str(value) for value in (step.lost, step.refused, step.broken, step.repeated)),
            f"{step.longest_pause_seconds * 1000:,.0f} ms",
        ]
        for step in steps
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


class Devices:
    """One run of the generator. Call `start`, `begin` for each step, `stop`; `abandon` always ends it."""

    def __init__(self, clinic: Clinic) -> None:
        self._clinic = clinic
        self._step = "start"
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read, name="devices", daemon=True)
        self._latest: dict[str, Any] = {}
        self._output: list[str] = []

    def start(self) -> None:
        """Start sending, and wait until messages arrive at the server."""
        cluster = self._clinic.cluster
        self._process = subprocess.Popen(
            [
                *(str(cluster.kubectl_program), "--kubeconfig", str(cluster.kubeconfig)),
                *("--namespace", self._clinic.namespace, "exec", "-i", "devices", "--", "sh", "-c", SCRIPT, "traffic"),
                *(*self._clinic.route(), *SHAPES, "--marks", "--live-json"),
            ],
            env=os.environ | {"KUBECACHEDIR": str(cluster.folder / "kubectl-cache"), "KUBERC": "off"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader.start()

        def flowing() -> bool:
            self._check()
            return bool(self._clinic.ask("counts")["messages"] >= FLOWING and self._latest)

        wait_for(flowing, what="messages arrive at the server")

    def begin(self, step: str) -> None:
        """Count traffic from now on for this step."""
        self._check()
        self._step = step
        self._write(f"{step}\n")

    def live(self) -> str:
        """Return the figures of this second."""
        latest = self._latest
        return _line(latest, "per_second") if latest.get("stage") == self._step else ""

    def summary(self) -> str:
        """Return the figures of the whole step so far, from the next line of the generator."""
        before = self._latest

        def next_one() -> dict[str, Any] | None:
            self._check()
            latest = self._latest
            return latest if latest is not before and latest.get("stage") == self._step else None

        latest = wait_for(next_one, what="the devices report their figures", seconds=15)
        if latest is None:
            raise StepFailedError("The devices report no figures.")
        whole = latest | {"per_second": latest["acknowledged"] / latest["seconds"]}
        return f"{latest['acknowledged']:,} messages, {_line(whole, 'per_second')}"

    def stop(self) -> list[Tally]:
        """Stop sending gracefully and return the tallies."""
        self._check()
        self._clinic.kubectl("exec", "devices", "--", "sh", "-c", f"kill -TERM $(cat {PLACE}.pid)")
        if self._process is not None:
            self._process.wait(60)
        self._reader.join(10)
        report = self._clinic.kubectl("exec", "devices", "--", "cat", f"{PLACE}.json")
        self.abandon()
        return tallies(json.loads(report))

    def abandon(self) -> None:
        """Kill the generator if it still runs."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._reader.join(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None

    def _write(self, text: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(text)
            self._process.stdin.flush()

    def _check(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise StepFailedError("The devices have stopped: " + "\n".join(self._output[-5:]))

    def _read(self) -> None:
        if self._process is None or self._process.stdout is None:
            return
        for line in self._process.stdout:
            if line.startswith("{"):
                self._latest = json.loads(line)
            else:
                self._output.append(line.rstrip())


def _line(figures: Mapping[str, Any], rate: str) -> str:
    lost = "?" if figures["lost_so_far"] is None else figures["lost_so_far"]
    return (
        f"{figures[rate]:.0f} messages/s, lost {lost}, refused {figures['refused']}, "
        f"longest pause {figures['longest_pause_seconds'] * 1000:,.0f} ms"
    )
