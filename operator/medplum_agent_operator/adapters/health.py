"""`/healthz` and `/readyz`, on the operator's own event loop: a loop that hangs cannot answer.

Started by `__main__`. It answers 200 and `ok`, or 503 and a sentence per fault.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

from medplum_agent_operator.http_server import serve_http

Probe = Callable[[], list[str]]
"""Returns a sentence per fault; none if all is well."""


def make_app(probes: Mapping[str, Probe]) -> web.Application:
    """Build an application with one path per probe."""

    def handler(probe: Probe) -> Callable[[web.Request], object]:
        async def answer(_: web.Request) -> web.Response:
            faults = probe()
            return web.Response(text="\n".join(faults) or "ok", status=503 if faults else 200)

        return answer

    app = web.Application()
    for path, probe in probes.items():
        app.router.add_get(path, handler(probe))  # type: ignore[arg-type]
    return app


@asynccontextmanager
async def serve(probes: Mapping[str, Probe], *, host: str | None, port: int) -> AsyncIterator[int]:
    """Listen until the end of the block. Yields the port, which may differ from `port` if that is 0. `host`: None for all addresses, IPv6 included.

    Raises:
        OSError: when the address cannot be bound.
    """
    async with serve_http(make_app(probes), host=host, port=port) as listening:
        yield listening
