"""One device's connection, without I/O: events go in, effects come out, and the time is an argument.

`device_connection` drives one conversation for each device of an HL7 channel. A conversation has one link (a connection) to
the current agent, with one message at a time: the next message waits for the first answer to the previous one. So a move
to another agent happens between two messages. Agents before 5.0.0 merge messages that arrive together; here none do.
Events and time are in this module; the steps that follow from them are in `delivery`.
"""

from medplum_agent_operator.gate.delivery import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS
from medplum_agent_operator.gate.effects import MAX_SENDS, Agent, CloseLink, Effect, Ending, Kind
from medplum_agent_operator.gate.framing import Frame, Junk, TooLong
from medplum_agent_operator.gate.hl7 import Wanted
from medplum_agent_operator.gate.limits import SMALL_BYTES
from medplum_agent_operator.gate.yielding import Yielding


class Conversation(Yielding):
    """The events of one device's connection."""

    # What the caller reads.

    def effects(self) -> list[Effect]:
        """Return the effects to carry out, in order, and forget them."""
        effects, self._effects = self._effects, []
        return effects

    @property
    def ended(self) -> bool:
        """Whether the device's connection is closed, or a `CloseDevice` was returned: nothing more will happen."""
        return self._ended

    @property
    def reads_device(self) -> bool:
        """Whether to read from the device: not while a current message has enough bytes buffered behind it."""
        if self.drops_bytes or self.more_later:
            return False
        return self._message is None or self.buffered_bytes < SMALL_BYTES

    @property
    def drops_bytes(self) -> bool:
        """Whether more bytes of the device would only be counted."""
        return self._ended or self._device.closed_at is not None

    @property
    def buffered_bytes(self) -> int:
        """How many bytes are in memory."""
        current = 0 if self._message is None else len(self._message.frame)
        return current + len(self._device) + sum(len(link.deframer) for link in self._links)

    @property
    def charged_bytes(self) -> int:
        """How many of them need bytes of the budget. Behind a current message, the bytes of one read are free."""
        return self.buffered_bytes - (0 if self._message is None else SMALL_BYTES)

    @property
    def deadline(self) -> float | None:
        """When to call `tick` at the latest; None if nothing is due."""
        if self._ended:
            return None
        return min((at for at in self._deadlines() if at is not None), default=None)

    @property
    def may_close(self) -> bool:
        """Whether the gate stops and has nothing of the device in hand. The caller then asks the kernel, and reports `nothing_unread`."""
        return (
            self._stopping
            and not (self._ended or self._message or len(self._device))
            and self._device.closed_at is None
        )

    # Events of the device.

    def device_sent(self, data: bytes, now: float) -> None:
        """The device sent bytes."""
        if self.drops_bytes:
            self._late_frames += self._late_ends.count(data)
            return
        self._device.feed(data, now)
        self._advance(now)

    def device_finished(self, now: float) -> None:
        """The device closed its side; it may still read. The gate passes on its complete messages, and the answers go back."""
        late, self._late_frames = self._late_frames, 0
        self._count_lost(late)
        self._device_finished = True
        self._device.close(now)
        self._advance(now)

    def device_lost(self) -> None:
        """The connection broke: nothing can be answered any more. `device_finished` follows when the caller has read what had arrived."""
        self._device_gone = True
        self._device_finished |= not self._ended

    def stop(self, now: float) -> None:
        """The gate stops: pass on what the device has sent, and close as soon as nothing of it is left."""
        self._stopping = True
        self._device.hurry()
        self._advance(now)

    def nothing_unread(self, now: float) -> None:
        """After `may_close`: the kernel has no more bytes of the device either, so the gate takes no more."""
        self._device.close(now)
        self._advance(now)

    def reading_paused(self) -> None:
        """The caller waits for bytes of the budget and does not read: this time does not count against the device."""
        self._device.pause()

    def reading_resumed(self, now: float) -> None:
        """The caller reads again."""
        self._device.resume(now)

    def close_now(self) -> None:
        """The grace period is over: close, even with a message that has no answer."""
        self._end(Ending.STOPPED)

    # Events of agents and links.

    def agent_changed(self, agent: Agent | None, now: float) -> None:
        """Another agent is the current one, or no agent is (None)."""
        if agent == self._agent:
            return
        self._agent = agent
        self._retry_at, self._retry_seconds = now, FIRST_RETRY_SECONDS
        self._links.agent_changed(agent, now)
        self._advance(now)

    def link_opened(self, number: int, now: float) -> None:
        """A link is connected."""
        link = self._links.get(number)
        if link is None:
            return
        link.open = True
        self._retry_seconds = FIRST_RETRY_SECONDS
        message = self._message
        if message is not None and link.agent in message.sent_to:
            # The agent closed the link on this message and is still alive. It may have the message, so only the device may resend it.
            self._give_up(message, Ending.UNANSWERED)
        self._advance(now)

    def link_failed(self, number: int, now: float) -> None:
        """A link could not be connected."""
        if self._links.pop(number) is not None:
            self._retry_at = now + self._retry_seconds
            self._retry_seconds = min(2 * self._retry_seconds, LAST_RETRY_SECONDS)
            if self._message is not None:
                self._message.was_held = True
            self._advance(now)

    def link_sent(self, number: int, data: bytes, now: float) -> None:
        """An agent sent bytes."""
        link = self._links.get(number)
        if link is None:
            return
        link.deframer.feed(data)
        while not self._ended and (found := link.deframer.next()) is not None:
            match found:
                case Junk(size):
                    self._count(Kind.JUNK, size)
                case TooLong():
                    self._effects.append(CloseLink(number))
                    self.link_closed(number, now)
                    return
                case Frame(frame):
                    self._take_answer(link, frame, now)
        self._advance(now)

    def link_closed(self, number: int, now: float) -> None:
        """An agent closed a link, or the link broke."""
        link = self._links.pop(number)
        if link is None:
            return
        if link.deframer.in_frame:
            self._count(Kind.CUT)
        self._note_end(link, now)
        message = self._message
        if message is not None and message.link is link:
            message.link, message.waiting_since, message.was_held = None, now, True
            if link.agent == self._agent:
                # A process that exits closes its connections one by one, and its port perhaps last. Whether it is alive shows a moment later.
                self._retry_at = now + self._retry_seconds
            if not (self._rules.send_again and message.frame) or len(message.sent_to) >= MAX_SENDS:
                self._give_up(message, Ending.UNANSWERED)
        self._advance(now)

    # Time.

    def tick(self, now: float) -> None:
        """Do everything that is due."""
        message, rules = self._message, self._rules
        if self._ended:
            return
        if message is not None and message.link is not None:
            retired_at = message.link.retired_at
            move_late = retired_at is not None and self._agent is not None and now >= retired_at + rules.move_seconds
            due = now >= message.blocks_until(rules)
            if message.wanted is Wanted.YES and (move_late or (due and retired_at is not None)):
                # No answer will come from a previous agent: it may have been lost with its node.
                self._give_up(message, Ending.MOVE_LATE)
            elif due:
                self._go_on(message, message.link)
        elif message is not None and now >= message.waiting_since + rules.hold_seconds:
            self._end(Ending.NO_AGENT)
        elif message is None and self._device.closed_at is None and (late := self._device.overdue(now)) is not None:
            if self._stopping:
                self._device.close(now)
            else:
                self._end(late)
        self._advance(now)

    def _deadlines(self) -> "tuple[float | None, ...]":
        message, rules = self._message, self._rules
        expiries = list(self._links.deadlines(None if message is None else message.link))
        if self._device.closed_at is not None and message is None:
            return (self._device.closed_at + rules.late_seconds, self._links.owed_until, *expiries)
        if message is not None and message.link is not None:
            retired_at = message.link.retired_at
            move_late = None if retired_at is None or self._agent is None else retired_at + rules.move_seconds
            return (message.blocks_until(rules), move_late, *expiries)
        if message is not None:
            retry = None if self._agent is None or self._links.find(self._agent) else self._retry_at
            return (message.waiting_since + rules.hold_seconds, retry, *expiries)
        return (*self._device.deadlines, *expiries)
