"""What every connection of the gate has, whoever is at its other end: it notices silence, reads a little at a time, and buffers little.

Used by `relay`, `links` and `streams`, which also share how a channel listens and ends.
"""

import asyncio
import socket
from abc import ABC, abstractmethod
from typing import Final, Protocol

from medplum_agent_operator.gate.effects import Ending, Kind
from medplum_agent_operator.gate.limits import SMALL_BYTES, Connections
from medplum_agent_operator.gate.routes import Life, Route
from medplum_agent_operator.telemetry import log

LINGER_SECONDS: Final = 10.0
"""How long to wait for the other side's FIN after ours, before the connection is dropped."""
SILENT_SECONDS: Final = 60
PROBES: Final = (15, 4)
"""Seconds between probes of a silent connection, and how many without an answer end it."""


def prepare(transport: asyncio.Transport) -> None:
    """Let TCP find out that the other side is gone without a word, in two minutes: a device without power, a node that is lost.

    While nothing is on its way, that is; who waits for an answer has times of its own. And let no more wait to be written than a connection may hold.
    """
    transport.set_write_buffer_limits(high=SMALL_BYTES)
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBES[0])
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES[1])


def end(transport: asyncio.WriteTransport) -> None:
    """Send FIN after what was written. A connection that was reset while nobody read from it is dropped: that is seen only now."""
    try:
        transport.write_eof()
    except OSError:
        transport.abort()


class Reader(asyncio.BufferedProtocol, ABC):
    """Reads at most `SMALL_BYTES` at a time: asyncio's own 256 KiB, for each of thousands of connections, would be a gate's end."""

    def __init__(self, buffer: memoryview) -> None:
        """`buffer`: may be shared by all who read on one loop, as it is emptied before the next one reads."""
        self._buffer = buffer

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So much was read."""
        self.data_received(bytes(self._buffer[:nbytes]))

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """What was read."""


class Counters(Protocol):
    """Where a channel counts what happens on it."""

    def note(self, kind: Kind, number: float, agent: Life | None) -> None:
        """Something happened; with a message to an agent, which one."""

    def ended(self, why: Ending) -> None:
        """A device's connection was closed by the gate."""

    def refused(self) -> None:
        """A device's connection was not taken."""


class ChannelServer(ABC):
    """A port that devices connect to, and all connections that there are because of it."""

    def __init__(self, *, route: Route, connections: Connections, counters: Counters) -> None:
        self.route = route
        self.connections = connections
        self.counters = counters
        self.open: set[Reader] = set()
        """Those to devices and those to agents."""
        self.buffer = memoryview(bytearray(SMALL_BYTES))
        self._stopping = False
        self._emptied = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self, host: str | None, port: int) -> int:
        """Listen on an address, or on all where `host` is None. Returns the port; `port` 0 takes a free one.

        Raises:
            OSError: when the port cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: self.device(loop), host, port, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    @abstractmethod
    def device(self, loop: asyncio.AbstractEventLoop) -> Reader:
        """Make what serves a device that connects."""

    def admit(self, transport: asyncio.Transport) -> str | None:
        """Count a device's connection, and tell its address; None where it is one too many, which is logged."""
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else "?"
        refusal = "the gate ends" if self._stopping else self.connections.refusal(address)
        if refusal is not None:
            log.warning("a connection is refused: %s", refusal, extra={"device": address})
            self.counters.refused()
            return None
        prepare(transport)
        self.connections.came(address)
        return address

    async def stop(self) -> None:
        """Take no more devices, let every connection come to its end, and wait for that.

        Those to agents count too: a process that ends with one open may reset it.
        """
        self._stopping = True
        if self._server is not None:
            self._server.close()
        self.finish()
        self._check_emptied()
        await self._emptied.wait()

    @abstractmethod
    def finish(self) -> None:
        """Begin the end of what is open, in good order."""

    @abstractmethod
    def cut(self) -> None:
        """End every connection that is still open, by FIN: there is no more time."""

    def is_over(self, connection: Reader) -> None:
        """A connection is over: it may have been the last."""
        self.open.discard(connection)
        self._check_emptied()

    def _check_emptied(self) -> None:
        if self._stopping and not self.open:
            self._emptied.set()
