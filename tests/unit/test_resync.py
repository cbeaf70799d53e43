"""The resync: LISTs that find the deletions that no watch reports.

All kinds are listed at the start, soon after it, and at intervals. The kinds that rollouts wait for are listed more often while one is under way.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.api.status import UNDER_WAY, Phase
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.errors import ClusterError
from medplum_agent_operator.kinds import AWAITED
from medplum_agent_operator.resync import MANY_NAMESPACES, Resync
from tests.support.builders import NAME, NAMESPACE, SERVER, agent, pod
from tests.support.virtual_time import use_virtual_time

KEY = Key(NAMESPACE, NAME)


@pytest.fixture(autouse=True)
async def _virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the event loop of each test a clock of its own."""
    use_virtual_time(asyncio.get_running_loop(), monkeypatch)


class Pods:
    """An API server with a pod in its first LIST of pods only. It counts these LISTs."""

    def __init__(self) -> None:
        self.lists = 0
        self.asked: list[tuple[str, str | None]] = []
        """Kind and namespace of each LIST."""

    async def list(self, kind: str, namespace: str | None, *, selector: str = "") -> tuple[list[dict[str, Any]], str]:
        """Answer with no objects of any other kind."""
        del selector
        self.asked.append((kind, namespace))
        if kind != "Pod":
            return [], "100"
        self.lists += 1
        raw = pod(name="old")
        raw["metadata"]["resourceVersion"] = "7"
        return ([raw] if self.lists == 1 else []), "100"


async def test_a_pod_that_was_deleted_before_the_watches_began_leaves_the_cache_soon() -> None:
    """No event reports it. The LIST soon after the start does, and its agent gets a pass."""
    api, cache, added = Pods(), Cache(), list[Key]()
    called = asyncio.Event()

    def add(key: Key) -> None:
        added.append(key)
        called.set()

    resync = Resync(api, cache, add, namespaces=())
    await resync.once()
    assert [(NAMESPACE, "old")] == cache.names("Pod")
    called.clear()
    soon = asyncio.create_task(resync.forever(every_seconds=1000, soon_seconds=(0.0,)))
    async with asyncio.timeout(5):
        await called.wait()
    soon.cancel()
    assert 2 == api.lists
    assert 2 == len(added)
    assert [] == cache.names("Pod")


def in_phase(phase: str, namespace: str = NAMESPACE) -> dict[str, Any]:
    """An agent with this phase in its status."""
    raw = agent(status={"phase": phase}, server={**SERVER, "agentId": namespace})
    raw["metadata"]["namespace"] = namespace
    return raw


def resync_of(api: Pods, *agents: dict[str, Any], namespaces: tuple[str, ...] = ()) -> tuple[Resync, Cache, list[Key]]:
    """A resync, its cache with these agents, and the keys that it puts on the queue."""
    cache, added = Cache(), list[Key]()
    for raw in agents:
        cache.put("MedplumAgent", raw)
    return Resync(api, cache, added.append, namespaces=namespaces), cache, added


@pytest.mark.parametrize("phase", sorted(UNDER_WAY))
async def test_a_pod_that_was_deleted_during_a_rollout_leaves_the_cache(phase: str) -> None:
    """Three LISTs in the namespace of the rollout find it, and the agent gets a pass."""
    api = Pods()
    resync, cache, added = resync_of(api, in_phase(phase), in_phase("Running", "elsewhere"))
    await resync.of_rollouts()
    assert [(NAMESPACE, "old")] == cache.names("Pod")
    await resync.of_rollouts()
    assert [] == cache.names("Pod")
    assert [(kind.name, NAMESPACE) for kind in AWAITED] * 2 == api.asked
    assert [KEY, KEY] == added


@pytest.mark.parametrize("phase", sorted(set(Phase) - UNDER_WAY))
async def test_without_a_rollout_no_request_is_sent(phase: str) -> None:
    """And no agent gets a pass."""
    api = Pods()
    resync, _, added = resync_of(api, in_phase(phase), in_phase("", "new"))
    await resync.of_rollouts()
    assert [] == api.asked
    assert [] == added


