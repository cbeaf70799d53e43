"""Everything that reached the server: messages, connections, pushes and their answers. Pure; times come from the caller.

Filled by `sockets`, read by `control`. Rows are small tuples, so that 100,000 messages are a matter of some megabytes; bodies
are kept only when that was asked for. Times are seconds since the epoch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Message(NamedTuple):
    """One message of a device, as it arrived. Its number is its place in the book, from 0."""

    control_id: str
    received_at: float
    connection: int
    agent: str
    channel: str
    remote: str


@dataclass(slots=True)
class Connection:
    """One WebSocket of an agent, from its accepted connect request on. No version before the first heartbeat is answered."""

    number: int
    agent: str
    peer: str
    connected_at: float
    version: str = "unknown"
    disconnected_at: float | None = None
    close_code: int | None = None
    messages: int = 0
    heartbeats: int = 0


@dataclass(slots=True)
class Push:
    """One message to a device, broadcast to all sockets of an agent, and what each of them answered."""

    callback: str
    agent: str
    control_id: str
    sent_at: float
    sockets: int
    answers: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Book:
    """All of it."""

    keeps_bodies: bool = False
    messages: list[Message] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    pushes: list[Push] = field(default_factory=list)

    def write(self, message: Message, body: str) -> None:
        """Record a message."""
        self.messages.append(message)
        self.bodies.append(body if self.keeps_bodies else "")
        self.connections[message.connection].messages += 1

    def connect(self, *, agent: str, peer: str, at: float) -> Connection:
        """Note a connection; its number is its place in the book."""
        connection = Connection(len(self.connections), agent, peer, at)
        self.connections.append(connection)
        return connection

    def push(self, push: Push) -> None:
        """Record a push before it is sent."""
        self.pushes.append(push)

    def answer(self, callback: str, answer: dict[str, Any]) -> bool:
        """Record an agent's answer to a push; return whether the push exists."""
        # From the end: the push that is answered is a young one.
        for push in reversed(self.pushes):
            if push.callback == callback:
                push.answers.append(answer)
                return True
        return False

    def counts(self) -> dict[str, Any]:
        """Return figures without the rows."""
        ids = Counter(message.control_id for message in self.messages)
        return {
            "messages": len(self.messages),
            "distinct": len(ids),
            "repeated": sum(count - 1 for count in ids.values()),
            "byAgent": Counter(message.agent for message in self.messages),
            "byVersion": Counter(self.connections[message.connection].version for message in self.messages),
            "byConnection": {each.number: each.messages for each in self.connections},
            "connections": len(self.connections),
            "open": sum(each.disconnected_at is None for each in self.connections),
            "pushes": len(self.pushes),
        }

    def forget_messages(self) -> None:
        """Forget messages and pushes; keep connections."""
        self.messages.clear()
        self.bodies.clear()
        self.pushes.clear()
