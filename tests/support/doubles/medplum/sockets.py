"""The agents' WebSockets: connect, heartbeats both ways, messages and their delayed ACKs, pushes to all sockets of an agent.

Used by `server`. Nothing is evicted: two sockets of one agent live side by side, and every push goes to both. What a socket
still owes when it is cut is lost.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from tests.support.doubles import hl7
from tests.support.doubles.medplum.records import Message, Push

if TYPE_CHECKING:
    from tests.support.doubles.medplum.directory import AgentRecord, Behaviour, Directory
    from tests.support.doubles.medplum.records import Book, Connection


def instant() -> str:
    """Now, as FHIR writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class AgentSocket:
    """One WebSocket, once its connect request was accepted."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None, owner: Sockets) -> None:
        self._socket = socket
        self._transport = transport
        self._owner = owner
        self.agent: AgentRecord | None = None
        self.connection: Connection | None = None

    async def send(self, message: dict[str, Any]) -> None:
        """Send, unless it is closed."""
        if self._socket.closed:
            return
        try:
            await self._socket.send_str(json.dumps(message))
        except (ConnectionError, RuntimeError):
            return  # Cut between two checks: the message is lost, as with the real server.

    def cut(self) -> None:
        """End it without a close frame."""
        if self._transport is not None:
            self._transport.close()

    def answer_later(self, message: dict[str, Any], delay_seconds: float) -> None:
        """Send an answer when its time has come; it is not sent earlier than asked, nor in any order but that."""
        asyncio.get_running_loop().call_later(delay_seconds, self._owner.start_sending, self, message)


class Sockets:
    """All of them."""

    def __init__(self, directory: Directory, behaviour: Behaviour, book: Book) -> None:
        self._directory = directory
        self._behaviour = behaviour
        self._book = book
        self._live: dict[str, set[AgentSocket]] = {}
        self._all: set[AgentSocket] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reloads: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.is_deaf = False
        """Whether everything that agents say is left unread, as by a server that hangs."""

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Take one WebSocket from its first to its last moment. What is longer than the limit cuts it."""
        socket = web.WebSocketResponse(max_msg_size=self._behaviour.maxMessageBytes)
        await socket.prepare(request)
        one = AgentSocket(socket, request.transport, self)
        self._all.add(one)
        heartbeat = asyncio.create_task(self._beat(one))
        try:
            async for frame in socket:
                if frame.type is WSMsgType.TEXT and not self.is_deaf:
                    await self._take(one, json.loads(frame.data), request.remote or "")
        finally:
            heartbeat.cancel()
            self._all.discard(one)
            self._leave(one, socket.close_code)
        return socket

    def cut_all(self) -> None:
        """End every socket without a close frame."""
        for one in list(self._all):
            one.cut()

    async def push(self, agent_id: str, *, remote: str, body: str, channel: str | None) -> Push:
        """Send one message to all live sockets of an agent."""
        sockets = list(self._live.get(agent_id, ()))
        push = Push(f"push-{uuid.uuid4()}", agent_id, hl7.control_id(body), time.time(), len(sockets))
        self._book.push(push)
        message = {
            "type": "agent:transmit:request",
            "channel": channel,
            "remote": remote,
            "contentType": hl7.CONTENT_TYPE,
            "body": body,
            "callback": push.callback,
        }
        for one in sockets:
            await one.send(message)
        return push

    async def reload(self, agent_id: str, *, seconds: float) -> dict[str, Any] | None:
        """Ask the agent's sockets to read their configuration again; return the first answer, or None without one."""
        callback = f"reload-{uuid.uuid4()}"
        self._reloads[callback] = asyncio.get_running_loop().create_future()
        try:
            for one in list(self._live.get(agent_id, ())):
                await one.send({"type": "agent:reloadconfig:request", "callback": callback})
            async with asyncio.timeout(seconds):
                return await self._reloads[callback]
        except TimeoutError:
            return None
        finally:
            del self._reloads[callback]

    def start_sending(self, one: AgentSocket, message: dict[str, Any]) -> None:
        """Send without waiting."""
        task = asyncio.get_running_loop().create_task(one.send(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, one: AgentSocket, message: dict[str, Any], peer: str) -> None:
        match message.get("type"):
            case "agent:connect:request":
                await self._connect(one, message, peer)
            case "agent:heartbeat:request":
                await one.send({"type": "agent:heartbeat:response", "version": "stand-in"})
            case "agent:heartbeat:response" if one.agent is not None and one.connection is not None:
                one.connection.heartbeats += 1
                one.connection.version = str(message.get("version", one.connection.version))
                one.agent.note("connected", at=instant(), version=one.connection.version)
            case "agent:transmit:request" if one.agent is not None and one.connection is not None:
                self._receive(one, one.connection, message)
            case "agent:transmit:response" | "agent:reloadconfig:response" | "agent:error":
                self._hear(one, message)
            case other:
                await one.send({"type": "agent:error", "body": f"Cannot take {other} now"})

    async def _connect(self, one: AgentSocket, message: dict[str, Any], peer: str) -> None:
        agent = self._directory.agents.get(str(message.get("agentId")))
        if self._behaviour.refuseConnects or agent is None or message.get("accessToken") not in self._directory.tokens:
            await one.send({"type": "agent:error", "body": "Unauthorized"})
            return
        one.agent = agent
        one.connection = self._book.connect(agent=agent.id, peer=peer, at=time.time())
        self._live.setdefault(agent.id, set()).add(one)
        agent.note("connected", at=instant())
        await one.send({"type": "agent:connect:response"})

    def _receive(self, one: AgentSocket, connection: Connection, message: dict[str, Any]) -> None:
        body = str(message.get("body", ""))
        remote, channel = str(message.get("remote")), str(message.get("channel"))
        control_id = hl7.control_id(body) if hl7.is_hl7(body) else ""
        self._book.write(
            Message(control_id, time.time(), connection.number, connection.agent, channel, remote),
            body,
        )
        answer = {
            "type": "agent:transmit:response",
            "channel": channel,
            "remote": remote,
            "callback": message.get("callback"),
            "contentType": message.get("contentType"),
        }
        match self._behaviour.answer:
            case "silence":
                return
            case "400" | "500" as status:
                answer |= {"contentType": "application/fhir+json", "statusCode": int(status), "body": "the bot failed"}
            case "garbage":
                answer |= {"statusCode": 200, "body": "this is not HL7"}
            case "agent-error":
                answer = {"type": "agent:error", "body": "the bot failed", "callback": message.get("callback")}
            case _:
                answer |= {"statusCode": 200, "body": _ack(body)}
        one.answer_later(answer, self._behaviour.answerDelayMs / 1000)

    def _hear(self, one: AgentSocket, message: dict[str, Any]) -> None:
        """An agent's answer to something that the server asked."""
        callback = str(message.get("callback"))
        waiting = self._reloads.get(callback)
        if waiting is not None:
            if not waiting.done():
                waiting.set_result(message)
            return
        answer = {
            "at": time.time(),
            "connection": one.connection.number if one.connection is not None else None,
            "statusCode": message.get("statusCode"),
            "body": message.get("body"),
        }
        self._book.answer(callback, answer)

    async def _beat(self, one: AgentSocket) -> None:
        while True:
            await asyncio.sleep(self._behaviour.heartbeatMs / 1000)
            await one.send({"type": "agent:heartbeat:request"})

    def _leave(self, one: AgentSocket, close_code: int | None) -> None:
        if one.agent is None or one.connection is None:
            return
        one.connection.disconnected_at = time.time()
        one.connection.close_code = close_code
        self._live[one.agent.id].discard(one)
        # The last write counts, even while another socket of the same agent lives.
        one.agent.note("disconnected", at=instant())


def _ack(body: str) -> str:
    """What a bot answers: an AA for HL7, the text itself for anything else."""
    if not hl7.is_hl7(body):
        return body
    return hl7.acknowledgement(body, "AA", at=datetime.now(UTC)) + "\r"
