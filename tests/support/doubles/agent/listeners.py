"""The agent's ports: HL7, byte stream, DICOM. `program` opens them; what they receive goes into the link's queue.

The only key of a connection is the peer's ip:port, as upstream has it: a late answer for a closed connection is delivered to
the device that has the same ip:port now. There is no time-out and no idle close. DICOM is a port that takes connections and reads.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import uuid
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, cast

from tests.support.doubles import hl7
from tests.support.doubles.agent.acks import Dialect, Hl7Conversation, answer_for_device
from tests.support.doubles.agent.byte_stream import CONTENT_TYPE, ByteStream, Delimiters
from tests.support.doubles.agent.framers import READ_BYTES, Garbage

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.doubles.agent.addresses import ChannelAddress
    from tests.support.doubles.agent.link import ServerLink
    from tests.support.doubles.agent.logs import Logs
    from tests.support.doubles.agent.version import AgentTraits

_BACKLOG: Final = 511


def open_port(port: int) -> socket.socket:
    """Listen on all interfaces, IPv6 and IPv4 in one socket where the machine has both, as Node does."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return socket.create_server(("", port), backlog=_BACKLOG)


class Channel(ABC):
    """One channel: a port, and the connections of its devices."""

    kind: ClassVar[str]
    keeps_a_busy_port_in_mind: ClassVar[bool]

    def __init__(self, address: ChannelAddress, *, agent_id: str, link: ServerLink, logs: Logs) -> None:
        self.address = address
        self.prefix = f"[{self.kind}:{address.name}]"
        self.logs = logs
        self.devices: dict[str, asyncio.Transport] = {}
        self._agent_id = agent_id
        self._link = link
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Bind the port; OSError if it cannot be."""
        self.logs.main.info(f"{self.prefix} Channel starting on {self.address.url}...")
        self._server = await asyncio.get_running_loop().create_server(
            self.connection, sock=open_port(self.address.port), backlog=_BACKLOG
        )
        self.logs.main.info(f"{self.prefix} Channel started successfully")

    def close(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
        for transport in list(self.devices.values()):
            transport.close()

    @abstractmethod
    def connection(self) -> asyncio.BaseProtocol:
        """Make the protocol of a new connection."""

    def forward(self, remote: str, body: str, content_type: str, *, memory_seconds: float = 0) -> None:
        """Put a device's message into the queue."""
        message = {
            "type": "agent:transmit:request",
            "channel": self.address.name,
            "remote": remote,
            "contentType": content_type,
            "body": body,
            "callback": f"Agent/{self._agent_id}-{uuid.uuid4()}",
        }
        self._link.send(message, memory_seconds=memory_seconds)

    def answer(self, response: dict[str, Any]) -> None:
        """Send the server's answer to the device that has this ip:port now."""
        transport = self.devices.get(str(response.get("remote")))
        if transport is None:
            self.logs.main.warn(
                f"{self.prefix} Attempted to send message to disconnected remote: {response.get('remote')}"
            )
            return
        written = self.render(response)
        if written is not None:
            transport.write(written)

    @abstractmethod
    def render(self, response: dict[str, Any]) -> bytes | None:
        """Return the answer to the device, if any."""


