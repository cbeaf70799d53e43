"""A TCP connection to an agent. A `device_connection` makes one when its conversation asks for a link."""

import asyncio
import errno
from typing import Protocol, cast

from medplum_agent_operator.gate.frame_writer import FrameWriter
from medplum_agent_operator.gate.routes import Life
from medplum_agent_operator.gate.sockets import LINGER_SECONDS, ChannelServer, Reader, configure

CONNECT_SECONDS = 2.0
"""How long an agent may take to accept a connection. One that was lost with its node answers nothing."""


class Owner(Protocol):
    """The device connection that asked for a link. `number` is the link's."""

    def link_opened(self, number: int) -> None:
        """The link is connected."""

    def link_failed(self, number: int) -> None:
        """The link could not be connected."""

    def link_sent(self, number: int, data: bytes) -> None:
        """The agent sent bytes."""

    def link_closed(self, number: int) -> None:
        """The agent closed the link, or the link broke."""


class AgentConnection(Reader):
    """A connection to an agent. It starts to connect when it is made."""

    def __init__(
        self, number: int, agent: Life, owner: Owner, *, channel: ChannelServer, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(channel.buffer)
        self._owner = owner
        self._channel = channel
        self._loop = loop
        self._number = number
        self._agent = agent
        self._transport: asyncio.Transport | None = None
        self._writer: FrameWriter | None = None
        self._reading = True
        self._closed = False
        self._linger: asyncio.TimerHandle | None = None
        channel.open.add(self)
        self._task = loop.create_task(self._connect())
        self._task.add_done_callback(self._forget_unless_connected)

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._loop.create_connection(lambda: self, self._agent.pod.address, self._agent.pod.port)
        except (OSError, TimeoutError) as fault:
            self._closed = True
            self._owner.link_failed(self._number)
            if isinstance(fault, OSError) and fault.errno == errno.ECONNREFUSED:
                self._channel.route.connection_refused(self._agent.pod)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The agent accepted."""
        self._transport = cast("asyncio.Transport", transport)
        configure(self._transport)
        self._writer = FrameWriter(self._transport, self._loop.call_later)
        self._channel.route.connected(self._agent)
        if self._closed:
            self.finish()
        else:
            self._owner.link_opened(self._number)

    def data_received(self, data: bytes) -> None:
        """The agent sent bytes."""
        self._owner.link_sent(self._number, data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The connection is closed."""
        if self._linger is not None:
            self._linger.cancel()
        if self._writer is not None:
            self._writer.abandon()
        self._forget()
        if not self._closed:
            self._closed = True
            self._owner.link_closed(self._number)

    def _forget_unless_connected(self, _task: "asyncio.Task[None]") -> None:
        if self._transport is None:
            self._forget()

    def _forget(self) -> None:
        self._channel.forget(self)

    def pause_writing(self) -> None:
        """The agent does not read, and the transport's buffer is full."""
        if self._writer is not None:
            self._writer.pause()

    def resume_writing(self) -> None:
        """The agent reads again."""
        if self._writer is not None:
            self._writer.resume()

    def write(self, frame: bytearray) -> None:
        """Write a frame."""
        if self._writer is not None:
            self._writer.write(frame)

    @property
    def flushed(self) -> bool:
        """Whether every frame is completely written."""
        return self._writer is None or self._writer.flushed

    def set_reading(self, reading: bool) -> None:  # noqa: FBT001 - on or off
        """Read the agent's bytes, or leave them in the kernel."""
        if self._transport is not None and reading != self._reading and not self._transport.is_closing():
            self._reading = reading
            (self._transport.resume_reading if reading else self._transport.pause_reading)()

    def abandon(self) -> None:
        """Drop the connection at once."""
        if self._transport is None:
            self._task.cancel()
        else:
            self._transport.abort()

    def finish(self) -> None:
        """Close by FIN. Later bytes are read and dropped, so that the agent sees no reset."""
        self._closed = True
        if self._transport is None or self._writer is None:
            self._task.cancel()
            return
        self.set_reading(reading=True)
        self._writer.finish()
        self._linger = self._loop.call_later(LINGER_SECONDS, self._transport.abort)
