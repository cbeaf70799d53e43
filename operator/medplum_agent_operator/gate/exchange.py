"""The message in hand, and a connection to an agent with what it owes. Values that `conversation` keeps and changes; no I/O."""

from dataclasses import dataclass, field

from medplum_agent_operator.gate.effects import Agent
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
    owed: set[bytes] = field(default_factory=set)
    known: dict[bytes, None] = field(default_factory=dict)

    def note(self, ids: frozenset[bytes]) -> None:
        """Remember whose answers may come again."""
        self.known |= dict.fromkeys(ids)
        while len(self.known) > _REMEMBERED:
            del self.known[next(iter(self.known))]

    def answers_to(self, message: Message, answer: Answer) -> bool:
        """Whether an answer is the one to the message in hand: it names it, or names nothing that was heard of before.

        Agents pass on what the server answers unchecked, so that a name may be missing or wrong. Where agents commit first, what
        is no commit and does not name this message is the application's answer to an earlier one.
        """
        if answer.about in message.ids:
            return True
        return answer.about not in self.known and (answer.commit or not self.commits)
