"""Carries out what a conversation asks for: writes, connections to agents, bytes of the budget, reading, and the alarm.

Base of `device_connection`, which reports the device's events. It decides nothing about messages.
"""

import asyncio
import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, cast

from medplum_agent_operator.gate.agent_connection import AgentConnection
from medplum_agent_operator.gate.alarm import Alarm
from medplum_agent_operator.gate.byte_claim import ByteClaim
from medplum_agent_operator.gate.effects import (
    CloseDevice,
    CloseLink,
    Count,
    Effect,
    Ending,
    OpenLink,
    SendToAgent,
    SendToDevice,
)
from medplum_agent_operator.gate.hl7 import describe
from medplum_agent_operator.gate.limits import SMALL_BYTES
from medplum_agent_operator.gate.sockets import LINGER_SECONDS, ChannelServer, Reader, send_fin
from medplum_agent_operator.gate.unread import Unread, unread_bytes
from medplum_agent_operator.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from medplum_agent_operator.gate.conversation import Conversation
    from medplum_agent_operator.gate.routes import Life


class EffectRunner(Reader):
    """A device's conversation, its transport, and its connections to agents."""

    def __init__(self, channel: ChannelServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(channel.buffer)
        self.channel = channel
        self.loop = loop
        self.links: dict[int, AgentConnection] = {}
        self.address = ""
        self.conversation: Conversation | None = None
        self.transport: asyncio.Transport | None = None
        self.claim = ByteClaim(channel.shared.budget, self)
        self._alarm = Alarm(loop, self._tick)
        self._unsubscribe: Callable[[], None] = lambda: None
        self._device_finished = False
        self._linger: asyncio.TimerHandle | None = None
        self._unread: Unread | None = None
        """After the device's connection was lost: what it had sent before."""
        self._reading = True
        self._blocked = False
        self._closing = False
        self._paced = False

    @property
    def channel_name(self) -> str:
        """The channel that it belongs to."""
        return self.channel.name

    @property
    @abstractmethod
    def receiving(self) -> bool:
        """Whether it waits for its device: for the rest of a message that it reads, or for the device to read an answer."""

    @abstractmethod
    def forget_sent(self) -> None:
        """Drop the copy of a message that an agent has completely, and adjust the claim."""

    @abstractmethod
    def too_slow(self) -> None:
        """The device sends, or reads, too slowly while others wait: close the connection."""

    @abstractmethod
    def _forget(self) -> None:
        """Remove the connection from its channel."""

    # Called by the connections to agents.

    def link_opened(self, number: int) -> None:
        """A link is connected."""
        if self.conversation is not None:
            self.conversation.link_opened(number, self.loop.time())
            self._settle()

    def link_failed(self, number: int) -> None:
        """A link could not be connected."""
        if self.links.pop(number, None) is not None and self.conversation is not None:
            self.conversation.link_failed(number, self.loop.time())
            self._settle()

    def link_sent(self, number: int, data: bytes) -> None:
        """An agent sent bytes."""
        if number in self.links and self.conversation is not None:
            self.conversation.link_sent(number, data, self.loop.time())
            self._settle()

    def link_closed(self, number: int) -> None:
        """An agent closed a link, or the link broke."""
        if self.links.pop(number, None) is not None and self.conversation is not None:
            self.conversation.link_closed(number, self.loop.time())
            self._settle()

    # Called by the claim.

    @property
    def wants_bytes(self) -> bool:
        """Whether the connection can still use bytes."""
        return self.conversation is not None and not self.conversation.ended

    def bytes_awaited(self) -> None:
        """The bytes are not free."""
        if self.conversation is not None:
            self.conversation.reading_paused()

    def bytes_not_needed(self) -> None:
        """The connection waits for no bytes any more."""
        if self.conversation is not None:
            self.conversation.reading_resumed(self.loop.time())
            self._set_alarm()

    def bytes_granted(self) -> None:
        """The awaited bytes are here."""
        self.bytes_not_needed()
        self.claim.adjust(self._claimed_bytes)
        self._update_reading()
        if self._unread is not None:
            # Not at once: a lost device may release the bytes again, and so on with every other one that waits for them.
            self.loop.call_soon(self._settle)

    # Carries out the effects.

    def _settle(self) -> None:
        """Carry out all effects, then update the claim, reading and the alarm."""
        conversation = self.conversation
        if conversation is None:
            return
        while True:
            for effect in conversation.effects():
                self._carry_out(effect)
            self.claim.adjust(self._claimed_bytes)
            if not self._read_rest(conversation):
                break
        self._update_reading()
        self._set_alarm()
        self._forget_if_done()

    def _read_rest(self, conversation: "Conversation") -> bool:
        """Read what the kernel has of a lost device, or find that it has nothing more of a device. Returns whether anything was reported."""
        now, transport = self.loop.time(), self.transport
        if self._unread is None:
            if not conversation.may_close or transport is None or unread_bytes(transport):
                return False
            conversation.nothing_unread(now)
        elif not conversation.drops_bytes and (self.claim.waits or self._paced or not conversation.reads_device):
            return False
        elif data := self._unread.read():
            conversation.device_sent(data, now)
        else:
            self._unread = None
            conversation.device_finished(now)
        return True

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case SendToAgent(number, data):
                if log.isEnabledFor(logging.DEBUG):
                    log.debug("writing %s to an agent", describe(data), extra={"device": self.address})
                self.links[number].write(data)
            case SendToDevice(data):
                if self.transport is not None:
                    self.transport.write(data)
            case Count(kind, amount, agent):
                self.channel.counters.note(kind, amount, cast("Life | None", agent))
            case OpenLink(number, agent):
                life = cast("Life", agent)
                self.links[number] = AgentConnection(number, life, self, channel=self.channel, loop=self.loop)
            case CloseLink(number):
                if (link := self.links.pop(number, None)) is not None:
                    link.finish()
            case CloseDevice(why):
                self._close(why)

    def _close(self, why: Ending) -> None:
        self._closing = True
        self._unsubscribe()
        if why is not Ending.DONE:
            self.channel.counters.connection_closed(why)
            self.channel.shared.device_log.note(self.address, f"closed a device's connection: {why}", reason=why.name)
        transport = self.transport
        if transport is None:
            return
        if self._device_finished:
            transport.close()
            return
        # No reset: the device can read its last answer and our FIN. Its later bytes are read and dropped.
        send_fin(transport)
        transport.resume_reading()
        self._linger = self.loop.call_later(LINGER_SECONDS, transport.abort)

    @property
    def _claimed_bytes(self) -> int:
        """How many bytes need some of the budget: those of the conversation, or the answers that the device does not read, less `SMALL_BYTES`."""
        conversation = self.conversation
        unread = 0 if self.transport is None else self.transport.get_write_buffer_size() - SMALL_BYTES
        charged = 0 if conversation is None or conversation.ended else conversation.charged_bytes
        return max(unread, charged)

    def _update_reading(self) -> None:
        conversation, transport = self.conversation, self.transport
        if conversation is None or self._closing:
            return
        waits = self.claim.waits
        reading = conversation.reads_device and not waits and not self._paced
        if reading != self._reading:
            self._reading = reading
            if transport is not None:
                (transport.resume_reading if reading else transport.pause_reading)()
        for link in self.links.values():
            link.set_reading(not self._blocked and not waits)

    def _set_alarm(self) -> None:
        self._alarm.set(None if self.conversation is None else self.conversation.deadline)

    def _tick(self) -> None:
        """The alarm rang: perhaps early, for a deadline that has moved."""
        conversation = self.conversation
        if conversation is None:
            return
        due, now = conversation.deadline, self.loop.time()
        if due is not None and due <= now:
            conversation.tick(now)
            self._settle()
        else:
            self._set_alarm()

    def _forget_if_done(self) -> None:
        """Release everything after the device has gone and its conversation has ended."""
        conversation = self.conversation
        if self.transport is not None or self._unread is not None or conversation is None or not conversation.ended:
            return
        self.conversation = None
        self._alarm.cancel()
        self._unsubscribe()
        self.claim.release()
        self._forget()
