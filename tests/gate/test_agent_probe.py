"""The probe finds an agent that opens its port before Kubernetes reports it ready."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from medplum_agent_operator.gate import agent_probe
from medplum_agent_operator.gate.agent_probe import AgentProbe
from medplum_agent_operator.gate.routes import Life, Pod, Pods, Route
from tests.support.gate.actors import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest


def free_port() -> int:
    """Return a loopback port without a listener."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def becomes(route: Route, life: Life) -> None:
    """Wait until this life is the current agent."""
    await until(lambda: route.agent == life)


@asynccontextmanager
async def probed(*ports: int, stays_connected: bool = False) -> AsyncIterator[tuple[Route, list[Pod]]]:
    """A route with pods on these ports that are not ready, and a running probe."""
    route = Route()
    pods = [Pod(f"agent-{number}", "127.0.0.1", port) for number, port in enumerate(ports)]
    route.update_pods(Pods(not_ready=frozenset(pods)))
    probe = AgentProbe(route, stays_connected=stays_connected)
    running = asyncio.create_task(probe.run())
    yield route, pods
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})
    await probe.wait_closed()


async def test_a_pod_that_opens_is_the_agent() -> None:
    """Earlier candidates that refuse do not delay it. After it was found, the probe stops."""
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        try:
            seen.append(f"{len(await reader.read())} bytes, then FIN")
        except ConnectionResetError:
            seen.append("reset")
        writer.close()

    async with probed(free_port(), free_port()) as (route, pods):
        await asyncio.sleep(0.3)
        assert None is route.agent
        server = await asyncio.start_server(serve, "127.0.0.1", pods[1].port)
        await becomes(route, Life(pods[1]))
        await asyncio.sleep(0.3)
        assert ["0 bytes, then FIN"] == seen
        server.close()


async def test_an_agent_that_stops_and_comes_back_is_another_life() -> None:
    """No device has to connect in between: the probe sees that the port refuses."""
    async with probed(free_port()) as (route, [pod]):
        for number in (1, 2):
            server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", pod.port)
            await becomes(route, Life(pod, number))
            server.close()
            await server.wait_closed()
            route.update_pods(Pods(ready=frozenset([pod])))
            route.update_pods(Pods(not_ready=frozenset([pod])))
            assert None is route.agent
            await asyncio.sleep(0.3)


class Agent:
    """An agent's port that counts its connections."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connected: set[asyncio.StreamWriter] = set()
        self.accepted = 0
        self.ends: list[str] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Open the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected.add(writer)
        self.accepted += 1
        try:
            await reader.read()
            self.ends.append("FIN")
        except ConnectionResetError:
            self.ends.append("reset")
        self.connected.discard(writer)
        writer.close()

    def die(self) -> None:
        """Close the port and all connections at once."""
        if self._server is not None:
            self._server.close()
        for writer in list(self.connected):
            writer.close()


async def test_the_current_agent_of_an_hl7_channel_has_a_connection_from_the_gate() -> None:
    """One connection, from when the probe finds the agent until the gate learns that its pod terminates."""
    async with probed(free_port(), stays_connected=True) as (route, [pod]):
        agent = Agent(pod.port)
        await agent.start()
        await becomes(route, Life(pod))
        route.update_pods(Pods(ready=frozenset([pod])))
        await until(lambda: agent.ends == ["FIN"] and len(agent.connected) == 1)
        await asyncio.sleep(0.3)
        assert 2 == agent.accepted, "one connection to find it, one that stays"
        route.update_pods(Pods())
        await until(lambda: agent.ends == ["FIN", "FIN"])
        agent.die()


async def test_the_gate_notices_without_a_device_that_the_agent_has_stopped() -> None:
    """The probe finds it again when it is back, as another life."""
    async with probed(free_port(), stays_connected=True) as (route, [pod]):
        agent = Agent(pod.port)
        await agent.start()
        route.update_pods(Pods(ready=frozenset([pod])))
        await until(lambda: agent.connected)
        agent.die()
        await until(lambda: route.agent is None)
        await agent.start()
        await becomes(route, Life(pod, 2))
        agent.die()


async def test_the_probe_does_not_reconnect_quickly_to_an_agent_that_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent is alive; frequent connections would only fill its log."""
    monkeypatch.setattr(agent_probe, "RECONNECT_SECONDS", 0.4)
    async with probed(free_port(), stays_connected=True) as (route, [pod]):
        accepted_at: list[float] = []

        def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted_at.append(asyncio.get_running_loop().time())
            writer.close()

        server = await asyncio.start_server(close, "127.0.0.1", pod.port)
        route.update_pods(Pods(ready=frozenset([pod])))
        await until(lambda: len(accepted_at) == 3)
        assert accepted_at[2] - accepted_at[1] >= 0.35
        assert Life(pod) == route.agent
        server.close()
        await asyncio.sleep(0.1)
