"""The figures, computed from calls: values in, values out. `phases` fills them, `report` shows them.

`Figures` is also the shape of results.json; a field that is renamed here is renamed there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from tests.tools.bench.audit import Call, count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LATENCY_BAR_MS: Final = 50.0
STATUS_BAR: Final = 3
MEMORY_BAR_MIB: Final = 100.0


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure is spread over its samples."""

    samples: int
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Percentiles by nearest rank, so each percentile is a measured value.

        >>> Spread.of([10.0, 30.0, 20.0, 40.0])
        Spread(samples=4, p50=20.0, p90=40.0, p99=40.0, max=40.0)
        """
        ranked = sorted(values)
        if not ranked:
            raise ValueError("nothing was measured")

        def rank(share: float) -> float:
            return round(ranked[max(0, math.ceil(share * len(ranked)) - 1)], 2)

        return cls(len(ranked), rank(0.5), rank(0.9), rank(0.99), rank(1.0))


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from one write to the write that it causes.

    Attributes:
        received: until the API server received the following write: what the controller and the watch took.
        written: until that write was answered: the API server's own work included.
    """

    received: Spread
    written: Spread


@dataclass(frozen=True, slots=True)
class AgentWrites:
    """The operator's writes about one agent. `refused` writes (mostly conflicts, code 409) changed nothing."""

    deployment: int
    revisions: int
    status: int
    events: int
    other: int
    refused: int

    @classmethod
    def of(cls, calls: Iterable[Call], agent: str) -> Self:
        """Count them."""
        own = [call for call in calls if call.by_operator and call.writes and call.is_about(agent)]
        done = [call.what.partition(" ")[2] for call in own if call.accepted]
        known = {
            kind: done.count(kind) for kind in ("deployments", "controllerrevisions", "medplumagents/status", "events")
        }
        return cls(
            deployment=known["deployments"],
            revisions=known["controllerrevisions"],
            status=known["medplumagents/status"],
            events=known["events"],
            other=len(done) - sum(known.values()),
            refused=len(own) - len(done),
        )


@dataclass(frozen=True, slots=True)
class Writes:
    """The writes of a change, over several agents: the maximum of each kind for any agent, and means."""

    changes: int
    most: AgentWrites
    mean_status: float
    mean_events: float
    reads_per_change: float
    reads: Mapping[str, int]
    refused: Mapping[str, int]

    @classmethod
    def of(cls, calls: Sequence[Call], agents: Sequence[str]) -> Self:
        """Count the writes for each agent, and the reads for all (a LIST names no agent)."""
        each = [AgentWrites.of(calls, agent) for agent in agents]
        own = [call for call in calls if call.by_operator]
        reads = [call for call in own if not call.writes]
        return cls(
            changes=len(agents),
            most=AgentWrites(
                deployment=max(one.deployment for one in each),
                revisions=max(one.revisions for one in each),
                status=max(one.status for one in each),
                events=max(one.events for one in each),
                other=max(one.other for one in each),
                refused=max(one.refused for one in each),
            ),
            mean_status=round(sum(one.status for one in each) / len(each), 2),
            mean_events=round(sum(one.events for one in each) / len(each), 2),
            reads_per_change=round(len(reads) / len(agents), 2),
            reads=count(reads),
            refused=count(call for call in own if call.writes and not call.accepted),
        )

    @property
    def within_bar(self) -> bool:
        """One Deployment write with its revision, at most three status writes, and apart from these only Events. A conflict costs two more of the revision."""
        return self.most.deployment == 1 and self.most.status <= STATUS_BAR and self.most.other == 0


@dataclass(frozen=True, slots=True)
class Install:
    """Creating every agent at once."""

    seconds_until_all_run: float
    writes: Writes


@dataclass(frozen=True, slots=True)
class Idle:
    """Version changes, one at a time, on an idle fleet."""

    change_to_deployment_ms: Latency
    deployment_to_replicaset_ms: Latency
    """The Deployment controller's figure in the same run: the cost of such a step on this machine."""
    p90_of_deployment_controller: float
    """The operator's p90 as a multiple of the Deployment controller's."""
    waited_for_a_core_ms: float
    """For each change until it settled: how long the operator waited for a core."""
    cpu_ms: float
    """For each change until it settled: CPU time of the operator."""
    writes: Writes


@dataclass(frozen=True, slots=True)
class Downgrade:
    """One forced downgrade below 4.2.4, and the upgrade back: both are Recreates."""

    down: AgentWrites
    up: AgentWrites
    """Two Deployment writes by design: at the end the strategy becomes rolling again, for the next restart."""


@dataclass(frozen=True, slots=True)
class Converged:
    """The operator while nothing changes."""

    seconds: float
    writes: Mapping[str, int]
    reads: Mapping[str, int]
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Process:
    """The memory of the operator's process."""

    start_mib: float
    converged_mib: float
    """With every agent installed and converged."""
    end_mib: float
    """After the burst."""
    peak_mib: float
    """The peak since the start (VmHWM)."""
    restarted_peak_mib: float
    """The peak of the second process, which started with every agent present."""
    cpu_seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Burst:
    """Every agent changed at the same time."""

    changes_per_second: float
    """The rate at which the bench wrote them."""
    change_to_deployment_ms: Latency
    seconds_until_last_deployment: float
    seconds_until_all_run: float
    writes: Writes


@dataclass(frozen=True, slots=True)
class Figures:
    """All results of a run."""

    install: Install
    idle: Idle
    downgrade: Downgrade
    converged: Converged
    restart: Converged
    burst: Burst
    process: Process


@dataclass(frozen=True, slots=True)
class Bar:
    """One target, and whether the run met it."""

    promise: str
    bar: str
    measured: str
    kept: bool


def bars(figures: Figures) -> tuple[Bar, ...]:
    """Compare the figures with the operator's targets."""
    p90 = figures.idle.change_to_deployment_ms.written.p90
    peak = max(figures.process.peak_mib, figures.process.restarted_peak_mib)
    return (
        Bar(
            "change of a MedplumAgent → Deployment written, idle, p90",
            f"< {LATENCY_BAR_MS:.0f} ms",
            f"{p90:.1f} ms",
            p90 < LATENCY_BAR_MS,
        ),
        _writes_bar("writes for a version change, one at a time", figures.idle.writes),
        _writes_bar("writes for a version change, all at once", figures.burst.writes),
        _quiet_bar(f"writes when converged, {figures.converged.seconds:.0f} s", figures.converged),
        _quiet_bar("writes when converged, over a restart", figures.restart),
        Bar(
            "operator process, peak resident memory",
            f"< {MEMORY_BAR_MIB:.0f} MiB",
            f"{peak:.1f} MiB",
            peak < MEMORY_BAR_MIB,
        ),
    )


def _writes_bar(promise: str, writes: Writes) -> Bar:
    most = writes.most
    measured = f"{most.deployment} Deployment, {most.revisions} revision, {most.status} status, {most.other} other (most of {writes.changes})"
    return Bar(promise, f"1 Deployment and its revision, ≤ {STATUS_BAR} status", measured, writes.within_bar)


def _quiet_bar(promise: str, quiet: Converged) -> Bar:
    written = sum(quiet.writes.values())
    return Bar(promise, "0", str(written), written == 0)
