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
from medplum_agent_operator.gate.links import CONNECT_SECONDS
from medplum_agent_operator.gate.routes import Life, Route
from medplum_agent_operator.gate.sockets import LINGER_SECONDS, ChannelServer, Counters, Reader, end, prepare
from medplum_agent_operator.telemetry import log

RETRY_SECONDS = 0.25


class StreamRelay(ChannelServer):
    """A channel whose bytes are relayed as they are."""

    def __init__(self, *, route: Route, hold_seconds: float, connections: Connections, counters: Counters) -> None:
        """`hold_seconds`: how long a new connection waits for an agent."""
        super().__init__(route=route, connections=connections, counters=counters)
        self.hold_seconds = hold_seconds

    def device(self, loop: asyncio.AbstractEventLoop) -> Reader:
        """Make what serves a device that connects."""
        return Caller(self, loop)

    def finish(self) -> None:
        """Only its two ends know when a connection is done: nothing is begun."""

    def cut(self) -> None:
        """End what is open by FIN: a process that ends in the middle of a connection would reset it."""
        for side in list(self.open):
            if isinstance(side, Side):
                side.finish()
                side.linger()

    def connected(self) -> Counter[str]:
        """How many connections there are, by the address that they come from."""
        return Counter(side.address for side in self.open if isinstance(side, Caller))


class Side(Reader):
    """One of the two connections of a pair; what it reads it writes to the other."""

    def __init__(self, relay: StreamRelay, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(relay.buffer)
        self.relay = relay
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.other: Side | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._finished = False
        self._heard_end = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is connected."""
        self.transport = cast("asyncio.Transport", transport)
        prepare(self.transport)
        self.relay.open.add(self)

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
        if self.other is not None:
            self.other.finish()
            self.other.linger()
        self.relay.is_over(self)

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
            end(self.transport)

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
        address = self.relay.admit(cast("asyncio.Transport", transport))
        if address is None:
            transport.close()
            return
        super().connection_made(transport)
        self.address = address
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
        # They know each other before there is a connection: whichever ends first, and whenever, the other learns of it.
        side = self.other = Side(self.relay, self.loop)
        side.other = self
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self.loop.create_connection(lambda: side, agent.pod.address, agent.pod.port)
        except OSError:  # TimeoutError is one
            self.other = None
            return False
        return True
