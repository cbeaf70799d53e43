"""A gate over real sockets on loopback, in the event loop of the test."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medplum_agent_operator.gate.agent_connection import AgentConnection
from medplum_agent_operator.gate.agent_probe import AgentProbe
from medplum_agent_operator.gate.effects import Ending, Kind, Rules
from medplum_agent_operator.gate.limits import Connections
from medplum_agent_operator.gate.relay import Hl7Relay
from medplum_agent_operator.gate.routes import Life, Pod, Pods, Route
from medplum_agent_operator.gate.shared import Shared
from medplum_agent_operator.gate.stream_side import Side
from medplum_agent_operator.gate.streams import StreamRelay
from medplum_agent_operator.gate.takeovers import Takeovers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass
class Counted:
    """Counts what a relay reports."""

    counts: Counter[Kind] = field(default_factory=Counter)
    numbers: dict[Kind, list[float]] = field(default_factory=dict)
    endings: Counter[Ending] = field(default_factory=Counter)
    refusals: int = 0
    takeovers: Takeovers = field(default_factory=Takeovers)

    def note(self, kind: Kind, number: float, agent: Life | None) -> None:
        """Count an event."""
        if agent is not None:
            self.takeovers.count(agent.pod.name, kind, number)
        self.counts[kind] += 1
        self.numbers.setdefault(kind, []).append(number)

    def connection_closed(self, why: Ending) -> None:
        """Count a connection that the gate closed."""
        self.endings[why] += 1

    def connection_refused(self) -> None:
        """Count a connection that the gate refused."""
        self.refusals += 1


@dataclass
class Gate:
    """A running gate with one channel."""

    relay: Hl7Relay
    port: int
    route: Route
    counted: Counted

    def ready(self, *ports: int) -> None:
        """Make the agents on these loopback ports ready, and no others. Pod names sort by port."""
        self.route.update_pods(Pods(frozenset(Pod(f"agent-{port}", "127.0.0.1", port) for port in ports)))


@asynccontextmanager
async def gate(
    *agents: int,
    limit: int = 1000,
    limit_per_address: int = 1000,
    shared_bytes: int = 24 * 2**20,
    beside: Gate | None = None,
    **rules: float,
) -> AsyncIterator[Gate]:
    """Run a gate in front of the agents on these ports. `beside`: another channel of the same gate."""
    route, counted = Route(), Counted()
    loop = asyncio.get_running_loop()
    shared = Shared.make(
        connections=Connections(limit=limit, limit_per_address=limit_per_address),
        shared_bytes=shared_bytes,
        clock=loop.time,
        call_later=loop.call_later,
    )
    relay = Hl7Relay(
        name="adt" if beside is None else "oru",
        route=route,
        rules=Rules(**rules),  # type: ignore[arg-type]
        shared=shared if beside is None else beside.relay.shared,
        counters=counted,
    )
    port = await relay.start("127.0.0.1", 0)
    running = Gate(relay, port, route, counted)
    probe = AgentProbe(route, stays_connected=False)
    probing = asyncio.create_task(probe.run())
    running.ready(*agents)
    try:
        yield running
    finally:
        probing.cancel()
        route.update_pods(Pods())
        for device in list(relay.devices):
            if device.transport is not None:
                device.transport.abort()
        for connection in list(relay.open):
            if isinstance(connection, AgentConnection):
                connection.abandon()
        relay.close_now()
        await relay.stop()
        await asyncio.wait({probing})
        await probe.wait_closed()


@dataclass
class ByteGate:
    """A running gate with one channel of bytes."""

    relay: StreamRelay
    port: int
    counted: Counted

    def ready(self, *ports: int) -> None:
        """Make the agents on these loopback ports ready, and no others."""
        self.relay.route.update_pods(Pods(frozenset(Pod(f"agent-{port}", "127.0.0.1", port) for port in ports)))


@asynccontextmanager
async def byte_gate(*agents: int, hold_seconds: float = 20, limit: int = 100) -> AsyncIterator[ByteGate]:
    """Run a gate in front of the agents on these ports."""
    counted = Counted()
    loop = asyncio.get_running_loop()
    connections = Connections(limit=limit, limit_per_address=limit)
    shared = Shared.make(connections=connections, shared_bytes=2**20, clock=loop.time, call_later=loop.call_later)
    relay = StreamRelay(name="dicom", route=Route(), hold_seconds=hold_seconds, shared=shared, counters=counted)
    running = ByteGate(relay, await relay.start("127.0.0.1", 0), counted)
    running.ready(*agents)
    try:
        yield running
    finally:
        for side in list(relay.open):
            if isinstance(side, Side) and side.transport is not None:
                side.transport.abort()
        await relay.stop()
