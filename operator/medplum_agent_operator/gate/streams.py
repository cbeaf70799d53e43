"""DICOM, ASTM and plain TCP: the gate relays bytes between a device and one agent until one of them closes.

`__main__` starts one relay for each channel that is not HL7. The gate does not know what the bytes mean, so a connection
cannot move. New connections go to the current agent; old ones stay with theirs.
The gate closes a connection to an agent only by FIN, after it has read everything. A reset from a peer ends an agent that listens on a
byte-stream port.
"""

import asyncio
from collections import Counter
from typing import cast

from medplum_agent_operator.gate.agent_connection import CONNECT_SECONDS
from medplum_agent_operator.gate.effects import Ending
from medplum_agent_operator.gate.limits import Connections
from medplum_agent_operator.gate.routes import Life, Route
from medplum_agent_operator.gate.sockets import LINGER_SECONDS, ChannelServer, Counters, Reader, configure, send_fin
from medplum_agent_operator.telemetry import log

RETRY_SECONDS = 0.25


class StreamRelay(ChannelServer):
    """A channel whose bytes pass unchanged."""

    def __init__(self, *, route: Route, hold_seconds: float, connections: Connections, counters: Counters) -> None:
        """`hold_seconds`: how long a new connection waits for a ready agent."""
        super().__init__(route=route, connections=connections, counters=counters)
        self.hold_seconds = hold_seconds

    def make_protocol(self, loop: asyncio.AbstractEventLoop) -> Reader:
        """Make the protocol object for a new device connection."""
        return DeviceSide(self, loop)

    def finish(self) -> None:
        """Close nothing: only device and agent know when their connection is done."""

    def close_now(self) -> None:
        """Close all open connections by FIN: if the process exited first, the kernel would reset them."""
        for side in list(self.open):
            if isinstance(side, Side):
                side.finish()
                side.linger()

    def connected(self) -> Counter[str]:
        """Return the number of connections by device address."""
        return Counter(side.address for side in self.open if isinstance(side, DeviceSide))


class Side(Reader):
    """One connection of a pair: it writes what it reads to the other side."""

    def __init__(self, relay: StreamRelay, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(relay.buffer)
        self.relay = relay
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.other: Side | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._finished = False
        self._received_fin = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """This side is connected."""
        self.transport = cast("asyncio.Transport", transport)
        configure(self.transport)
        self.relay.open.add(self)

    def data_received(self, data: bytes) -> None:
        """Write the bytes to the other side; drop them if that side is closed."""
        if self.other is not None and self.other.transport is not None and not self.other.finished:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Pass FIN to the other side, which may still send."""
        self._received_fin = True
        if self.other is not None:
            self.other.finish()
        return not self._finished

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """This side is closed: send FIN to the other one, and drop its later bytes."""
        self.transport = None
        if self._linger is not None:
            self._linger.cancel()
        if self.other is not None:
            self.other.finish()
            self.other.linger()
        self.relay.forget(self)

    def pause_writing(self) -> None:
        """This side does not read: stop reading from the other one."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """This side reads again."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    @property
    def finished(self) -> bool:
        """Whether FIN was sent to this side."""
        return self._finished

    def finish(self) -> None:
        """Send FIN behind everything written before. If this side has sent FIN already, close."""
        if self._finished or self.transport is None:
            return
        self._finished = True
        if self._received_fin:
            self.transport.close()
        else:
            send_fin(self.transport)

    def linger(self) -> None:
        """Read until this side closes, for at most `LINGER_SECONDS`."""
        if self.transport is not None and self._linger is None:
            self.transport.resume_reading()
            self._linger = self.loop.call_later(LINGER_SECONDS, self.transport.abort)


class DeviceSide(Side):
    """The device's side. The gate does not read from it until there is an agent."""

    def __init__(self, relay: StreamRelay, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(relay, loop)
        self.address = ""
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A device has connected."""
        address = self.relay.admit(cast("asyncio.Transport", transport))
        if address is None:
            transport.close()
            return
        super().connection_made(transport)
        self.address = address
        cast("asyncio.Transport", transport).pause_reading()
        self._task = self.loop.create_task(self._find_agent())

    def connection_lost(self, exc: Exception | None) -> None:
        """The device's connection is closed."""
        if self.address:
            self.relay.connections.remove(self.address)
            self.address = ""
        if self._task is not None:
            self._task.cancel()
        super().connection_lost(exc)

    def agent_is(self, agent: Life | None) -> None:  # noqa: ARG002 - `_connect` reads the route
        """Another agent is the current one, or no agent is (None)."""
        self._changed.set()

    async def _find_agent(self) -> None:
        unsubscribe = self.relay.route.subscribe(self)
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
            self.relay.counters.connection_closed(Ending.NO_AGENT)
            log.info("closed a device's connection: %s", Ending.NO_AGENT, extra={"device": self.address})
            self.finish()
            self.linger()
        finally:
            unsubscribe()
        if self.other is not None and self.transport is not None:
            self.transport.resume_reading()

    async def _connect(self) -> bool:
        agent = self.relay.route.agent
        if agent is None:
            return False
        # Pair the sides before connecting: whichever closes first, at any time, the other one gets FIN.
        side = self.other = Side(self.relay, self.loop)
        side.other = self
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self.loop.create_connection(lambda: side, agent.pod.address, agent.pod.port)
        except OSError:  # TimeoutError is one
            self.other = None
            return False
        return True
