"""What all channels of a gate share: places, memory, turns, and the lines about devices."""

from collections.abc import Callable
from dataclasses import dataclass

from medplum_agent_operator.gate.budget import Budget
from medplum_agent_operator.gate.device_log import DeviceLog
from medplum_agent_operator.gate.limits import Connections
from medplum_agent_operator.gate.pace import Pace


@dataclass(frozen=True, slots=True)
class Shared:
    """What all channels share."""

    connections: Connections
    budget: Budget
    pace: Pace
    device_log: DeviceLog

    @classmethod
    def make(
        cls,
        *,
        connections: Connections,
        shared_bytes: int,
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> "Shared":
        """`shared_bytes`: of the budget; `clock`, `call_later`: the loop's."""
        return cls(
            connections,
            Budget(shared_bytes=shared_bytes, call_later=call_later),
            Pace(clock=clock, call_later=call_later),
            DeviceLog(call_later),
        )
