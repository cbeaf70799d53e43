"""What the generator asks of the test server: which messages have arrived, and to push one to a device.

The only module that knows the server's control API. HTTP by the standard library, in threads: a request or two a
second. For another test system with a record of arrivals, write another such class.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, Protocol

REQUEST_SECONDS: Final = 10.0


class ServerAwayError(Exception):
    """The control API did not answer, or not with what it should."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that the server got. `at` is the server's wall clock, in seconds since 1970, where it says so."""

    identifier: str
    at: float | None


class Server(Protocol):
    """What the generator needs."""

    async def arrivals(self) -> list[Arrival]:
        """Messages that arrived since this was last asked, each as often as it arrived."""
        ...

    async def push(self, *, agent_id: str, remote: str, body: str, identifier: str) -> bool:
        """Have a message pushed through the agent. Returns whether the server took it."""
        ...


class ControlApi:
    """The fake Medplum server's control API.

    `GET /control/messages?since=N` answers JSON: `{"columns": ["controlId", "receivedAt", ...], "messages": [rows],
    "next": N}`, or objects instead of rows, as a list or one a line. The control id is `controlId` or `id`, the time
    `receivedAt`, `at` or `time`: seconds, or ISO 8601. `POST /control/push` takes `{agent, remote, body}`; any 2xx means
    that the server has taken it, unless it says that it went to no socket (`"sockets": 0`).
    """

    def __init__(self, base: str) -> None:
        if urllib.parse.urlsplit(base).scheme not in {"http", "https"}:
            raise ValueError(f"{base!r} is no address of a server: http://host:port")
        self._base = base.rstrip("/")
        self._since = 0

    async def arrivals(self) -> list[Arrival]:
        """Ask for what is new."""
        body = await asyncio.to_thread(self._request, f"/control/messages?since={self._since}", None)
        found, self._since = parse_messages(body, self._since)
        return found

    async def push(self, *, agent_id: str, remote: str, body: str, identifier: str) -> bool:
        """Ask for a push."""
        request = {"agent": agent_id, "remote": remote, "body": body, "id": identifier}
        try:
            answer = await asyncio.to_thread(self._request, "/control/push", json.dumps(request).encode())
        except ServerAwayError:
            return False
        return taken(answer)

    def _request(self, path: str, body: bytes | None) -> bytes:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._base + path, data=body, headers=headers)  # noqa: S310 - checked above
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:  # noqa: S310
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as error:
            with error:
                raise ServerAwayError(f"{path}: {error.code} {HTTPStatus(error.code).phrase}") from error
        except OSError as error:
            raise ServerAwayError(f"{path}: {error}") from error


def taken(answer: bytes) -> bool:
    """Whether a push went to anybody. A server that does not say is believed.

    >>> taken(b'{"sockets": 0}'), taken(b'{"sockets": 2}'), taken(b"")
    (False, True, True)
    """
    try:
        document = json.loads(answer)
    except json.JSONDecodeError:
        return True
    return not isinstance(document, dict) or bool(document.get("sockets", True))


def parse_messages(body: bytes, since: int) -> tuple[list[Arrival], int]:
    """Read an answer of `/control/messages`. Returns the arrivals, and where to continue.

    >>> parse_messages(b'{"messages": [{"id": "a1", "at": 5.0}], "next": 8}', 7)
    ([Arrival(identifier='a1', at=5.0)], 8)
    """
    text = body.decode().strip()
    try:
        document = json.loads(text) if text else []
    except json.JSONDecodeError:
        try:
            document = [json.loads(line) for line in text.splitlines()]
        except json.JSONDecodeError as error:
            raise ServerAwayError(f"/control/messages: neither JSON nor JSON lines: {error}") from error
    if isinstance(document, dict) and "messages" in document:
        rows, after = document["messages"], document.get("next")
        if "columns" in document:
            rows = [dict(zip(document["columns"], row, strict=True)) for row in rows]
    else:
        rows, after = document if isinstance(document, list) else [document], None
    arrivals = [Arrival(_identifier(row), _at(row)) for row in rows]
    return arrivals, since + len(arrivals) if after is None else int(after)


def _identifier(row: dict[str, Any]) -> str:
    for name in ("controlId", "id"):
        if name in row:
            return str(row[name])
    raise ServerAwayError(f"/control/messages: a message without a control id: {sorted(row)}")


def _at(row: dict[str, Any]) -> float | None:
    match row.get("receivedAt", row.get("at", row.get("time"))):
        case int(value) | float(value):
            return float(value)
        case str(value):
            return datetime.fromisoformat(value).timestamp()
        case _:
            return None
