"""The way of one message at a time: from the device to the current agent, and its answer back. No I/O.

Base of `conversation`, which reports events and time here. What the gate never does: acknowledge a message itself, change a
byte, write half a frame, or send a message twice to one life of an agent.
"""

from medplum_agent_operator.gate.effects import (
    Agent,
    CloseDevice,
    CloseLink,
    Count,
    Effect,
    Ending,
    Kind,
    OpenLink,
    Rules,
    SendToAgent,
    SendToDevice,
)
from medplum_agent_operator.gate.exchange import Link, Links, Message
from medplum_agent_operator.gate.framing import EndCounter, Frame, Junk, TooLong
from medplum_agent_operator.gate.hl7 import Answer, Wanted, answer_of, control_ids, has_header, is_batch, wanted_answer
from medplum_agent_operator.gate.inbox import Inbox

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.05, 1.0
DROPS_PER_TURN = 32
"""How many items the gate drops at once, before other connections get a turn."""


class Delivery:
    """The state of one device's connection, and every step that it can take now."""

    def __init__(self, *, rules: Rules, agent: Agent | None, now: float) -> None:
        """`agent`: the current one, or None; `now`: seconds of a monotonic clock."""
        self._rules = rules
        self._agent = agent
        self._effects: list[Effect] = []
        self._device = Inbox(rules, now)
        self._message: Message | None = None
        self._links = Links(rules)
        self._links.agent_changed(agent, now)
        self._last_sent_to: Agent | None = None
        self._retry_at = now
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._stopping = False
        self._device_finished = False
        """Whether the device has closed its side: it sends nothing again on this connection."""
        self._device_gone = False
        """Whether the device reads no answers any more."""
        self._answers_later = False
        """Whether an application acknowledgement has ever followed a commit here."""
        self._waits_in_vain = False
        """Whether an agent ended without an answer to a message that the gate had given up. An answer to a later one ends this."""
        self._misses_answer = False
        """Whether an agent ended without an application acknowledgement that the device may wait for."""
        self._ended = False
        self.more_later = False
        """Whether a turn has ended before the inbox was searched: call `take_turn` soon."""
        self.dropped = 0
        """How many items have been dropped so far."""
        self._late_ends = EndCounter()
        self._late_frames = 0

    def _advance(self, now: float) -> None:
        """Take every step that is possible now."""
        while not (self._ended or self._returns_now):
            if self._message is None:
                self._take_message(now)
            message = self._message
            if message is None or message.link is not None or not self._send(message, now):
                break
        if not self._ended:
            self._close_expired_links(now)
        if self._returns_now:
            self._end(Ending.UNANSWERED)
        if not self._ended and self._message is None and self._device.closed_at is not None and not self.more_later:
            self._finish(self._device.closed_at, now)

    @property
    def _returns_now(self) -> bool:
        """Whether to close now, so that the device resends what an ended agent has not answered. An agent's current message is answered first."""
        if self._device_finished or not (self._waits_in_vain or self._misses_answer):
            return False
        return self._message is None or not self._message.sent_to

    def _take_message(self, now: float) -> None:
        """Take the next message from the inbox. Drop what would harm an agent, some of it in a later turn."""
        until = self.dropped + DROPS_PER_TURN
        self.more_later = False
        while not self._ended:
            if self.dropped >= until:
                self.more_later = True
                return
            match self._device.next(now):
                case None:
                    return
                case Junk(size):
                    self.dropped += 1
                    self._count(Kind.JUNK, size)
                case TooLong():
                    self._end(Ending.TOO_LONG)
                case Frame(frame) if has_header(frame):
                    self._message = Message(frame, control_ids(frame), wanted_answer(frame), waiting_since=now)
                    return
                case Frame(frame):
                    self.dropped += 1
                    self._count(Kind.BATCH if is_batch(frame) else Kind.EMPTY)

    def _send(self, message: Message, now: float) -> bool:
        """Write the message to the current agent and return True. Without an open link to it, ask for one and return False."""
        if self._agent is None:
            message.was_held = True
            return False
        link = self._links.find(self._agent)
        if link is None and now >= self._retry_at:
            self._effects.append(OpenLink(self._links.add(self._agent).number, self._agent))
        if link is None or not link.open:
            return False
        if message.sent_to:
            self._count(Kind.REPEATED, agent=link.agent)
        if message.was_held:
            self._count(Kind.HELD, now - message.waiting_since, agent=link.agent)
        if self._last_sent_to not in {None, link.agent}:
            self._count(Kind.MOVED, agent=link.agent)
        self._last_sent_to = link.agent
        message.sent_to.append(link.agent)
        message.link, message.sent_at = link, now
        self._count(Kind.SENT_SILENT if message.wanted is Wanted.NO else Kind.SENT)
        self._effects.append(SendToAgent(link.number, message.frame))
        return True

    def _take_answer(self, link: Link, frame: bytearray, now: float) -> None:
        """Pass an answer to the device unchanged. If it answers the current message, the next message may go."""
        if not self._device_gone:
            self._effects.append(SendToDevice(frame))
        link.last_answer_at = now
        answer, message = answer_of(frame), self._message
        if message is None or message.link is not link or not link.matches(message, answer):
            self._take_late_answer(link, answer)
            return
        self._count(Kind.ANSWERED, now - message.sent_at)
        link.remember(message.ids)
        if answer.commit:
            link.uses_commits = True
            link.owe(message.ids, now)
        # The device has gone on to this message.
        self._waits_in_vain = False
        for each in self._links:
            each.awaited = None
        self._message = None
        # Send the next message before reading the next answer, which may belong to it.
        self._advance(now)

    def _take_late_answer(self, link: Link, answer: Answer) -> None:
        """Note what an answer is for that the current message does not wait for."""
        self._count(Kind.LATE)
        about = answer.about
        if about is not None and not answer.commit and about in link.owed:
            del link.owed[about]
            self._answers_later = True
        elif link.awaited is not None and (about is None or about in link.awaited or about not in link.answered):
            link.awaited = None

    def _go_on(self, message: Message, link: Link) -> None:
        """Take the next message, although this one has no answer."""
        if message.wanted is Wanted.YES:
            self._count(Kind.UNANSWERED)
        link.remember(message.ids)
        if message.wanted is not Wanted.NO:
            link.awaited = message.ids
        self._message = None

    def _give_up(self, message: Message, why: Ending) -> None:
        """An agent may have the message, so only the device may resend it. One that cannot, or does not wait, has its next message sent."""
        if self._device_finished or message.wanted is Wanted.NO:
            self._count(Kind.UNANSWERED)
            self._message = None
        else:
            self._end(why)

    def _close_expired_links(self, now: float) -> None:
        """Close retired links that have expired: they owe nothing, or have had their time."""
        for link in self._links.pop_expired(None if self._message is None else self._message.link, now):
            self._note_end(link, now)
            self._effects.append(CloseLink(link.number))

    def _note_end(self, link: Link, now: float) -> None:
        """A link is closed: what it has not answered will not be answered."""
        if link.owed:
            self._count(Kind.MISSED, len(link.owed))
        self._waits_in_vain |= link.awaited is not None
        self._misses_answer |= self._answers_later and self._links.misses_answer(link, now)

    def _finish(self, since: float, now: float) -> None:
        """End after every owed answer has arrived or has had its time. `since`: when the device closed or the gate began to stop."""
        owed_until = self._links.owed_until
        owed = owed_until is not None and now < owed_until
        if not owed or self._device_gone or now >= since + self._rules.late_seconds:
            if self._device.in_frame:
                self._count(Kind.CUT)
            self._end(Ending.STOPPED if self._stopping else Ending.DONE)

    def _end(self, why: Ending) -> None:
        """Close all links and the device's connection. Messages that the gate has and no agent has had are dropped and counted."""
        if self._ended:
            return
        self._ended = True
        held = self._message is not None and not self._message.sent_to
        self._message = None
        self._count_lost(held + self._device.take_all())
        self._effects += [CloseLink(number) for number in self._links.clear()]
        self._effects.append(CloseDevice(why))

    def _count_lost(self, number: int) -> None:
        """Count messages that go to no agent. A connected device that waits for answers resends them, and no other device does."""
        if number:
            self._count(Kind.UNDELIVERED if self._device_finished else Kind.DROPPED, number)

    def _count(self, kind: Kind, number: float = 1, *, agent: Agent | None = None) -> None:
        self._effects.append(Count(kind, number, agent))
