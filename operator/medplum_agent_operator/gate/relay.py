"""An HL7 channel over real sockets: it listens, and has one `DeviceConnection` for each device.

`__main__` starts one relay for each HL7 channel. Channels of other protocols are in `streams`.
"""

import asyncio
from collections import Counter

from medplum_agent_operator.gate.device_connection import DeviceConnection
from medplum_agent_operator.gate.effects import Rules
from medplum_agent_operator.gate.routes import Route
from medplum_agent_operator.gate.shared import Shared
from medplum_agent_operator.gate.sockets import ChannelServer, Counters, Reader


class Hl7Relay(ChannelServer):
    """A channel of messages. Each device has a conversation with the route's current agent."""

    def __init__(self, *, name: str, route: Route, rules: Rules, shared: Shared, counters: Counters) -> None:
        super().__init__(name=name, route=route, shared=shared, counters=counters)
        self.rules = rules
        self.devices: set[DeviceConnection] = set()

    def make_protocol(self, loop: asyncio.AbstractEventLoop) -> Reader:
        """Make the protocol object for a new device connection."""
        return DeviceConnection(self, loop, rules=self.rules, devices=self.devices)

    def finish(self) -> None:
        """Finish the messages in progress, then close each connection."""
        for device in list(self.devices):
            device.stop()

    def close_now(self) -> None:
        """Close every connection. The devices resend messages without an answer."""
        for device in list(self.devices):
            device.close_now()

    def connected(self) -> Counter[str]:
        """Return the number of connections by device address."""
        return Counter(device.address for device in self.devices)
