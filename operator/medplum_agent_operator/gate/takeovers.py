"""What devices experienced when each of the last agents took over, counted by the name of the new agent's pod.

The counters of all channels fill this. `/status` shows it, so that the operator can report the figures of a rollout.
"""

from dataclasses import dataclass
from typing import Final

from medplum_agent_operator.gate.effects import Kind

MAX_AGENTS: Final = 8
"""How many agents are remembered. The one without a new count for longest is forgotten first."""


@dataclass(slots=True)
class Takeover:
    """What one agent took over.

    Attributes:
        moved: device connections that moved to it from another agent.
        held: messages that the gate held before they reached it.
        longest_hold_seconds: the longest time that one of them was held.
        repeated: messages that it received after another agent stopped without answering them.
    """

    moved: int = 0
    held: int = 0
    longest_hold_seconds: float = 0
    repeated: int = 0

    def as_json(self) -> dict[str, float]:
        """Return the JSON object for `/status`."""
        return {
            "moved": self.moved,
            "held": self.held,
            "longestHoldSeconds": round(self.longest_hold_seconds, 3),
            "repeated": self.repeated,
        }


class Takeovers:
    """The last agents, by pod name."""

    def __init__(self) -> None:
        self._by_pod: dict[str, Takeover] = {}

    def count(self, pod: str, kind: Kind, number: float) -> None:
        """Count what happened with a message to this pod's agent. Kinds that do not belong to a takeover are ignored.

        >>> takeovers = Takeovers()
        >>> takeovers.count("front-desk-2", Kind.HELD, 2.5)
        >>> takeovers.as_json()
        {'front-desk-2': {'moved': 0, 'held': 1, 'longestHoldSeconds': 2.5, 'repeated': 0}}
        """
        if kind not in {Kind.MOVED, Kind.HELD, Kind.REPEATED}:
            return
        takeover = self._by_pod.pop(pod, Takeover())
        self._by_pod[pod] = takeover
        while len(self._by_pod) > MAX_AGENTS:
            del self._by_pod[next(iter(self._by_pod))]
        match kind:
            case Kind.MOVED:
                takeover.moved += 1
            case Kind.HELD:
                takeover.held += 1
                takeover.longest_hold_seconds = max(takeover.longest_hold_seconds, number)
            case _:
                takeover.repeated += 1

    def as_json(self) -> dict[str, dict[str, float]]:
        """Return the JSON object for `/status`: one entry a pod."""
        return {pod: takeover.as_json() for pod, takeover in self._by_pod.items()}
