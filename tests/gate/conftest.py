"""A gate over real sockets on loopback, in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medplum_agent_operator.gate.effects import Ending, Kind, Rules
from medplum_agent_operator.gate.knocking import Knocker
from medplum_agent_operator.gate.limits import Connections, tiers
from medplum_agent_operator.gate.links import Link
from medplum_agent_operator.gate.relay import Hl7Relay
from medplum_agent_operator.gate.routes import Life, Pod, Pods, Route
from medplum_agent_operator.gate.takeovers import Takeovers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass
class Counted:
    """What a relay has counted."""

    notes: Counter[Kind] = field(default_factory=Counter)
    numbers: dict[Kind, list[float]] = field(default_factory=dict)
    endings: Counter[Ending] = field(default_factory=Counter)
    refusals: int = 0
    takeovers: Takeovers = field(default_factory=Takeovers)

    def note(self, kind: Kind, number: float, agent: Life | None) -> None:
        """Something happened."""
        if agent is not None:
            self.takeovers.note(agent.pod.name, kind, number)
        self.notes[kind] += 1
        self.numbers.setdefault(kind, []).append(number)

    def ended(self, why: Ending) -> None:
        """The gate closed."""
        self.endings[why] += 1

    def refused(self) -> None:
        """The gate took no connection."""
        self.refusals += 1


@dataclass
class Gate:
    """A running gate with one channel."""

    relay: Hl7Relay
    port: int
    route: Route
    counted: Counted

    def ready(self, *ports: int) -> None:
        """Agents that are ready, by their ports on loopback; the one on the lowest port is named first."""
        self.route.pods_are(Pods(frozenset(Pod(f"agent-{port}", "127.0.0.1", port) for port in ports)))


@asynccontextmanager
async def gate(
    *agents: int, most: int = 1000, most_of_one_address: int = 1000, medium: int = 4, large: int = 1, **rules: float
) -> AsyncIterator[Gate]:
    """Run a gate in front of agents on these ports."""
    route, counted = Route(), Counted()
    relay = Hl7Relay(
        route=route,
        rules=Rules(**rules),  # type: ignore[arg-type]
        connections=Connections(most=most, most_of_one_address=most_of_one_address),
        tiers=tiers(medium=medium, large=large),
        counters=counted,
    )
    port = await relay.start("127.0.0.1", 0)
    running = Gate(relay, port, route, counted)
    knocker = Knocker(route, stays=False)
    knocking = asyncio.create_task(knocker.run())
    running.ready(*agents)
    try:
        yield running
    finally:
        knocking.cancel()
        route.pods_are(Pods())
        for device in list(relay.devices):
            if device.transport is not None:
                device.transport.abort()
        for link in list(relay.open):
            if isinstance(link, Link):
                link.abandon()
        await relay.stop()
        await asyncio.wait({knocking})
        await knocker.left()
