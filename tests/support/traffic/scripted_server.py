"""An MLLP server with a script for each message, and a record. Only for tests of this folder.

It stands for agent and server in one: what it records has arrived, with any answer.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from tests.support.traffic import hl7
from tests.support.traffic.medplum_server import Arrival
from tests.support.traffic.mllp import Deframer, frame

if TYPE_CHECKING:
    from collections.abc import Callable


class Manner(Enum):
    """What happens to one message."""

    ACK = auto()
    """Recorded, AA."""
    LATE = auto()
    """Recorded, AA after 0.3 s."""
    ENHANCED = auto()
    """CA, recorded, AA."""
    LOSE = auto()
    """CA, and then forgotten."""
    REJECT = auto()
    """AE, not recorded."""
    RESET = auto()
    """RST, not recorded."""
    CLOSE = auto()
    """FIN, not recorded."""
    CLOSE_MIDWAY = auto()
    """Recorded, half an AA, FIN."""
    SILENCE = auto()
    """Neither recorded nor answered."""
    STRAY = auto()
    """Recorded; first an AA for another message, then the right one."""


class ScriptedServer:
    """`script` is asked with the control id, and how often it has come already."""

    def __init__(self, script: Callable[[str, int], Manner] = lambda *_: Manner.ACK) -> None:
        self.script = script
        self.seen: list[str] = []
        self.record: list[str] = []
        self.peers: list[str] = []
        self.port = 0
        self.push_times = 1
        """How many agents deliver each push."""
        self.pushes_taken = True
        self._reported = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen, again on the port it had."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and all connections: what comes now is refused."""
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def arrivals(self) -> list[Arrival]:
        """What is new in the record."""
        new = self.record[self._reported :]
        self._reported = len(self.record)
        return [Arrival(identifier, None) for identifier in new]

    async def push(self, *, agent_id: str, remote: str, body: str, identifier: str) -> bool:
        """Deliver as often as there are agents."""
        assert (agent_id, hl7.identifier_of(body.encode())) == ("agent-1", identifier)
        if self.pushes_taken:
            for _ in range(self.push_times):
                await self._deliver(remote, body)
        return self.pushes_taken

    async def _deliver(self, remote: str, body: str) -> None:
        host, _, port = remote.removeprefix("mllp://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(frame(body.encode()))
        await reader.readuntil(b"\x1c\r")
        writer.close()
        await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.peers.append(writer.get_extra_info("peername")[0])
        deframer = Deframer()
        try:
            while data := await reader.read(65536):
                for payload in deframer.feed(data):
                    await self._answer(payload, writer)
        except OSError:
            pass
        finally:
            writer.close()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _answer(self, payload: bytes, writer: asyncio.StreamWriter) -> None:
        identifier = hl7.identifier_of(payload)
        assert identifier is not None
        manner = self.script(identifier, self.seen.count(identifier))
        self.seen.append(identifier)
        if manner in {Manner.ACK, Manner.LATE, Manner.ENHANCED, Manner.CLOSE_MIDWAY, Manner.STRAY}:
            self.record.append(identifier)
        if manner is Manner.RESET:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        for seconds, answer in _ANSWERS[manner]:
            await asyncio.sleep(seconds)
            written = frame(hl7.acknowledgement(payload, answer[:2], identifier="S1"))
            writer.write(written[:20] if answer == "AA, half" else written)
        if manner is Manner.STRAY:
            somebody = hl7.message(identifier="somebody-else", sender="SLOW", written_at="")
            writer.write(frame(hl7.acknowledgement(somebody, "AA", identifier="S2")))
            writer.write(frame(hl7.acknowledgement(payload, "AA", identifier="S3")))
        if manner in {Manner.RESET, Manner.CLOSE, Manner.CLOSE_MIDWAY}:
            writer.close()


_ANSWERS: Final[dict[Manner, tuple[tuple[float, str], ...]]] = {
    Manner.ACK: ((0.0, "AA"),),
    Manner.LATE: ((0.3, "AA"),),
    Manner.ENHANCED: ((0.0, "CA"), (0.01, "AA")),
    Manner.LOSE: ((0.0, "CA"),),
    Manner.REJECT: ((0.0, "AE"),),
    Manner.RESET: (),
    Manner.CLOSE: (),
    Manner.CLOSE_MIDWAY: ((0.0, "AA, half"),),
    Manner.SILENCE: (),
    Manner.STRAY: (),
}
"""After how many seconds which answer."""
