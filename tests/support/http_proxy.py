"""An HTTP proxy on loopback between one operator and the API server. It sees each request and can interfere with it.

Made by `crash_points` and by `test_faults`. It speaks plain HTTP to the operator, whose token it forwards, and TLS to the API server.
An `Interceptor` decides what happens to a call. This module only carries that out, and knows nothing of tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

_HOP_BY_HOP: Final = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
_READS: Final = {"GET", "HEAD"}


@dataclass(frozen=True, slots=True)
class Call:
    """One request of the operator."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def writes(self) -> bool:
        """Whether it is a write. A dry run changes nothing."""
        return self.method not in _READS and "dryRun" not in self.query

    @property
    def watches(self) -> bool:
        """Whether it is a watch."""
        return self.query.get("watch", "") in {"1", "true"}

    @property
    def lists(self) -> bool:
        """Whether it is a LIST."""
        return not self.writes and not self.watches and not self.names

    @property
    def _parts(self) -> list[str]:
        parts = self.path.strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        if not parts:
            return ["discovery", self.path]
        return parts[2:] if parts[0] == "namespaces" and len(parts) > 2 else parts

    @property
    def resource(self) -> str:
        """The plural, with a subresource: `deployments`, `medplumagents/status`."""
        return "/".join([self._parts[0], *self._parts[2:]])

    @property
    def names(self) -> str:
        """The object that it names; empty for a collection."""
        return self._parts[1] if len(self._parts) > 1 else ""

    @property
    def label(self) -> str:
        """Its summary, such as `PATCH deployments front-desk`. A hash at the end of the name is left out."""
        name = re.sub(r"-(fetch-.*|r[0-9]+-[0-9a-f]{10})$", "", self.names)
        return f"{self.method} {self.resource} {name}".rstrip()


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"}, repr=False)

    @classmethod
    def fault(cls, status: int, reason: str, message: str, **headers: str) -> Answer:
        """Build the API server's answer to a failed request."""
        answer = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message}
        body = json.dumps(answer | {"reason": reason, "code": status}).encode()
        return cls(status, body, {"Content-Type": "application/json"} | headers)


class Cut(Exception):  # noqa: N818 - an order, not an error
    """Raised by an Interceptor: break the connection instead of answering, or after so many bytes (`after`) of the answer."""

    def __init__(self, answer: Answer | None = None, *, after: int = 0) -> None:
        super().__init__()
        self.answer = answer
        self.after = after


class Interceptor:
    """Lets every call through. Subclasses override what they interfere with. Both methods may wait."""

    async def before(self, call: Call) -> Answer | None:
        """Called before a call reaches the API server. If this returns an answer, the API server never gets the call."""

    async def after(self, call: Call, answer: Answer) -> Answer:
        """Called with the API server's answer before the operator gets it. Not called for watches."""
        del call
        return answer


@dataclass(slots=True)
class HttpProxy:
    """A running proxy. `calls` has all requests in the order of their arrival."""

    server: str
    session: aiohttp.ClientSession
    kubeconfig: Path
    """Leads through this proxy, with the user of the original kubeconfig."""
    interceptor: Interceptor = field(default_factory=Interceptor)
    calls: list[Call] = field(default_factory=list)
    _silent: bool = False
    _streams: dict[web.StreamResponse, tuple[web.BaseRequest, aiohttp.ClientResponse]] = field(default_factory=dict)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle one request."""
        call = Call(request.method, request.path, dict(request.query), await request.read())
        self.calls.append(call)
        try:
            answer = await self.interceptor.before(call)
            if answer is None and call.watches:
                return await self._stream(request)
            if answer is None:
                answer = await self.interceptor.after(call, await self._forward(request, call))
        except Cut as order:
            return await self._cut(request, order)
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    async def _forward(self, request: web.BaseRequest, call: Call) -> Answer:
        async with self._upstream(request, call.body) as response:
            return Answer(response.status, await response.read(), _end_to_end(response.headers))

    def _upstream(self, request: web.BaseRequest, body: bytes) -> Any:
        return self.session.request(
            request.method, f"{self.server}{request.raw_path}", data=body or None, headers=_end_to_end(request.headers)
        )

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        """Forward a watch, chunk by chunk, until one side ends it."""
        async with self._upstream(request, b"") as upstream:
            answer = web.StreamResponse(status=upstream.status, headers=_end_to_end(upstream.headers))
            silenced = False
            # Either side may end at any moment: operators are killed here.
            try:
                with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                    await answer.prepare(request)
                    self._streams[answer] = (request, upstream)
                    async for chunk in upstream.content.iter_any():
                        silenced = silenced or self._silent
                        if not silenced:
                            await answer.write(chunk)
            finally:
                self._streams.pop(answer, None)
        return answer

    async def _cut(self, request: web.BaseRequest, order: Cut) -> web.StreamResponse:
        answer = web.StreamResponse(status=200)
        if order.answer is not None:
            answer = web.StreamResponse(status=order.answer.status, headers=order.answer.headers)
            answer.content_length = len(order.answer.body)
            await answer.prepare(request)
            await answer.write(order.answer.body[: order.after])
            await asyncio.sleep(0.01)
        reset(request)
        return answer

    # Interfering with the current watches.

    def cut_watches(self) -> int:
        """Break them. Returns how many there were."""
        cut = list(self._streams.values())
        for request, _ in cut:
            reset(request)
        return len(cut)

    def silence_watches(self, *, silent: bool = True) -> None:
        """Drop all events of current and new watches. They stay open."""
        self._silent = silent

    async def end_watches(self, event: Mapping[str, Any]) -> int:
        """Send a last event on each watch and end it. Returns how many there were."""
        streams = list(self._streams.items())
        for stream, (_, upstream) in streams:
            with contextlib.suppress(ConnectionError):
                await stream.write(json.dumps(event).encode() + b"\n")
            upstream.close()
        return len(streams)


def reset(request: web.BaseRequest) -> None:
    """Reset the connection of a request: RST, not FIN."""
    transport = request.transport
    if transport is None:
        return
    peer = transport.get_extra_info("socket")
    if peer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _end_to_end(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}


def _write(path: Path, *, like: Path, server: str) -> None:
    """Write a kubeconfig with the same user and another server."""
    config = json.loads(like.read_text())
    config["clusters"][0]["cluster"] = {"server": server}
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))


@asynccontextmanager
async def upstream_session(context: ssl.SSLContext) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session with the API server for any number of proxies. It passes compressed answers through."""
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        yield session


@asynccontextmanager
async def http_proxy(
    server: str, session: aiohttp.ClientSession, kubeconfig: Path, interceptor: Interceptor
) -> AsyncIterator[HttpProxy]:
    """Run a proxy, with a kubeconfig of the same user that leads through it."""
    path = kubeconfig.with_name(f"{kubeconfig.name}-{secrets.token_hex(4)}")
    proxy = HttpProxy(server, session, path, interceptor)
    runner = web.ServerRunner(web.Server(proxy.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _write(path, like=kubeconfig, server=f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        yield proxy
    finally:
        await runner.cleanup()
