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
from medplum_agent_operator.gate.limits import SMALL_BYTES, TINY_BYTES, Standing
from medplum_agent_operator.gate.routes import Life, Route
from medplum_agent_operator.gate.shared import Shared
from medplum_agent_operator.gate.sockets import LINGER_SECONDS, ChannelServer, Counters, Reader, configure, send_fin

RETRY_SECONDS = 0.25


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
        """Close at once: another connection gets the place."""
        self._note_end(Ending.DISPLACED)
        transport = self.transport
        if transport is not None:
            (transport.abort if transport.get_write_buffer_size() else transport.close)()

    def _turn(self) -> None:
        """Read on after a pause, unless the agent does not read."""
        agent = None if self.other is None else self.other.transport
        if self.transport is not None and (agent is None or agent.get_write_buffer_size() <= SMALL_BYTES):
            self.transport.resume_reading()

    def _stands(self, standing: Standing) -> None:
        self.relay.shared.connections.stands(self, standing, self.loop.time())

    def _note_end(self, why: Ending) -> None:
        self.relay.counters.connection_closed(why)
        self.relay.shared.device_log.note(self.address, f"closed a device's connection: {why}", reason=why.name)

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
            self._note_end(Ending.NO_AGENT)
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
