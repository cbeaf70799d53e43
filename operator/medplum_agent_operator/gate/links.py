"""A connection to an agent, as asyncio has it. Made by a device of `relay` when its conversation asks for one."""

import asyncio
import errno
from typing import Protocol, cast

from medplum_agent_operator.gate.routes import Life
from medplum_agent_operator.gate.sockets import LINGER_SECONDS, ChannelServer, Reader, prepare
from medplum_agent_operator.gate.writing import FrameWriter

CONNECT_SECONDS = 2.0
"""How long an agent may take to accept a connection; one that has gone with its node answers nothing."""


class User(Protocol):
    """Whose link it is."""

    def link_opened(self, number: int) -> None:
        """A connection to an agent is made."""

    def link_failed(self, number: int) -> None:
        """It could not be made."""

    def link_sent(self, number: int, data: bytes) -> None:
        """An agent's bytes."""

    def link_closed(self, number: int) -> None:
        """An agent has closed, or the connection broke."""


class Link(Reader):
    """A connection to an agent, made at once."""

    def __init__(
        self, number: int, agent: Life, device: User, *, channel: ChannelServer, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(channel.buffer)
        self._device = device
        self._channel = channel
        self._loop = loop
        self._number = number
        self._agent = agent
        self._transport: asyncio.Transport | None = None
        self._writer: FrameWriter | None = None
        self._reads = True
        self._over = False
        self._linger: asyncio.TimerHandle | None = None
        channel.open.add(self)
        self._task = loop.create_task(self._connect())
        self._task.add_done_callback(self._forget_unless_connected)

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._loop.create_connection(lambda: self, self._agent.pod.address, self._agent.pod.port)
        except (OSError, TimeoutError) as fault:
            self._over = True
            self._device.link_failed(self._number)
            if isinstance(fault, OSError) and fault.errno == errno.ECONNREFUSED:
                self._channel.route.refused(self._agent.pod)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The agent has accepted."""
        self._transport = cast("asyncio.Transport", transport)
        prepare(self._transport)
        self._writer = FrameWriter(self._transport, self._loop.call_later)
        self._channel.route.met(self._agent)
        if self._over:
            self.finish()
        else:
            self._device.link_opened(self._number)

    def data_received(self, data: bytes) -> None:
        """Bytes of the agent."""
        self._device.link_sent(self._number, data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The connection is no more."""
        if self._linger is not None:
            self._linger.cancel()
        if self._writer is not None:
            self._writer.abandon()
        self._forget()
        if not self._over:
            self._over = True
            self._device.link_closed(self._number)

    def _forget_unless_connected(self, _task: "asyncio.Task[None]") -> None:
        if self._transport is None:
            self._forget()

    def _forget(self) -> None:
        self._channel.is_over(self)

    def pause_writing(self) -> None:
        """The agent does not read."""
        if self._writer is not None:
            self._writer.pause()

    def resume_writing(self) -> None:
        """It does again."""
        if self._writer is not None:
            self._writer.resume()

    def write(self, frame: bytearray) -> None:
        """Write a frame."""
        if self._writer is not None:
            self._writer.write(frame)

    def read(self, wanted: bool) -> None:  # noqa: FBT001 - on or off
        """Read what the agent sends, or let it wait."""
        if self._transport is not None and wanted != self._reads and not self._transport.is_closing():
            self._reads = wanted
            (self._transport.resume_reading if wanted else self._transport.pause_reading)()

    def abandon(self) -> None:
        """Drop the connection, whatever it takes."""
        if self._transport is None:
            self._task.cancel()
        else:
            self._transport.abort()

    def finish(self) -> None:
        """Close by FIN; what still comes is read and left out, so that the agent sees no reset."""
        self._over = True
        if self._transport is None or self._writer is None:
            self._task.cancel()
            return
        self.read(wanted=True)
        self._writer.finish()
        self._linger = self._loop.call_later(LINGER_SECONDS, self._transport.abort)
