"""The phases of a run, one after the other on one cluster, with the figures of each.

Called by `run`. Every phase ends settled and quiet, so that no call of one is counted in the next. Times are the API server's
(`requestReceivedTimestamp`, `stageTimestamp`); the bench's own clock only separates the phases.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from tests.tools.bench import machine
from tests.tools.bench.audit import Call, calls, count
from tests.tools.bench.figures import AgentWrites, Burst, Converged, Downgrade, Idle, Install, Latency, Spread, Writes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.cluster import Cluster
    from tests.support.cluster.progress import Steps
    from tests.support.operator_process import OperatorProcess
    from tests.tools.bench.fleet import Fleet

FIRST: Final = "5.1.14"
SECOND: Final = "5.1.15"
THIRD: Final = "5.1.16"
BEFORE_HANDOFF: Final = "4.2.3"
"""Older than 4.2.4: such an agent cannot run beside another agent."""

QUIET_SECONDS: Final = 3.0
GATE_SECONDS: Final = 12.0
"""How much longer a phase is quiet behind gates: the operator asks them every ten seconds, and may write what they report."""
PATIENCE_SECONDS: Final = 300.0
RESYNC_SECONDS: Final = 5
"""The shortest interval that the operator accepts: the restart phase lasts until the first resync."""


@dataclass(slots=True)
class Phases:
    """Cluster, fleet, operator and options, for all phases."""

    cluster: Cluster
    fleet: Fleet
    operator: OperatorProcess
    steps: Steps
    gates: bool = False

    def install(self) -> Install:
        """Create every agent."""
        with self._step("install"), self._watched() as seen:
            self.fleet.create(FIRST)
            self._settle()
        made = [call for call in seen if call.by_bench and call.what == "create medplumagents"]
        return Install(
            seconds_until_all_run=_seconds(made[0].received, _last(seen, "patch medplumagents/status").answered),
            writes=Writes.of(seen, self.fleet.names),
        )

    def idle(self, changes: int, *, spacing: float) -> Idle:
        """Change single agents, one after the other."""
        changed, pid = self.fleet.names[:changes], self.operator.process.pid
        waited, cpu = machine.waited_seconds(pid), machine.cpu_seconds(pid)
        with self._step("single changes"), self._watched() as seen:
            for name in changed:
                self.fleet.change(name, SECOND)
                self._wait(spacing)
            self._settle()
        waited, cpu = machine.waited_seconds(pid) - waited, machine.cpu_seconds(pid) - cpu
        handoffs = [Handoff.of(seen, name) for name in changed]
        ours = _latency([(one.change, one.deployment) for one in handoffs])
        theirs = _latency([(one.deployment, one.replicaset) for one in handoffs])
        return Idle(
            change_to_deployment_ms=ours,
            deployment_to_replicaset_ms=theirs,
            p90_of_deployment_controller=round(ours.written.p90 / theirs.written.p90, 2),
            waited_for_a_core_ms=round(waited / changes * 1000, 1),
            cpu_ms=round(cpu / changes * 1000, 1),
            writes=Writes.of(seen, changed),
        )

    def downgrade(self) -> Downgrade:
        """Force one agent below 4.2.4, and upgrade it again."""
        name = self.fleet.names[-1]
        with self._step("forced downgrade and back"):
            with self._watched() as down:
                self.fleet.change(name, BEFORE_HANDOFF, approval=f"{BEFORE_HANDOFF} bench")
                self._settle()
            with self._watched() as up:
                self.fleet.change(name, SECOND)
                self._settle()
        return Downgrade(down=AgentWrites.of(down, name), up=AgentWrites.of(up, name))

    def converged(self, seconds: float) -> Converged:
        """Watch a converged fleet."""
        before = machine.cpu_seconds(self.operator.process.pid)
        with self._step("converged"), self._watched() as seen:
            self._wait(seconds)
        return _converged(seen, seconds, machine.cpu_seconds(self.operator.process.pid) - before)

    def burst(self) -> Burst:
        """Change every agent at once."""
        with self._step("all at once"), self._watched() as seen:
            self.fleet.change_all(THIRD)
            self._settle()
        handoffs = [Handoff.of(seen, name) for name in self.fleet.names]
        begun = min(one.change.received for one in handoffs)
        writing = _seconds(begun, max(one.change.answered for one in handoffs))
        return Burst(
            changes_per_second=round(len(handoffs) / writing, 1),
            change_to_deployment_ms=_latency([(one.change, one.deployment) for one in handoffs]),
            seconds_until_last_deployment=_seconds(begun, max(one.deployment.answered for one in handoffs)),
            seconds_until_all_run=_seconds(begun, _last(seen, "patch medplumagents/status").answered),
            writes=Writes.of(seen, self.fleet.names),
        )

    def restart(self, start: Callable[[], OperatorProcess]) -> Converged:
        """Restart the operator: it reads every object, at the start and at its first resync."""
        begun = time.monotonic()
        with self._step("restart"), self._watched() as seen:
            self.operator.stop()
            self.operator = start()
            self._wait(RESYNC_SECONDS + self._quiet_seconds)
        looks = sum(call.by_operator and call.what == "list medplumagents" for call in seen)
        if looks < 3:  # at start, by Kopf, by the resync
            raise TimeoutError(
                f"the restarted operator has listed its agents {looks} times, and the resync was waited for"
            )
        return _converged(seen, time.monotonic() - begun, machine.cpu_seconds(self.operator.process.pid))

    def _settle(self) -> None:
        """Wait until all agents are settled and the operator has written nothing for a while.

        Raises:
            TimeoutError: when it does not stop writing.
        """
        self.fleet.wait_until_settled(seconds=PATIENCE_SECONDS, tick=self.steps.tick)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            since = datetime.now(UTC)
            self._wait(self._quiet_seconds)
            late = [call for call in calls(self.cluster, since) if call.by_operator and call.writes]
            if not late:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"all agents are settled, but the operator keeps writing: {count(late)}")

    @property
    def _quiet_seconds(self) -> float:
        return QUIET_SECONDS + self.gates * GATE_SECONDS

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            self.steps.tick()

    @contextmanager
    def _watched(self) -> Iterator[list[Call]]:
        """Yield a list that contains, after the block, every call received during it."""
        seen: list[Call] = []
        since = datetime.now(UTC)
        yield seen
        until = datetime.now(UTC)
        seen.extend(call for call in calls(self.cluster, since) if call.received <= until)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.steps.begin(name)
        yield
        self.steps.end()


@dataclass(frozen=True, slots=True)
class Handoff:
    """Three writes, each caused by the one before: by the bench, the operator, the Deployment controller."""

    change: Call
    deployment: Call
    replicaset: Call

    @classmethod
    def of(cls, seen: Sequence[Call], agent: str) -> Handoff:
        """Find an agent's.

        Raises:
            LookupError: when one of them is not there.
        """
        change = _first(
            seen,
            f"change of {agent}",
            lambda call: call.by_bench and call.what == "patch medplumagents" and call.name == agent,
        )
        deployment = _first(
            seen,
            f"Deployment of {agent}",
            lambda call: (
                call.by_operator
                and call.what == "patch deployments"
                and call.name == agent
                and call.received >= change.received
            ),
        )
        replicaset = _first(
            seen,
            f"ReplicaSet of {agent}",
            lambda call: (
                call.by_deployment_controller
                and call.writes
                and call.resource == "replicasets"
                and call.name.startswith(f"{agent}-")
                and call.received >= deployment.received
            ),
        )
        return cls(change, deployment, replicaset)


def _first(seen: Sequence[Call], what: str, fits: Callable[[Call], bool]) -> Call:
    found = next((call for call in seen if call.accepted and fits(call)), None)
    if found is None:
        raise LookupError(f"{what}: the audit log has no such write")
    return found


def _last(seen: Sequence[Call], what: str) -> Call:
    """Return the operator's last accepted call of that kind."""
    return [call for call in seen if call.by_operator and call.accepted and call.what == what][-1]


def _latency(steps: Sequence[tuple[Call, Call]]) -> Latency:
    return Latency(
        received=Spread.of(_milliseconds(first.answered, second.received) for first, second in steps),
        written=Spread.of(_milliseconds(first.answered, second.answered) for first, second in steps),
    )


def _converged(seen: Sequence[Call], seconds: float, cpu: float) -> Converged:
    own = [call for call in seen if call.by_operator]
    return Converged(
        seconds=round(seconds, 1),
        writes=count(call for call in own if call.writes),
        reads=count(call for call in own if not call.writes),
        cpu_seconds=round(cpu, 2),
    )


def _milliseconds(first: datetime, second: datetime) -> float:
    return (second - first) / timedelta(milliseconds=1)


def _seconds(first: datetime, second: datetime) -> float:
    return round((second - first).total_seconds(), 2)
