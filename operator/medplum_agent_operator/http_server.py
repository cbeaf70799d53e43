"""The HTTP port of the operator and of each gate: short requests, a few at a time, no matter what other peers send.

Each connection carries one request. Its size, its time and the number of connections are limited, and an address that asks
too often is closed at once. So a peer can neither fill the memory nor keep a kubelet or Prometheus waiting.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, cast

from aiohttp import web

from medplum_agent_operator.listening import listen

CONNECTIONS: Final = 32
"""Connections at once. The oldest one of the address with most of them is closed for a new one."""
REQUEST_BYTES: Final = 8_192
"""Bytes of a request, with its headers and its body."""
REQUEST_SECONDS: Final = 10.0
"""From the start of a connection to the end of its response."""
REQUESTS_PER_SECOND: Final = 20.0
"""From one address, on average."""
REQUESTS_AT_ONCE: Final = 40.0
"""From one address, after a time with fewer."""
_ADDRESSES: Final = 1_000
"""Addresses whose rate is remembered."""


class Door:
    """Decides which connections may send a request."""

    def __init__(self) -> None:
        self._open: OrderedDict[_Guarded, None] = OrderedDict()
        self._rates: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._open)

    def admit(self, one: "_Guarded") -> None:
        """Admit a new connection. Another one may be closed for it."""
        if len(self._open) >= CONNECTIONS:
            [(most, _)] = Counter(other.address for other in self._open).most_common(1)
            next(other for other in self._open if other.address == most).drop()
        self._open[one] = None

    def forget(self, one: "_Guarded") -> None:
        """Remove a closed connection."""
        self._open.pop(one, None)

    def within_rate(self, address: str, now: float) -> bool:
        """Count a new connection of an address. False: the address asks too often."""
        left, at = self._rates.pop(address, (REQUESTS_AT_ONCE, now))
        left = min(REQUESTS_AT_ONCE, left + (now - at) * REQUESTS_PER_SECOND)
        within = left >= 1
        self._rates[address] = (left - 1 if within else left, now)
        while len(self._rates) > _ADDRESSES:
            self._rates.popitem(last=False)
        return within


class _Guarded(asyncio.Protocol):
    """One connection: passes to aiohttp what is within the limits."""

    def __init__(self, server: web.Server, door: Door, loop: asyncio.AbstractEventLoop) -> None:
        self.address = ""
        self._server = server
        self._door = door
        self._loop = loop
        self._inner: web.RequestHandler | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._received_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else "?"
        self._door.admit(self)
        self._timer = self._loop.call_later(REQUEST_SECONDS, self.drop)
        self._inner = self._server()
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        if self._inner is None or self._received_bytes > REQUEST_BYTES:
            self.drop()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> None:
        if self._inner is not None:
            self._inner.eof_received()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._inner is not None:
            self._inner.connection_lost(exc)
        self._inner = self._transport = None

    def drop(self) -> None:
        """Close without a response."""
        self._door.forget(self)
        if self._transport is not None:
            self._transport.abort()


async def _one_response(_: web.Request, response: web.StreamResponse) -> None:
    response.force_close()
    response.headers["Connection"] = "close"


@asynccontextmanager
async def serve_http(app: web.Application, *, host: str | None, port: int) -> AsyncIterator[int]:
    """Serve until the end of the block. Yields the port, which may differ from `port` if that is 0. `host`: None for all addresses.

    Raises:
        OSError: when the address cannot be bound.
    """
    app.on_response_prepare.append(_one_response)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        inner, door, loop = cast("web.Server", runner.server), Door(), asyncio.get_running_loop()
        server = await listen(
            lambda: _Guarded(inner, door, loop),
            host,
            port,
            admits=lambda address: door.within_rate(address, loop.time()),
        )
        try:
            yield server.port
        finally:
            server.close()
    finally:
        await runner.cleanup()
