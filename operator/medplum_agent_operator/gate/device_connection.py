"""One device's TCP connection on an HL7 channel: what asyncio, the route and the relay report about it.

`relay` makes one for each device. It passes bytes, events and the time to its conversation; `effect_runner` carries out what
the conversation asks for.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, cast

from medplum_agent_operator.gate.conversation import Conversation
from medplum_agent_operator.gate.effect_runner import EffectRunner
from medplum_agent_operator.gate.effects import Rules
from medplum_agent_operator.gate.limits import Tier
from medplum_agent_operator.gate.routes import Life
from medplum_agent_operator.gate.sockets import ChannelServer
from medplum_agent_operator.gate.unread import Unread

BLOCKED_SECONDS: Final = 60.0
"""How long a device may leave its answers unread. Meanwhile a large answer occupies a slot that other devices need."""


class DeviceConnection(EffectRunner):
    """The connection of one device."""

    def __init__(
        self,
        channel: ChannelServer,
        loop: asyncio.AbstractEventLoop,
        *,
        rules: Rules,
        tiers: Sequence[Tier],
        devices: "set[DeviceConnection]",
    ) -> None:
        """`devices`: the channel's connections; this one adds and removes itself."""
        super().__init__(channel, loop, tiers)
        self._rules = rules
        self._devices = devices
        self._blocked_timer: asyncio.TimerHandle | None = None

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A device has connected."""
        self.transport = cast("asyncio.Transport", transport)
        channel = self.channel
        address = channel.admit(self.transport)
        if address is None:
            self._closing = True
            transport.close()
            return
        self.address = address
        self._devices.add(self)
        channel.open.add(self)
        self.conversation = Conversation(rules=self._rules, agent=channel.route.agent, now=self.loop.time())
        self._unsubscribe = channel.route.subscribe(self)
        self._set_alarm()

    def data_received(self, data: bytes) -> None:
        """The device sent bytes."""
        if self.conversation is not None:
            self.conversation.device_sent(data, self.loop.time())
            self._settle()

    def eof_received(self) -> bool:
        """The device sent FIN; it may still wait for answers."""
        self._device_finished = True
        if self.conversation is not None:
            self.conversation.device_finished(self.loop.time())
            self._settle()
        return not self._closing

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The connection is closed. What had arrived before is still read and passed on, as fast as the agent answers."""
        transport, self.transport = self.transport, None
        self._blocked = False
        for timer in (self._linger, self._blocked_timer):
            if timer is not None:
                timer.cancel()
        if self.conversation is not None:
            self.conversation.device_lost()
            if transport is not None and not self._device_finished:
                self._unread = Unread(transport)
            self._settle()

    def pause_writing(self) -> None:
        """The device does not read its answers: read no more of them, and abort if this lasts too long."""
        self._blocked = True
        if self.transport is not None:
            self._blocked_timer = self.loop.call_later(BLOCKED_SECONDS, self.transport.abort)
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

    def _forget(self) -> None:
        """Remove the connection from its channel."""
        self.channel.connections.remove(self.address)
        self._devices.discard(self)
        self.channel.forget(self)
