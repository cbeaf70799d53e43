"""One run from an empty machine to figures and a picture. Called by `__main__`."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.support.cluster.progress import Steps
from tests.support.real_nodes.clinic import HL7_PORT, Clinic
from tests.support.real_nodes.lives import violations
from tests.support.real_nodes.nodes import archives, nodes_with_operator
from tests.support.recorder import recording
from tests.tools.bench import machine
from tests.tools.handoffs.downgrades import downgrade
from tests.tools.handoffs.figures import Figures, OperatorStart, bars
from tests.tools.handoffs.operator_start import layers_mb, start_seconds
from tests.tools.handoffs.pictures import panels
from tests.tools.handoffs.row import drain, hand_over

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cluster import Cluster
    from tests.support.real_nodes.lives import LifeRecorder
    from tests.support.traffic.picture import Panel
    from tests.tools.bench.figures import Bar

OUT: Final = Path("build") / "bench"
BLOB_SECONDS: Final = 2.0
"""How long the registry delays each blob, like a clinic's slow line."""
OPERATOR_STARTS: Final = 3
ENHANCED: Final = f"mllp://0.0.0.0:{HL7_PORT}?enhanced=true"


@dataclass(frozen=True, slots=True)
class Options:
    """The counts of a run.

    Attributes:
        handoffs: in a row, original mode.
        enhanced: the same in enhanced mode.
        downgrades: forced downgrades by the operator, and as many by a bare Deployment; then again without the image.
        drains: of the agent's node.
        output: the folder for results and picture.
    """

    handoffs: int = 100
    enhanced: int = 10
    downgrades: int = 10
    drains: int = 3
    output: Path = OUT


@dataclass(frozen=True, slots=True)
class Results:
    """The content of handoff.json: the figures, and the machine and versions behind them."""

    date: str
    machine: machine.Machine
    versions: dict[str, str]
    figures: Figures
    bars: tuple[Bar, ...]


def run(options: Options) -> tuple[Results, tuple[Panel, ...]]:
    """Start two nodes and the operator, run every phase, and stop both."""
    archives()  # what has to be built is not the machine's usual load
    here = machine.look_at_machine()
    with ExitStack() as stack:
        steps = _steps(options)
        steps.begin("cluster")
        cluster, lives = stack.enter_context(nodes_with_operator(layer_seconds=BLOB_SECONDS))
        steps.end()
        figures, drawn = _Phases(cluster, lives, options, steps).measure()
        versions = machine.versions(cluster)
    results = Results(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=here,
        versions=versions,
        figures=figures,
        bars=bars(figures),
    )
    return results, drawn


@contextmanager
def open_clinic(cluster: Cluster, lives: LifeRecorder, **settings: Any) -> Iterator[Clinic]:
    """Open a clinic in its own namespace with a running server; check what both recorders saw at the end."""
    with cluster.namespace("clinic") as namespace, recording(cluster, namespace) as recorder:
        cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        clinic = Clinic(cluster, namespace, cluster.folder, recorder, lives_recorder=lives)
        clinic.open(**settings)
        yield clinic
    if recorder.violations:
        raise AssertionError(f"as the API saw it: {recorder.violations}")
    # The next phase needs the cores.
    cluster.kubectl("wait", f"namespace/{namespace}", "--for=delete", "--timeout=90s")


@dataclass(frozen=True, slots=True)
class _Phases:
    cluster: Cluster
    lives: LifeRecorder
    options: Options
    steps: Steps

    def measure(self) -> tuple[Figures, tuple[Panel, ...]]:
        """Run every phase, each in its own clinic."""
        options = self.options
        with self._step("operator starts"):
            starts = tuple(round(start_seconds(self.cluster), 2) for _ in range(OPERATOR_STARTS))
            operator = OperatorStart(starts, layers_mb())
        with self._step("handoffs, original mode"), self._clinic() as clinic:
            original = hand_over(clinic, options.handoffs, done=self.steps.tick)
        with self._step("handoffs, enhanced mode"), self._clinic(address=ENHANCED) as clinic:
            enhanced = hand_over(clinic, options.enhanced, done=self.steps.tick)
        with self._step("node drains"), self._clinic() as clinic:
            drains = drain(clinic, options.drains, done=self.steps.tick)
        with self._step("forced downgrades"), self._clinic() as clinic:
            there = downgrade(clinic, options.downgrades, image_absent=False, done=self.steps.tick)
        with self._step("forced downgrades, image absent"), self._clinic() as clinic:
            absent = downgrade(clinic, options.downgrades, image_absent=True, done=self.steps.tick)
        with self._step("picture"):
            drawn = panels(self._clinic)
        if self.lives.faults:
            raise RuntimeError(f"the recorder missed events of the container runtime: {self.lives.faults}")
        seen = self.lives.lives
        figures = Figures(
            original=original,
            enhanced=enhanced,
            drains=drains,
            downgrades=there,
            downgrades_absent=absent,
            operator=operator,
            agents_seen=len(seen),
            violations=tuple(violations(seen)),
        )
        return figures, drawn

    @contextmanager
    def _clinic(self, **settings: Any) -> Iterator[Clinic]:
        with open_clinic(self.cluster, self.lives, **settings) as clinic:
            yield clinic

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.steps.begin(name)
        yield
        self.steps.end()


def _steps(options: Options) -> Steps:
    return Steps(
        {
            "cluster": 45,
            "operator starts": 15,
            "handoffs, original mode": 40 + options.handoffs * 11,
            "handoffs, enhanced mode": 40 + options.enhanced * 11,
            "node drains": 40 + options.drains * 15,
            "forced downgrades": 50 + options.downgrades * 28,
            "forced downgrades, image absent": 50 + options.downgrades * 38,
            "picture": 150,
        }
    )
