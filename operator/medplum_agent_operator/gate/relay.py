"""HL7 over real sockets: one `Conversation` for each device, and the connections that it asks for.

Started by `__main__`, once for each HL7 channel. It decides nothing about messages: it carries bytes and time to the
conversation, and out what that asks for.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final, cast

from medplum_agent_operator.gate.conversation import Conversation
from medplum_agent_operator.gate.effects import (
    CloseDevice,
    CloseLink,
    Effect,
    Ending,
    Note,
    Open,
    Rules,
    ToAgent,
    ToDevice,
)
from medplum_agent_operator.gate.hl7 import describe
from medplum_agent_operator.gate.limits import SMALL_BYTES, Connections, Places, Tier
from medplum_agent_operator.gate.links import Link
from medplum_agent_operator.gate.routes import Life, Route
from medplum_agent_operator.gate.sockets import LINGER_SECONDS, ChannelServer, Counters, Reader, end
from medplum_agent_operator.telemetry import log

BLOCKED_SECONDS: Final = 60.0
"""For how long a device may leave its answers unread; large ones take a place from everybody else meanwhile."""


class Hl7Relay(ChannelServer):
    """A channel of messages: each device has a conversation with the agent that the route names."""

    def __init__(
        self, *, route: Route, rules: Rules, connections: Connections, tiers: Sequence[Tier], counters: Counters
    ) -> None:
        """`tiers`: the places that there are, for smaller messages first; all channels share them."""
        super().__init__(route=route, connections=connections, counters=counters)
        self.rules = rules
        self.tiers = tiers
        self.devices: set[Device] = set()

    def device(self, loop: asyncio.AbstractEventLoop) -> Reader:
        """Make what serves a device that connects."""
        return Device(self, loop)

    def finish(self) -> None:
        """Finish the messages in hand, and close."""
        for device in list(self.devices):
            device.stop()

    def cut(self) -> None:
        """Close; a message that is not answered is the device's to send again."""
        for device in list(self.devices):
            device.cut()

    def connected(self) -> Counter[str]:
        """How many connections there are, by the address that they come from."""
        return Counter(device.address for device in self.devices)


