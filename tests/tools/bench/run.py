"""One run from an empty cluster to figures. Called by `__main__` and by the smoke test."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.cluster import local_cluster
from tests.support.cluster.progress import Steps
from tests.support.operator_process import OperatorProcess, install, running_operator
from tests.support.world import GATE_IMAGE
from tests.tools.bench import machine
from tests.tools.bench.figures import Bar, Figures, Process, bars
from tests.tools.bench.fleet import Fleet
from tests.tools.bench.phases import GATE_SECONDS, RESYNC_SECONDS, Phases

if TYPE_CHECKING:
    from collections.abc import Callable

OUT: Final = Path("build") / "bench"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run.

    Attributes:
        agents: how many MedplumAgents there are.
        changes: how many of them are changed one by one.
        spacing: seconds between two of those changes.
        seconds: for how long a converged operator is watched.
        gates: whether each agent has a gate, as by default.
        out: the folder for results and the operator's logs.
    """

    agents: int = 100
    changes: int = 30
    spacing: float = 3.0
    seconds: float = 60.0
    gates: bool = False
    out: Path = OUT


@dataclass(frozen=True, slots=True)
class Results:
    """The content of results.json: the figures, and the machine and versions behind them."""

    date: str
    agents: int
    changes: int
    spacing: float
    seconds: float
    gates: bool
    machine: machine.Machine
    versions: dict[str, str]
    figures: Figures
    bars: tuple[Bar, ...]


def run(options: Options) -> Results:
    """Start a cluster and the operator, run every phase, and stop both."""
    here = machine.look_at_machine()
    options.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        cluster = stack.enter_context(local_cluster())
        install(cluster)
        versions = machine.versions(cluster)
        namespace = stack.enter_context(cluster.namespace("bench"))
        fleet = stack.enter_context(Fleet.connect(cluster, namespace, options.agents, gates=options.gates))

        def start(name: str, *arguments: str) -> OperatorProcess:
            log = options.out / name
            log.unlink(missing_ok=True)
            gates = ("--gate-image", GATE_IMAGE) if options.gates else ()
            return stack.enter_context(running_operator(cluster, log, *gates, *arguments))

        phases = Phases(cluster, fleet, start("operator.log"), _steps(options), gates=options.gates)
        figures = _measure(
            phases, options, lambda: start("operator-restarted.log", "--resync-seconds", str(RESYNC_SECONDS))
        )
        return Results(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            agents=options.agents,
            changes=options.changes,
            spacing=options.spacing,
            seconds=options.seconds,
            gates=options.gates,
            machine=here,
            versions=versions,
            figures=figures,
            bars=bars(figures),
        )


def _measure(phases: Phases, options: Options, start_again: Callable[[], OperatorProcess]) -> Figures:
    pid = phases.operator.process.pid
    start = machine.memory_mib(pid)
    cpu = {"start": machine.cpu_seconds(pid)}

    def spent() -> float:
        return round(machine.cpu_seconds(pid) - sum(cpu.values()), 2)

    installed = phases.install()
    converged = machine.memory_mib(pid)
    cpu["install"] = spent()
    idle = phases.idle(options.changes, spacing=options.spacing)
    cpu["single changes"] = spent()
    downgrade = phases.downgrade()
    cpu["forced downgrade and back"] = spent()
    quiet = phases.converged(options.seconds)
    cpu["converged"] = spent()
    burst = phases.burst()
    cpu["all at once"] = spent()
    end = machine.memory_mib(pid)
    restart = phases.restart(start_again)
    return Figures(
        install=installed,
        idle=idle,
        downgrade=downgrade,
        converged=quiet,
        restart=restart,
        burst=burst,
        process=Process(
            start_mib=start["VmRSS"],
            converged_mib=converged["VmRSS"],
            end_mib=end["VmRSS"],
            peak_mib=end["VmHWM"],
            restarted_peak_mib=machine.memory_mib(phases.operator.process.pid)["VmHWM"],
            cpu_seconds=cpu,
        ),
    )


def _steps(options: Options) -> Steps:
    return Steps(
        {
            "install": 8 + options.agents * 0.12,
            "single changes": 6 + options.changes * options.spacing,
            "forced downgrade and back": 10,
            "converged": options.seconds,
            "all at once": 8 + options.agents * 0.12,
            "restart": 12 + options.gates * GATE_SECONDS,
        }
    )
