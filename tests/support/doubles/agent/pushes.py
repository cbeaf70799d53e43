"""Messages from the server to a device: connect, send, wait for the ACK, answer the server. `program` has one `Pushes`.

Up to 4.5.2 each message has a connection of its own, the first answer counts whatever its MSA-2, and the agent closes. From
5.0.0 on a connection stays open for further messages, and an answer counts by its MSA-2. There is no time-out: a device that
closes or resets without an answer leaves the server without one, too. Upstream's `keepAlive` and `returnAck` are not simulated.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from tests.support.doubles import hl7
from tests.support.doubles.agent.framers import FrameFinder, Garbage, frame

if TYPE_CHECKING:
    from tests.support.doubles.agent.version import AgentTraits

_CONNECTIONS_PER_REMOTE: Final = 10
_READ_BYTES: Final = 65_536


class _Line:
    """One connection to a device, from its first message on."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, encoding: str, *, strict: bool
    ) -> None:
        self._writer = writer
        self._encoding = encoding
        self._strict = strict
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self.last_used = asyncio.get_running_loop().time()
        self.reading = asyncio.create_task(self._read(reader))

    @property
    def is_open(self) -> bool:
        """Whether the device has not closed it."""
        return not self.reading.done()

    async def exchange(self, body: str) -> str:
        """Send one message; return its answer. Never returns if there is none."""
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[hl7.control_id(body)] = answered
        self._writer.write(frame(body, self._encoding))
        try:
            return await answered
        finally:
            self.last_used = asyncio.get_running_loop().time()

    def close(self) -> None:
        """Close it; what waits for an answer waits on."""
        self.reading.cancel()
        self._writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        framer = FrameFinder(self._encoding)
        with contextlib.suppress(ConnectionError):
            while read := await reader.read(_READ_BYTES):
                with contextlib.suppress(Garbage):
                    for text in framer.feed(read):
                        self._take(text)
        self._writer.close()

    def _take(self, text: str) -> None:
        asked = hl7.field(text, "MSA", 2) if self._strict else next(iter(self._waiting), "")
        answered = self._waiting.pop(asked, None)
        if answered is not None and not answered.done():
            answered.set_result(text)


class Pushes:
    """All connections of one agent to devices."""

    def __init__(self, traits: AgentTraits, *, idle_seconds: float) -> None:
        """From 5.0.0 on a connection that had nothing to do for `idle_seconds` is closed with the next heartbeat."""
        self._stays_open = traits.keeps_push_connections
        self._idle_seconds = idle_seconds
        self._lines: dict[str, list[_Line]] = {}
        self._turn = 0

    async def deliver(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one push; return the answer for the server. Never returns if the device gives none."""
        answer = {
            "type": "agent:transmit:response",
            "channel": command.get("channel"),
            "remote": command.get("remote"),
            "callback": command.get("callback"),
        }
        try:
            body = await self._exchange(str(command.get("remote")), str(command.get("body", "")))
        except (OSError, ValueError) as error:
            return {**answer, "contentType": "text/plain", "statusCode": 400, "body": str(error)}
        return {**answer, "contentType": hl7.CONTENT_TYPE, "statusCode": 200, "body": body}

    def close_idle(self) -> None:
        """Close what has been idle; called with each heartbeat."""
        oldest = asyncio.get_running_loop().time() - self._idle_seconds
        for lines in self._lines.values():
            for line in [each for each in lines if each.last_used <= oldest]:
                line.close()
                lines.remove(line)

    def close(self) -> None:
        """Close all."""
        for lines in self._lines.values():
            for line in lines:
                line.close()

    async def _exchange(self, remote: str, body: str) -> str:
        target = urlsplit(remote)
        if target.scheme != "mllp" or not target.hostname or not target.port:
            raise ValueError(f"Invalid remote: {remote}")
        if self._stays_open and not hl7.control_id(body):
            raise ValueError("MSH.10 is missing but required")
        line = await self._line(remote, target)
        try:
            return await line.exchange(body)
        finally:
            if not self._stays_open:
                line.close()

    async def _line(self, remote: str, target: SplitResult) -> _Line:
        """A new connection, until a device has ten; then those in turn."""
        lines = self._lines.setdefault(remote, [])
        lines[:] = [each for each in lines if each.is_open]
        if self._stays_open and len(lines) >= _CONNECTIONS_PER_REMOTE:
            self._turn += 1
            return lines[self._turn % len(lines)]
        reader, writer = await asyncio.open_connection(target.hostname, target.port, limit=2**26)
        encoding = dict(parse_qsl(target.query)).get("encoding", "utf-8")
        line = _Line(reader, writer, encoding, strict=self._stays_open)
        if self._stays_open:
            lines.append(line)
        return line
