"""DICOM, ASTM and plain TCP: the gate relays bytes between a device and one agent until one of them closes.

`__main__` starts one relay for each channel that is not HL7. The gate does not know what the bytes mean, so a connection
cannot move. New connections go to the current agent; old ones stay with theirs.
The gate closes a connection to an agent only by FIN, after it has read everything. A reset from a peer ends an agent that listens on a
byte-stream port. A device sees a reset where its agent's connection broke: else a stream that was cut would look complete.
"""

import asyncio
from collections import Counter
from typing import cast

from medplum_agent_operator.gate.agent_connection import CONNECT_SECONDS
from medplum_agent_operator.gate.effects import Ending
from medplum_agent_operator.gate.limits import Connections
from medplum_agent_operator.gate.routes import Life, Route
from medplum_agent_operator.gate.sockets import ChannelServer, Counters, Reader
from medplum_agent_operator.gate.stream_side import Side
from medplum_agent_operator.gate.unread import Unread
from medplum_agent_operator.telemetry import log

RETRY_SECONDS = 0.25
REST_SECONDS = 60.0
"""How long an agent may take to read what a lost device had sent."""


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


class DeviceSide(Side):
    """The device's side. The gate does not read from it until there is an agent."""

    def __init__(self, relay: StreamRelay, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(relay, loop)
        self._hold_seconds = relay.hold_seconds
        self.address = ""
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._unread: Unread | None = None
        """After the device's connection was lost: what it had sent before."""
        self._rest_timer: asyncio.TimerHandle | None = None

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
        agent = None if self.other is None or self.other.finished else self.other.transport
        if self.transport is not None and not self._received_fin and agent is not None:
            self._unread = Unread(self.transport)
        super().connection_lost(exc)

    def end_other(self, other: Side, *, broken: bool) -> None:  # noqa: ARG002 - an agent sees FIN in any case
        """Write to the agent what the device had sent, then FIN."""
        if self._unread is None:
            super().end_other(other, broken=False)
            return
        self._rest_timer = self.loop.call_later(REST_SECONDS, self._end_rest)
        self.read_on()

    def read_on(self) -> None:
        """The agent reads again. If the device is lost, pass on what it had sent."""
        super().read_on()
        while self._unread is not None and self.other is not None and not self.other.blocked:
            agent = self.other.transport
            data = b"" if agent is None or self.other.finished else self._unread.read()
            if agent is None or not data:
                self._end_rest()
            else:
                agent.write(data)

    def _end_rest(self) -> None:
        if self._unread is None or self.other is None:
            return
        self._unread.close()
        self._unread = None
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        super().end_other(self.other, broken=False)

    def agent_is(self, agent: Life | None) -> None:  # noqa: ARG002 - `_connect` reads the route
        """Another agent is the current one, or no agent is (None)."""
        self._changed.set()

    async def _find_agent(self) -> None:
        unsubscribe = self.relay.route.subscribe(self)
        try:
            async with asyncio.timeout(self._hold_seconds):
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
            self.reset()
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
