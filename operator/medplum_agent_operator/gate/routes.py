"""The current agent of a channel, and who has to know when it changes.

`endpoints` passes in the pods from the EndpointSlices. The relays and `agent_probe` report connections that were made or
refused, and subscribe to changes. A route persists nothing: after a restart it follows again from what Kubernetes reports.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

_REMEMBERED = 16
"""How many pods whose agents were seen to stop a route remembers, with the number of their current life."""


@dataclass(frozen=True, slots=True, order=True)
class Pod:
    """An agent pod, and the port on which it serves this channel."""

    name: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Life:
    """One life of an agent on one port. When a pod's agent stops and comes back, the number increases."""

    pod: Pod
    number: int = 1


class Listener(Protocol):
    """A subscriber of a route."""

    def agent_is(self, agent: Life | None) -> None:
        """Another agent is the current one, or no agent is (None)."""


@dataclass(frozen=True, slots=True)
class Pods:
    """The agent's pods that are not terminating, as Kubernetes reports them.

    Attributes:
        ready: pods that are ready.
        not_ready: pods that start or have failed, or whose readiness has not been reported yet.
    """

    ready: frozenset[Pod] = frozenset()
    not_ready: frozenset[Pod] = frozenset()


class Route:
    """Selects the current agent of one channel."""

    def __init__(self) -> None:
        self._pods = Pods()
        self._agent: Life | None = None
        self._connected_to: set[Pod] = set()
        self._ever_connected = False
        self._lives: dict[Pod, int] = {}
        self._listeners: dict[Listener, None] = {}

    @property
    def agent(self) -> Life | None:
        """The current agent, or None."""
        return self._agent

    @property
    def candidates(self) -> tuple[Pod, ...]:
        """While there is no current agent: pods that might accept connections, ready ones first."""
        return (*sorted(self._pods.ready), *sorted(self._pods.not_ready)) if self._agent is None else ()

    @property
    def unreachable(self) -> bool:
        """Whether Kubernetes reports a ready agent, but this gate has never connected to any agent."""
        return bool(self._pods.ready) and not self._ever_connected

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call the listener on each change from now on. Returns a function that ends the subscription; it may be called twice."""
        self._listeners[listener] = None

        def unsubscribe() -> None:
            self._listeners.pop(listener, None)

        return unsubscribe

    def update_pods(self, pods: Pods) -> None:
        """Take the pods that Kubernetes reports now.

        While two agents are ready, in the middle of a handoff, the current one stays: the new one has yet to prove itself. The
        gate leaves the old one when its pod begins to terminate. A candidate that the probe found also stays, until another pod is ready.
        """
        current, before = self._agent, self._pods
        self._pods = pods
        self._connected_to &= pods.ready | pods.not_ready
        if current is not None:
            if current.pod in pods.ready:
                return
            still_not_ready = current.pod in pods.not_ready and current.pod not in before.ready
            if still_not_ready and not pods.ready:
                return
        self._switch_to(self._life_of(min(pods.ready)) if pods.ready else None)

    def candidate_opened(self, pod: Pod) -> None:
        """The probe has connected to a candidate, although Kubernetes has not reported it ready or the gate did not see that."""
        if pod in self.candidates:
            self._connected_to.add(pod)
            self._ever_connected = True
            self._switch_to(self._life_of(pod))

    def connected(self, agent: Life) -> None:
        """A connection to this agent was made."""
        if agent == self._agent:
            self._connected_to.add(agent.pod)
            self._ever_connected = True

    def connection_refused(self, pod: Pod) -> None:
        """The pod's port refuses connections, so no process listens there. If one listened before, its life has ended.

        Kubernetes reports this seconds later, or never if the container restarts quickly.
        """
        if pod in self._connected_to:
            self._connected_to.discard(pod)
            self._lives[pod] = self._lives.get(pod, 1) + 1
            while len(self._lives) > _REMEMBERED:
                del self._lives[next(iter(self._lives))]
        if self._agent is not None and self._agent.pod == pod:
            self._switch_to(None)

    def _life_of(self, pod: Pod) -> Life:
        return Life(pod, self._lives.get(pod, 1))

    def _switch_to(self, agent: Life | None) -> None:
        if agent == self._agent:
            return
        self._agent = agent
        for listener in list(self._listeners):
            listener.agent_is(agent)
