"""Simple devices and agents over real sockets, which do what the test asks for.

This agent is no stand-in for the real one (see `tests.support.doubles`). It answers on command, and remembers each read.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.gate.scene import answer, control_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SECONDS = 15.0


@dataclass
class Agent:
    """Listens, and answers each frame with the codes in `code`: "AA" at once; "CA AA" a commit, then AA; "" not at all."""

    code: str = "AA"
    application_after: float = 0.0
    port: int = 0
    got: list[str] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    on_frame: Callable[[Agent, asyncio.StreamWriter], None] | None = None
    server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> Agent:
        """Listen."""
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=2**25)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        buffer = bytearray()
        try:
            while data := await reader.read(65536):
                self.reads.append(len(data))
                buffer += data
                while (end := buffer.find(b"\x1c\r")) >= 0:
                    frame = bytes(buffer[: end + 2])
                    del buffer[: end + 2]
                    self._take(frame, writer)
            self.ends.append("FIN")
        except ConnectionError as fault:
            self.ends.append(type(fault).__name__)
        finally:
            writer.close()

    def _take(self, frame: bytes, writer: asyncio.StreamWriter) -> None:
        self.frames.append(frame)
        self.got.append(control_id(frame))
        if self.on_frame is not None:
            self.on_frame(self, writer)
        first, *later = self.code.split() or [""]
        if first:
            writer.write(answer(self.got[-1], first))
        for code in later:
            asyncio.get_running_loop().call_later(self.application_after, writer.write, answer(self.got[-1], code))

    def die(self) -> None:
        """Stop without a drain: close the port and every connection."""
        if self.server is not None:
            self.server.close()
            self.server = None
        for writer in self.writers:
            writer.close()
        self.writers.clear()


@asynccontextmanager
async def agent(code: str = "AA", *, application_after: float = 0.0) -> AsyncIterator[Agent]:
    """Run an agent on a free port."""
    running = await Agent(code, application_after).start()
    try:
        yield running
    finally:
        for writer in running.writers:
            if not writer.is_closing():
                writer.transport.abort()
        running.die()


@dataclass
class Device:
    """A device with a long-lived connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, *frames: bytes) -> None:
        """Write without waiting for an answer."""
        self.writer.write(b"".join(frames))

    async def answer(self) -> tuple[str, str]:
        """Return the next answer: its code and MSA-2; ("closed", "") after the other side has closed."""
        async with asyncio.timeout(SECONDS):
            try:
                frame = await self.reader.readuntil(b"\x1c\r")
            except asyncio.IncompleteReadError as fault:
                return ("half an answer" if fault.partial else "closed", "")
        _, code, about, *_ = frame.split(b"\r")[1].removesuffix(b"\x1c").decode().split("|")
        return code, about

    async def answers(self, number: int) -> list[tuple[str, str]]:
        """Return the next `number` answers."""
        return [await self.answer() for _ in range(number)]


@asynccontextmanager
async def device(port: int, *, address: str = "127.0.0.1") -> AsyncIterator[Device]:
    """Connect a device to a port, from an address of loopback."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**25, local_addr=(address, 0))
    try:
        yield Device(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def until(question: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until `question` returns something true."""
    async with asyncio.timeout(seconds):
        while not question():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)