@pytest.mark.parametrize(
    ("number", "watched", "asked"),
    [
        pytest.param(MANY_NAMESPACES, False, MANY_NAMESPACES, id="some"),
        pytest.param(MANY_NAMESPACES + 1, False, 1, id="many"),
        pytest.param(MANY_NAMESPACES + 1, True, MANY_NAMESPACES + 1, id="many, with no right to read others"),
    ],
)
async def test_rollouts_in_many_namespaces_share_one_list(number: int, asked: int, *, watched: bool) -> None:
    """A LIST for each namespace would be hundreds. An operator that watches only some namespaces may not list all."""
    api = Pods()
    places = tuple(f"clinic-{n:02}" for n in range(number))
    rolling_out = (in_phase("HandingOff", place) for place in places)
    resync, _, _ = resync_of(api, *rolling_out, namespaces=places if watched else ())
    await resync.of_rollouts()
    assert asked * len(AWAITED) == len(api.asked)
    assert (asked == 1) is (("Pod", None) in api.asked)


@pytest.mark.parametrize("fault", [ClusterError("away", status=503), KeyError("items")])
async def test_a_failed_list_is_tried_again(fault: Exception) -> None:
    """Neither an unavailable API server nor an unexpected answer ends the resync."""
    again = asyncio.Event()

    class Away(Pods):
        """Fails the first request."""

        async def list(
            self, kind: str, namespace: str | None, *, selector: str = ""
        ) -> tuple[list[dict[str, Any]], str]:
            """Raise at first, then answer."""
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


class Restored:
    """An API server that is restored from a backup: resource versions go back, and an object that was deleted since is there again."""

    def __init__(self) -> None:
        self.version = 90
        self.lists = 0
        self.spec_version = "5.1.14"

    async def list(self, kind: str, namespace: str | None, *, selector: str = "") -> tuple[list[dict[str, Any]], str]:
        """Answer with one agent, one pod, and nothing else."""
        del namespace, selector
        self.lists += 1
        raw: dict[str, Any] | None = None
        if kind == KIND:
            raw = agent(version=self.spec_version)
        elif kind == "Pod":
            raw = pod(name="old")
        if raw is None:
            return [], str(self.version)
        raw["metadata"] |= {"resourceVersion": str(self.version - 1), "uid": kind}
        return [raw], str(self.version)


def known_version(cache: Cache) -> str:
    """The version of the agent in the cache."""
    raw = cache.get(KIND, NAMESPACE, NAME)
    assert raw is not None
    return str(raw["spec"]["version"])


async def test_after_a_restore_of_etcd_a_list_wins(caplog: pytest.LogCaptureFixture) -> None:
    """Edits after it have lower versions than the cache. Half a minute later they count, and the log says so."""
    now, api, cache, added = [0.0], Restored(), Cache(), list[Key]()
    resync = Resync(api, cache, added.append, namespaces=(), clock=lambda: now[0])
    await resync.once()
    (dead,) = cache.labelled("Pod", NAMESPACE, "agents.medplum.com/agent", NAME)
    cache.drop("Pod", dead)
    api.version, api.spec_version = 50, "5.1.15"
    await resync.once()
    assert "5.1.14" == known_version(cache)
    for _ in range(4):
        now[0] += 15
        await resync.of_rollouts()
    assert "5.1.15" == known_version(cache)
    assert [(NAMESPACE, "old")] == cache.names("Pod")
    assert KEY in added
    assert [f"resource versions of {KIND} went back"] == [
        one.getMessage().split(",")[0] for one in caplog.records if one.levelname == "ERROR"
    ]
    api.version, api.spec_version, before = 51, "5.1.16", api.lists
    assert cache.put(KIND, (await api.list(KIND, None))[0][0])
    await resync.of_rollouts()
    assert ("5.1.16", before + 1) == (known_version(cache), api.lists)


async def test_an_api_server_that_lags_for_a_moment_changes_nothing() -> None:
    """One older LIST, then one that is not: the cache stays, and the counting ends."""
    now, api, cache = [0.0], Restored(), Cache()
    resync = Resync(api, cache, lambda _: None, namespaces=(), clock=lambda: now[0])
    await resync.once()
    for version, wanted in ((50, "5.1.13"), (90, "5.1.14"), (50, "5.1.13")):
        now[0] += 20
        api.version, api.spec_version = version, wanted
        await resync.once()
        assert "5.1.14" == known_version(cache)


async def test_an_older_list_of_a_watch_leads_to_a_resync() -> None:
    """Kopf lists again after a broken watch. Without a doubt the frequent resync sends nothing."""
    api, cache = Restored(), Cache()
    resync = Resync(api, cache, lambda _: None, namespaces=())
    await resync.once()
    before = api.lists
    await resync.of_rollouts()
    assert before == api.lists
    cache.doubt_if_older(KIND, agent() | {"metadata": {**agent()["metadata"], "resourceVersion": "7"}})
    await resync.of_rollouts()
    assert before < api.lists
