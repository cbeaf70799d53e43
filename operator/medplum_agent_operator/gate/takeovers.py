"""What it was like for devices when each of the last agents took over: counted by the pod that they went on with.

Filled by the counters of all channels; part of what `/status` shows, for the true figures of a change.
"""

from dataclasses import dataclass
from typing import Final

from medplum_agent_operator.gate.effects import Kind

KEPT: Final = 8
"""Agents; the one that was counted for longest ago goes first."""


@dataclass(slots=True)
class Takeover:
    """What one agent took over.

    Attributes:
        moved: connections of devices that went on with it after another agent.
        held: messages that had waited for an agent before they reached it.
        longest_hold_seconds: how long the one that had waited longest had.
        repeated: messages that it got after they had died unanswered with another.
    """

    moved: int = 0
    held: int = 0
    longest_hold_seconds: float = 0
    repeated: int = 0

    def as_json(self) -> dict[str, float]:
        """In the words of Kubernetes' JSON."""
        return {
            "moved": self.moved,
            "held": self.held,
            "longestHoldSeconds": round(self.longest_hold_seconds, 3),
            "repeated": self.repeated,
        }


class Takeovers:
    """The last agents, by the names of their pods."""

    def __init__(self) -> None:
        self._by_pod: dict[str, Takeover] = {}

    def note(self, pod: str, kind: Kind, number: float) -> None:
        """Something happened with a message to this pod's agent; what is no part of taking over is passed by.

        >>> takeovers = Takeovers()
        >>> takeovers.note("front-desk-2", Kind.HELD, 2.5)
        >>> takeovers.as_json()
        {'front-desk-2': {'moved': 0, 'held': 1, 'longestHoldSeconds': 2.5, 'repeated': 0}}
        """
        if kind not in {Kind.MOVED, Kind.HELD, Kind.REPEATED}:
            return
        takeover = self._by_pod.pop(pod, Takeover())
        self._by_pod[pod] = takeover
        while len(self._by_pod) > KEPT:
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
        """All of them."""
        return {pod: takeover.as_json() for pod, takeover in self._by_pod.items()}
