"""DICOM, ASTM and plain TCP: bytes between a device and the agent that was ready when it connected, until one of them ends.

Started by `__main__`, once for each channel that is not HL7. Nothing is known of what the bytes mean, so that a connection cannot move:
new ones go to the agent that is ready, old ones stay with theirs. Towards an agent there is only FIN, after everything was read: a
reset from a peer ends a whole agent that listens on a byte-stream port.
"""

import asyncio
from collections import Counter
from typing import cast

from medplum_agent_operator.gate.effects import Ending
from medplum_agent_operator.gate.limits import Connections
from medplum_agent_operator.gate.links import CONNECT_SECONDS, LINGER_SECONDS
from medplum_agent_operator.gate.relay import Counters
from medplum_agent_operator.gate.routes import Life, Route
from medplum_agent_operator.gate.writing import keep_alive
from medplum_agent_operator.telemetry import log

RETRY_SECONDS = 0.25


class StreamRelay:
    """A channel whose bytes are relayed as they are."""

    def __init__(self, *, route: Route, hold_seconds: float, connections: Connections, counters: Counters) -> None:
        """`hold_seconds`: how long a new connection waits for an agent."""
        self.route = route
        self.hold_seconds = hold_seconds
        self.connections = connections
        self.counters = counters
        self.sides: set[Side] = set()
        self.stopping = False
        self._emptied = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self, host: str | None, port: int) -> int:
        """Listen on an address, or on all where `host` is None. Returns the port; `port` 0 takes a free one.

        Raises:
            OSError: when the port cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Caller(self, loop), host, port, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Take no more connections, and wait until those that are open have ended: only their two ends know when that is."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        self.check_emptied()
        await self._emptied.wait()

    def cut(self) -> None:
        """End every connection that is still open, by FIN: a process that ends in the middle of one would reset it."""
        for side in list(self.sides):
            side.finish()
            side.linger()

    def connected(self) -> Counter[str]:
        """How many connections there are, by the address that they come from."""
        return Counter(side.address for side in self.sides if isinstance(side, Caller))

    def check_emptied(self) -> None:
        """A connection is over: it may have been the last."""
        if self.stopping and not self.sides:
            self._emptied.set()


class Side(asyncio.Protocol):
    """One of the two connections of a pair; what it reads it writes to the other."""

    def __init__(self, relay: StreamRelay, loop: asyncio.AbstractEventLoop) -> None:
        self.relay = relay
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.other: Side | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._finished = False
        self._heard_end = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is connected."""
        keep_alive(transport)
        self.transport = cast("asyncio.Transport", transport)
        self.relay.sides.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes for the other side; if that has gone they are read all the same."""
        if self.other is not None and self.other.transport is not None and not self.other.finished:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """FIN: the other side gets one too, and may go on sending."""
        self._heard_end = True
        if self.other is not None:
            self.other.finish()
        return not self._finished

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """It is no more: the other side gets FIN, and what it still sends is read and left out."""
        self.transport = None
        if self._linger is not None:
            self._linger.cancel()
        self.relay.sides.discard(self)
        if self.other is not None:
            self.other.finish()
            self.other.linger()
        self.relay.check_emptied()

    def pause_writing(self) -> None:
        """It takes no more for now: neither does the other."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    @property
    def finished(self) -> bool:
        """Whether FIN was sent to it."""
        return self._finished

    def finish(self) -> None:
        """Send FIN after what was written; close where its own FIN was heard before."""
        if self._finished or self.transport is None:
            return
        self._finished = True
        if self._heard_end:
            self.transport.close()
        else:
            self.transport.write_eof()

    def linger(self) -> None:
        """Read to its end, for so long and no longer."""
        if self.transport is not None and self._linger is None:
            self.transport.resume_reading()
            self._linger = self.loop.call_later(LINGER_SECONDS, self.transport.abort)


class Caller(Side):
    """The device's side: it waits, unread, until there is an agent."""

    def __init__(self, relay: StreamRelay, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(relay, loop)
        self.address = ""
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A device has connected."""
        peer = transport.get_extra_info("peername")
        address = peer[0] if peer else "?"
        refusal = "the gate ends" if self.relay.stopping else self.relay.connections.refusal(address)
        if refusal is not None:
            log.warning("a connection is refused: %s", refusal, extra={"device": address})
            self.relay.counters.refused()
            transport.close()
            return
        super().connection_made(transport)
        self.address = address
        self.relay.connections.came(address)
        cast("asyncio.Transport", transport).pause_reading()
        self._task = self.loop.create_task(self._find_agent())

    def connection_lost(self, exc: Exception | None) -> None:
        """The device has gone."""
        if self.address:
            self.relay.connections.went(self.address)
            self.address = ""
        if self._task is not None:
            self._task.cancel()
        super().connection_lost(exc)

    def agent_is(self, agent: Life | None) -> None:  # noqa: ARG002 - the route is asked again
        """Another agent is the one to talk to."""
        self._changed.set()

    async def _find_agent(self) -> None:
        deafen = self.relay.route.listen(self)
        try:
            async with asyncio.timeout(self.relay.hold_seconds):
                while not await self._connect():
                    self._changed.clear()
                    try:
                        async with asyncio.timeout(None if self.relay.route.agent is None else RETRY_SECONDS):
                            await self._changed.wait()
                    except TimeoutError:
                        continue
        except TimeoutError:
            self.relay.counters.ended(Ending.NO_AGENT)
            log.info("closed towards a device: %s", Ending.NO_AGENT, extra={"device": self.address})
            self.finish()
            self.linger()
        finally:
            deafen()
        if self.other is not None and self.transport is not None:
            self.transport.resume_reading()

    async def _connect(self) -> bool:
        agent = self.relay.route.agent
        if agent is None:
            return False
        side = Side(self.relay, self.loop)
        side.other = self
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self.loop.create_connection(lambda: side, agent.pod.address, agent.pod.port)
        except OSError:  # TimeoutError is one
            return False
        self.other = side
        if self.transport is None:  # the device went meanwhile
            side.finish()
            side.linger()
        return True
