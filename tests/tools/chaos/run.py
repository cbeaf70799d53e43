"""One run: a clinic with an agent behind a gate, traffic, the events of a plan, and convergence. Called by tests and `__main__`."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.support.cluster import KubectlError
from tests.support.cluster.progress import say
from tests.support.real_nodes.clinic import AGENT, Clinic
from tests.support.real_nodes.lives import violations
from tests.support.recorder import ZERO_DOWNTIME, Recorder, release
from tests.tools.chaos.acts import Acts
from tests.tools.chaos.figures import CONVERGE_SECONDS, Figures, Rollouts, taken_over
from tests.tools.chaos.operator_log import OperatorLog
from tests.tools.chaos.plan import Kind
from tests.tools.chaos.traffic import DetachedTraffic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cluster import Cluster
    from tests.support.real_nodes.lives import LifeRecorder
    from tests.tools.chaos.plan import Plan

HANDOFF: Final = {"minReadySeconds": 1, "drainSeconds": 2, "progressDeadlineSeconds": 25}
"""Short times, so that many rollouts fit into a run and a failed one is rolled back within it."""
OBSERVE_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 3.0


@dataclass
class Run:
    """The results of a run, with its raw data."""

    figures: Figures
    journal: list[dict[str, Any]]
    """Each event with its time, in seconds since traffic began."""
    traffic: str
    """Its report as a table."""
    series: dict[str, Any]
    """The traffic over time."""
    operator: str
    """Every operator's log."""
    lives: list[str]


def run(cluster: Cluster, lives: LifeRecorder, plan: Plan) -> Run:
    """Carry out a plan on our own nodes with the operator installed. Uncordon every node at the end, even after a failure."""
    with _clinic(cluster, lives) as clinic:
        clinic.open()
        clinic.install(plan.first, gate={"enabled": True}, handoff=HANDOFF)
        clinic.wait_for_the_gate()
        traffic = DetachedTraffic(clinic)
        traffic.start()
        chaos = _Chaos(clinic, plan)
        try:
            chaos.inject()
            took = chaos.converge()
        finally:
            chaos.acts.end_drain()
        report = traffic.stop()
        return chaos.found(report, took, traffic)


@contextmanager
def _clinic(cluster: Cluster, lives: LifeRecorder) -> Iterator[Clinic]:
    # The API recorder is not started: its watches end with the API server.
    with cluster.namespace("clinic") as namespace:
        cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        clinic = Clinic(cluster, namespace, cluster.folder, Recorder(), lives_recorder=lives)
        yield clinic


@dataclass
class _Chaos:
    clinic: Clinic
    plan: Plan
    rollouts: Rollouts = field(default_factory=Rollouts)
    journal: list[dict[str, Any]] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.acts = Acts(self.clinic)
        self.log = OperatorLog(self.clinic.cluster.machines)
        self.clinic.kubectl("label", "pod", "devices", "app=devices")  # so that drains leave it alone

    def inject(self) -> None:
        """Carry out all events, each at its time or as soon as the event before it is done."""
        for event in self.plan.events:
            self._pass_time(event.at)
            if event.kind in {Kind.KILL_OPERATOR, Kind.DELETE_OPERATOR, Kind.DRAIN}:
                self.log.read()
            done = self.acts.carry_out(event)
            self._note(" ".join(filter(None, (event.kind, event.version, "" if done else "(nothing to do)"))))
        self._pass_time(self.plan.seconds)

    def converge(self) -> float | None:
        """Undo all faults and set the last version. Return the seconds until Running, None after a timeout."""
        self._note(f"the end: all faults are undone, spec.version is {self.plan.last}")
        began = time.monotonic()
        self.acts.end_drain()
        self.acts.ask_for(
            self.plan.last,
            paused=False,
            server={"credentialsSecretRef": {"name": AGENT}},
            # A new spec: a failed one is not retried automatically.
            podTemplate={"annotations": {"chaos.test/number": "the end"}},
            # On a busy machine a pod may take longer than the deadline of the chaos, and the rollout would fail.
            handoff={"progressDeadlineSeconds": int(CONVERGE_SECONDS)},
        )
        while time.monotonic() < began + CONVERGE_SECONDS:
            if self._observe() == ("Running", self.plan.last):
                took = time.monotonic() - began
                time.sleep(QUIET_SECONDS)
                return round(took, 1)
            time.sleep(OBSERVE_SECONDS)
        self._note(f"not converged: {self.clinic.status()}")
        return None

    def found(self, report: dict[str, Any], took: float | None, traffic: DetachedTraffic) -> Run:
        """Collect the results."""
        clinic, recorder = self.clinic, self.clinic.lives_recorder
        self.log.read()
        lives = clinic.lives
        figures = Figures(
            seed=self.plan.seed,
            minutes=round(self.plan.seconds / 60, 2),
            events={kind.value: self.acts.counts[kind] for kind in Kind if kind in self.acts.counts},
            rollouts=self.rollouts.outcomes(),
            messages=taken_over(report["overall"]),
            pushes=taken_over(report["shapes"]["push"]),
            lives=len(lives),
            old_lives=sum(release(life.version) < ZERO_DOWNTIME for life in lives),
            together=tuple(violations(lives)),
            unsure=tuple(recorder.faults if recorder else ["no recorder listened to the container runtime"]),
            unapproved=self.rollouts.unapproved(),
            bugs=self.log.bugs,
            drains_finished=self.acts.drains_finished,
            last=self.plan.last,
            converged_seconds=took,
        )
        return Run(
            figures, self.journal, traffic.text(), traffic.series(), self.log.text, [str(life) for life in lives]
        )

    def _pass_time(self, until: float) -> None:
        while (left := self._began + until - time.monotonic()) > 0:
            time.sleep(min(left, OBSERVE_SECONDS))
            if left > OBSERVE_SECONDS:
                self._observe()

    def _observe(self) -> tuple[str, str] | None:
        """Return phase and active version if status is about the current spec. Add new entries of the history."""
        try:
            agent = self.clinic.agent()
        except KubectlError:  # the API server is away
            return None
        status = agent.get("status", {})
        self.rollouts.see(status.get("history", ()))
        if status.get("observedGeneration") != agent["metadata"]["generation"]:
            return None
        return status.get("phase", ""), status.get("activeVersion", "")

    def _note(self, what: str) -> None:
        at = round(time.monotonic() - self._began, 1)
        self.journal.append({"at": at, "what": what})
        say(f"{at:7.1f} s  {what}")
