"""The gate's program, `medplum-agent-gate`. The Deployment that the operator renders starts it.

Flags configure it completely, and it follows one Service. On SIGTERM it accepts no new connections and finishes the messages in
progress. After the grace period it closes the remaining connections.
"""

import argparse
import asyncio
import ctypes
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from aiohttp import web
from lightkube import AsyncClient

from medplum_agent_operator.errors import sentence
from medplum_agent_operator.gate.agent_probe import AgentProbe
from medplum_agent_operator.gate.effects import Rules
from medplum_agent_operator.gate.endpoints import Endpoints
from medplum_agent_operator.gate.flags import Channel, parse
from medplum_agent_operator.gate.limits import Connections
from medplum_agent_operator.gate.metrics import Metrics
from medplum_agent_operator.gate.relay import Hl7Relay
from medplum_agent_operator.gate.routes import Life, Pods, Route
from medplum_agent_operator.gate.shared import Shared
from medplum_agent_operator.gate.streams import StreamRelay
from medplum_agent_operator.http_server import serve_http
from medplum_agent_operator.telemetry import log, set_up_logging

STALE_SECONDS: Final = 300.0
"""A gate without a current agent is not ready after so long without a successful list: a person has to find the cause."""
CLOSE_SECONDS: Final = 3.0
"""After the grace period: how long the other side may take to answer our FIN."""

_M_MMAP_THRESHOLD: Final = -3
SPARE_BYTES: Final = 8 * 1024 * 1024
"""What messages may use besides the length of the longest one."""
RESERVED_DESCRIPTORS: Final = 100
"""File descriptors for listening, for HTTP, and for the API server."""


class RouteLogger:
    """Logs each change of a channel's current agent."""

    def __init__(self, channel: str) -> None:
        self._channel = channel

    def agent_is(self, agent: Life | None) -> None:
        """Another agent is the current one, or no agent is (None)."""
        if agent is None:
            log.info("channel %s: no agent accepts connections", self._channel)
        else:
            log.info("channel %s: the current agent is %s", self._channel, agent.pod.name)


