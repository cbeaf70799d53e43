"""`make bench-rollback`: measure, on real nodes, how soon the active version serves again after a failed rollout.

Writes rollback.json and .md. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from tests.support.cluster.node import missing
from tests.support.cluster.progress import Steps, say
from tests.support.real_nodes.behind_a_gate import broken, install_behind_a_gate
from tests.support.real_nodes.clinic import AGENT
from tests.support.real_nodes.lives import violations
from tests.support.real_nodes.nodes import archives, nodes_with_operator
from tests.tools.bench import machine
from tests.tools.bench.figures import Bar
from tests.tools.handoffs.behind_gate import HIGH, LOW, NOTICED
from tests.tools.handoffs.report import Sheet, bar_table, publish
from tests.tools.handoffs.row import SHAPES
from tests.tools.handoffs.run import OUT, open_clinic
from tests.tools.handoffs.times import watched, watched_for_its_deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.real_nodes.clinic import Clinic
    from tests.tools.handoffs.times import PodTimes

OLD: Final = "5.1.14"
RATIO_BOUND: Final = 1.2
NAME: Final = "rollback"
QUICK: Final = {"minReadySeconds": 2, "drainSeconds": 2, "progressDeadlineSeconds": 8}
PATIENT_DEVICES: Final = ("--ack-timeout", "30")
"""Devices wait until that deadline, and so does a gate."""


@dataclass(frozen=True, slots=True)
class Figures:
    """All results of a run. Seconds.

    Attributes:
        plain: duration of successful Recreates by target version: from the deletion of the old pod until a watch reported the new one ready.
        back: duration of rollbacks after failed Recreates, by the version that serves again: from the watch's report that the Deployment
            controller gave up the new agent, until the report that the restored pod is ready.
        noticed: what devices noticed of all this, by name of the figure.
        handoffs: handoffs that failed.
        handoffs_noticed: what devices noticed of these, slow answers included.
        restarts: restarts or replacements of the serving agent while handoffs failed.
        agents_seen: agent processes.
        violations: agent processes that overlapped although they must not.
    """

    plain: dict[str, list[float]]
    back: dict[str, list[float]]
    noticed: dict[str, int]
    handoffs: int
    handoffs_noticed: dict[str, int]
    restarts: int
    agents_seen: int
    violations: tuple[str, ...]

    def ratio(self, version: str) -> float:
        """Return the ratio of the rollback to a plain Recreate to the same version, as medians."""
        return median(self.back[version]) / median(self.plain[version])


class Stopwatch:
    """Times one change from the Events of a pod watch."""

    def __init__(self, times: PodTimes) -> None:
        self._times = times
        self._before = self._known()

    def _known(self) -> set[str]:
        return {*self._times.ready, *self._times.terminating}

    def plain(self) -> float:
        """Return the seconds from the deletion of the old pod until the new one is ready."""
        [new] = set(self._times.ready) - self._before
        [old] = [name for name in self._times.terminating if name != new and name in self._before]
        return round(self._times.ready[new] - self._times.terminating[old], 3)

    def back(self, *, since: float) -> float:
        """Return the seconds from the certain failure until the active version is ready again."""
        [new] = set(self._times.ready) - self._before
        return round(self._times.ready[new] - since, 3)


def recreates(
    clinic: Clinic, rounds: int, *, done: Callable[[], None]
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, int]]:
    """In turn, under one run of traffic: a forced downgrade that fails, one that succeeds, an upgrade that fails, one that succeeds."""
    install_behind_a_gate(clinic, HIGH, handoff=QUICK)
    good = clinic.agent()["spec"]["image"]
    plain: dict[str, list[float]] = {LOW: [], HIGH: []}
    back: dict[str, list[float]] = {LOW: [], HIGH: []}
    with clinic.traffic(*PATIENT_DEVICES, shapes=SHAPES) as traffic:
        for number in range(rounds):
            for here, there in ((HIGH, LOW), (LOW, HIGH)):
                with watched(clinic) as times, watched_for_its_deadline(clinic, AGENT) as given_up:
                    wait_for_the_watch(clinic, times)
                    watch = Stopwatch(times)
                    if there == LOW:
                        clinic.approve(f"{LOW} to fail {number}")
                    broken(clinic, there, image={**good, "command": never_ready(number)})
                    clinic.wait_for_phase("Failed", here, seconds=120)
                    clinic.wait(lambda: len(times.ready) == 2, "the watch reports it")
                    assert given_up.at is not None
                    back[here].append(watch.back(since=given_up.at))
                done()
                clinic.patch({"version": here, "image": good})
                clinic.wait_for_phase("Running", here)
                with watched(clinic) as times:
                    wait_for_the_watch(clinic, times)
                    watch = Stopwatch(times)
                    clinic.change(there, approval=f"{LOW} round {number}" if there == LOW else None)
                    plain[there].append(watch.plain())
                done()
        time.sleep(1)
    return plain, back, {what: traffic.report["overall"][what] for what in NOTICED}


def never_ready(number: int) -> list[str]:
    """Change to an agent that connects to the server and never opens a port: the rollout fails at its deadline.

    `number` makes the pod template a new one: the Deployment controller never gives up a template that it has seen before
    (Observed.overdue_at).
    """
    switches = {"never_ready": True, "exit_after_ms": 3_600_000 + number}
    return ["/srv/medplum-agent", "--switches", json.dumps(switches)]


def wait_for_the_watch(clinic: Clinic, times: PodTimes) -> None:
    """Wait until the watch has reported the existing pod."""
    clinic.wait(lambda: len(clinic.pods()) == len(times.ready) == 1, "the watch reports the one pod", 60)


def handoffs(clinic: Clinic, rounds: int, *, done: Callable[[], None]) -> tuple[dict[str, int], int]:
    """Run handoffs that fail. Return what devices noticed, and how often the serving agent was replaced or restarted."""
    install_behind_a_gate(clinic, OLD)
    good = clinic.agent()["spec"]["server"]
    [first] = clinic.pods()
    with clinic.traffic(shapes=SHAPES) as traffic:
        for _ in range(rounds):
            broken(clinic, HIGH)
            clinic.wait_for_phase("Failed", OLD, seconds=120)
            clinic.patch({"version": OLD, "server": good})
            clinic.wait_for_phase("Running", OLD)
            done()
        time.sleep(1)
    clinic.wait(lambda: len(clinic.pods()) == 1, "one pod of the agent")
    [last] = clinic.pods()
    restarts = sum(each["restartCount"] for each in last["status"]["containerStatuses"])
    overall = traffic.report["overall"]
    return {what: overall[what] for what in NOTICED}, restarts + (first["metadata"]["uid"] != last["metadata"]["uid"])


def bars(figures: Figures) -> tuple[Bar, ...]:
    """Compare the figures with the promises for a failed rollout."""
    found = []
    for version, other in ((HIGH, LOW), (LOW, HIGH)):
        ratio = figures.ratio(version)
        found.append(
            Bar(
                f"{version} serves again after {other} failed, against a plain recreate to {version} (medians)",
                f"≤ {RATIO_BOUND} times",
                f"{ratio:.2f} times",
                ratio <= RATIO_BOUND,
            )
        )
    count = sum(map(len, figures.back.values()))
    noticed, quiet = sum(figures.noticed.values()), sum(figures.handoffs_noticed.values())
    return (
        *found,
        Bar(
            f"lost, refused, broken, repeated, {count} recreates that failed and as many that did not",
            "0",
            str(noticed),
            noticed == 0,
        ),
        Bar(f"lost, refused, broken, repeated, {figures.handoffs} handoffs that failed", "0", str(quiet), quiet == 0),
        Bar("restarts of the serving agent", "0", str(figures.restarts), figures.restarts == 0),
        Bar(
            f"two agents at once where one is before 4.2.4, {figures.agents_seen} lives",
            "0",
            str(len(figures.violations)),
            not figures.violations,
        ),
    )


def measure(*, rounds: int) -> tuple[Figures, machine.Machine, dict[str, str]]:
    """Run each phase in its own clinic, on two nodes with the operator."""
    archives()  # built before the load is measured
    here = machine.look_at_machine()
    with ExitStack() as stack:
        steps = Steps({"cluster": 45, "recreates": 60 + rounds * 60, "handoffs": 60 + rounds * 10})
        steps.begin("cluster")
        cluster, lives = stack.enter_context(nodes_with_operator())
        steps.end()
        steps.begin("recreates")
        with open_clinic(cluster, lives) as clinic:
            plain, back, noticed = recreates(clinic, rounds, done=steps.tick)
        steps.end()
        steps.begin("handoffs")
        with open_clinic(cluster, lives) as clinic:
            quiet, restarts = handoffs(clinic, rounds, done=steps.tick)
        steps.end()
        versions = machine.versions(cluster)
    seen = lives.lives
    figures = Figures(plain, back, noticed, rounds, quiet, restarts, len(seen), tuple(violations(seen)))
    return figures, here, versions


def summary(figures: Figures, promised: Sequence[Bar]) -> list[Sheet]:
    """Return the tables: promises and times."""
    return [
        bar_table("Promises for a failed rollout", promised),
        (
            "Until an agent serves again",
            ["version", "plain recreate: median, longest", "after a failure: median, longest"],
            [
                [
                    version,
                    *(
                        f"{median(each):.2f} s, {max(each):.2f} s"
                        for each in (figures.plain[version], figures.back[version])
                    ),
                ]
                for version in (HIGH, LOW)
            ],
        ),
    ]


def main() -> int:
    """Measure, show, write; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.handoffs.going_back",
        description="Measure, on real nodes, how soon the active version serves again after a failed rollout.",
    )
    parser.add_argument("--rounds", type=int, default=10, help="rounds of four Recreates and one handoff (10)")
    parser.add_argument("--output", type=Path, default=OUT, help="folder for the figures (build/bench)")
    options = parser.parse_args()
    if (reason := missing()) is not None:
        say(f"The bench needs real nodes, and this machine cannot run them: {reason}.")
        return 1
    figures, here, versions = measure(rounds=options.rounds)
    promised = bars(figures)
    return publish(NAME, figures, promised, summary(figures, promised), (here, versions), options.output)


if __name__ == "__main__":
    sys.exit(main())
