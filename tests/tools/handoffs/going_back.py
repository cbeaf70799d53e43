"""`make bench-rollback`: how soon what was active serves again after a change that failed, on real nodes; rollback.json and .md. Exit code 1 for a miss."""

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
"""They wait out that deadline, and so does a gate."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that a run found. Seconds.

    Attributes:
        plain: how long recreates took that went well, by the version that they led to: from the old pod being told to go until a watch told
            that the new one is ready.
        back: how long it took to come back from recreates that failed, by the version that came back: from a watch telling that the
            Deployment controller waits no longer for the new agent until one telling that the pod which came back is ready.
        noticed: what devices noticed of all that, by its name.
        handoffs: handoffs that failed.
        handoffs_noticed: what devices noticed of these, a slow answer included.
        restarts: of the agent that served on while handoffs failed, or another pod in its place.
        agents_seen: lives of agents.
        violations: of these, what must never be.
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
        """How much longer the way back took than a plain recreate to the same version: the medians of both."""
        return median(self.back[version]) / median(self.plain[version])


class Stopwatch:
    """Times one change by what a watch tells of its pods."""

    def __init__(self, times: PodTimes) -> None:
        self._times = times
        self._before = self._known()

    def _known(self) -> set[str]:
        return {*self._times.ready, *self._times.terminating}

    def plain(self) -> float:
        """From the old pod's end to the new one's beginning."""
        [new] = set(self._times.ready) - self._before
        [old] = [name for name in self._times.terminating if name != new and name in self._before]
        return round(self._times.ready[new] - self._times.terminating[old], 3)

    def back(self, *, since: float) -> float:
        """From the moment when the failure is certain to the new beginning of what was active."""
        [new] = set(self._times.ready) - self._before
        return round(self._times.ready[new] - since, 3)


def recreates(
    clinic: Clinic, rounds: int, *, done: Callable[[], None]
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, int]]:
    """By turns: a forced downgrade that fails, one that does not, an upgrade that fails, one that does not; all under one run of traffic."""
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
                    clinic.wait(lambda: len(times.ready) == 2, "a watch tells of it")
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
    """An agent that connects to the server and opens no port, ever: it fails when its deadline has passed.

    `number` makes its pod template another one: of one that has been there before no watch tells that it is given up
    (Observed.overdue_at).
    """
    switches = {"never_ready": True, "exit_after_ms": 3_600_000 + number}
    return ["/srv/medplum-agent", "--switches", json.dumps(switches)]


def wait_for_the_watch(clinic: Clinic, times: PodTimes) -> None:
    """Until it has told of the pod that is there."""
    clinic.wait(lambda: len(clinic.pods()) == len(times.ready) == 1, "the watch tells of the one pod that there is", 60)


def handoffs(clinic: Clinic, rounds: int, *, done: Callable[[], None]) -> tuple[dict[str, int], int]:
    """Handoffs that fail, one after the other; what devices noticed, and how often the agent that serves was another one."""
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
    """Hold the figures against what is promised of a change that fails."""
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
        Bar("restarts of the agent that served on", "0", str(figures.restarts), figures.restarts == 0),
        Bar(
            f"two agents at once where one is before 4.2.4, {figures.agents_seen} lives",
            "0",
            str(len(figures.violations)),
            not figures.violations,
        ),
    )


def measure(*, rounds: int) -> tuple[Figures, machine.Machine, dict[str, str]]:
    """Two nodes, the operator, and each phase in a clinic of its own."""
    archives()  # what has to be built is not the machine's usual load
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
    """Tables: the bars, the times."""
    return [
        bar_table("What is promised of a change that fails", promised),
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
    """Measure, show, write. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.handoffs.going_back", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="each of four recreates and a handoff (10)")
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
