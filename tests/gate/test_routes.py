"""Tests of which agent is the current one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.gate.routes import Life, Pod, Pods, Route

if TYPE_CHECKING:
    from collections.abc import Callable

RED, GREEN, BLUE = (Pod(name, f"10.0.0.{number}", 2575) for number, name in enumerate(["a", "b", "c"]))


def ready(*pods: Pod) -> Pods:
    """Return pods that Kubernetes reports as ready."""
    return Pods(ready=frozenset(pods))


def not_ready(*pods: Pod, besides: Pod | None = None) -> Pods:
    """Return pods that are not ready, and `besides` as a ready one."""
    return Pods(ready=frozenset([besides] if besides else []), not_ready=frozenset(pods))


class Subscriber:
    """Remembers each current agent."""

    def __init__(self) -> None:
        self.agents: list[Life | None] = []

    def agent_is(self, agent: Life | None) -> None:
        """Another agent is the current one, or no agent is (None)."""
        self.agents.append(agent)


@pytest.fixture
def subscriber() -> Subscriber:
    """A subscriber of `route`."""
    return Subscriber()


@pytest.fixture
def route(subscriber: Subscriber) -> Route:
    """A route with `subscriber`."""
    made = Route()
    made.subscribe(subscriber)
    return made


@pytest.mark.parametrize("first", [RED, GREEN, BLUE])
def test_while_several_are_ready_the_current_agent_stays(first: Pod, route: Route, subscriber: Subscriber) -> None:
    """A new agent has yet to prove itself; the gate switches to it when the old one terminates."""
    route.update_pods(ready(first))
    route.update_pods(ready(RED, GREEN, BLUE))
    assert [Life(first)] == subscriber.agents
    route.update_pods(ready(*({RED, GREEN, BLUE} - {first})))
    assert route.agent is not None
    assert first != route.agent.pod


def test_none_is_ready(route: Route, subscriber: Subscriber) -> None:
    """Then there is no current agent, until one is ready."""
    route.update_pods(ready(RED))
    route.update_pods(ready())
    route.update_pods(ready())
    route.update_pods(ready(RED))
    assert [Life(RED), None, Life(RED)] == subscriber.agents


def test_an_agent_whose_port_refuses_is_not_current_until_it_opens(route: Route, subscriber: Subscriber) -> None:
    """Although Kubernetes reports it ready. It never listened before, so its life has not ended."""
    route.update_pods(ready(RED))
    route.connection_refused(RED)
    assert [RED] == [*route.candidates]
    route.connection_refused(RED)
    route.candidate_opened(RED)
    assert [Life(RED), None, Life(RED)] == subscriber.agents
    assert () == route.candidates


def test_a_port_that_refuses_ends_the_life_of_an_agent_that_was_connected(route: Route, subscriber: Subscriber) -> None:
    """The next process on this port is another agent, which may get the unanswered message of the previous one."""
    route.update_pods(ready(RED))
    route.connected(Life(RED))
    route.connection_refused(RED)
    route.connection_refused(RED)
    route.candidate_opened(RED)
    route.connection_refused(RED)
    route.candidate_opened(RED)
    assert [Life(RED), None, Life(RED, 2), None, Life(RED, 3)] == subscriber.agents
    route.update_pods(ready())
    route.update_pods(ready(RED))
    assert Life(RED, 3) == route.agent, "a pod that was missing for a moment keeps its life"


def test_a_refusal_by_a_previous_agent_changes_nothing(route: Route) -> None:
    """It has stopped, as expected."""
    route.update_pods(ready(RED))
    route.connected(Life(RED))
    route.update_pods(ready(GREEN))
    route.connection_refused(RED)
    assert Life(GREEN) == route.agent


def test_an_agent_that_opens_is_current_before_kubernetes_reports_it_ready(
    route: Route, subscriber: Subscriber
) -> None:
    """It stays current until another agent is ready."""
    route.update_pods(not_ready(GREEN, RED))
    assert None is route.agent
    assert (RED, GREEN) == route.candidates
    route.candidate_opened(GREEN)
    route.update_pods(not_ready(GREEN, RED))
    route.update_pods(ready(GREEN, RED))
    route.update_pods(ready(GREEN))
    assert [Life(GREEN)] == subscriber.agents
    route.update_pods(ready(RED))
    assert [Life(GREEN), Life(RED)] == subscriber.agents


def test_while_an_agent_is_ready_there_are_no_candidates(route: Route) -> None:
    """In a handoff the new agent gets no device before it is ready and the old one terminates."""
    route.update_pods(not_ready(RED, besides=GREEN))
    assert () == route.candidates
    route.candidate_opened(RED)
    assert Life(GREEN) == route.agent


def test_a_ready_agent_replaces_one_that_the_probe_found(route: Route) -> None:
    """When the pod of the found agent terminates, there is no current agent."""
    route.update_pods(not_ready(RED))
    route.candidate_opened(RED)
    route.update_pods(not_ready(RED, besides=GREEN))
    assert Life(GREEN) == route.agent
    route.update_pods(not_ready(RED))
    route.candidate_opened(RED)
    route.update_pods(ready())
    assert None is route.agent


def test_a_ready_agent_is_unreachable_until_the_first_connection(route: Route) -> None:
    """After one connection to any agent, a later failure to connect is expected to be temporary."""
    steps: list[Callable[[], None]] = [
        lambda: route.update_pods(ready(RED)),
        lambda: route.connection_refused(RED),
        lambda: route.candidate_opened(RED),
        lambda: route.update_pods(ready(GREEN)),
    ]
    seen = [route.unreachable]
    for step in steps:
        step()
        seen.append(route.unreachable)
    assert [False, True, True, False, False] == seen


def test_an_agent_that_is_not_ready_any_more_has_to_open_again(route: Route, subscriber: Subscriber) -> None:
    """It may hang or have stopped: the probe finds out at once."""
    route.update_pods(ready(RED))
    route.connected(Life(RED))
    route.update_pods(not_ready(RED))
    route.candidate_opened(RED)
    assert [Life(RED), None, Life(RED)] == subscriber.agents


def test_after_unsubscribing_there_are_no_calls(route: Route) -> None:
    """Unsubscribing twice does no harm."""
    other = Subscriber()
    unsubscribe = route.subscribe(other)
    unsubscribe()
    unsubscribe()
    route.update_pods(ready(RED))
    assert [] == other.agents
