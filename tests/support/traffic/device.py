"""The device that gets pushes: an MLLP listener that acknowledges and counts. `generator` runs it.

A push that two overlapping agents both deliver arrives twice: that is what the counts are for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.traffic import hl7
from tests.support.traffic.connection import MllpConnection

if TYPE_CHECKING:
    from collections.abc import Callable


class ListeningDevice:
    """Answers AA to each message, and passes its control id to `on_arrival`."""

    def __init__(self, on_arrival: Callable[[str], None]) -> None:
        self._on_arrival = on_arrival
        self._server: asyncio.Server | None = None
        self._connections: set[MllpConnection] = set()
        self._answered = 0

    async def start(self, host: str, port: int) -> int:
        """Listen. Returns the port, which the kernel chose when it was 0."""
        self._server = await asyncio.get_running_loop().create_server(self._accept, host, port)
        bound: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        return bound[1]

    async def stop(self) -> None:
        """Close the listener and what is connected."""
        if self._server is not None:
            self._server.close()
            for connection in tuple(self._connections):
                connection.close()
            await self._server.wait_closed()

    def _accept(self) -> MllpConnection:
        connection: MllpConnection

        def on_frame(payload: bytes) -> None:
            identifier = hl7.identifier_of(payload)
            if identifier is None:
                return
            self._on_arrival(identifier)
            self._answered += 1
            connection.send(hl7.acknowledgement(payload, "AA", identifier=f"D{self._answered}"))

        connection = MllpConnection(on_frame, lambda _: self._connections.discard(connection))
        self._connections.add(connection)
        return connection
