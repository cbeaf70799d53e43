"""Which agent is the one to talk to, as one value that changes, and who wants to know.

`endpoints` tells what Kubernetes says of the agent's pods; `relay` and `streams` ask, listen, and tell when a port refuses. Not
persistent, and the same after a restart: it follows from what Kubernetes says now.
"""

from collections.abc import Callable
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


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of an agent that are not about to end, as Kubernetes sees them.

    Attributes:
        ready: those that take connections.
        waiting: those of which Kubernetes does not say so: they start, have failed, or are ready since a moment ago.
    """

    ready: frozenset[Pod] = frozenset()
    waiting: frozenset[Pod] = frozenset()


class Route:
    """The way to the agent, for one channel."""

    def __init__(self) -> None:
        self._pods = Pods()
        self._agent: Life | None = None
        self._met: set[Pod] = set()
        self._reached = False
        self._lives: dict[Pod, int] = {}
        self._listeners: dict[Listener, None] = {}

    @property
    def agent(self) -> Life | None:
        """The agent to talk to; None while there is none."""
        return self._agent

    @property
    def candidates(self) -> tuple[Pod, ...]:
        """Pods that might take connections although the route leads to none: those that are to be ready first."""
        return (*sorted(self._pods.ready), *sorted(self._pods.waiting)) if self._agent is None else ()

    @property
    def out_of_reach(self) -> bool:
        """Whether Kubernetes calls an agent ready, and no connection from here to any has ever been made."""
        return bool(self._pods.ready) and not self._reached

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell a listener of each change from now on. Returns what ends that."""
        self._listeners[listener] = None

        def end() -> None:
            self._listeners.pop(listener, None)

        return end

    def pods_are(self, pods: Pods) -> None:
        """Take what Kubernetes says.

        While two are ready, in the middle of a handoff, the one that is talked to stays so: the new one has still to prove itself, and
        the old one is left when it begins to end. One that was found by knocking stays as well, until another one is ready.
        """
        current, before = self._agent, self._pods
        self._pods = pods
        self._met &= pods.ready | pods.waiting
        if current is not None:
            if current.pod in pods.ready:
                return
            still_waits = current.pod in pods.waiting and current.pod not in before.ready
            if still_waits and not pods.ready:
                return
        self._become(self._life(min(pods.ready)) if pods.ready else None)

    def takes_connections(self, pod: Pod) -> None:
        """Somebody has knocked at a candidate, and it opened: that it is ready has not been told yet, or is not seen."""
        if pod in self.candidates:
            self._met.add(pod)
            self._reached = True
            self._become(self._life(pod))

    def met(self, agent: Life) -> None:
        """A connection to it was made."""
        if agent == self._agent:
            self._met.add(agent.pod)
            self._reached = True

    def refused(self, pod: Pod) -> None:
        """Its port refuses, so that no process listens. If one did before, it has gone, and what will listen is another.

        Kubernetes tells of it seconds later, or never if the container starts anew quickly.
        """
        if pod in self._met:
            self._met.discard(pod)
            self._lives[pod] = self._lives.get(pod, 1) + 1
            while len(self._lives) > _REMEMBERED:
                del self._lives[next(iter(self._lives))]
        if self._agent is not None and self._agent.pod == pod:
            self._become(None)

    def _life(self, pod: Pod) -> Life:
        return Life(pod, self._lives.get(pod, 1))

    def _become(self, agent: Life | None) -> None:
        if agent == self._agent:
            return
        self._agent = agent
        for listener in list(self._listeners):
            listener.agent_is(agent)
