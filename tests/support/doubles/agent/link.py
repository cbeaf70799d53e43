"""The agent's side of the Medplum server: login, the WebSocket, heartbeats, and the queue of messages in memory.

`program` opens it; listeners put messages into its queue and never wait. The queue outlives a lost connection and dies with
the process. What was sent and not answered when the WebSocket breaks is never sent again: upstream forgets it too.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.doubles.agent.logs import Log
    from tests.support.doubles.agent.properties import AgentSettings
    from tests.support.doubles.agent.switches import Switches
    from tests.support.doubles.agent.version import AgentTraits

_MISSED_HEARTBEATS = 1
_SLOWEST_RECONNECT_SECONDS = 10
_STEADY_SECONDS = 5
"""A socket that was open for so long has done with the pauses before it."""
_PAUSES_SECONDS = (0.2, 0.2)
_SERVER_FAULT = 500
_TRANSIENT = (aiohttp.ClientError, OSError, asyncio.TimeoutError)


class LoginError(Exception):
    """The server gave no token."""


class UnreadableError(Exception):
    """The Agent or one of its Endpoints cannot be read."""


class ServerLink:
    """One agent's link to its server."""

    def __init__(self, settings: AgentSettings, traits: AgentTraits, switches: Switches) -> None:
        self._settings = settings
        self._traits = traits
        self._switches = switches
        self._queue: deque[tuple[float, dict[str, Any]]] = deque()
        self._work = asyncio.Event()
        self._opened = asyncio.Event()
        self._is_live = False
        self._unanswered_heartbeats = 0
        self._token = ""
        self._renewal = 0.0
        self._pause = switches.reconnect_ms / 1000 if switches.reconnect_ms >= 0 else random.uniform(1, 5)  # noqa: S311
        """Upstream draws it once for each process."""
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        # Upstream's WebSocket says nothing of its version either: heartbeats do.
        self._http = aiohttp.ClientSession(skip_auto_headers=("User-Agent",), timeout=aiohttp.ClientTimeout(total=30))

    async def log_in(self) -> None:
        """Request a token, and who it is for; raise LoginError if the server gives none.

        A token that is to be renewed at once is renewed for ever: the agent hangs, alive and without a word.
        """
        form = {
            "grant_type": "client_credentials",
            "client_id": self._settings.client_id,
            "client_secret": self._settings.client_secret,
        }
        try:
            async with self._http.post(f"{self._settings.base_url}/oauth2/token", data=form) as response:
                answer = await response.json(content_type=None) if response.status == 200 else {}
        except (*_TRANSIENT, ValueError) as error:
            raise LoginError(str(error)) from error
        if not isinstance(answer, dict) or "access_token" not in answer:
            raise LoginError(f"status {response.status}")
        self._token = str(answer["access_token"])
        seconds = float(answer.get("expires_in", 3600)) - self._switches.token_grace_ms / 1000
        self._renewal = time.monotonic() + seconds
        if seconds <= 0:
            await asyncio.Event().wait()
        try:
            await self._get("auth/me")
        except (*_TRANSIENT, ValueError) as error:
            raise LoginError(str(error)) from error

    async def read(self, reference: str) -> dict[str, Any]:
        """Read a FHIR resource, such as `Agent/<id>`; raise UnreadableError, after two more tries if the server failed."""
        for pause in (*_PAUSES_SECONDS, None):
            try:
                return await self._get(f"fhir/R4/{reference}")
            except (*_TRANSIENT, ValueError) as error:
                refused = isinstance(error, aiohttp.ClientResponseError) and error.status < _SERVER_FAULT
                if refused or pause is None:
                    raise UnreadableError(f"{reference}: {error}") from error
                await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _get(self, path: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}"}
        async with self._http.get(f"{self._settings.base_url}/{path}", headers=headers) as response:
            response.raise_for_status()
            found: dict[str, Any] = await response.json(content_type=None)
            return found

    async def wait_until_opened(self) -> None:
        """Return when the WebSocket was open for the first time. Upstream does not wait for the answer to its request."""
        await self._opened.wait()

    def send(self, message: dict[str, Any], *, memory_seconds: float = 0) -> None:
        """Put a message into the queue, for at least this long."""
        self._queue.append((time.monotonic() + memory_seconds, message))
        self._work.set()

    async def run(
        self, journal: Log, on_command: Callable[[dict[str, Any]], None], on_heartbeat: Callable[[], None]
    ) -> None:
        """Keep the WebSocket open for ever, and send what is queued."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send_queue(journal))
            tasks.create_task(self._beat(journal, on_heartbeat))
            await self._keep_open(journal, on_command)

    async def close(self) -> None:
        """Close what is open; a process that ends does not come here."""
        await self._http.close()

    async def _keep_open(self, journal: Log, on_command: Callable[[dict[str, Any]], None]) -> None:
        url = f"{self._settings.base_url}/ws/agent"
        pause = self._pause
        while True:
            opened = time.monotonic()
            journal.info(f"Connecting to WebSocket: {url.replace('http', 'ws', 1)}")
            try:
                async with self._http.ws_connect(url, max_msg_size=0) as socket:
                    self._socket = socket
                    request = {"accessToken": self._token, "agentId": self._settings.agent_id}
                    await socket.send_json({"type": "agent:connect:request", **request})
                    self._opened.set()
                    opened = time.monotonic()
                    await self._listen(socket, journal, on_command)
                journal.info("WebSocket closed")
            except _TRANSIENT:
                journal.error("WebSocket closed due to an error")
            finally:
                if self._socket is not None and time.monotonic() - opened >= _STEADY_SECONDS:
                    pause = self._pause
                self._is_live = False
                self._socket = None
            await asyncio.sleep(pause)
            pause = min(pause * 1.3, _SLOWEST_RECONNECT_SECONDS)

    async def _listen(
        self, socket: aiohttp.ClientWebSocketResponse, journal: Log, on_command: Callable[[dict[str, Any]], None]
    ) -> None:
        async for frame in socket:
            if frame.type is not aiohttp.WSMsgType.TEXT:
                continue
            command: dict[str, Any] = json.loads(frame.data)
            match command.get("type"):
                case "agent:connect:response" | "connected":
                    self._is_live = True
                    self._unanswered_heartbeats = 0
                    self._work.set()
                    journal.info("Successfully connected to Medplum server")
                case "agent:heartbeat:request":
                    self._unanswered_heartbeats = 0
                    await socket.send_json({"type": "agent:heartbeat:response", "version": self._traits.reported})
                case "agent:heartbeat:response":
                    self._unanswered_heartbeats = 0
                case "agent:error":
                    journal.error(str(command.get("body")))
                    if not self._is_live and not self._traits.stays_a_zombie:
                        # The connect request was refused. From 5.1.18 on that is tried again; before, the socket just stays.
                        await self._refresh(journal)
                        return
                case _:
                    on_command(command)

    async def _refresh(self, journal: Log) -> None:
        """Get a new token; keep the old one if that fails."""
        try:
            await self.log_in()
        except LoginError as error:
            journal.error(f"Failed to refresh the token: {error}")

    async def _beat(self, journal: Log, on_heartbeat: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(self._switches.heartbeat_ms / 1000)
            on_heartbeat()
            if not self._is_live or self._socket is None:
                continue
            if self._unanswered_heartbeats > _MISSED_HEARTBEATS:
                self._unanswered_heartbeats = 0
                journal.info("Disconnected from Medplum server. Attempting to reconnect...")
                await self._socket.close()
                continue
            self._unanswered_heartbeats += 1
            await self._try_to_send({"type": "agent:heartbeat:request"})

    async def _try_to_send(self, message: Mapping[str, Any]) -> bool:
        if self._socket is None:
            return False
        try:
            await self._socket.send_str(json.dumps(message))
        except (ConnectionError, RuntimeError):
            # Closed between two checks; `_keep_open` will notice.
            return False
        return True

    async def _send_queue(self, journal: Log) -> None:
        if self._switches.zombie:
            return
        while True:
            await self._work.wait()
            self._work.clear()
            while self._queue and self._is_live:
                due, message = self._queue[0]
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                    continue
                if time.monotonic() >= self._renewal and not await self._renew_token(journal):
                    return
                if self._queue and self._queue[0][1] is message and self._is_live:
                    self._queue.popleft()
                    if not await self._try_to_send({**message, "accessToken": self._token}):
                        self._queue.appendleft((due, message))
                        self._is_live = False

    async def _renew_token(self, journal: Log) -> bool:
        """Return whether to keep sending. Before 5.1.18 one failure stops it for good, without any other sign."""
        while True:
            try:
                await self.log_in()
            except LoginError as error:
                journal.error(f"Failed to refresh the token: {error}")
                if self._traits.stays_a_zombie:
                    return False
                await asyncio.sleep(self._switches.retry_ms / 1000)
            else:
                return True
