"""One MLLP connection, and the names of the ways in which it ends. `senders` and `device` sit on top.

Thin on purpose: bytes in, frames out, and exactly one call when the other side or the network ends the connection.
"""

from __future__ import annotations

import asyncio
from itertools import cycle
from typing import TYPE_CHECKING

from tests.support.traffic.ledger import Outcome
from tests.support.traffic.mllp import Deframer, frame

if TYPE_CHECKING:
    from collections.abc import Callable


class MllpConnection(asyncio.Protocol):
    """Calls `on_frame` for each message and `on_lost` once, unless we closed ourselves."""

    def __init__(self, on_frame: Callable[[bytes], None], on_lost: Callable[[Outcome], None]) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._deframer = Deframer()
        self._transport: asyncio.Transport | None = None
        self._ours = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand on what is complete."""
        for payload in self._deframer.feed(data):
            if self._ours:
                return
            self._on_frame(payload)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say how it ended: FIN or RST."""
        if not self._ours:
            self._ours = True
            self._on_lost(Outcome.CLOSED if exc is None else outcome_of(exc))

    @property
    def alive(self) -> bool:
        """Whether it is open, as of the last event."""
        return self._transport is not None and not self._ours

    def send(self, payload: bytes) -> bool:
        """Write one frame, in one write: agents before 5.0.0 want its end at the end of a read."""
        if self._transport is None or self._ours:
            return False
        self._transport.write(frame(payload))
        return True

    def close(self) -> None:
        """Close it from our side, without a callback."""
        self._ours = True
        if self._transport is not None:
            self._transport.close()


def outcome_of(error: Exception) -> Outcome:
    """Name a socket's error."""
    match error:
        case ConnectionRefusedError():
            return Outcome.REFUSED
        case ConnectionError():
            return Outcome.RESET
        case TimeoutError():
            return Outcome.TIMEOUT
        case OSError():
            return Outcome.UNREACHABLE
        case _:
            raise error


class Dialler:
    """Opens connections, from the source addresses in turn.

    One address that connects often uses its ports again while the node's connection tracking still sends them to a pod
    that is gone; no real device would see such time-outs.
    """

    def __init__(self, host: str, port: int, sources: tuple[str, ...], connect_seconds: float) -> None:
        self._host = host
        self._port = port
        self._sources = cycle(sources or (None,))
        self._connect_seconds = connect_seconds

    async def dial(self, connection: MllpConnection) -> Outcome | None:
        """Connect. Returns what went wrong, or None."""
        source = next(self._sources)
        local = None if source is None else (source, 0)
        try:
            async with asyncio.timeout(self._connect_seconds):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, self._host, self._port, local_addr=local
                )
        except OSError as error:
            connection.close()
            return outcome_of(error)
        return None
