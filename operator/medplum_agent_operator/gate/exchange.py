"""The current message, and the links to agents with the answers that they still owe.

Plain values that `conversation` and `delivery` own and change. No I/O; the time is an argument.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from medplum_agent_operator.gate.effects import Agent, Rules
from medplum_agent_operator.gate.framing import Deframer
from medplum_agent_operator.gate.hl7 import Answer, Wanted

_REMEMBERED = 256
"""Control ids that a link remembers, of answered and of owed messages each. So a late or repeated answer does not match the next message."""

_SILENT_BYTES_PER_SECOND, _READ_BYTES = 5_000_000, 65_536
"""For the pause behind a message that asks for no answer: longer than `frame_writer` needs for it."""


@dataclass(slots=True)
class Message:
    """The current message: taken from the device, and not answered yet."""

    frame: bytearray
    ids: frozenset[bytes]
    wanted: Wanted
    waiting_since: float
    was_held: bool = False
    sent_at: float = 0
    link: "Link | None" = None
    sent_to: list[Agent] = field(default_factory=list)
    size: int = 0
    """How many bytes the frame has."""

    def __post_init__(self) -> None:
        self.size = len(self.frame)

    def blocks_until(self, rules: Rules) -> float:
        """Until when it blocks the next message while it has no answer. An agent needs a pause to read both separately."""
        if self.wanted is Wanted.YES:
            return self.sent_at + rules.answer_seconds
        size = self.size
        pause = rules.silent_seconds + size / _SILENT_BYTES_PER_SECOND + (size % _READ_BYTES == 1)
        return self.sent_at + min(pause, rules.answer_seconds)


@dataclass(slots=True, eq=False)
class Link:
    """A connection to an agent, as the conversation sees it."""

    number: int
    agent: Agent
    deframer: Deframer
    open: bool = False
    uses_commits: bool = False
    retired_at: float | None = None
    """Since when its agent is not the current one; None while it is."""
    last_answer_at: float = 0
    owed: dict[bytes, float] = field(default_factory=dict)
    """Control ids of committed messages without an application acknowledgement yet, with the time of the commit."""
    awaited: frozenset[bytes] | None = None
    """Control ids of the message that the gate gave up last, and that the device may still wait for; None if it gave up none."""
    answered: dict[bytes, None] = field(default_factory=dict)
    """Control ids of messages that are done with, whose answers may still arrive or repeat."""

    def remember(self, ids: frozenset[bytes]) -> None:
        """Remember the ids of a message that is done with."""
        self.answered |= dict.fromkeys(ids)
        while len(self.answered) > _REMEMBERED:
            del self.answered[next(iter(self.answered))]

    def owe(self, ids: frozenset[bytes], now: float) -> None:
        """Expect an application acknowledgement for these ids. Some never arrive, so the memory is bounded."""
        for one in ids:
            self.owed.pop(one, None)
            self.owed[one] = now
        while len(self.owed) > _REMEMBERED:
            del self.owed[next(iter(self.owed))]

    def matches(self, message: Message, answer: Answer) -> bool:
        """Whether an answer is for the current message: it names that message, or no message known to the link.

        Agents pass on the server's answer unchecked, so its control id may be missing or wrong. On a link that uses
        commits, an answer that is no commit and does not name this message is the application acknowledgement of an earlier one.
        """
        if answer.about in message.ids:
            return True
        return answer.about not in self.answered and (answer.commit or not self.uses_commits)


class Links:
    """The links of one conversation: one to the current agent, and retired ones to previous agents."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._last_number = 0
        self._by_number: dict[int, Link] = {}
        self._agent: Agent | None = None

    def __iter__(self) -> Iterator[Link]:
        return iter(self._by_number.values())

    def get(self, number: int) -> Link | None:
        """Return the link with this number; None after it was removed."""
        return self._by_number.get(number)

    def find(self, agent: Agent) -> Link | None:
        """Return the link to an agent, or None."""
        return next((link for link in self if link.agent == agent), None)

    def add(self, agent: Agent) -> Link:
        """Add a link that is not open yet."""
        self._last_number += 1
        link = self._by_number[self._last_number] = Link(
            self._last_number, agent, Deframer(limit=self._rules.frame_bytes)
        )
        return link

    def pop(self, number: int) -> Link | None:
        """Remove one link and return it; None if it was removed before."""
        return self._by_number.pop(number, None)

    def clear(self) -> list[int]:
        """Remove all links and return their numbers."""
        numbers, self._by_number = list(self._by_number), {}
        return numbers

    def agent_changed(self, agent: Agent | None, now: float) -> None:
        """Another agent is the current one, or no agent is: retire the other links."""
        self._agent = agent
        for link in self:
            if link.agent == agent:
                link.retired_at = None
            elif link.retired_at is None:
                link.retired_at = now

    def misses_answer(self, link: Link, now: float) -> bool:
        """Whether the device may wait for an application acknowledgement that a closed link owes: a recent one, or the last one."""
        owed_until = self._owed_until(link)
        return owed_until is not None and (
            now < owed_until or link.last_answer_at <= owed_until - self._rules.late_seconds
        )

    @property
    def owed_until(self) -> float | None:
        """Until when to wait for the last application acknowledgement on any link; None if no link owes one."""
        return max((until for link in self if (until := self._owed_until(link)) is not None), default=None)

    def deadlines(self, in_use: Link | None) -> Iterator[float]:
        """When each retired link expires, without the one that carries the current message."""
        return (self._expires_at(link) for link in self if link is not in_use and link.retired_at is not None)

    def pop_expired(self, in_use: Link | None, now: float) -> list[Link]:
        """Remove and return the retired links that have expired, or that never opened."""
        expired = [
            link
            for link in self
            if link.retired_at is not None and link is not in_use and not (link.open and now < self._expires_at(link))
        ]
        for link in expired:
            del self._by_number[link.number]
        return expired

    def _expires_at(self, link: Link) -> float:
        """When an idle retired link is closed.

        A stopping agent waits, within its drain, until its links are closed.
        While another agent is ready, closing early gains nothing. The old agent meanwhile passes on what it acknowledged
        without a commit (`enhanced=aa`).
        While no agent is ready, devices wait. Then the link is closed as soon as it owes no known answer, or has owed it for long.
        """
        late = (link.retired_at or 0) + self._rules.late_seconds
        if self._agent is not None:
            return late
        flushed, owed_until = link.last_answer_at + self._rules.flush_seconds, self._owed_until(link)
        return flushed if owed_until is None else min(late, max(flushed, owed_until))

    def _owed_until(self, link: Link) -> float | None:
        """Until when to wait for the youngest answer that the link owes."""
        return None if not link.owed else next(reversed(link.owed.values())) + self._rules.late_seconds
