"""Which agent is the one to talk to."""

from __future__ import annotations

import pytest

from medplum_agent_operator.gate.limits import Places
from medplum_agent_operator.gate.routes import Life, Pod, Route

RED, GREEN, BLUE = (Pod(name, f"10.0.0.{number}", 2575) for number, name in enumerate(["a", "b", "c"]))


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
    route.ready_pods([first])
    route.ready_pods([RED, GREEN, BLUE])
    assert [Life(first)] == ear.heard
    route.ready_pods({RED, GREEN, BLUE} - {first})
    assert route.agent is not None
    assert first != route.agent.pod


def test_none_is_ready(route: Route, ear: Ear) -> None:
    """Then there is no agent, until there is one."""
    route.ready_pods([RED])
    route.ready_pods([])
    route.ready_pods([])
    route.ready_pods([RED])
    assert [Life(RED), None, Life(RED)] == ear.heard


def test_a_port_that_refuses_ends_a_life_that_was_met(route: Route, ear: Ear) -> None:
    """What listens there later is another agent; one that never listened is just not there yet."""
    route.ready_pods([RED])
    route.refused(Life(RED))
    assert Life(RED) == route.agent
    route.met(Life(RED))
    route.refused(Life(RED))
    route.refused(Life(RED))
    route.refused(Life(RED, 2))
    assert [Life(RED), Life(RED, 2)] == ear.heard
    route.met(Life(RED, 2))
    route.refused(Life(RED, 2))
    assert Life(RED, 3) == route.agent
    route.ready_pods([])
    route.ready_pods([RED])
    assert Life(RED, 3) == route.agent, "to be not ready for a moment is not to be another"


def test_a_refusal_by_an_agent_that_was_left_means_nothing(route: Route) -> None:
    """It has ended, as it should."""
    route.ready_pods([RED])
    route.met(Life(RED))
    route.ready_pods([GREEN])
    route.refused(Life(RED))
    assert Life(GREEN) == route.agent


def test_who_listens_no_more_hears_no_more(route: Route) -> None:
    """Also when it stops in the middle of being told."""
    other = Ear()
    end = route.listen(other)
    end()
    end()
    route.ready_pods([RED])
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
