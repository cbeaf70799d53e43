"""One device's TCP connection on an HL7 channel: what asyncio, the route and the relay report about it.

`relay` makes one for each device. It passes bytes, events and the time to its conversation; `effect_runner` carries out what
the conversation asks for. It also reports to what all channels share how much it needs its place, and what it costs.
"""

import asyncio
from typing import Final, cast

from medplum_agent_operator.gate.conversation import Conversation
from medplum_agent_operator.gate.device_log import WORTH_A_LINE
from medplum_agent_operator.gate.effect_runner import EffectRunner
from medplum_agent_operator.gate.effects import Count, Effect, Ending, Rules, SendToAgent
from medplum_agent_operator.gate.limits import TINY_BYTES, Standing
from medplum_agent_operator.gate.routes import Life
from medplum_agent_operator.gate.sockets import ChannelServer
from medplum_agent_operator.gate.unread import Unread

BLOCKED_SECONDS: Final = 60.0
"""How long a device may leave its answers unread. Meanwhile a large answer occupies memory that other devices need."""

STANDS_SECONDS: Final = 1.0
"""How often a connection reports at most that it sent a message."""


class DeviceConnection(EffectRunner):
    """The connection of one device."""

    def __init__(
        self,
        channel: ChannelServer,
        loop: asyncio.AbstractEventLoop,
        *,
        rules: Rules,
        devices: "set[DeviceConnection]",
    ) -> None:
        """`devices`: the channel's connections; this one adds and removes itself."""
        super().__init__(channel, loop)
        self._rules = rules
        self._devices = devices
        self._blocked_timer: asyncio.TimerHandle | None = None
        self._standing = Standing.SILENT
        self._spoke = False
        self._sent = False
        self._stood_at = 0.0
        self._charged = 0

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A device has connected."""
        self.transport = cast("asyncio.Transport", transport)
        channel = self.channel
        if not channel.admit(self, self.transport):
            self._closing = True
            transport.close()
            return
        self._devices.add(self)
        channel.open.add(self)
        self.conversation = Conversation(rules=self._rules, agent=channel.route.agent, now=self.loop.time())
        self._unsubscribe = channel.route.subscribe(self)
        self._set_alarm()

    def data_received(self, data: bytes) -> None:
        """The device sent bytes."""
        conversation = self.conversation
        if conversation is None:
            return
        conversation.device_sent(data, self.loop.time())
        self._settle()
        if len(data) < TINY_BYTES and not conversation.busy:
            self._charge(1)

    def eof_received(self) -> bool:
        """The device sent FIN; it may still wait for answers."""
        self._device_finished = True
        if self.conversation is not None:
            self.conversation.device_finished(self.loop.time())
            self._settle()
        return not self._closing

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed. What had arrived before is still read and passed on, as fast as the agent answers."""
        transport, self.transport = self.transport, None
        self._blocked = False
        for timer in (self._linger, self._blocked_timer):
            if timer is not None:
                timer.cancel()
        if isinstance(exc, TimeoutError):
            self._note("lost a device's connection: the device does not answer on the network")
        if self.conversation is not None:
            self.conversation.device_lost()
            if transport is not None and not self._device_finished:
                self._unread = Unread(transport)
            self._settle()

    def pause_writing(self) -> None:
        """The device does not read its answers: read no more of them, and abort if this lasts too long."""
        self._blocked = True
        self._blocked_timer = self.loop.call_later(BLOCKED_SECONDS, self._drop_unread)
        self._update_reading()

    def resume_writing(self) -> None:
        """The device reads again."""
        self._blocked = False
        if self._blocked_timer is not None:
            self._blocked_timer.cancel()
            self._blocked_timer = None
        self.claim.adjust(self._claimed_bytes)
        self._update_reading()

    # Called by the route and the relay.

    def agent_is(self, agent: Life | None) -> None:
        """Another agent is the current one, or no agent is (None)."""
        if self.conversation is not None:
            self.conversation.agent_changed(agent, self.loop.time())
            self._settle()

    def stop(self) -> None:
        """The gate stops."""
        if self.conversation is not None:
            self.conversation.stop(self.loop.time())
            self._settle()

    def close_now(self) -> None:
        """The gate's grace period is over."""
        if self.conversation is not None:
            self.conversation.close_now()
            self._settle()

    # Called by what all channels share: places, memory, turns.

    def give_way(self) -> None:
        """Close at once: another connection gets the place."""
        if self.conversation is not None:
            self.conversation.give_way()
            self._settle()
        self._close_transport()

    @property
    def receiving(self) -> bool:
        """Whether it waits for its device: for the rest of a message that it reads, or for the device to read an answer."""
        return self._blocked or (self.conversation is not None and self.conversation.receiving and self._reading)

    def forget_sent(self) -> None:
        """Drop the copy of a message that an agent has completely, and adjust the claim."""
        if self._blocked:
            self.claim.adjust(self._claimed_bytes)
        conversation = self.conversation
        number = None if conversation is None else conversation.sent_on
        if conversation is not None and number in self.links and self.links[number].flushed:
            conversation.forget_sent()
            self.claim.adjust(self._claimed_bytes)

    def too_slow(self) -> None:
        """The device sends, or reads, too slowly while others wait: close the connection."""
        if self._blocked:
            self._drop_unread()
        elif self.conversation is not None:
            self.conversation.too_slow()
            self._settle()

    def _turn(self) -> None:
        """Continue after a pause."""
        self._paced = False
        if self.conversation is not None:
            self.conversation.take_turn(self.loop.time())
            self._settle()

    # Carries out the effects.

    def _settle(self) -> None:
        """Carry out all effects. Then report how much the connection needs its place, and what it cost."""
        conversation = self.conversation
        super()._settle()
        if conversation is None:
            return
        if conversation.only_waits:
            standing = Standing.DONE
        else:
            standing = Standing.SPOKE if self._spoke or conversation.busy else Standing.SILENT
        if standing is not self._standing or (self._sent and self.loop.time() >= self._stood_at + STANDS_SECONDS):
            self._sent, self._standing, self._stood_at = False, standing, self.loop.time()
            self.channel.shared.connections.stands(self, standing, self._stood_at)
        if conversation.dropped != self._charged or conversation.more_later:
            units, self._charged = conversation.dropped - self._charged, conversation.dropped
            self._charge(units)

    def _carry_out(self, effect: Effect) -> None:
        super()._carry_out(effect)
        match effect:
            case SendToAgent():
                self._spoke = self._sent = True
            case Count(kind, number) if kind in WORTH_A_LINE:
                self._note(WORTH_A_LINE[kind], number=int(number))

    def _charge(self, units: int) -> None:
        """Charge the device's address with work. If it has caused too much, or more is left to do, pause until the next turn."""
        pace, conversation = self.channel.shared.pace, self.conversation
        over = pace.charge(self.address, units, channel=self.channel.name)
        if self._paced or conversation is None or conversation.ended or not (over or conversation.more_later):
            return
        self._paced = True
        self._update_reading()
        pace.wait(self.address, self._turn)

    def _drop_unread(self) -> None:
        self._note(f"closed a device's connection: {Ending.UNREAD}", reason=Ending.UNREAD.name)
        self.channel.counters.connection_closed(Ending.UNREAD)
        if self.transport is not None:
            self.transport.abort()

    def _close_transport(self) -> None:
        """Close without a wait for the device."""
        if self.transport is not None:
            (self.transport.abort if self.transport.get_write_buffer_size() else self.transport.close)()

    def _note(self, text: str, *, number: int = 1, reason: str = "") -> None:
        self.channel.shared.device_log.note(self.address, text, number=number, reason=reason)

    def _forget(self) -> None:
        """Remove the connection from its channel."""
        self.channel.shared.connections.remove(self)
        self._devices.discard(self)
        self.channel.forget(self)
