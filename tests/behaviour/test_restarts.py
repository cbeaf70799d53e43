"""The operator has no state outside the cluster: operators that die, are absent or lose a watch lead to the same end."""

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
def test_operator_killed_during_a_handoff(world: World, after: str) -> None:
    """SIGKILL during 5.1.14 → 5.1.15; the next operator completes it: one history entry, nothing done twice."""
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
def test_operator_killed_during_a_forced_downgrade(world: World, moment: str) -> None:
    """SIGKILL during 5.1.15 → 4.2.3; the next operator completes it, and the approval is spent."""
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


def test_gap_is_measured_by_kubernetes_timestamps_if_the_operator_was_down(world: World) -> None:
    """Killed while the old agent drains, back when the new one serves: the gap is off by at most one second at each end."""
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


def test_approval_stays_spent_if_the_operator_died_before_recording_it_in_status(empty_world: World) -> None:
    """The write that used an approval records it: even with the whole status deleted, the same text approves nothing more."""
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
    """An upgrade, then a downgrade without approval, both requested without an operator: the next one acts on them."""
    world.install()
    assert 0 == world.operators[-1].stop()
    world.set_version("5.1.15")
    world.start_operator()
    world.wait_for_phase("Running", "5.1.15")
    assert 0 == world.operators[-1].stop()
    world.set_version("4.2.3")
    world.start_operator()
    assert "5.1.15" == world.wait_for_phase("AwaitingApproval")["activeVersion"]


def test_agent_deleted_and_created_again_while_no_operator_runs(world: World) -> None:
    """The new agent of the same name gets its own children. It takes nothing over, and the approvals of the first do not count."""
    world.install("5.1.15")
    world.operators[-1].stop()
    world.kubectl("delete", "mpa", "front-desk", "--wait=true")
    fresh = agent_manifest(version="4.2.3")
    fresh["metadata"]["annotations"] = {FORCE: "4.2.3 CHG-1"}
    world.apply(fresh)
    uid = world.agent()["metadata"]["uid"]
    world.start_operator()
    # The garbage collector may need half a minute to discover a new CRD.
    status = world.wait_for_phase("Running", "4.2.3", seconds=90)
    assert uid == world.deployment()["metadata"]["ownerReferences"][0]["uid"]
    assert [None] == [entry.get("from") for entry in status["history"]]


def test_operator_ends_soon_after_sigterm(world: World) -> None:
    """Exit code 0, with and without a rollout in progress; after the grace time of current passes, in less time than a start takes."""
    world.install()
    world.set_version("5.1.15")
    began = time.monotonic()
    assert 0 == world.operators[-1].stop(60)
    ended_in = time.monotonic() - began
    world.start_operator()
    started_in = time.monotonic() - began - ended_in
    assert ended_in < GRACE_SECONDS + started_in
    world.wait_for_phase("Running", "5.1.15")


def test_a_frozen_operator_catches_up_when_it_resumes(world: World) -> None:
    """SIGSTOP freezes the operator while objects change and are deleted; afterwards it converges."""
    world.install()
    operator = world.operators[-1]
    operator.process.send_signal(signal.SIGSTOP)
    world.kubectl("delete", "service", "front-desk")
    world.set_version("5.1.15")
    operator.process.send_signal(signal.SIGCONT)
    world.wait_for_phase("Running", "5.1.15")
    assert world.kubectl("get", "service", "front-desk", "-o", "name")


def test_resync_finds_what_no_watch_reports(empty_world: World) -> None:
    """A foreign Deployment is not watched: the resync finds that it was deleted."""
    world = empty_world
    world.kubectl("create", "deployment", "front-desk", "--image=registry.example.org/other")
    world.start_operator("--resync-seconds", "5")
    world.apply(agent_manifest())
    world.wait_for_phase("Failed")
    assert "NameTaken" == world.condition("Stalled")["reason"]
    world.kubectl("delete", "deployment", "front-desk")
    world.wait_for_phase("Running", "5.1.14")


def test_converged_operator_writes_nothing_even_after_a_restart(world: World) -> None:
    """Four agents, one of them refused and one behind a gate: no write for a while, and none after a restart of the operator."""
    behind_a_gate = agent_manifest("four", gate={"enabled": True})
    world.apply(agent_manifest("one"), agent_manifest("two", "4.2.3"), agent_manifest("three", "5.1.15"), behind_a_gate)
    for name in ("one", "two", "three", "four"):
        world.wait_for_phase("Running", name=name)
    world.set_version("4.2.3", "three")
    world.wait_for_phase("AwaitingApproval", name="three")
    world.wait(lambda: world.events("DowngradeNotApproved", "three"), "the last Event")
    world.wait(lambda: forwarding(world) == "GatesUnreachable", "the gates were asked")
    since = datetime.now(UTC) + timedelta(milliseconds=200)
    world.wait(lambda: datetime.now(UTC) > since + timedelta(seconds=5), "five quiet seconds")
    world.operators[-1].stop()
    again = world.start_operator("--resync-seconds", "5")
    started = datetime.now(UTC)
    world.wait(lambda: datetime.now(UTC) > started + timedelta(seconds=14), "two resyncs, and the gates were asked")
    assert 200 == again.get("/healthz")[0]
    assert [] == writes_of_the_operator(world, since)


def forwarding(world: World) -> str | None:
    """What is known about the traffic through the gate: the condition's reason; None if there is none yet."""
    conditions = world.status("four")["conditions"]
    return next((str(each["reason"]) for each in conditions if each["type"] == "Forwarding"), None)
