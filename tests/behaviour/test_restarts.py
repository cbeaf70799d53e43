"""Nothing is remembered outside the cluster: operators that die, are absent or lose a watch end in the same state."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.__main__ import GRACE_SECONDS
from tests.support.audit import writes_of_the_operator
from tests.support.cluster import Behaviour, simulate
from tests.support.world import FORCE, SEEN_LATE, agent_manifest

if TYPE_CHECKING:
    from tests.support.world import World

VERSION = "agents.medplum.com/version"


@pytest.mark.parametrize("after", ["deployment written", "both pods there"])
def test_operator_killed_in_the_middle_of_a_handoff(world: World, after: str) -> None:
    """SIGKILL during 5.1.14 → 5.1.15; the next operator finishes it: one history entry, nothing done twice."""
    world.install()
    slow = simulate(Behaviour.SLOW_READY, ready_after="3s", terminate_after="700ms")
    world.patch({"version": "5.1.15", "podTemplate": {"annotations": slow}})
    if after == "both pods there":
        world.wait(lambda: len(world.pods()) == 2, "both pods")
    else:
        world.wait(lambda: world.deployment()["metadata"]["labels"][VERSION] == "5.1.15", "the Deployment")
    world.operators[-1].kill()
    generation = world.deployment()["metadata"]["generation"]
    world.start_operator()
    world.wait_for_phase("Running", "5.1.15")
    assert generation == world.deployment()["metadata"]["generation"]
    assert ["5.1.15", "5.1.14"] == [entry["to"] for entry in world.status()["history"]]


@pytest.mark.parametrize("moment", ["approval given", "old pod terminating"])
def test_operator_killed_in_the_middle_of_a_forced_downgrade(world: World, moment: str) -> None:
    """SIGKILL during 5.1.15 → 4.2.3; the next one finishes it, and the approval is spent all the same."""
    stubborn = {"annotations": simulate(ready_after="300ms", terminate_after="2s")}
    world.install("5.1.15", podTemplate=stubborn)
    world.set_version("4.2.3")
    world.wait_for_phase("AwaitingApproval")
    world.approve("4.2.3 CHG-9")
    if moment == "old pod terminating":
        world.wait(lambda: any("deletionTimestamp" in pod["metadata"] for pod in world.pods()), "old pod terminating")
    world.operators[-1].kill()
    world.start_operator()
    world.wait_for_phase("Running", "4.2.3")
    assert 1 == world.recorder.most_running["front-desk"]
    assert ["4.2.3 CHG-9"] == world.status()["spentApprovals"]
    assert ["4.2.3", "5.1.15"] == [entry["to"] for entry in world.status()["history"]]


def test_operator_that_was_away_tells_the_gap_by_kubernetes_own_seconds(world: World) -> None:
    """Killed while the old agent drains, back when the new one serves: the gap is off by a second at each end at the most."""
    world.install("5.1.15", podTemplate={"annotations": simulate(ready_after="2500ms", terminate_after="2s")})
    world.set_version("4.2.3")
    world.approve("4.2.3 CHG-9")
    world.wait(lambda: any("deletionTimestamp" in pod["metadata"] for pod in world.pods()), "old pod terminating")
    world.operators[-1].kill()
    world.wait(lambda: len(world.recorder.served_from) == 2, "the new agent serves")
    world.start_operator()
    world.wait_for_phase("Running", "4.2.3")
    (gap,) = world.gaps()
    assert gap == pytest.approx(world.status()["history"][0]["gapSeconds"], abs=1 + SEEN_LATE)


def test_approval_stays_spent_when_the_operator_died_before_noting_it(empty_world: World) -> None:
    """The write that used an approval tells of it: with all of status wiped, the same text still approves nothing more."""
    world = empty_world
    world.start_operator()
    world.install("5.1.15")
    world.set_version("4.2.3")
    world.wait_for_phase("AwaitingApproval")
    world.approve("4.2.3 CHG-9")
    world.wait(lambda: world.deployment()["metadata"]["labels"][VERSION] == "4.2.3", "the Deployment")
    world.operators[-1].kill()
    world.kubectl(
        "patch", "mpa", "front-desk", "--subresource=status", "--type=json", "-p", '[{"op":"remove","path":"/status"}]'
    )
    world.start_operator()
    world.wait_for_phase("Running", "4.2.3")
    assert ["4.2.3 CHG-9"] == world.status()["spentApprovals"]
    assert "4.2.3 CHG-9" == world.status()["history"][0]["approval"]["text"]


def test_spec_changed_while_no_operator_runs(world: World) -> None:
    """An upgrade, then a refused downgrade, both asked for in the operator's absence: acted on when it is back."""
    world.install()
    assert 0 == world.operators[-1].stop()
    world.set_version("5.1.15")
    world.start_operator()
    world.wait_for_phase("Running", "5.1.15")
    assert 0 == world.operators[-1].stop()
    world.set_version("4.2.3")
    world.start_operator()
    assert "5.1.15" == world.wait_for_phase("AwaitingApproval")["activeVersion"]


