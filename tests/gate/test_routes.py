"""Which agent is the one to talk to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.gate.limits import Places
from medplum_agent_operator.gate.routes import Life, Pod, Pods, Route

if TYPE_CHECKING:
    from collections.abc import Callable

RED, GREEN, BLUE = (Pod(name, f"10.0.0.{number}", 2575) for number, name in enumerate(["a", "b", "c"]))


def ready(*pods: Pod) -> Pods:
    """So many take connections, as Kubernetes sees it."""
    return Pods(ready=frozenset(pods))


def waiting(*pods: Pod, besides: Pod | None = None) -> Pods:
    """So many are there and not ready."""
    return Pods(ready=frozenset([besides] if besides else []), waiting=frozenset(pods))


class Ear:
    """Hears what is told."""

    def __init__(self) -> None:
        self.heard: list[Life | None] = []

    def agent_is(self, agent: Life | None) -> None:
        """Another one."""
        self.heard.append(agent)


@pytest.fixture
def ear() -> Ear:
    """One that listens to `route`."""
    return Ear()


@pytest.fixture
def route(ear: Ear) -> Route:
    """A route that tells `ear`."""
    made = Route()
    made.listen(ear)
    return made


@pytest.mark.parametrize("first", [RED, GREEN, BLUE])
def test_while_more_are_ready_the_one_that_is_talked_to_stays(first: Pod, route: Route, ear: Ear) -> None:
    """A new one has still to prove itself; it is taken when the old one begins to end."""
    route.pods_are(ready(first))
    route.pods_are(ready(RED, GREEN, BLUE))
    assert [Life(first)] == ear.heard
    route.pods_are(ready(*({RED, GREEN, BLUE} - {first})))
    assert route.agent is not None
    assert first != route.agent.pod


def test_none_is_ready(route: Route, ear: Ear) -> None:
    """Then there is no agent, until there is one."""
    route.pods_are(ready(RED))
    route.pods_are(ready())
    route.pods_are(ready())
    route.pods_are(ready(RED))
    assert [Life(RED), None, Life(RED)] == ear.heard


def test_a_port_that_refuses_is_no_agent_until_it_opens(route: Route, ear: Ear) -> None:
    """Whatever Kubernetes says of it. What never listened is just not there yet: it is the same life."""
    route.pods_are(ready(RED))
    route.refused(RED)
    assert [RED] == [*route.candidates]
    route.refused(RED)
    route.takes_connections(RED)
    assert [Life(RED), None, Life(RED)] == ear.heard
    assert () == route.candidates


def test_a_port_that_refuses_ends_a_life_that_was_met(route: Route, ear: Ear) -> None:
    """What listens there later is another agent, and gets what died with the one before."""
    route.pods_are(ready(RED))
    route.met(Life(RED))
    route.refused(RED)
    route.refused(RED)
    route.takes_connections(RED)
    route.refused(RED)
    route.takes_connections(RED)
    assert [Life(RED), None, Life(RED, 2), None, Life(RED, 3)] == ear.heard
    route.pods_are(ready())
    route.pods_are(ready(RED))
    assert Life(RED, 3) == route.agent, "to be not there for a moment is not to be another"


def test_a_refusal_by_an_agent_that_was_left_means_nothing(route: Route) -> None:
    """It has ended, as it should."""
    route.pods_are(ready(RED))
    route.met(Life(RED))
    route.pods_are(ready(GREEN))
    route.refused(RED)
    assert Life(GREEN) == route.agent


def test_an_agent_that_opens_is_taken_before_kubernetes_calls_it_ready(route: Route, ear: Ear) -> None:
    """It is kept then, until another one is ready."""
    route.pods_are(waiting(GREEN, RED))
    assert None is route.agent
    assert (RED, GREEN) == route.candidates
    route.takes_connections(GREEN)
    route.pods_are(waiting(GREEN, RED))
    route.pods_are(ready(GREEN, RED))
    route.pods_are(ready(GREEN))
    assert [Life(GREEN)] == ear.heard
    route.pods_are(ready(RED))
    assert [Life(GREEN), Life(RED)] == ear.heard


def test_while_one_is_ready_nobody_else_is_tried(route: Route) -> None:
    """In a handoff the new agent gets no device before it is ready and the old one ends."""
    route.pods_are(waiting(RED, besides=GREEN))
    assert () == route.candidates
    route.takes_connections(RED)
    assert Life(GREEN) == route.agent


def test_an_agent_that_was_found_goes_for_one_that_is_ready(route: Route) -> None:
    """And for none when its pod ends."""
    route.pods_are(waiting(RED))
    route.takes_connections(RED)
    route.pods_are(waiting(RED, besides=GREEN))
    assert Life(GREEN) == route.agent
    route.pods_are(waiting(RED))
    route.takes_connections(RED)
    route.pods_are(ready())
    assert None is route.agent


def test_a_ready_agent_that_was_never_reached_is_out_of_reach(route: Route) -> None:
    """Once one was, a later one that cannot be reached is a matter of time."""
    steps: list[Callable[[], None]] = [
        lambda: route.pods_are(ready(RED)),
        lambda: route.refused(RED),
        lambda: route.takes_connections(RED),
        lambda: route.pods_are(ready(GREEN)),
    ]
    seen = [route.out_of_reach]
    for step in steps:
        step()
        seen.append(route.out_of_reach)
    assert [False, True, True, False, False] == seen


def test_an_agent_that_is_ready_no_more_has_to_open_again(route: Route, ear: Ear) -> None:
    """It may hang, or be gone: whether it takes connections is seen at once."""
    route.pods_are(ready(RED))
    route.met(Life(RED))
    route.pods_are(waiting(RED))
    route.takes_connections(RED)
    assert [Life(RED), None, Life(RED)] == ear.heard


def test_who_listens_no_more_hears_no_more(route: Route) -> None:
    """Also when it stops in the middle of being told."""
    other = Ear()
    end = route.listen(other)
    end()
    end()
    route.pods_are(ready(RED))
    assert [] == other.heard


def test_places_go_to_who_came_first_and_still_wants_one() -> None:
    """One who has given up is passed over; a place that nobody waits for is free."""
    places = Places(1)
    told: list[str] = []

    def wants(name: str, *, still: bool) -> bool:
        told.append(name)
        return still

    assert places.take(lambda: wants("a", still=True))
    assert not places.take(lambda: wants("b", still=False))
    assert not places.take(lambda: wants("c", still=True))
    places.give_back()
    assert ["b", "c"] == told
    places.give_back()
    assert places.take(lambda: wants("d", still=True))
