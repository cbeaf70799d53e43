"""Start and end of the gate: `medplum-agent-gate`, started by the Deployment that the operator renders.

It is told everything by flags, follows one Service, and ends on SIGTERM: no new connections, the messages in hand are finished, and
what is left after the grace period is dropped.
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
from lightkube.core.exceptions import ConfigError
from prometheus_client import generate_latest

from medplum_agent_operator.gate.effects import Rules
from medplum_agent_operator.gate.endpoints import Endpoints
from medplum_agent_operator.gate.flags import Channel, parse
from medplum_agent_operator.gate.knocking import Knocker
from medplum_agent_operator.gate.limits import Connections, tiers
from medplum_agent_operator.gate.metrics import Metrics
from medplum_agent_operator.gate.relay import Hl7Relay
from medplum_agent_operator.gate.routes import Life, Pods, Route
from medplum_agent_operator.gate.streams import StreamRelay
from medplum_agent_operator.telemetry import log, set_up_logging

DEAF_SECONDS: Final = 300.0
"""After so long a silence of the API server a gate that knows no agent is not ready: somebody has to look."""
CUT_SECONDS: Final = 3.0
"""What the other side gets to answer our FIN, when the grace is over."""

_M_MMAP_THRESHOLD: Final = -3
OWN_DESCRIPTORS: Final = 100
"""For listening, for pages, for the API server."""


class Teller:
    """Logs where a channel leads to."""

    def __init__(self, channel: str) -> None:
        self._channel = channel

    def agent_is(self, agent: Life | None) -> None:
        """Another agent is the one to talk to, or none is."""
        where = "nobody: no agent takes connections" if agent is None else agent.pod.name
        log.info("%s goes to %s", self._channel, where)


class Gate:
    """All channels of one agent. The process is its own: it sets memory and descriptors as it needs them."""

    def __init__(self, flags: argparse.Namespace) -> None:
        _give_memory_back()
        self._flags = flags
        self._routes = {channel.name: Route() for channel in flags.channel}
        self.metrics = Metrics(answer_seconds=flags.answer_seconds)
        connections = Connections(
            most=min(flags.max_connections, _most_connections(flags.max_connections)),
            most_of_one_address=flags.max_connections_per_address,
        )
        places = tiers(medium=flags.medium_messages, large=flags.large_messages)
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
                relay = Hl7Relay(route=route, rules=rules, connections=connections, tiers=places, counters=counters)
            else:
                relay = StreamRelay(
                    route=route, hold_seconds=rules.hold_seconds, connections=connections, counters=counters
                )
            counters.count_devices(relay.connected)
            route.listen(counters.report)
            route.listen(Teller(channel.name))
            self._relays[channel] = relay

    @property
    def relays(self) -> tuple[Hl7Relay | StreamRelay, ...]:
        """One for each channel."""
        return tuple(self._relays.values())

    def pods_are(self, pods: Mapping[str, Pods]) -> None:
        """Take what the EndpointSlices say."""
        for channel in self._relays:
            self._routes[channel.name].pods_are(pods.get(channel.endpoint, Pods()))

    async def run(self, connect: Callable[[], AsyncClient], until: asyncio.Event) -> None:
        """Serve until the event, then end in good order. `connect` makes a client of the API server.

        Raises:
            OSError: when a port cannot be listened on.
        """
        flags = self._flags
        endpoints = Endpoints(connect, namespace=flags.namespace, service=flags.service, tell=self.pods_are)
        for route in self._routes.values():
            route.listen(endpoints)
        knockers = [Knocker(self._routes[c.name], stays=c.hl7) for c in self._relays]
        tasks = [asyncio.create_task(endpoints.follow()), *(asyncio.create_task(each.run()) for each in knockers)]
        runner = web.AppRunner(self._pages(endpoints), access_log=None, shutdown_timeout=0.5)
        try:
            listening = [(c.name, await relay.start(flags.host, c.port)) for c, relay in self._relays.items()]
            await runner.setup()
            await web.TCPSite(runner, flags.host, flags.http_port).start()
            listening.append(("http", runner.addresses[0][1]))
            log.info("listening: %s", ", ".join(f"{name} on port {port}" for name, port in listening))
            await until.wait()
            log.info("ending: no new connections, the messages in hand are finished")
            await self._end(flags.grace_seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await asyncio.gather(runner.cleanup(), *(knocker.left() for knocker in knockers))

    async def _end(self, grace_seconds: float) -> None:
        """Let every connection come to its end; those that have not after the grace are cut."""
        stopping = asyncio.gather(*(relay.stop() for relay in self.relays))
        done, _ = await asyncio.wait({stopping}, timeout=grace_seconds)
        if done:
            return
        for relay in self.relays:
            relay.cut()
        done, _ = await asyncio.wait({stopping}, timeout=CUT_SECONDS)
        stopping.cancel()
        with suppress(asyncio.CancelledError):
            await stopping

    def _pages(self, endpoints: Endpoints) -> web.Application:
        async def ready(_: web.Request) -> web.Response:
            silent = endpoints.silent_seconds
            if silent is None:
                return web.Response(text="the API server has not said yet where the agent is", status=503)
            if silent > DEAF_SECONDS and any(route.agent is None for route in self._routes.values()):
                text = f"the API server has not said for {silent:.0f} s where the agent is, and it is not where it was; see this gate's log"
                return web.Response(text=text, status=503)
            # Without a connection of the gate's own, which only channels of messages have, nothing is known of that.
            blocked = [c.name for c in self._relays if c.hl7 and self._routes[c.name].out_of_reach]
            if blocked:
                text = f"the agent is ready and cannot be reached from here: {', '.join(blocked)}; is there a NetworkPolicy in the way?"
                return web.Response(text=text, status=503)
            return web.Response(text="ok")

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(body=generate_latest(self.metrics.registry), content_type="text/plain", charset="utf-8")

        async def status(_: web.Request) -> web.Response:
            return web.json_response(self.metrics.status())

        async def alive(_: web.Request) -> web.Response:
            return web.Response(text="ok")

        app = web.Application()
        app.router.add_get("/healthz", alive)  # a loop that hangs cannot answer
        app.router.add_get("/readyz", ready)
        app.router.add_get("/metrics", metrics)
        app.router.add_get("/status", status)
        return app


def _give_memory_back() -> None:
    """Let glibc take each large block from the kernel, and give it back: else it keeps what it once had, and may grow a message by a copy.

    Source: mallopt(3), M_MMAP_THRESHOLD; to set it ends its rising by itself. Where the C library has no such function nothing is lost.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 131_072)


def _most_connections(wanted: int) -> int:
    """How many devices the limit of descriptors lets in, once it is raised as far as it may be: a container may start with 1,024.

    A device has its own connection, one to its agent and, while it moves, one more.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = wanted if hard == resource.RLIM_INFINITY else (hard - OWN_DESCRIPTORS) // 3
    if most < wanted:
        log.warning("the limit of %d descriptors lets in %d devices, and not %d; raise it (nofile)", hard, most, wanted)
    return most


async def _run(flags: argparse.Namespace) -> int:
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)

    def connect() -> AsyncClient:
        return AsyncClient(namespace=flags.namespace)

    try:
        await connect().close()
    except ConfigError as fault:
        log.error("No cluster to ask: %s Run it in a pod with a service account, or set KUBECONFIG.", fault)
        return 1
    try:
        await Gate(flags).run(connect, end)
    except OSError as fault:
        log.error("%s", fault)
        return 1
    return 0


def main() -> None:
    """Run the gate; the process ends with 0 after SIGTERM, with 1 when it cannot run."""
    flags = parse(sys.argv[1:])
    set_up_logging(as_json=flags.log_format == "json", level=flags.log_level)
    sys.exit(asyncio.run(_run(flags)))


if __name__ == "__main__":
    main()
