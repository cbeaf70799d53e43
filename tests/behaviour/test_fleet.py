"""Many agents, evictions, and the writes that a change costs."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.kinds import watched
from tests.support.audit import calls_of_the_operator, resource, writes_of_the_operator
from tests.support.world import agent_manifest

if TYPE_CHECKING:
    from tests.support.world import World

TEN = [f"agent-{number}" for number in range(10)]


def test_ten_concurrent_changes_all_complete(world: World) -> None:
    """Concurrent handoffs, recreates and refusals: each ends as if it were alone."""
    olds = {name: ("5.1.14", "4.2.3", "5.1.15")[number % 3] for number, name in enumerate(TEN)}
    news = {name: ("5.1.15", "5.1.15", "4.2.3")[number % 3] for number, name in enumerate(TEN)}
    world.apply(*(agent_manifest(name, olds[name]) for name in TEN))
    for name in TEN:
        world.wait_for_phase("Running", olds[name], name, seconds=60)
    world.apply(*(agent_manifest(name, news[name]) for name in TEN))
    for name in TEN:
        if news[name] == "4.2.3":
            assert "5.1.15" == world.wait_for_phase("AwaitingApproval", name=name, seconds=60)["activeVersion"]
        else:
            world.wait_for_phase("Running", "5.1.15", name, seconds=60)
    handed_over = [name for name in TEN if olds[name] == "5.1.14"]
    assert [2] * len(handed_over) == [world.recorder.most_running[name] for name in handed_over]


def test_evicted_old_agent_never_runs_twice(world: World) -> None:
    """4.2.3 is evicted as by a node drain: its replacement waits, Pending, until it has ended (I1)."""
    world.install("4.2.3", podTemplate={"annotations": {"sim.medplum.com/terminate-after": "2s"}})
    [old] = world.pods()
    name = old["metadata"]["name"]
    eviction = f'{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{name}"}}}}'
    path = f"/api/v1/namespaces/{world.namespace}/pods/{name}/eviction"
    world.kubectl("create", "--raw", path, "-f", "-", input=eviction)
    waiting = world.wait(lambda: [pod for pod in world.pods() if pod["status"]["phase"] == "Pending"], "a replacement")
    assert "nodeName" not in waiting[0]["spec"]
    world.wait(lambda: [p["status"]["phase"] for p in world.pods()] == ["Running"], "the replacement alone")
    assert 1 == world.recorder.most_running["front-desk"]


@pytest.mark.parametrize(
    ("old", "new", "deployments", "statuses"),
    [("5.1.14", "5.1.15", 1, 3), ("5.1.15", "4.2.3", 1, 5), ("4.2.3", "5.1.15", 2, 5)],
)
def test_change_of_version_costs_few_writes(world: World, old: str, new: str, deployments: int, statuses: int) -> None:
    """One write of the Deployment and at most three of status. If the old agent is stopped first, two more of status and a Job.

    One of these reports that the image is fetched. The other reports that the old agent has ended: no agent serves, and the time must be
    recorded while it is known.
    After a recreate to 4.2.4 or later there is one more write of the Deployment: it sets the strategy for the next change, so that
    `kubectl rollout restart` is a handoff again.
    """
    world.install(old)
    since = datetime.now(UTC)
    wanted = agent_manifest(version=new)
    wanted["metadata"]["annotations"] = {"agents.medplum.com/force-downgrade": new}
    world.apply(wanted)
    world.wait_for_phase("Running", new)
    counted = Counter(writes_once_quiet(world, since))
    assert deployments == counted["patch deployments"]
    assert counted["patch medplumagents/status"] <= statuses
    assert (0 if old == "5.1.14" else 1) == counted["patch jobs"]
    assert counted["patch services"] + counted["patch serviceaccounts"] == 0


def writes_once_quiet(world: World, since: datetime) -> list[str]:
    """The operator's writes, after two seconds without a new one: the last writes come after the phase is reached."""
    seen: list[str] = []
    unchanged_since = datetime.now(UTC)

    def quiet() -> bool:
        nonlocal seen, unchanged_since
        now, writes = datetime.now(UTC), writes_of_the_operator(world, since)
        if writes != seen:
            seen, unchanged_since = writes, now
        return now - unchanged_since > timedelta(seconds=2)

    world.wait(quiet, "two seconds without a write")
    return seen


def full_lists(world: World, since: datetime) -> int:
    """How often the operator has listed every kind that it watches."""
    lists = Counter(resource(call) for call in calls_of_the_operator(world, since) if call["verb"] == "list")
    return min(lists[kind.plural] for kind in watched(nodes=True))


def test_event_that_changes_nothing_costs_no_request(world: World) -> None:
    """A label on the agent, an annotation on its pod: the watches see them, and the cache answers."""
    started = datetime.now(UTC) - timedelta(seconds=30)
    world.install()
    world.wait(lambda: world.events("RolloutCompleted"), "the last Event of the installation")
    # The operator lists all kinds at its start, Kopf does too, and two resyncs follow soon: those LISTs do not answer an event.
    world.wait(lambda: full_lists(world, started) >= 4, "the LISTs of the start")
    since = datetime.now(UTC)
    world.kubectl("label", "mpa", "front-desk", "team=lab")
    world.kubectl("annotate", "pods", "-l", "agents.medplum.com/agent=front-desk", "example.org/note=x")
    marker = datetime.now(UTC)
    world.wait(lambda: (datetime.now(UTC) - marker).total_seconds() > 2, "two seconds")
    calls = [
        f"{call['verb']} {resource(call)}" for call in calls_of_the_operator(world, since) if call["verb"] != "watch"
    ]
    assert [] == calls
