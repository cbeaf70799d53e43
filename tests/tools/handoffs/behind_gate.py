"""`make bench-gate-handoff`: measure, on real nodes, what devices notice of rollouts behind a gate.

Writes gate-handoff.json and .md. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from tests.support.cluster.node import missing
from tests.support.cluster.progress import Steps, say
from tests.support.real_nodes.clinic import Clinic
from tests.support.real_nodes.lives import violations
from tests.support.real_nodes.nodes import archives, nodes_with_operator
from tests.tools.bench import machine
from tests.tools.bench.figures import Bar
from tests.tools.handoffs.report import Sheet, bar_table, publish
from tests.tools.handoffs.row import SHAPES, hand_over
from tests.tools.handoffs.run import ENHANCED, OUT, open_clinic
from tests.tools.handoffs.times import PodTimes, watched

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.tools.handoffs.figures import Handoffs

HIGH: Final = "5.1.15"
LOW: Final = "4.2.3"
SLOW_SERVER_MS: Final = 500
PAUSE_BOUND: Final = 0.3
HOLD_RATIO_BOUND: Final = 1.1
NAME: Final = "gate-handoff"


@dataclass(frozen=True, slots=True)
class Recreate:
    """One Recreate behind a gate. Seconds."""

    name: str
    longest_pause: float
    """The longest time without an answer to any device: the delay of the message that waited."""
    gap: float
    """From the end of the old agent, by the container runtime, until a watch reported the new one ready."""
    noticed: int
    """Lost, refused, reset, closed, repeated and timed out, added up."""


@dataclass(frozen=True, slots=True)
class Figures:
    """All results of a run."""

    original: Handoffs
    enhanced: Handoffs
    recreates: tuple[Recreate, ...]
    noticed: dict[str, int]
    """What devices noticed of all Recreates, by name of the figure."""
    agents_seen: int
    violations: tuple[str, ...]

    @property
    def hold_ratio(self) -> float:
        """Ratio of the devices' wait to the time without an agent, as medians."""
        return median(each.longest_pause for each in self.recreates) / median(each.gap for each in self.recreates)


NOTICED: Final = ("lost", "unacknowledged", "refused", "unreachable", "reset", "closed", "timeouts", "repeated")


def recreate(clinic: Clinic, times: int, *, done: Callable[[], None]) -> tuple[tuple[Recreate, ...], dict[str, int]]:
    """Change from 5.1.15 to 4.2.3, approved, and back, `times` times, under one run of traffic."""
    clinic.install(HIGH, gate={"enabled": True})
    clinic.wait_for_the_gate()
    names = [f"{way} {number}" for number in range(times) for way in ("down", "up")]
    with watched(clinic) as times_seen, clinic.traffic(shapes=SHAPES) as traffic:
        for name in names:
            time.sleep(1)
            traffic.mark(name)
            if name.startswith("down"):
                clinic.change(LOW, approval=f"{LOW} {name}")
            else:
                clinic.change(HIGH)
            done()
        time.sleep(1)
        traffic.mark("end")
        time.sleep(1)
    stages = {stage["name"]: stage["overall"] for stage in traffic.report["stages"]}
    gaps = _gaps(clinic, times_seen)
    if len(gaps) != len(names):
        raise AssertionError(f"{len(names)} changes, but {len(gaps)} gaps between agents")
    found = tuple(
        Recreate(
            name=name,
            longest_pause=round(stages[name]["longest_pause_seconds"], 3),
            gap=round(gap, 3),
            noticed=sum(stages[name][what] for what in NOTICED),
        )
        for name, gap in zip(names, gaps, strict=True)
    )
    overall = traffic.report["overall"]
    return found, {what: overall[what] for what in NOTICED}


def _gaps(clinic: Clinic, times: PodTimes) -> list[float]:
    lives = clinic.lives
    return [times.ready[new.pod] - old.end.timestamp() for old, new in pairwise(lives)]


