"""The LIST of everything: again soon after the start, because what went before the watches began is told by nobody.

And of what changes wait for, while there are some: what goes while a watch is broken is told by nobody either.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from medplum_agent_operator.api.status import UNDER_WAY, Phase
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.observed.model import Key
from medplum_agent_operator.errors import ClusterError
from medplum_agent_operator.kinds import AWAITED
from medplum_agent_operator.resync import MANY_NAMESPACES, Resync
from tests.support.builders import NAME, NAMESPACE, SERVER, agent, pod

KEY = Key(NAMESPACE, NAME)


class Pods:
    """An API server that has a pod at first and none after it; it counts the LISTs of pods."""

    def __init__(self) -> None:
        self.lists = 0
        self.asked: list[tuple[str, str | None]] = []
        """Kind and namespace of each LIST."""

    async def list(self, kind: str, namespace: str | None, *, selector: str = "") -> tuple[list[dict[str, Any]], str]:
        """Everything but pods is empty."""
        del selector
        self.asked.append((kind, namespace))
        if kind != "Pod":
            return [], "100"
        self.lists += 1
        raw = pod(name="old")
        raw["metadata"]["resourceVersion"] = "7"
        return ([raw] if self.lists == 1 else []), "100"


async def test_a_pod_that_went_before_the_watches_began_is_forgotten_soon() -> None:
    """No event tells of it; the LIST soon after the start does, and its agent is looked at again."""
    api, cache, looked_at = Pods(), Cache(), list[Key]()
    news = asyncio.Event()

    def look_at(key: Key) -> None:
        looked_at.append(key)
        news.set()

    resync = Resync(api, cache, look_at, namespaces=())
    await resync.once()
    assert [(NAMESPACE, "old")] == cache.names("Pod")
    news.clear()
    soon = asyncio.create_task(resync.forever(every_seconds=1000, soon_seconds=(0.0,)))
    async with asyncio.timeout(5):
        await news.wait()
    soon.cancel()
    assert 2 == api.lists
    assert 2 == len(looked_at)
    assert [] == cache.names("Pod")


def in_phase(phase: str, namespace: str = NAMESPACE) -> dict[str, Any]:
    """An agent whose status says so."""
    raw = agent(status={"phase": phase}, server={**SERVER, "agentId": namespace})
    raw["metadata"]["namespace"] = namespace
    return raw


def resync_of(api: Pods, *agents: dict[str, Any], namespaces: tuple[str, ...] = ()) -> tuple[Resync, Cache, list[Key]]:
    """A resync whose cache knows these agents; and which keys it has put on the queue."""
    cache, looked_at = Cache(), list[Key]()
    for raw in agents:
        cache.put("MedplumAgent", raw)
    return Resync(api, cache, looked_at.append, namespaces=namespaces), cache, looked_at


@pytest.mark.parametrize("phase", sorted(UNDER_WAY))
async def test_a_pod_that_went_in_the_middle_of_a_change_is_forgotten(phase: str) -> None:
    """By three LISTs in the namespace of the change, and the agent is looked at."""
    api = Pods()
    resync, cache, looked_at = resync_of(api, in_phase(phase), in_phase("Running", "elsewhere"))
    await resync.of_rollouts()
    assert [(NAMESPACE, "old")] == cache.names("Pod")
    await resync.of_rollouts()
    assert [] == cache.names("Pod")
    assert [(kind.name, NAMESPACE) for kind in AWAITED] * 2 == api.asked
    assert [KEY, KEY] == looked_at


@pytest.mark.parametrize("phase", sorted(set(Phase) - UNDER_WAY))
async def test_where_nothing_is_under_way_nothing_is_asked(phase: str) -> None:
    """Nor is anybody looked at."""
    api = Pods()
    resync, _, looked_at = resync_of(api, in_phase(phase), in_phase("", "new"))
    await resync.of_rollouts()
    assert [] == api.asked
    assert [] == looked_at


@pytest.mark.parametrize(
    ("number", "watched", "asked"),
    [
        pytest.param(MANY_NAMESPACES, False, MANY_NAMESPACES, id="some"),
        pytest.param(MANY_NAMESPACES + 1, False, 1, id="many"),
        pytest.param(MANY_NAMESPACES + 1, True, MANY_NAMESPACES + 1, id="many, with no right to read others"),
    ],
)
async def test_a_whole_fleet_on_the_move_is_listed_at_once(number: int, asked: int, *, watched: bool) -> None:
    """A LIST for each namespace would be hundreds; an operator that watches some namespaces has no right to more."""
    api = Pods()
    places = tuple(f"clinic-{n:02}" for n in range(number))
    moving = (in_phase("HandingOff", place) for place in places)
    resync, _, _ = resync_of(api, *moving, namespaces=places if watched else ())
    await resync.of_rollouts()
    assert asked * len(AWAITED) == len(api.asked)
    assert (asked == 1) is (("Pod", None) in api.asked)


@pytest.mark.parametrize("fault", [ClusterError("away", status=503), KeyError("items")])
async def test_a_list_that_fails_is_tried_again(fault: Exception) -> None:
    """Changes are not left alone because an API server was away for a moment, or said something that nobody expected."""
    again = asyncio.Event()

    class Away(Pods):
        """The first time."""

        async def list(
            self, kind: str, namespace: str | None, *, selector: str = ""
        ) -> tuple[list[dict[str, Any]], str]:
            """Raise; then answer."""
            if not self.asked:
                self.asked.append((kind, namespace))
                raise fault
            again.set()
            return await super().list(kind, namespace, selector=selector)

    resync, _, _ = resync_of(Away(), in_phase("Recreating"))
    watching = asyncio.create_task(resync.of_rollouts_forever(every_seconds=0.001))
    async with asyncio.timeout(5):
        await again.wait()
    watching.cancel()
