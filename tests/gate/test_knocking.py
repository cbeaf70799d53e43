"""An agent that opens its port is found without Kubernetes."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from medplum_agent_operator.gate.knocking import Knocker
from medplum_agent_operator.gate.routes import Life, Pod, Pods, Route
from tests.gate.actors import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def becomes(route: Route, life: Life) -> None:
    """Wait until the route leads there."""
    await until(lambda: route.agent == life)


@asynccontextmanager
async def knocked(*ports: int) -> AsyncIterator[tuple[Route, list[Pod]]]:
    """A route whose pods wait, and somebody who knocks."""
    route = Route()
    pods = [Pod(f"agent-{number}", "127.0.0.1", port) for number, port in enumerate(ports)]
    route.pods_are(Pods(waiting=frozenset(pods)))
    knocking = asyncio.create_task(Knocker(route, channel="adt").run())
    yield route, pods
    assert not knocking.done()
    knocking.cancel()


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