class Device(Reader):
    """The connection of a device."""

    def __init__(self, relay: Hl7Relay, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(relay.buffer)
        self.relay = relay
        self.loop = loop
        self.links: dict[int, Link] = {}
        self.address = ""
        self.conversation: Conversation | None = None
        self.transport: asyncio.Transport | None = None
        self._deafen = _nothing
        self._finished = False
        self._linger: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._reads = True
        self._blocked = False
        self._places: list[Places] = []
        self._waits_for: Places | None = None
        self._closing = False

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A device has connected."""
        self.transport = cast("asyncio.Transport", transport)
        relay = self.relay
        address = relay.admit(self.transport)
        if address is None:
            self._closing = True
            transport.close()
            return
        self.address = address
        relay.devices.add(self)
        relay.open.add(self)
        self.conversation = Conversation(rules=relay.rules, agent=relay.route.agent, now=self.loop.time())
        self._deafen = relay.route.listen(self)
        self._set_alarm()

    def data_received(self, data: bytes) -> None:
        """Bytes of the device."""
        if self.conversation is not None:
            self.conversation.device_sent(data, self.loop.time())
            self._settle()

    def eof_received(self) -> bool:
        """The device's FIN: it may wait for answers still."""
        self._finished = True
        if self.conversation is not None:
            self.conversation.device_finished(self.loop.time())
            self._settle()
        return not self._closing

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The connection is no more."""
        self.transport = None
        for timer in (self._linger, self._patience):
            if timer is not None:
                timer.cancel()
        if self.conversation is not None and not self.conversation.over:
            self.conversation.device_gone(self.loop.time())
            self._settle()
        self._forget_if_done()

    def pause_writing(self) -> None:
        """The device does not read its answers: read no more of them, and do not wait for ever."""
        self._blocked = True
        if self.transport is not None:
            self._patience = self.loop.call_later(BLOCKED_SECONDS, self.transport.abort)
        self._read_or_not()

    def resume_writing(self) -> None:
        """It does again."""
        self._blocked = False
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._see_to_place()
        self._read_or_not()

    # The route's, the links' and the relay's side.

    def agent_is(self, agent: Life | None) -> None:
        """Another agent is the one to talk to."""
        if self.conversation is not None:
            self.conversation.agent_is(agent, self.loop.time())
            self._settle()

    def stop(self) -> None:
        """The gate ends."""
        if self.conversation is not None:
            self.conversation.stop(self.loop.time())
            self._settle()

    def cut(self) -> None:
        """The gate has no more time."""
        if self.conversation is not None:
            self.conversation.cut()
            self._settle()

    def link_opened(self, number: int) -> None:
        """A connection to an agent is made."""
        if self.conversation is not None:
            self.conversation.opened(number, self.loop.time())
            self._settle()

    def link_failed(self, number: int) -> None:
        """It could not be made."""
        if self.links.pop(number, None) is not None and self.conversation is not None:
            self.conversation.failed(number, self.loop.time())
            self._settle()

    def link_sent(self, number: int, data: bytes) -> None:
        """An agent's bytes."""
        if number in self.links and self.conversation is not None:
            self.conversation.answered(number, data, self.loop.time())
            self._settle()

    def link_closed(self, number: int) -> None:
        """An agent has closed, or the connection broke."""
        if self.links.pop(number, None) is not None and self.conversation is not None:
            self.conversation.closed(number, self.loop.time())
            self._settle()

    # Carrying out.

    def _settle(self) -> None:
        """Carry out all that the conversation asks for, then see to reading and to the time."""
        conversation = self.conversation
        if conversation is None:
            return
        while effects := conversation.effects():
            for effect in effects:
                self._carry_out(effect)
        self._see_to_place()
        self._read_or_not()
        self._set_alarm()
        self._forget_if_done()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case ToAgent(number, data):
                if log.isEnabledFor(logging.DEBUG):
                    log.debug("%s is written to an agent", describe(data), extra={"device": self.address})
                self.links[number].write(data)
            case ToDevice(data):
                if self.transport is not None:
                    self.transport.write(data)
            case Note(kind, amount, agent):
                self.relay.counters.note(kind, amount, cast("Life | None", agent))
            case Open(number, agent):
                self.links[number] = Link(number, cast("Life", agent), self, channel=self.relay, loop=self.loop)
            case CloseLink(number):
                if (link := self.links.pop(number, None)) is not None:
                    link.finish()
            case CloseDevice(why):
                self._close(why)

    def _close(self, why: Ending) -> None:
        self._closing = True
        self._deafen()
        if why is not Ending.DONE:
            self.relay.counters.ended(why)
            log.info("closed towards a device: %s", why, extra={"device": self.address, "reason": why.name})
        transport = self.transport
        if transport is None:
            return
        if self._finished:
            transport.close()
            return
        # No reset: the device reads its last answer and our FIN, and what it still sends is read and left out.
        end(transport)
        transport.resume_reading()
        self._linger = self.loop.call_later(LINGER_SECONDS, transport.abort)

    def _see_to_place(self) -> None:
        """Have a place of each kind that what is held asks for, one after the other, and of no other kind."""
        wanted, tiers = self._wanted_places, self.relay.tiers
        while len(self._places) > wanted:
            self._places.pop().give_back()
        if self._waits_for is not None and len(self._places) >= wanted:
            self._waits_for = None
            self._resume()
        while len(self._places) < wanted and self._waits_for is None:
            places = tiers[len(self._places)].places
            if places.take(partial(self._place_granted, places)):
                self._places.append(places)
            else:
                self._waits_for = places
                if self.conversation is not None:
                    self.conversation.unread()

    @property
    def _wanted_places(self) -> int:
        conversation = self.conversation
        # Of answers that the device does not read two are free.
        unread = 0 if self.transport is None else self.transport.get_write_buffer_size() - SMALL_BYTES
        charged = 0 if conversation is None or conversation.over else conversation.charged_bytes
        return sum(max(unread, charged) > tier.above_bytes for tier in self.relay.tiers)

    def _place_granted(self, places: Places) -> bool:
        conversation = self.conversation
        if self._waits_for is not places or conversation is None or conversation.over:
            return False
        self._waits_for = None
        self._places.append(places)
        self._resume()
        self._see_to_place()
        self._read_or_not()
        return True

    def _resume(self) -> None:
        if self.conversation is not None:
            self.conversation.resumed(self.loop.time())
            self._set_alarm()

    def _read_or_not(self) -> None:
        conversation, transport = self.conversation, self.transport
        if conversation is None or self._closing:
            return
        reads = conversation.reads_device and self._waits_for is None
        if transport is not None and reads != self._reads:
            self._reads = reads
            (transport.resume_reading if reads else transport.pause_reading)()
        for link in self.links.values():
            link.read(not self._blocked and self._waits_for is None)

    def _set_alarm(self) -> None:
        due = None if self.conversation is None else self.conversation.deadline
        alarm = self._alarm
        if due is None:
            if alarm is not None:
                alarm.cancel()
                self._alarm = None
        elif alarm is None or due < alarm.when():
            if alarm is not None:
                alarm.cancel()
            self._alarm = self.loop.call_at(due, self._ring)

    def _ring(self) -> None:
        """It may have been set for something that is over: then it is set anew."""
        self._alarm = None
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
        """Once the device has gone and nothing is left to pass on."""
        conversation = self.conversation
        if self.transport is not None or conversation is None or not conversation.over:
            return
        self.conversation = None
        if self._alarm is not None:
            self._alarm.cancel()
        self._deafen()
        while self._places:
            self._places.pop().give_back()
        self.relay.connections.went(self.address)
        self.relay.devices.discard(self)
        self.relay.is_over(self)


def _nothing() -> None:
    """Stands where nothing has to be undone yet."""
