"""One run: a clinic with an agent behind a gate, traffic, a plan that is carried out, and the end. Tests and `__main__` call it."""

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
"""Quick, so that much can happen, and a change that fails is taken back within the run."""
LOOK_SECONDS: Final = 1.0
MOST_SPENT: Final = 40
QUIET_SECONDS: Final = 3.0


@dataclass
class Run:
    """What a run found, and what it is made of."""

    figures: Figures
    journal: list[dict[str, Any]]
    """What happened when, in seconds since the traffic began to flow."""
    traffic: str
    """Its report as a table."""
    series: dict[str, Any]
    """The traffic over time."""
    operator: str
    """Every operator's log."""
    lives: list[str]


def run(cluster: Cluster, lives: LifeRecorder, plan: Plan) -> Run:
    """Carry a plan out on a cluster with nodes of ours and the operator in it; every node is in use when it ends or fails."""
    with _clinic(cluster, lives) as clinic:
        clinic.open()
        clinic.install(plan.first, gate={"enabled": True}, handoff=HANDOFF)
        clinic.wait_for_the_gate()
        traffic = DetachedTraffic(clinic)
        traffic.start()
        chaos = _Chaos(clinic, plan)
        try:
            chaos.wreak()
            took = chaos.converge()
        finally:
            chaos.acts.end_drain()
        report = traffic.stop()
        return chaos.found(report, took, traffic)


@contextmanager
def _clinic(cluster: Cluster, lives: LifeRecorder) -> Iterator[Clinic]:
    # The API's own word on what ran is not asked for: its watches end with the API server.
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
    _spent: int = 0

    def __post_init__(self) -> None:
        self.acts = Acts(self.clinic)
        self.log = OperatorLog(self.clinic.cluster.machines)
        self.clinic.kubectl("label", "pod", "devices", "app=devices")  # so that drains leave it alone

    def wreak(self) -> None:
        """Everything that is planned, each at its time or as soon after it as what came before is done."""
        for event in self.plan.events:
            self._pass_time(event.at)
            if event.kind in {Kind.KILL_OPERATOR, Kind.DELETE_OPERATOR, Kind.DRAIN}:
                self.log.read()
            done = self.acts.carry_out(event)
            self._note(" ".join(filter(None, (event.kind, event.version, "" if done else "(nothing to do)"))))
        self._pass_time(self.plan.seconds)

    def converge(self) -> float | None:
        """Make everything fine again, ask for the last version; returns how long it took, None where it did not come about."""
        self._note(f"the end: all is well again, and {self.plan.last} is asked for")
        began = time.monotonic()
        self.acts.end_drain()
        self.acts.ask_for(
            self.plan.last,
            paused=False,
            server={"credentialsSecretRef": {"name": AGENT}},
            # Another spec than any before: one that has failed is not tried again by itself.
            podTemplate={"annotations": {"chaos.test/number": "the end"}},
            # On a busy machine a pod may take longer than a change may in the chaos; it would fail, and go back, as it should.
            handoff={"progressDeadlineSeconds": int(CONVERGE_SECONDS)},
        )
        while time.monotonic() < began + CONVERGE_SECONDS:
            if self._look() == ("Running", self.plan.last):
                took = time.monotonic() - began
                time.sleep(QUIET_SECONDS)
                return round(took, 1)
            time.sleep(LOOK_SECONDS)
        self._note(f"no end: {self.clinic.status()}")
        return None

    def found(self, report: dict[str, Any], took: float | None, traffic: DetachedTraffic) -> Run:
        """Everything together."""
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
            unsure=tuple(recorder.faults if recorder else ["nobody listened to the container runtime"]),
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
            time.sleep(min(left, LOOK_SECONDS))
            if left > LOOK_SECONDS:
                self._look()
                if self._spent >= MOST_SPENT:
                    self.acts.take_approval_off()

    def _look(self) -> tuple[str, str] | None:
        """Phase and active version, where status tells of the current spec; what history tells is kept."""
        try:
            agent = self.clinic.agent()
        except KubectlError:  # the API server is away
            return None
        status = agent.get("status", {})
        self.rollouts.see(status.get("history", ()))
        self._spent = len(status.get("spentApprovals", ()))
        if status.get("observedGeneration") != agent["metadata"]["generation"]:
            return None
        return status.get("phase", ""), status.get("activeVersion", "")

    def _note(self, what: str) -> None:
        at = round(time.monotonic() - self._began, 1)
        self.journal.append({"at": at, "what": what})
        say(f"{at:7.1f} s  {what}")
