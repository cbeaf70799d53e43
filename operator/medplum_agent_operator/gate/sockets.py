"""What all connections of the gate share: keep-alive, small reads, small buffers; and how a channel listens and stops.

Used by both relays (`relay`, `streams`) and by the connections to devices and agents.
"""

import array
import asyncio
import fcntl
import logging
import socket
import termios
from abc import ABC, abstractmethod
from typing import Final, Protocol

from medplum_agent_operator.gate.effects import Ending, Kind
from medplum_agent_operator.gate.limits import SMALL_BYTES, Occupant
from medplum_agent_operator.gate.routes import Life, Route
from medplum_agent_operator.gate.shared import Shared
from medplum_agent_operator.listening import Listener, listen

LINGER_SECONDS: Final = 10.0
"""How long to wait for the other side's FIN after ours. Then the connection is dropped."""
KEEPALIVE_IDLE_SECONDS: Final = 60
KEEPALIVE_INTERVAL_SECONDS: Final = 15
KEEPALIVE_PROBES: Final = 4
"""After so many keep-alive probes without an answer, TCP drops the connection."""

CONNECTION_UNITS: Final = 2
"""What a new connection costs its address (`pace`)."""
STOPPING: Final = "the gate is stopping"
TOO_MANY_AT_ONCE: Final = "the address made more than a thousand connections in a second"


def configure(transport: asyncio.Transport) -> None:
    """Turn on TCP keep-alive and limit the write buffer to `SMALL_BYTES`.

    Keep-alive detects within two minutes that the other side vanished: a device without power, or a lost node. It works while
    no data is in flight. A wait for an answer has its own time limits.
    """
    transport.set_write_buffer_limits(high=SMALL_BYTES)
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def send_fin(transport: asyncio.WriteTransport) -> bool:
    """Send FIN behind everything written before. If the connection was reset while it was not read, this shows only now: drop it, return False."""
    try:
        transport.write_eof()
    except OSError:
        transport.abort()
        return False
    return True


def undelivered_bytes(transport: asyncio.WriteTransport) -> int:
    """Return how many bytes the other side's kernel has not acknowledged yet."""
    unacknowledged = array.array("i", [0])
    fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, unacknowledged)
    return transport.get_write_buffer_size() + unacknowledged[0]


class Reader(asyncio.BufferedProtocol, ABC):
    """Reads at most `SMALL_BYTES` at a time. asyncio's default of 256 KiB for each of thousands of connections needs too much memory."""

    def __init__(self, buffer: memoryview) -> None:
        """`buffer`: all readers of one loop may share it, as each copies its bytes before the next one reads."""
        self._buffer = buffer

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return the buffer to read into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Copy the bytes that were read."""
        self.data_received(bytes(self._buffer[:nbytes]))

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """Take bytes that were read."""


class Counters(Protocol):
    """Where a channel counts events."""

    def note(self, kind: Kind, number: float, agent: Life | None) -> None:
        """Count an event. `agent`: the one that a message was written to, where the kind concerns one."""

    def connection_closed(self, why: Ending) -> None:
        """Count a device's connection that the gate closed."""

    def connection_refused(self) -> None:
        """Count a device's connection that the gate refused."""


class ChannelServer(ABC):
    """A port that devices connect to, and all open connections that belong to it."""

    def __init__(self, *, name: str, route: Route, shared: Shared, counters: Counters) -> None:
        self.name = name
        self.route = route
        self.shared = shared
        self.counters = counters
        self.open: set[Reader] = set()
        """The connections to devices and to agents."""
        self.buffer = memoryview(bytearray(SMALL_BYTES))
        self._stopping = False
        self._all_closed = asyncio.Event()
        self._server: Listener | None = None

    async def start(self, host: str | None, port: int) -> int:
        """Listen on an address, or on all if `host` is None. Returns the port; `port` 0 takes a free one.

        Raises:
            OSError: if the gate cannot listen on the port.
        """
        loop = asyncio.get_running_loop()
        self._server = await listen(lambda: self.make_protocol(loop), host, port, admits=self._admits)
        return self._server.port

    @abstractmethod
    def make_protocol(self, loop: asyncio.AbstractEventLoop) -> Reader:
        """Make the protocol object for a new device connection."""

    def admit(self, one: Occupant, transport: asyncio.Transport) -> bool:
        """Accept a new device connection, and set its address. If it is over a limit, log that and return False."""
        peer = transport.get_extra_info("peername")
        one.address = str(peer[0]) if peer else "?"
        refusal = self.shared.connections.admit(one, asyncio.get_running_loop().time())
        if refusal is not None or self._stopping:
            self._note_refusal(one.address, refusal or STOPPING)
            return False
        configure(transport)
        return True

    def _admits(self, address: str) -> bool:
        """Whether a new connection may be accepted. This is all that a refused one costs."""
        shared = self.shared
        refusal: str | None
        if self._stopping:
            refusal = STOPPING
        elif shared.pace.charge(address, CONNECTION_UNITS):
            refusal = TOO_MANY_AT_ONCE
        else:
            refusal = shared.connections.refusal(address, self.name, asyncio.get_running_loop().time())
        if refusal is not None:
            self._note_refusal(address, refusal)
        return refusal is None

    def _note_refusal(self, address: str, why: str) -> None:
        self.shared.device_log.note(address, f"refused a device's connection: {why}", level=logging.WARNING)
        self.counters.connection_refused()

    async def stop(self) -> None:
        """Refuse new devices, begin to close every connection, and wait until all are closed.

        Connections to agents count too: if the process exits with an open one, the agent may see a reset.
        """
        self._stopping = True
        if self._server is not None:
            self._server.close()
        self.finish()
        self._signal_if_all_closed()
        await self._all_closed.wait()

    @abstractmethod
    def finish(self) -> None:
        """Begin to close all open connections without losing a message."""

    @abstractmethod
    def close_now(self) -> None:
        """Close all open connections, those to agents by FIN: the grace period is over."""

    def forget(self, connection: Reader) -> None:
        """Remove a closed connection. It may have been the last one that `stop` waits for."""
        self.open.discard(connection)
        self._signal_if_all_closed()

    def _signal_if_all_closed(self) -> None:
        if self._stopping and not self.open:
            self._all_closed.set()