def test_agent_deleted_and_created_anew_while_no_operator_runs(world: World) -> None:
    """The namesake gets children of its own; nothing of the first one is taken over, its approvals do not count."""
    world.install("5.1.15")
    world.operators[-1].stop()
    world.kubectl("delete", "mpa", "front-desk", "--wait=true")
    fresh = agent_manifest(version="4.2.3")
    fresh["metadata"]["annotations"] = {FORCE: "4.2.3 CHG-1"}
    world.apply(fresh)
    uid = world.agent()["metadata"]["uid"]
    world.start_operator()
    # A garbage collector that learns of the CRD only now takes half a minute.
    status = world.wait_for_phase("Running", "4.2.3", seconds=90)
    assert uid == world.deployment()["metadata"]["ownerReferences"][0]["uid"]
    assert [None] == [entry.get("from") for entry in status["history"]]


def test_operator_ends_soon_after_sigterm_also_in_the_middle_of_work(world: World) -> None:
    """SIGTERM: exit code 0, a rollout under way or not; once passes in hand have had their grace, in less than it starts in."""
    world.install()
    world.set_version("5.1.15")
    began = time.monotonic()
    assert 0 == world.operators[-1].stop(60)
    ended_in = time.monotonic() - began
    world.start_operator()
    started_in = time.monotonic() - began - ended_in
    assert ended_in < GRACE_SECONDS + started_in
    world.wait_for_phase("Running", "5.1.15")


def test_what_a_frozen_operator_missed_is_found_when_it_goes_on(world: World) -> None:
    """SIGSTOP cuts the operator off while things change and go; afterwards it converges."""
    world.install()
    operator = world.operators[-1]
    operator.process.send_signal(signal.SIGSTOP)
    world.kubectl("delete", "service", "front-desk")
    world.set_version("5.1.15")
    operator.process.send_signal(signal.SIGCONT)
    world.wait_for_phase("Running", "5.1.15")
    assert world.kubectl("get", "service", "front-desk", "-o", "name")


def test_resync_finds_what_no_watch_told(empty_world: World) -> None:
    """A foreign Deployment is not watched: that it went is found by looking again."""
    world = empty_world
    world.kubectl("create", "deployment", "front-desk", "--image=registry.example.org/other")
    world.start_operator("--resync-seconds", "5")
    world.apply(agent_manifest())
    world.wait_for_phase("Failed")
    assert "NameTaken" == world.condition("Stalled")["reason"]
    world.kubectl("delete", "deployment", "front-desk")
    world.wait_for_phase("Running", "5.1.14")


def test_converged_operator_writes_nothing_not_even_over_a_restart(world: World) -> None:
    """Three agents, one of them refused: no write for a while, and none by an operator that starts anew."""
    world.apply(agent_manifest("one"), agent_manifest("two", "4.2.3"), agent_manifest("three", "5.1.15"))
    for name in ("one", "two", "three"):
        world.wait_for_phase("Running", name=name)
    world.set_version("4.2.3", "three")
    world.wait_for_phase("AwaitingApproval", name="three")
    world.wait(lambda: world.events("DowngradeNotApproved", "three"), "the last Event")
    since = datetime.now(UTC) + timedelta(milliseconds=200)
    world.wait(lambda: datetime.now(UTC) > since + timedelta(seconds=5), "five quiet seconds")
    world.operators[-1].stop()
    again = world.start_operator("--resync-seconds", "5")
    world.wait(lambda: datetime.now(UTC) > since + timedelta(seconds=15), "two resyncs")
    assert 200 == again.get("/healthz")[0]
    assert [] == writes_of_the_operator(world, since)
