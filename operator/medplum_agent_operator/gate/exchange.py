"""The message in hand, and the connections to agents with what they owe. Values that `conversation` keeps and changes; no I/O."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from medplum_agent_operator.gate.effects import Agent, Rules
from medplum_agent_operator.gate.framing import Deframer
from medplum_agent_operator.gate.hl7 import Answer

_REMEMBERED = 256
"""Control ids of a link that are known as answered, so that a late or repeated answer is not taken for the next one's."""


@dataclass(slots=True)
class Message:
    """The message in hand: taken from the device, and not answered yet."""

    frame: bytearray
    ids: frozenset[bytes]
    waits_since: float
    held: bool = False
    sent_at: float = 0
    link: "Link | None" = None
    sent_to: list[Agent] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Link:
    """A connection to an agent."""

    number: int
    agent: Agent
    answers: Deframer
    open: bool = False
    commits: bool = False
    left_at: float | None = None
    answered_at: float = 0
    owed: dict[bytes, float] = field(default_factory=dict)
    """Of what was acknowledged and is still to be answered by the application: since when."""
    known: dict[bytes, None] = field(default_factory=dict)

    def note(self, ids: frozenset[bytes]) -> None:
        """Remember whose answers may come again."""
        self.known |= dict.fromkeys(ids)
        while len(self.known) > _REMEMBERED:
            del self.known[next(iter(self.known))]

    def owe(self, ids: frozenset[bytes], now: float) -> None:
        """An application's answer is to come to these. Some never come, and no more are remembered than of those that are answered."""
        for one in ids:
            self.owed.pop(one, None)
            self.owed[one] = now
        while len(self.owed) > _REMEMBERED:
            del self.owed[next(iter(self.owed))]

    def answers_to(self, message: Message, answer: Answer) -> bool:
        """Whether an answer is the one to the message in hand: it names it, or names nothing that was heard of before.

        Agents pass on what the server answers unchecked, so that a name may be missing or wrong. Where agents commit first, what
        is no commit and does not name this message is the application's answer to an earlier one.
        """
        if answer.about in message.ids:
            return True
        return answer.about not in self.known and (answer.commit or not self.commits)


class Links:
    """The links of one conversation: one to the agent that is ready, and those to agents that were left."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._made = 0
        self._by_number: dict[int, Link] = {}
        self._agent: Agent | None = None

    def __iter__(self) -> Iterator[Link]:
        return iter(self._by_number.values())

    def get(self, number: int) -> Link | None:
        """The link of that number; None where it is gone."""
        return self._by_number.get(number)

    def to(self, agent: Agent) -> Link | None:
        """The link to an agent; None where there is none."""
        return next((link for link in self if link.agent == agent), None)

    def make(self, agent: Agent) -> Link:
        """A new one, not open yet."""
        self._made += 1
        link = self._by_number[self._made] = Link(self._made, agent, Deframer(limit=self._rules.frame_bytes))
        return link

    def pop(self, number: int) -> Link | None:
        """Forget one that is gone."""
        return self._by_number.pop(number, None)

    def clear(self) -> list[int]:
        """Forget all. Returns their numbers."""
        numbers, self._by_number = list(self._by_number), {}
        return numbers

    def agent_is(self, agent: Agent | None, now: float) -> None:
        """Another agent is the one that is ready, or none is: note which are left, and since when."""
        self._agent = agent
        for link in self:
            if link.agent == agent:
                link.left_at = None
            elif link.left_at is None:
                link.left_at = now

    @property
    def owe_until(self) -> float | None:
        """Until when an application's answer may come on any; None where none is to come."""
        return max((until for link in self if (until := self._owes_until(link)) is not None), default=None)

    def deadlines(self, in_use: Link | None) -> Iterator[float]:
        """Until when those that were left may stay, but for the one that the message in hand is on."""
        return (self._may_stay_until(link) for link in self if link is not in_use and link.left_at is not None)

    def leave(self, in_use: Link | None, now: float) -> list[Link]:
        """Forget those to agents that were left, once they owe nothing or have had their time. Returns them."""
        gone = [
            link
            for link in self
            if link.left_at is not None and link is not in_use and not (link.open and now < self._may_stay_until(link))
        ]
        for link in gone:
            del self._by_number[link.number]
        return gone

    def _may_stay_until(self, link: Link) -> float:
        """Until when a link to an agent that was left stays open, idle as it may be.

        An agent that is about to end waits, within its drain, for its links to close. Where another one has taken over, nothing is to be
        gained by a hurry, and what it has acknowledged without a commit (`enhanced=aa`) is passed on meanwhile. Where none is
        there, devices wait: then it is left as soon as it owes nothing that is known, or has owed it for long.
        """
        late = (link.left_at or 0) + self._rules.late_seconds
        if self._agent is not None:
            return late
        flushed, owes_until = link.answered_at + self._rules.flush_seconds, self._owes_until(link)
        return flushed if owes_until is None else min(late, max(flushed, owes_until))

    def _owes_until(self, link: Link) -> float | None:
        """Until when the youngest answer that it owes is waited for."""
        return None if not link.owed else next(reversed(link.owed.values())) + self._rules.late_seconds
