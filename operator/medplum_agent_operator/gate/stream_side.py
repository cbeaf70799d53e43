"""One connection of a byte-stream channel: it writes what it reads to the connection that it is paired with.

`streams` makes a pair for each device: its own side, and one to an agent.
"""

import asyncio
import socket
import struct
from typing import cast

from medplum_agent_operator.gate.sockets import (
    LINGER_SECONDS,
    ChannelServer,
    Reader,
    configure,
    send_fin,
    undelivered_bytes,
)


class Side(Reader):
    """One connection of a pair: it writes what it reads to the other side."""

    def __init__(self, relay: ChannelServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(relay.buffer)
        self.relay = relay
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.other: Side | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._finished = False
        self._received_fin = False
        self._broken = False
        self._resets = False
        """Whether this side ends by RST, as soon as everything is written."""
        self.blocked = False

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

    def connection_lost(self, exc: Exception | None) -> None:
        """This side is closed: end the other one, and drop its later bytes."""
        self.transport = None
        if self._linger is not None:
            self._linger.cancel()
        if self.other is not None:
            self.end_other(self.other, broken=self._broken or exc is not None)
        self.relay.forget(self)

    def end_other(self, other: "Side", *, broken: bool) -> None:
        """End the other side like this one: by RST if the connection broke."""
        if broken:
            other.reset()
        else:
            other.finish()
            other.linger()

    def pause_writing(self) -> None:
        """This side does not read: stop reading from the other one."""
        self.blocked = True
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """This side reads again."""
        self.blocked = False
        if self._resets:
            self.reset()
        elif self.other is not None:
            self.other.read_on()

    def read_on(self) -> None:
        """The other side reads again."""
        if self.transport is not None:
            self.transport.resume_reading()

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
            self._broken = not send_fin(self.transport)

    def reset(self) -> None:
        """Close by RST, behind everything written before."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._resets = True
        _reset_on_close(transport)
        if transport.get_write_buffer_size():
            self.linger()
            transport.set_write_buffer_limits(high=0)  # `resume_writing` comes when all is written
            return
        transport.abort()

    def reset_now(self) -> None:
        """Close by RST, and drop what is not written yet. A side that closes, with everything written, closes as it does."""
        transport = self.transport
        if transport is None or (transport.is_closing() and not transport.get_write_buffer_size()):
            return
        self._resets = True
        _reset_on_close(transport)
        transport.abort()

    def linger(self) -> None:
        """Read until this side closes, for at most `LINGER_SECONDS` after it has read its last bytes, or stopped reading."""
        if self.transport is not None and self._linger is None:
            self.transport.resume_reading()
            self._wait(self.transport)

    def _wait(self, transport: asyncio.Transport) -> None:
        left = undelivered_bytes(transport)

        def look() -> None:
            if 0 < undelivered_bytes(transport) < left:
                self._wait(transport)
            else:
                self.drop()

        self._linger = self.loop.call_later(LINGER_SECONDS, look)

    def drop(self) -> None:
        """Close without a wait: by FIN, because a reset ends an agent."""
        if self.transport is not None:
            self.transport.abort()


def _reset_on_close(transport: asyncio.Transport) -> None:
    """Let the connection end by RST however it is closed, by the end of the process too."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
