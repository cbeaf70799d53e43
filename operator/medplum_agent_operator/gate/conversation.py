"""One device's connection and what happens on it, without I/O: events in, effects out, time as an argument.

Driven by `relay`, one conversation for each device connection of an HL7 channel. Towards an agent there is one connection (a
link), and one message at a time on it: the next goes once the one before has its first answer. So a move to another agent
falls between two messages, and agents before 5.0.0, which merge what comes together, get nothing to merge. What the gate
never does: acknowledge a message itself, change a byte, write half a frame, send a message twice to one life of an agent.
"""

from medplum_agent_operator.gate.effects import (
    MOST_SENDS,
    Agent,
    CloseDevice,
    CloseLink,
    Effect,
    Ending,
    Kind,
    Note,
    Open,
    Rules,
    ToAgent,
    ToDevice,
)
from medplum_agent_operator.gate.exchange import Link, Links, Message
from medplum_agent_operator.gate.framing import Frame, Junk, TooLong
from medplum_agent_operator.gate.hl7 import answer_of, control_ids, has_header
from medplum_agent_operator.gate.inbox import Inbox
from medplum_agent_operator.gate.limits import SMALL_BYTES

_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.05, 1.0


class Conversation:
    """The state of one device's connection."""

    def __init__(self, *, rules: Rules, agent: Agent | None, now: float) -> None:
        """`agent`: the one that is ready now; None where none is. `now`: seconds of a clock that only goes forward."""
        self._rules = rules
        self._agent = agent
        self._effects: list[Effect] = []
        self._device = Inbox(rules, now)
        self._message: Message | None = None
        self._links = Links(rules)
        self._links.agent_is(agent, now)
        self._last_sent_to: Agent | None = None
        self._retry_at = now
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._stopping = False
        self._deaf = False
        self._over = False

    # What the shell asks.

    def effects(self) -> list[Effect]:
        """Take what is to be done, in this order."""
        taken, self._effects = self._effects, []
        return taken

    @property
    def over(self) -> bool:
        """Whether the device's connection is closed or to be closed: nothing more will happen."""
        return self._over

    @property
    def reads_device(self) -> bool:
        """Whether to read more from the device: not while a message is in hand and enough lies behind it."""
        if self._over or self._device.closed_at is not None:
            return False
        return self._message is None or self.held_bytes < SMALL_BYTES

    @property
    def held_bytes(self) -> int:
        """What is held in memory."""
        in_hand = 0 if self._message is None else len(self._message.frame)
        return in_hand + len(self._device) + sum(len(link.answers) for link in self._links)

    @property
    def charged_bytes(self) -> int:
        """What of it the shell asks for a place for: behind a message in hand what one read brought is free."""
        return self.held_bytes - (0 if self._message is None else SMALL_BYTES)

    @property
    def deadline(self) -> float | None:
        """When to call `tick` at the latest."""
        if self._over:
            return None
        return min((at for at in self._deadlines() if at is not None), default=None)

    # What the shell tells: the device.

    def device_sent(self, data: bytes, now: float) -> None:
        """Bytes came."""
        if self._over or self._device.closed_at is not None:
            return
        self._device.feed(data, now)
        self._go_on(now)

    def device_finished(self, now: float) -> None:
        """The device has closed its side; it may still read. What it has sent whole is passed on, and answers go back."""
        self._device.close(now)
        self._go_on(now)

    def device_gone(self, now: float) -> None:
        """The connection is broken: as `device_finished`, and nobody reads answers any more."""
        self._deaf = True
        self.device_finished(now)

    def stop(self, now: float) -> None:
        """Finish the message that an agent has, take no other, and close."""
        self._stopping = True
        self.device_finished(now)

    def unread(self) -> None:
        """The shell does not read for now, as it has no place for a large message: that time is not the device's."""
        self._device.unread()

    def resumed(self, now: float) -> None:
        """The shell reads again."""
        self._device.resumed(now)

    def cut(self) -> None:
        """The gate has no more time: close, whatever is in hand."""
        self._end(Ending.STOPPED)

    # What the shell tells: agents.

    def agent_is(self, agent: Agent | None, now: float) -> None:
        """Another agent is the one that is ready, or none is."""
        if agent == self._agent:
            return
        self._agent = agent
        self._retry_at, self._retry_seconds = now, _FIRST_RETRY_SECONDS
        self._links.agent_is(agent, now)
        self._go_on(now)

    def opened(self, number: int, now: float) -> None:
        """A link is there."""
        link = self._links.get(number)
        if link is None:
            return
        link.open = True
        self._retry_seconds = _FIRST_RETRY_SECONDS
        if self._message is not None and link.agent in self._message.sent_to:
            # It has closed on this message, and lives: it may have it, so that only the device may send it again.
            self._end(Ending.UNANSWERED)
        self._go_on(now)

    def failed(self, number: int, now: float) -> None:
        """A link could not be made."""
        if self._links.pop(number) is not None:
            self._retry_at = now + self._retry_seconds
            self._retry_seconds = min(2 * self._retry_seconds, _LAST_RETRY_SECONDS)
            if self._message is not None:
                self._message.held = True
            self._go_on(now)

    def answered(self, number: int, data: bytes, now: float) -> None:
        """An agent sent bytes."""
        link = self._links.get(number)
        if link is None:
            return
        link.answers.feed(data)
        while not self._over and (found := link.answers.next()) is not None:
            match found:
                case Junk(size):
                    self._note(Kind.JUNK, size)
                case TooLong():
                    self._effects.append(CloseLink(number))
                    self.closed(number, now)
                    return
                case Frame(frame):
                    self._take_answer(link, frame, now)
        self._go_on(now)

    def closed(self, number: int, now: float) -> None:
        """An agent has closed a link, or it broke."""
        link = self._links.pop(number)
        if link is None:
            return
        if link.answers.in_frame:
            self._note(Kind.CUT)
        if link.owed:
            self._note(Kind.MISSED, len(link.owed))
        message = self._message
        if message is not None and message.link is link:
            message.link, message.waits_since, message.held = None, now, True
            if link.agent == self._agent:
                # A process that ends closes one thing after the other, and its port perhaps last: whether it lives is seen a moment later.
                self._retry_at = now + self._retry_seconds
            if not self._rules.send_again or len(message.sent_to) >= MOST_SENDS:
                self._end(Ending.UNANSWERED)
        self._go_on(now)

    # Time.

    def tick(self, now: float) -> None:
        """Look at the clock: whatever is due happens."""
        message, rules = self._message, self._rules
        if self._over:
            return
        if message is not None and message.link is not None:
            left_at = message.link.left_at
            moved_late = left_at is not None and self._agent is not None and now >= left_at + rules.move_seconds
            unanswered = now >= message.sent_at + rules.answer_seconds
            if moved_late or (unanswered and left_at is not None):
                # Of an agent that was left nothing more is to be hoped for: it may have gone with its node.
                self._end(Ending.MOVE_LATE)
            elif unanswered:
                self._note(Kind.UNANSWERED)
                message.link.note(message.ids)
                self._message = None
        elif message is not None and now >= message.waits_since + rules.hold_seconds:
            self._give_up()
        elif message is None and self._device.closed_at is None and (fault := self._device.fault(now)) is not None:
            self._end(fault)
        self._go_on(now)

    def _deadlines(self) -> "tuple[float | None, ...]":
        message, rules = self._message, self._rules
        late = list(self._links.deadlines(None if message is None else message.link))
        if self._device.closed_at is not None and message is None:
            return (self._device.closed_at + rules.late_seconds, self._links.owe_until, *late)
        if message is not None and message.link is not None:
            left_at = message.link.left_at
            moved = None if left_at is None or self._agent is None else left_at + rules.move_seconds
            return (message.sent_at + rules.answer_seconds, moved, *late)
        if message is not None:
            retry = None if self._agent is None or self._links.to(self._agent) else self._retry_at
            return (message.waits_since + rules.hold_seconds, retry, *late)
        return (*self._device.deadlines, *late)

    # The way of a message.

    def _go_on(self, now: float) -> None:
        """Do all that can be done now."""
        while not self._over:
            if self._message is None:
                self._take_message(now)
            message = self._message
            if message is None or message.link is not None or not self._send(message, now):
                break
        if not self._over:
            self._leave_links(now)
        if not self._over and self._message is None and self._device.closed_at is not None:
            self._finish(self._device.closed_at, now)

    def _take_message(self, now: float) -> None:
        """Take the next message out of what the device sent, and leave out what would do an agent harm."""
        while not (self._stopping or self._over):
            match self._device.next(now):
                case None:
                    return
                case Junk(size):
                    self._note(Kind.JUNK, size)
                case TooLong():
                    self._end(Ending.TOO_LONG)
                case Frame(frame) if has_header(frame):
                    self._message = Message(frame, control_ids(frame), waits_since=now)
                    return
                case Frame():
                    self._note(Kind.EMPTY)

    def _send(self, message: Message, now: float) -> bool:
        """Write the message to the agent that is ready, if there is a link to it; else see to it that there will be one."""
        if self._stopping:
            # No agent has it: it is the device's to send again, to the gate that goes on.
            self._end(Ending.STOPPED)
            return False
        if self._agent is None:
            message.held = True
            return False
        link = self._links.to(self._agent)
        if link is None and now >= self._retry_at:
            self._effects.append(Open(self._links.make(self._agent).number, self._agent))
        if link is None or not link.open:
            return False
        if message.sent_to:
            self._note(Kind.REPEATED, agent=link.agent)
        if message.held:
            self._note(Kind.HELD, now - message.waits_since, agent=link.agent)
        if self._last_sent_to not in {None, link.agent}:
            self._note(Kind.MOVED, agent=link.agent)
        self._last_sent_to = link.agent
        message.sent_to.append(link.agent)
        message.link, message.sent_at = link, now
        self._note(Kind.SENT)
        self._effects.append(ToAgent(link.number, message.frame))
        return True

    def _take_answer(self, link: Link, frame: bytearray, now: float) -> None:
        """Hand an answer to the device as it is, and find out whether it is the one that the next message waits for."""
        if not self._deaf:
            self._effects.append(ToDevice(frame))
        link.answered_at = now
        answer, message = answer_of(frame), self._message
        if message is None or message.link is not link or not link.answers_to(message, answer):
            self._note(Kind.LATE)
            if answer.about is not None and not answer.commit:
                link.owed.pop(answer.about, None)
            return
        self._note(Kind.ANSWERED, now - message.sent_at)
        link.note(message.ids)
        if answer.commit:
            link.commits = True
            link.owe(message.ids, now)
        self._message = None
        # The next one goes before the next answer is read: it may be that one's.
        self._go_on(now)

    def _give_up(self) -> None:
        """No agent came in time. A device that is still there sends again what got no answer; of one that is not, it is lost."""
        if self._device.closed_at is not None:
            self._note(Kind.UNDELIVERED, 1 + self._device.count_frames())
        self._end(Ending.NO_AGENT)

    def _leave_links(self, now: float) -> None:
        """Close the links to agents that were left, once they owe nothing or have had their time."""
        for link in self._links.leave(None if self._message is None else self._message.link, now):
            if link.owed:
                self._note(Kind.MISSED, len(link.owed))
            self._effects.append(CloseLink(link.number))

    def _finish(self, since: float, now: float) -> None:
        """End once every answer that is owed has come, or has had its time. `since`: nothing more is taken."""
        owed_until = self._links.owe_until
        owed = owed_until is not None and now < owed_until
        if not owed or self._deaf or now >= since + self._rules.late_seconds:
            if self._device.in_frame and not self._stopping:
                self._note(Kind.CUT)
            self._end(Ending.STOPPED if self._stopping else Ending.DONE)

    def _end(self, why: Ending) -> None:
        """Close everything."""
        if self._over:
            return
        self._over = True
        self._message = None
        self._device.clear()
        self._effects += [CloseLink(number) for number in self._links.clear()]
        self._effects.append(CloseDevice(why))

    def _note(self, kind: Kind, number: float = 1, *, agent: Agent | None = None) -> None:
        self._effects.append(Note(kind, number, agent))