def bars(figures: Figures) -> tuple[Bar, ...]:
    """Compare the figures with the gate's promises."""
    found = []
    for mode, row in (("original", figures.original), ("enhanced", figures.enhanced)):
        count = f"{len(row.handoffs)} handoffs, {mode} mode"
        for what, number in (
            ("lost", row.lost + row.unacknowledged),
            ("refused", row.refused),
            ("connections broken", row.most_breaks),
            ("repeated", row.repeated),
        ):
            found.append(Bar(f"{what}, {count}", "0", str(number), number == 0))
        pause = row.longest_pause
        found.append(Bar(f"longest pause, {count}", "< 300 ms", f"{pause * 1000:.0f} ms", pause < PAUSE_BOUND))
    count = f"{len(figures.recreates)} forced downgrades and upgrades"
    noticed = sum(figures.noticed.values())
    ratio = figures.hold_ratio
    return (
        *found,
        Bar(f"lost, refused, broken, repeated, {count}", "0", str(noticed), noticed == 0),
        Bar(
            "longest answer against the time without an agent (medians)",
            "≤ 1.1 times",
            f"{ratio:.2f} times",
            ratio <= HOLD_RATIO_BOUND,
        ),
        Bar(
            f"two agents at once where one is before 4.2.4, {figures.agents_seen} lives",
            "0",
            str(len(figures.violations)),
            not figures.violations,
        ),
    )


def measure(*, handoffs: int, recreates: int) -> tuple[Figures, machine.Machine, dict[str, str]]:
    """Run each phase in its own clinic, on two nodes with the operator."""
    archives()  # built before the load is measured
    here = machine.look_at_machine()
    gate: dict[str, Any] = {"gate": {"enabled": True}}
    with ExitStack() as stack:
        steps = Steps(
            {
                "cluster": 45,
                "original mode": 60 + handoffs * 8,
                "enhanced mode": 60 + handoffs * 8,
                "forced downgrades and upgrades": 60 + recreates * 20,
            }
        )
        steps.begin("cluster")
        cluster, lives = stack.enter_context(nodes_with_operator())
        steps.end()
        rows = []
        for name, settings in (
            ("original mode", {}),
            ("enhanced mode", {"address": ENHANCED, "answerDelayMs": SLOW_SERVER_MS}),
        ):
            steps.begin(name)
            with open_clinic(cluster, lives, **settings) as clinic:
                rows.append(hand_over(clinic, handoffs, done=steps.tick, ready=Clinic.wait_for_the_gate, **gate))
            steps.end()
        steps.begin("forced downgrades and upgrades")
        with open_clinic(cluster, lives) as clinic:
            changes, noticed = recreate(clinic, recreates, done=steps.tick)
        steps.end()
        versions = machine.versions(cluster)
    seen = lives.lives
    original, enhanced = rows
    figures = Figures(original, enhanced, changes, noticed, len(seen), tuple(violations(seen)))
    return figures, here, versions


def summary(figures: Figures, promised: Sequence[Bar]) -> list[Sheet]:
    """Return the tables: promises, handoffs, Recreates."""
    rows = [(mode, row) for mode, row in (("original", figures.original), ("enhanced", figures.enhanced))]
    pauses = [each.longest_pause for each in figures.recreates]
    gaps = [each.gap for each in figures.recreates]
    return [
        bar_table("What the gate promises", promised),
        (
            "Handoffs behind a gate",
            [
                "mode",
                "messages, a second",
                "longest pause: median, longest",
                "generator's longest stall",
                "pushes that came twice",
            ],
            [
                [
                    mode,
                    f"{row.sent:,}, {row.acknowledged_per_second:g}",
                    f"{1000 * median(each.longest_pause for each in row.handoffs):.0f} ms, {1000 * row.longest_pause:.0f} ms",
                    f"{1000 * row.generator_stall:.0f} ms",
                    f"{row.pushes_repeated:,} of {row.pushes:,}",
                ]
                for mode, row in rows
            ],
        ),
        (
            "Forced downgrades and upgrades behind a gate",
            ["changes", "longest answer: median, longest", "without an agent: median, longest"],
            [
                [
                    str(len(pauses)),
                    f"{median(pauses):.2f} s, {max(pauses):.2f} s",
                    f"{median(gaps):.2f} s, {max(gaps):.2f} s",
                ]
            ],
        ),
    ]


def main() -> int:
    """Measure, show, write; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.handoffs.behind_gate",
        description="Measure, on real nodes, what devices notice of rollouts behind a gate.",
    )
    parser.add_argument("--handoffs", type=int, default=100, help="handoffs in each mode (100)")
    parser.add_argument("--recreates", type=int, default=20, help="forced downgrades, each followed by an upgrade (20)")
    parser.add_argument("--output", type=Path, default=OUT, help="folder for the figures (build/bench)")
    options = parser.parse_args()
    if (reason := missing()) is not None:
        say(f"The bench needs real nodes, and this machine cannot run them: {reason}.")
        return 1
    figures, here, versions = measure(handoffs=options.handoffs, recreates=options.recreates)
    promised = bars(figures)
    return publish(NAME, figures, promised, summary(figures, promised), (here, versions), options.output)


if __name__ == "__main__":
    sys.exit(main())
