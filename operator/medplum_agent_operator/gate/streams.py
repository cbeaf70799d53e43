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
from medplum_agent_operator.gate.limits import TINY_BYTES, Standing
from medplum_agent_operator.gate.routes import Life, Route
from medplum_agent_operator.gate.shared import Shared
from medplum_agent_operator.gate.sockets import ChannelServer, Counters, Reader
from medplum_agent_operator.gate.stream_side import Side
from medplum_agent_operator.gate.unread import Unread

RETRY_SECONDS = 0.25
REST_SECONDS = 60.0
"""How long an agent may take to read what a lost device had sent."""


class StreamRelay(ChannelServer):
    """A channel whose bytes pass unchanged."""

    def __init__(self, *, name: str, route: Route, hold_seconds: float, shared: Shared, counters: Counters) -> None:
        """`hold_seconds`: how long a new connection waits for a ready agent."""
        super().__init__(name=name, route=route, shared=shared, counters=counters)
        self.hold_seconds = hold_seconds

    def make_protocol(self, loop: asyncio.AbstractEventLoop) -> Reader:
        """Make the protocol object for a new device connection."""
        return DeviceSide(self, loop)

    def finish(self) -> None:
        """Close nothing: only device and agent know when their connection is done."""

    def close_now(self) -> None:
        """Close all open connections: agents see FIN, and devices a reset, because their streams are cut."""
        for side in list(self.open):
            if isinstance(side, DeviceSide):
                side.reset()
            elif isinstance(side, Side):
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
        if not self.relay.admit(self, cast("asyncio.Transport", transport)):
            transport.close()
            return
        super().connection_made(transport)
        cast("asyncio.Transport", transport).pause_reading()
        self._task = self.loop.create_task(self._find_agent())

    def connection_lost(self, exc: Exception | None) -> None:
        """The device's connection is closed."""
        self.relay.shared.connections.remove(self)
        if self._task is not None:
            self._task.cancel()
        agent = None if self.other is None or self.other.finished else self.other.transport
        if self.transport is not None and not (self._received_fin or self._resets) and agent is not None:
            self._unread = Unread(self.transport)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The device sent bytes."""
        self._stands(Standing.SPOKE)
        super().data_received(data)
        pace, transport = self.relay.shared.pace, self.transport
        if len(data) < TINY_BYTES and transport is not None and pace.charge(self.address, 1, channel=self.relay.name):
            transport.pause_reading()
            pace.wait(self.address, self._turn)

    def eof_received(self) -> bool:
        """The device sent FIN. It may wait for bytes of its agent, which may never close."""
        self._stands(Standing.DONE)
        return super().eof_received()

    @property
    def channel_name(self) -> str:
        """The channel that it belongs to."""
        return self.relay.name

    def give_way(self) -> None:
        """Close at once: another connection gets the place. The device sees a reset, because its stream is cut."""
        self._note_end(Ending.DISPLACED)
        self.reset_now()

    def drop(self) -> None:
        """Close without a wait: by RST if the device has not got everything."""
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.reset_now()
        else:
            super().drop()

    def _turn(self) -> None:
        """Read on after a pause, unless the agent does not read."""
        if self.transport is not None and (self.other is None or not self.other.blocked):
            self.transport.resume_reading()

    def _stands(self, standing: Standing) -> None:
        self.relay.shared.connections.stands(self, standing, self.loop.time())

    def _note_end(self, why: Ending) -> None:
        self.relay.counters.connection_closed(why)
        self.relay.shared.device_log.note(self.address, f"closed a device's connection: {why}", reason=why.name)

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
            self._note_end(Ending.NO_AGENT)
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
