"""A conversation with a device and agents that are plain values, and a clock that the test moves. It checks every effect.

The table tests and the hypothesis stories use it. Nothing here waits or opens a socket.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from medplum_agent_operator.gate.conversation import Conversation
from medplum_agent_operator.gate.effects import (
    CloseDevice,
    CloseLink,
    Count,
    Ending,
    Kind,
    OpenLink,
    Rules,
    SendToAgent,
    SendToDevice,
)


def message(name: str, *, text: str = "") -> bytes:
    """Return a frame with a message of this control id."""
    body = f"MSH|^~\\&|DEV|LAB|MED|PLUM|20261125||ADT^A01|{name}|P|2.5\rPID|1||{text}\r"
    return b"\x0b" + body.encode() + b"\x1c\r"


def answer(name: str, code: str = "AA") -> bytes:
    """Return a frame with an answer to the message of this control id. With an empty `name` it has no MSA-2."""
    about = f"|{name}" if name else ""
    return f"\x0bMSH|^~\\&|MED|PLUM|DEV|LAB|20261125||ACK|x{name}|P|2.5\rMSA|{code}{about}\x1c\r".encode()


@dataclass
class Link:
    """The agent's end of a link."""

    number: int
    agent: str
    open: bool = False
    received: list[bytes] = field(default_factory=list)
    sent: bytearray = field(default_factory=bytearray)


class Scene:
    """One conversation, its device, and its agents."""

    def __init__(self, agent: str | None = "old", **rules: float) -> None:
        self.now = 1000.0
        self.rules = Rules(**rules)  # type: ignore[arg-type]
        self.agent = agent
        self.conversation = Conversation(rules=self.rules, agent=agent, now=self.now)
        self.links: dict[int, Link] = {}
        self.received: list[tuple[str, bytes]] = []
        """The frames that agents received, in order, each with its agent."""
        self.answers: list[bytes] = []
        """The frames that the device received."""
        self.ending: Ending | None = None
        self.counts: Counter[Kind] = Counter()
        self.opens_at_once = True

    # Events.

    def sends(self, *frames: bytes, split: int = 0) -> Scene:
        """The device sends frames, in parts of `split` bytes; 0: all at once."""
        data = b"".join(frames)
        for at in range(0, len(data), split or len(data) or 1):
            self.conversation.device_sent(data[at : at + (split or len(data))], self.now)
            self.settle()
        return self

    def finishes(self) -> Scene:
        """The device closes its side."""
        self.conversation.device_finished(self.now)
        return self.settle()

    def breaks(self) -> Scene:
        """The device's connection is reset."""
        self.conversation.device_lost()
        self.conversation.device_finished(self.now)
        return self.settle()

    def stops(self) -> Scene:
        """The gate stops."""
        self.conversation.stop(self.now)
        return self.settle()

    def ready(self, agent: str | None) -> Scene:
        """Another agent is the current one, or no agent is (None)."""
        self.agent = agent
        self.conversation.agent_changed(agent, self.now)
        return self.settle()

    def answered(self, frame: bytes, agent: str | None = None, *, split: int = 0) -> Scene:
        """An agent answers; by default the one that received the last message."""
        link = self.link(agent)
        for at in range(0, len(frame), split or len(frame)):
            part = frame[at : at + (split or len(frame))]
            link.sent += part
            self.conversation.link_sent(link.number, part, self.now)
            self.settle()
        return self

    def dies(self, agent: str | None = None) -> Scene:
        """An agent closes its newest link. That it is not ready any more is reported later."""
        link = self.link(agent)
        self.links.pop(link.number)
        self.conversation.link_closed(link.number, self.now)
        return self.settle()

    def opens(self) -> Scene:
        """Every connecting link opens."""
        for link in list(self.links.values()):
            if not link.open:
                link.open = True
                self.conversation.link_opened(link.number, self.now)
        return self.settle()

    def refuses(self) -> Scene:
        """Every connecting link fails."""
        for link in [link for link in self.links.values() if not link.open]:
            del self.links[link.number]
            self.conversation.link_failed(link.number, self.now)
        return self.settle()

    def passes(self, seconds: float) -> Scene:
        """Time passes; the conversation gets a tick at each of its deadlines."""
        until = self.now + seconds
        for _ in range(10_000):
            due = self.conversation.deadline
            if due is None or due > until:
                break
            self.now = max(self.now, due)
            self.conversation.tick(self.now)
            self.settle()
            after = self.conversation.deadline
            assert after is None or after > self.now, "the tick did nothing: the deadline is still due"
        else:
            raise AssertionError("the conversation never waits")
        self.now = until
        return self

    # Effects, carried out and checked.

    def settle(self) -> Scene:
        """Carry out all effects, and take the turns that are left."""
        self.carry_out()
        while self.conversation.more_later and self.still_open:
            self.conversation.take_turn(self.now)
            self.carry_out()
        return self

    def carry_out(self) -> None:
        """Carry out all effects."""
        while True:
            for effect in self.conversation.effects():
                self._carry_out(effect)
            if not self.conversation.may_close:
                return
            self.conversation.nothing_unread(self.now)

    def _carry_out(self, effect: object) -> None:
        assert self.ending is None or isinstance(effect, Count), f"effect after the end: {effect}"
        match effect:
            case OpenLink(number, agent):
                assert agent == self.agent, "a link to an agent that is not the current one"
                assert isinstance(agent, str)
                self.links[number] = Link(number, agent)
                if self.opens_at_once:
                    self.opens()
            case SendToAgent(number, data):
                link = self.links[number]
                assert link.open
                assert link.agent == self.agent, "a message to an agent that is not the current one"
                link.received.append(bytes(data))
                self.received.append((link.agent, bytes(data)))
            case CloseLink(number):
                del self.links[number]
            case SendToDevice(data):
                self.answers.append(bytes(data))
            case CloseDevice(why):
                self.ending = why
                assert not self.links, "a link is still open"
                assert self.conversation.ended
            case Count(kind, number):
                self.counts[kind] += (
                    int(number) if kind in {Kind.JUNK, Kind.MISSED, Kind.UNDELIVERED, Kind.DROPPED} else 1
                )
            case _:
                raise AssertionError(effect)

    def link(self, agent: str | None = None) -> Link:
        """Return the newest open link to an agent; by default to the one that received the last message."""
        return next(
            link
            for link in reversed(list(self.links.values()))
            if link.open and (agent is None or link.agent == agent) and (agent or link.received)
        )

    @property
    def still_open(self) -> bool:
        """Whether the device's connection is still open."""
        return self.ending is None

    @property
    def got(self) -> list[tuple[str, str]]:
        """The received messages in order: agent and control id."""
        return [(agent, control_id(frame)) for agent, frame in self.received]

    @property
    def answer_codes(self) -> list[tuple[str, str]]:
        """The answers that the device received: code and control id."""
        lines = [frame.split(b"\r")[1].removesuffix(b"\x1c").decode().split("|") for frame in self.answers]
        return [(line[1], line[2] if len(line) > 2 else "") for line in lines]


def control_id(frame: bytes) -> str:
    """Return MSH-10 of a message from `message`."""
    return frame.split(b"|")[9].decode()
