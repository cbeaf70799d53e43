"""The HTTP port: limits on connections, sizes, times and rates, and an answer for who asks properly."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from medplum_agent_operator import http_server
from medplum_agent_operator.adapters.health import serve
from medplum_agent_operator.http_server import CONNECTIONS, REQUEST_BYTES, Door, serve_http

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
BAD = "127.0.0.2"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The operator's own health port."""
    async with serve({"/healthz": list}, host="127.0.0.1", port=0) as found:
        yield found


async def connect(port: int, address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect."""
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))


async def ask(port: int, request: bytes = REQUEST, address: str = "127.0.0.1") -> bytes:
    """Send a request, and return everything until the end; nothing if the connection was reset."""
    async with asyncio.timeout(5):
        try:
            reader, writer = await connect(port, address)
            writer.write(request)
            answer = await reader.read()
        except ConnectionError:
            return b""
        writer.close()
        return answer


async def test_a_request_is_answered_and_the_connection_closed(port: int) -> None:
    """One request for each connection."""
    answer = await ask(port)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"Connection: close" in answer
    assert answer.endswith(b"ok")


async def test_unfinished_requests_stop_nobody_else(port: int) -> None:
    """220 connections with half a request: no more than the limit stay open, and a probe is answered."""
    others = []
    for number in range(220):
        reader, writer = await connect(port, f"127.0.1.{number % 10}")
        writer.write(REQUEST[:-2])
        others.append((reader, writer))
    assert (await ask(port)).endswith(b"ok")
    await asyncio.sleep(0.1)
    assert sum(not reader.at_eof() and reader.exception() is None for reader, _ in others) <= CONNECTIONS
    for _, writer in others:
        writer.transport.abort()


@pytest.mark.parametrize(
    "request_",
    [REQUEST[:-2] + b"X: " + b"y" * REQUEST_BYTES, b"POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n" + b"z" * 99999],
)
async def test_a_long_request_is_dropped(port: int, request_: bytes) -> None:
    """In its headers or its body; it takes no memory."""
    answer = await ask(port, request_)
    assert b"200 OK" not in answer


async def test_a_slow_request_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time counts from the connection's start, so single bytes do not extend it. A response that is not read ends too."""
    monkeypatch.setattr(http_server, "REQUEST_SECONDS", 0.2)

    async def much(_: web.Request) -> web.Response:
        return web.Response(body=bytes(50_000_000))

    app = web.Application()
    app.router.add_get("/much", much)
    async with serve_http(app, host="127.0.0.1", port=0) as port:
        assert b"" == await ask(port, REQUEST[:-2])
        reader, writer = await connect(port)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(REQUEST.replace(b"healthz", b"much"))
        await asyncio.sleep(0.4)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(50_000_000)
        writer.transport.abort()


async def test_an_address_that_asks_too_often_is_closed_and_others_are_not(port: int) -> None:
    """A kubelet's probe still gets its answer."""
    answers = [await ask(port, address=BAD) for _ in range(100)]
    assert 40 <= sum(answer.endswith(b"ok") for answer in answers) < 60
    assert (await ask(port)).endswith(b"ok")


def test_rates_of_many_addresses_need_little_memory() -> None:
    """The oldest are forgotten."""
    door = Door()
    assert all(door.within_rate(f"10.0.{n // 250}.{n % 250}", 0.0) for n in range(5_000))
    assert len(door._rates) <= 1_000
    assert 0 == len(door)