class Gate:
    """All channels of one agent. It is made in a running event loop, and owns its process: it changes the process's memory and descriptor limits."""

    def __init__(self, flags: argparse.Namespace) -> None:
        _return_large_blocks()
        self._flags = flags
        self._routes = {channel.name: Route() for channel in flags.channel}
        self.metrics = Metrics(answer_seconds=flags.answer_seconds)
        connections = Connections(
            limit=_connection_limit(flags.max_connections),
            limit_per_address=flags.max_connections_per_address,
        )
        loop = asyncio.get_running_loop()
        shared = Shared.make(
            connections=connections,
            shared_bytes=flags.max_message_bytes + SPARE_BYTES if flags.shared_bytes is None else flags.shared_bytes,
            clock=loop.time,
            call_later=loop.call_later,
        )
        rules = Rules(
            frame_bytes=flags.max_message_bytes,
            hold_seconds=flags.hold_seconds,
            answer_seconds=flags.answer_seconds,
            move_seconds=flags.move_seconds,
            send_again=not flags.no_send_again,
        )
        self._relays: dict[Channel, Hl7Relay | StreamRelay] = {}
        for channel in flags.channel:
            counters = self.metrics.channel(channel.name)
            route = self._routes[channel.name]
            relay: Hl7Relay | StreamRelay
            if channel.hl7:
                relay = Hl7Relay(name=channel.name, route=route, rules=rules, shared=shared, counters=counters)
            else:
                relay = StreamRelay(
                    name=channel.name, route=route, hold_seconds=rules.hold_seconds, shared=shared, counters=counters
                )
            counters.count_devices(relay.connected)
            counters.count_memory(shared.budget)
            route.subscribe(counters.report)
            route.subscribe(RouteLogger(channel.name))
            self._relays[channel] = relay

    @property
    def relays(self) -> tuple[Hl7Relay | StreamRelay, ...]:
        """The relays, one for each channel."""
        return tuple(self._relays.values())

    def update_pods(self, pods: Mapping[str, Pods]) -> None:
        """Pass the pods from the EndpointSlices to the routes. `pods`: by the name of the Service's port."""
        for channel in self._relays:
            self._routes[channel.name].update_pods(pods.get(channel.service_port, Pods()))

    async def run(self, connect: Callable[[], AsyncClient], stop: asyncio.Event) -> None:
        """Serve until the event is set, then stop. `connect`: makes a client of the API server.

        Raises:
            OSError: if the gate cannot listen on a port.
        """
        flags = self._flags
        endpoints = Endpoints(connect, namespace=flags.namespace, service=flags.service, on_pods=self.update_pods)
        for route in self._routes.values():
            route.subscribe(endpoints)
        probes = [AgentProbe(self._routes[c.name], stays_connected=c.hl7) for c in self._relays]
        tasks = [asyncio.create_task(endpoints.follow()), *(asyncio.create_task(probe.run()) for probe in probes)]
        try:
            listening = [(c.name, await relay.start(flags.host, c.port)) for c, relay in self._relays.items()]
            async with serve_http(self._http_app(endpoints), host=flags.host, port=flags.http_port) as http_port:
                listening.append(("http", http_port))
                log.info("listening: %s", ", ".join(f"{name} on port {port}" for name, port in listening))
                await stop.wait()
                log.info("stopping: no new connections; finishing the messages in progress")
                await self._stop(flags.grace_seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await asyncio.gather(*(probe.wait_closed() for probe in probes))

    async def _stop(self, grace_seconds: float) -> None:
        """Let every connection finish; close the remaining ones after the grace period."""
        stopping = asyncio.gather(*(relay.stop() for relay in self.relays))
        done, _ = await asyncio.wait({stopping}, timeout=grace_seconds)
        if done:
            return
        for relay in self.relays:
            relay.close_now()
        done, _ = await asyncio.wait({stopping}, timeout=CLOSE_SECONDS)
        stopping.cancel()
        with suppress(asyncio.CancelledError):
            await stopping

    def _http_app(self, endpoints: Endpoints) -> web.Application:
        async def ready(_: web.Request) -> web.Response:
            stale_seconds = endpoints.seconds_since_list
            if stale_seconds is None:
                return web.Response(text="waiting for the first EndpointSlices from the API server", status=503)
            if stale_seconds > STALE_SECONDS and any(route.agent is None for route in self._routes.values()):
                text = f"no EndpointSlices could be read for {stale_seconds:.0f} s, and no agent accepts connections; see this gate's log"
                return web.Response(text=text, status=503)
            # Only HL7 channels have a probe that stays connected, so only they show this.
            unreachable = [c.name for c in self._relays if c.hl7 and self._routes[c.name].unreachable]
            if unreachable:
                text = f"the agent is ready, but this gate cannot connect to it on {', '.join(unreachable)}; check the NetworkPolicies"
                return web.Response(text=text, status=503)
            return web.Response(text="ok")

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(body=self.metrics.text(), content_type="text/plain", charset="utf-8")

        async def status(_: web.Request) -> web.Response:
            return web.json_response(self.metrics.status())

        async def alive(_: web.Request) -> web.Response:
            return web.Response(text="ok")

        app = web.Application()
        app.router.add_get("/healthz", alive)  # no answer if the event loop hangs
        app.router.add_get("/readyz", ready)
        app.router.add_get("/metrics", metrics)
        app.router.add_get("/status", status)
        return app


def _return_large_blocks() -> None:
    """Make glibc return each large block to the kernel. By default it may reuse the memory instead, and copy a message that grows.

    Source: mallopt(3), M_MMAP_THRESHOLD; setting it stops its automatic growth. A C library without mallopt works too.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 131_072)


def _connection_limit(wanted: int) -> int:
    """Raise the limit of file descriptors to its maximum, and return how many devices fit, at most `wanted`.

    A container may start with 1,024 descriptors. A device needs its own connection, one to its agent and, during a move, one more.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fitting = wanted if hard == resource.RLIM_INFINITY else (hard - RESERVED_DESCRIPTORS) // 3
    if fitting < wanted:
        log.warning(
            "the limit of %d file descriptors allows %d device connections instead of %d; raise nofile",
            hard,
            fitting,
            wanted,
        )
    return min(fitting, wanted)


async def _run(flags: argparse.Namespace) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def connect() -> AsyncClient:
        return AsyncClient(namespace=flags.namespace)

    try:
        await connect().close()
    except Exception as fault:  # noqa: BLE001 - the client library checks no file's form: a kubeconfig that is none may raise anything
        words = sentence(fault) or type(fault).__name__
        log.error("Cannot find a cluster: %s Run the gate in a pod with a ServiceAccount, or set KUBECONFIG.", words)
        return 1
    try:
        await Gate(flags).run(connect, stop)
    except OSError as fault:
        log.error("%s", fault)
        return 1
    return 0


def main() -> None:
    """Run the gate. The exit code is 0 after SIGTERM, and 1 if the gate cannot run."""
    flags = parse(sys.argv[1:])
    set_up_logging(as_json=flags.log_format == "json", level=flags.log_level)
    sys.exit(asyncio.run(_run(flags)))


if __name__ == "__main__":
    main()
