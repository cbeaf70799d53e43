"""An agent that opens its port is found without Kubernetes."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from medplum_agent_operator.gate import knocking
from medplum_agent_operator.gate.knocking import Knocker
from medplum_agent_operator.gate.routes import Life, Pod, Pods, Route
from tests.support.gate.actors import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def becomes(route: Route, life: Life) -> None:
    """Wait until the route leads there."""
    await until(lambda: route.agent == life)


@asynccontextmanager
async def knocked(*ports: int, stays: bool = False) -> AsyncIterator[tuple[Route, list[Pod]]]:
    """A route whose pods wait, and somebody who knocks."""
    route = Route()
    pods = [Pod(f"agent-{number}", "127.0.0.1", port) for number, port in enumerate(ports)]
    route.pods_are(Pods(waiting=frozenset(pods)))
    knocker = Knocker(route, stays=stays)
    running = asyncio.create_task(knocker.run())
    yield route, pods
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})
    await knocker.left()


async def test_a_pod_that_opens_is_the_agent() -> None:
    """Those before it that refuse do not stand in its way; once there is one, nobody knocks any more."""
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        try:
            seen.append(f"{len(await reader.read())} bytes, then FIN")
        except ConnectionResetError:
            seen.append("reset")
        writer.close()

    async with knocked(free_port(), free_port()) as (route, pods):
        await asyncio.sleep(0.3)
        assert None is route.agent
        server = await asyncio.start_server(serve, "127.0.0.1", pods[1].port)
        await becomes(route, Life(pods[1]))
        await asyncio.sleep(0.3)
        assert ["0 bytes, then FIN"] == seen
        server.close()


async def test_one_that_goes_and_comes_back_is_another_life() -> None:
    """Nobody has to connect to it in between: knocking sees it refuse."""
    async with knocked(free_port()) as (route, [pod]):
        for number in (1, 2):
            server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", pod.port)
            await becomes(route, Life(pod, number))
            server.close()
            await server.wait_closed()
            route.pods_are(Pods(ready=frozenset([pod])))
            route.pods_are(Pods(waiting=frozenset([pod])))
            assert None is route.agent
            await asyncio.sleep(0.3)


class Agent:
    """An agent's port that counts who is there."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.here: set[asyncio.StreamWriter] = set()
        self.came = 0
        self.ends: list[str] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Open the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.here.add(writer)
        self.came += 1
        try:
            await reader.read()
            self.ends.append("FIN")
        except ConnectionResetError:
            self.ends.append("reset")
        self.here.discard(writer)
        writer.close()

    def die(self) -> None:
        """Close everything at once."""
        if self._server is not None:
            self._server.close()
        for writer in list(self.here):
            writer.close()


async def test_an_agent_of_messages_sees_the_gate_for_as_long_as_that_comes_to_it() -> None:
    """One connection, from when it is found until the gate has heard that it is about to end."""
    async with knocked(free_port(), stays=True) as (route, [pod]):
        agent = Agent(pod.port)
        await agent.start()
        await becomes(route, Life(pod))
        route.pods_are(Pods(ready=frozenset([pod])))
        await until(lambda: agent.ends == ["FIN"] and len(agent.here) == 1)
        await asyncio.sleep(0.3)
        assert 2 == agent.came, "once to find it, once to stay"
        route.pods_are(Pods())
        await until(lambda: agent.ends == ["FIN", "FIN"])
        agent.die()


async def test_an_agent_that_ends_without_a_device_is_noticed() -> None:
    """And found again when it is back, as another life."""
    async with knocked(free_port(), stays=True) as (route, [pod]):
        agent = Agent(pod.port)
        await agent.start()
        route.pods_are(Pods(ready=frozenset([pod])))
        await until(lambda: agent.here)
        agent.die()
        await until(lambda: route.agent is None)
        await agent.start()
        await becomes(route, Life(pod, 2))
        agent.die()


async def test_an_agent_that_closes_the_connection_is_not_bothered(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lives; somebody who comes again and again would only fill its log."""
    monkeypatch.setattr(knocking, "AGAIN_SECONDS", 0.4)
    async with knocked(free_port(), stays=True) as (route, [pod]):
        came: list[float] = []

        def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            came.append(asyncio.get_running_loop().time())
            writer.close()

        server = await asyncio.start_server(close, "127.0.0.1", pod.port)
        route.pods_are(Pods(ready=frozenset([pod])))
        await until(lambda: len(came) == 3)
        assert came[2] - came[1] >= 0.35
        assert Life(pod) == route.agent
        server.close()
        await asyncio.sleep(0.1)