class _Device(asyncio.BufferedProtocol):
    """One connection. A read is at most 64 KiB, as Node's is: the old framer's faults depend on it."""

    _read: ClassVar[bytearray] = bytearray(READ_BYTES)
    """One for all: it is filled and emptied in one step of the event loop."""
    kind = "TCP"

    def __init__(self, channel: Channel, take: Callable[[str, bytes, asyncio.Transport], None]) -> None:
        self._channel = channel
        self._take = take

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername") or ("unknown", 0)
        self._remote = f"{peer[0]}:{peer[1]}"
        self._channel.devices[self._remote] = self._transport
        name = "Byte stream" if self._channel.kind == "Byte Stream" else self._channel.kind
        self._channel.logs.main.info(f"{self._channel.prefix} {name} connection established: {self._remote}")

    def get_buffer(self, sizehint: int) -> bytearray:
        del sizehint
        return self._read

    def buffer_updated(self, nbytes: int) -> None:
        self._take(self._remote, bytes(memoryview(self._read)[:nbytes]), self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._channel.devices.get(self._remote) is self._transport:
            del self._channel.devices[self._remote]
        self._channel.logs.main.info(f"{self._channel.prefix} Closing connection: {self._remote}")
        del exc  # An HL7 or DICOM peer may reset as it likes.


class Hl7Channel(Channel):
    """MLLP."""

    kind = "HL7"
    keeps_a_busy_port_in_mind = True

    def __init__(
        self,
        address: ChannelAddress,
        *,
        agent_id: str,
        link: ServerLink,
        logs: Logs,
        traits: AgentTraits,
        memory_ms: int,
    ) -> None:
        super().__init__(address, agent_id=agent_id, link=link, logs=logs)
        self._dialect = Dialect.of(traits, address.parameters)
        self._memory_seconds = memory_ms / 1000 if self._dialect.keeps_in_memory else 0

    def connection(self) -> asyncio.BaseProtocol:
        """A conversation, and its protocol."""
        conversation = Hl7Conversation(self._dialect, _now)

        def take(remote: str, read: bytes, transport: asyncio.Transport) -> None:
            try:
                arrivals = conversation.feed(read)
            except Garbage as error:
                self.logs.main.error(f"{self.prefix} HL7 error occurred - check channel logs")
                self.logs.channel.error(f"{self.prefix} HL7 error: {error}")
                return
            for arrival in arrivals:
                if arrival.ack is not None:
                    transport.write(arrival.ack)
                self.logs.channel.info(
                    f"{self.prefix} [Received -- ID: {arrival.control_id or 'not provided'}]: {arrival.text}"
                )
                self.forward(remote, arrival.text, hl7.CONTENT_TYPE, memory_seconds=self._memory_seconds)

        return _Device(self, take)

    def render(self, response: dict[str, Any]) -> bytes | None:
        """The server's ACK, unchecked."""
        written = answer_for_device(self._dialect, response)
        if written is not None:
            body = str(response["body"])
            self.logs.channel.info(f"{self.prefix} [Sending ACK -- ID: {hl7.field(body, 'MSA', 2)}]: {body}")
        return written


class _FragileDevice(_Device):
    """A reset by a byte-stream peer is an uncaught error: it ends the whole agent."""

    def __init__(
        self, channel: Channel, take: Callable[[str, bytes, asyncio.Transport], None], die: Callable[[], NoReturn]
    ) -> None:
        super().__init__(channel, take)
        self._die = die

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._die()
        super().connection_lost(exc)


class ByteStreamChannel(Channel):
    """Bytes between two characters."""

    kind = "Byte Stream"
    keeps_a_busy_port_in_mind = False

    def __init__(
        self, address: ChannelAddress, *, agent_id: str, link: ServerLink, logs: Logs, die: Callable[[], NoReturn]
    ) -> None:
        super().__init__(address, agent_id=agent_id, link=link, logs=logs)
        self._delimiters = Delimiters.of(address.parameters)
        self._die = die

    def connection(self) -> asyncio.BaseProtocol:
        """A stream, and its protocol."""
        stream = ByteStream(self._delimiters)

        def take(remote: str, read: bytes, _transport: asyncio.Transport) -> None:
            self.logs.channel.info(f"{self.prefix} Received: {read.decode('latin-1')}")
            for body in stream.feed(read):
                self.forward(remote, body, CONTENT_TYPE)

        return _FragileDevice(self, take, self._die)

    def render(self, response: dict[str, Any]) -> bytes | None:
        """The server's answer as it is."""
        return str(response.get("body", "")).encode("latin-1", "replace")


class DicomChannel(Channel):
    """A port that takes connections and reads what comes, so that probes and drains see a DICOM channel. No association."""

    kind = "DICOM"
    keeps_a_busy_port_in_mind = True

    def connection(self) -> asyncio.BaseProtocol:
        """Read and forget."""
        return _Device(self, lambda _remote, _read, _transport: None)

    def render(self, response: dict[str, Any]) -> bytes | None:
        """Nothing was asked, so nothing is answered."""
        del response
        return None


def _now() -> datetime:
    return datetime.now(UTC)
