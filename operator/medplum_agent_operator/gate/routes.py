"""Which agent is the one to talk to, as one value that changes, and who wants to know.

`endpoints` tells what Kubernetes says of the agent's pods; `relay` and `streams` ask, listen, and tell when a port refuses. Not
persistent, and the same after a restart: it follows from what Kubernetes says now.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

_REMEMBERED = 16
"""Pods whose agents were seen gone; a pod that is ready again is not taken for another because of that."""


@dataclass(frozen=True, slots=True, order=True)
class Pod:
    """An agent's pod that takes connections, and on which port it takes this channel's."""

    name: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Life:
    """One life of an agent on one port: a pod's agent that was seen gone and comes back is another."""

    pod: Pod
    number: int = 1


class Listener(Protocol):
    """Who wants to know."""

    def agent_is(self, agent: Life | None) -> None:
        """Another agent is the one to talk to, or none is."""


class Route:
    """The way to the agent, for one channel."""

    def __init__(self) -> None:
        self._agent: Life | None = None
        self._met = False
        self._lives: dict[Pod, int] = {}
        self._listeners: dict[Listener, None] = {}

    @property
    def agent(self) -> Life | None:
        """The agent to talk to; None while none is ready."""
        return self._agent

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell a listener of each change from now on. Returns what ends that."""
        self._listeners[listener] = None

        def end() -> None:
            self._listeners.pop(listener, None)

        return end

    def ready_pods(self, pods: Collection[Pod]) -> None:
        """Take what Kubernetes says: pods that are ready and not about to end.

        While two are, in the middle of a handoff, the one that is talked to stays so: the new one has still to prove itself, and
        the old one is left when it begins to end.
        """
        current = self._agent
        if current is not None and current.pod in pods:
            return
        if not pods:
            self._become(None)
            return
        pod = min(pods)
        self._become(Life(pod, self._lives.get(pod, 1)))

    def met(self, agent: Life) -> None:
        """A connection to it was made."""
        if agent == self._agent:
            self._met = True

    def refused(self, agent: Life) -> None:
        """Its port refuses, so that no process listens. If one did before, it has gone, and what will listen is another.

        Kubernetes tells of it seconds later, or never if the container starts anew quickly.
        """
        if agent == self._agent and self._met:
            self._lives[agent.pod] = agent.number + 1
            while len(self._lives) > _REMEMBERED:
                del self._lives[next(iter(self._lives))]
            self._become(Life(agent.pod, agent.number + 1))

    def _become(self, agent: Life | None) -> None:
        if agent == self._agent:
            return
        self._agent, self._met = agent, False
        for listener in list(self._listeners):
            listener.agent_is(agent)
