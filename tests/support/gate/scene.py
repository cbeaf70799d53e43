"""A conversation with a device and agents that are values, and a clock that moves when told. Every event is checked.

Used by the table tests and by the stories that hypothesis makes up. Nothing here waits or opens a socket.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from medplum_agent_operator.gate.conversation import Conversation
from medplum_agent_operator.gate.effects import (
    CloseDevice,
    CloseLink,
    Ending,
    Kind,
    Note,
    Open,
    Rules,
    ToAgent,
    ToDevice,
)


def message(name: str, *, text: str = "") -> bytes:
    """A frame with a message of this control id."""
    body = f"MSH|^~\\&|DEV|LAB|MED|PLUM|20261125||ADT^A01|{name}|P|2.5\rPID|1||{text}\r"
    return b"\x0b" + body.encode() + b"\x1c\r"


def answer(name: str, code: str = "AA") -> bytes:
    """A frame with an answer to the message of this control id; without one if that is empty."""
    about = f"|{name}" if name else ""
    return f"\x0bMSH|^~\\&|MED|PLUM|DEV|LAB|20261125||ACK|x{name}|P|2.5\rMSA|{code}{about}\x1c\r".encode()


@dataclass
class Link:
    """The agent's end of a connection."""

    number: int
    agent: str
    open: bool = False
    received: list[bytes] = field(default_factory=list)
    sent: bytearray = field(default_factory=bytearray)


class Scene:
    """One conversation, its device, and the agents that come and go."""

    def __init__(self, agent: str | None = "old", **rules: float) -> None:
        self.now = 1000.0
        self.rules = Rules(**rules)  # type: ignore[arg-type]
        self.agent = agent
        self.conversation = Conversation(rules=self.rules, agent=agent, now=self.now)
        self.links: dict[int, Link] = {}
        self.received: list[tuple[str, bytes]] = []
        """What agents got, in order, with the agent that got it."""
        self.answers: list[bytes] = []
        """What the device got."""
        self.ending: Ending | None = None
        self.notes: Counter[Kind] = Counter()
        self.opens_at_once = True

    # What happens.

    def sends(self, *frames: bytes, split: int = 0) -> Scene:
        """The device sends; in parts of `split` bytes if it is not 0."""
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
        self.conversation.device_gone(self.now)
        return self.settle()

    def stops(self) -> Scene:
        """The gate ends."""
        self.conversation.stop(self.now)
        return self.settle()

    def ready(self, agent: str | None) -> Scene:
        """Another agent is ready, or none."""
        self.agent = agent
        self.conversation.agent_is(agent, self.now)
        return self.settle()

    def answered(self, frame: bytes, agent: str | None = None, *, split: int = 0) -> Scene:
        """An agent, by default the one that was written to last, answers."""
        link = self.link(agent)
        for at in range(0, len(frame), split or len(frame)):
            part = frame[at : at + (split or len(frame))]
            link.sent += part
            self.conversation.answered(link.number, part, self.now)
            self.settle()
        return self

    def dies(self, agent: str | None = None) -> Scene:
        """An agent ends: its links close. Others learn later that it is not ready."""
        link = self.link(agent)
        self.links.pop(link.number)
        self.conversation.closed(link.number, self.now)
        return self.settle()

    def opens(self) -> Scene:
        """Every link that is being made is there."""
        for link in list(self.links.values()):
            if not link.open:
                link.open = True
                self.conversation.opened(link.number, self.now)
        return self.settle()

    def refuses(self) -> Scene:
        """Every link that is being made fails."""
        for link in [link for link in self.links.values() if not link.open]:
            del self.links[link.number]
            self.conversation.failed(link.number, self.now)
        return self.settle()

    def passes(self, seconds: float) -> Scene:
        """Time passes; the conversation is woken whenever it asked to be."""
        until = self.now + seconds
        for _ in range(10_000):
            due = self.conversation.deadline
            if due is None or due > until:
                break
            self.now = max(self.now, due)
            self.conversation.tick(self.now)
            self.settle()
            after = self.conversation.deadline
            assert after is None or after > self.now, "woken for nothing: it would be woken again at once"
        else:
            raise AssertionError("it never sleeps")
        self.now = until
        return self

    # What it asks for, carried out and checked.

    def settle(self) -> Scene:
        """Carry out what it asks for."""
        while effects := self.conversation.effects():
            for effect in effects:
                self._carry_out(effect)
        return self

    def _carry_out(self, effect: object) -> None:
        assert self.ending is None or isinstance(effect, Note), f"after the end: {effect}"
        match effect:
            case Open(number, agent):
                assert agent == self.agent, "a link to an agent that is not the one that is ready"
                assert isinstance(agent, str)
                self.links[number] = Link(number, agent)
                if self.opens_at_once:
                    self.opens()
            case ToAgent(number, data):
                link = self.links[number]
                assert link.open
                assert link.agent == self.agent, "a message to an agent that is not ready"
                link.received.append(bytes(data))
                self.received.append((link.agent, bytes(data)))
            case CloseLink(number):
                del self.links[number]
            case ToDevice(data):
                self.answers.append(bytes(data))
            case CloseDevice(why):
                self.ending = why
                assert not self.links, "a link stays open behind it"
                assert self.conversation.over
            case Note(kind, number):
                self.notes[kind] += int(number) if kind in {Kind.JUNK, Kind.MISSED, Kind.UNDELIVERED} else 1
            case _:
                raise AssertionError(effect)

    def link(self, agent: str | None = None) -> Link:
        """The open link to an agent; by default the one that was written to last."""
        return next(
            link
            for link in reversed(list(self.links.values()))
            if link.open and (agent is None or link.agent == agent) and (agent or link.received)
        )

    @property
    def still_open(self) -> bool:
        """Whether the device's connection is open."""
        return self.ending is None

    @property
    def got(self) -> list[tuple[str, str]]:
        """Agents and the control ids that they got, in order."""
        return [(agent, control_id(frame)) for agent, frame in self.received]

    @property
    def told(self) -> list[tuple[str, str]]:
        """The answers that the device got: code and control id."""
        lines = [frame.split(b"\r")[1].removesuffix(b"\x1c").decode().split("|") for frame in self.answers]
        return [(line[1], line[2] if len(line) > 2 else "") for line in lines]


def control_id(frame: bytes) -> str:
    """MSH-10, as a test reads it."""
    return frame.split(b"|")[9].decode()
