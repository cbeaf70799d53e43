"""A rollout that does not get on: reported as Failed and Stalled in the words of its pods; the old agent serves on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.behaviour.world import agent_manifest
from tests.cluster import Behaviour, simulate

if TYPE_CHECKING:
    from tests.behaviour.world import World

DEADLINE = {"minReadySeconds": 0, "drainSeconds": 1, "progressDeadlineSeconds": 4}


@pytest.mark.parametrize(
    ("pod", "reason", "words"),
    [
        (simulate(Behaviour.IMAGE_PULL_FAILS), "ImagePullFailed", "cannot be pulled"),
        (simulate(Behaviour.CONFIG_ERROR), "ContainerConfigError", "secret"),
        (
            simulate(Behaviour.CRASH_LOOP_SILENT),
            "CrashLoop",
            "exit code 1. The agent says nothing when it cannot write its log folder",
        ),
        (
            simulate(Behaviour.CRASH_LOOP_MESSAGE, exit_code=3),
            "CrashLoop",
            "exit code 3. Its last words: Error: connect ECONNREFUSED",
        ),
        (
            simulate(Behaviour.CRASH_LOOP, exit_code=64, message="The client secret contains '='."),
            "CredentialsRefused",
            "The client secret contains '='.",
        ),
        (simulate(Behaviour.NEVER_READY), "PortNotReady", "does not listen on port 2575"),
        (simulate(Behaviour.NEVER_READY, container="ready-lab"), "PortNotReady", "does not listen on port 2576"),
    ],
    ids=["image", "secret missing", "silent crash", "crash with words", "credentials", "first port", "second port"],
)
def test_failed_upgrade_is_told_in_words_and_the_old_agent_serves(
    world: World, pod: dict[str, str], reason: str, words: str
) -> None:
    """5.1.14 → 5.1.15 cannot succeed: Failed, Stalled, the cause, the ways out; the old pod was never touched."""
    world.install(handoff=DEADLINE)
    [old] = world.pods()
    world.patch({"version": "5.1.15", "podTemplate": {"annotations": pod}})
    status = world.wait_for_phase("Failed")
    assert words in status["plan"]
    assert "5.1.14 goes on serving" in status["plan"]
    assert "spec.handoff.onFailure is not yet acted on" in status["plan"]
    assert 'set spec.version back to "5.1.14"' in status["plan"]
    stalled = world.condition("Stalled")
    assert ("True", reason) == (stalled["status"], stalled["reason"])
    assert "True" == world.condition("Available")["status"]
    assert ("5.1.14", "5.1.14") == (status["activeVersion"], status["lastGoodVersion"])
    assert "Failed" == status["history"][0]["outcome"]
    assert old["metadata"]["uid"] in [pod["metadata"]["uid"] for pod in world.pods()]
    assert 1 == len(world.wait(lambda: world.events(reason), "the Event")[:1])


def test_pod_that_no_node_takes_is_told_in_the_schedulers_words(world: World) -> None:
    """Unschedulable: the reason and what the scheduler says."""
    world.install(handoff=DEADLINE)
    world.patch({"version": "5.1.15", "podTemplate": {"nodeSelector": {"kubernetes.io/hostname": "nowhere"}}})
    status = world.wait_for_phase("Failed")
    assert "Unschedulable" == world.condition("Stalled")["reason"]
    assert "nodes are available" in status["plan"]


def test_pod_that_may_not_be_created_is_told_in_the_api_servers_words(world: World) -> None:
    """A quota that lets no second pod in: the reason and what the API server says."""
    world.install(handoff=DEADLINE)
    world.kubectl("create", "quota", "tight", "--hard=pods=1")
    world.set_version("5.1.15")
    status = world.wait_for_phase("Failed")
    assert "PodCreationFailed" == world.condition("Stalled")["reason"]
    assert "exceeded quota: tight" in status["plan"]


def test_failed_rollout_goes_on_by_itself_when_its_cause_is_mended(world: World) -> None:
    """The quota goes, the rollout completes; history has one entry for it, now Completed."""
    world.install(handoff=DEADLINE)
    world.kubectl("create", "quota", "tight", "--hard=pods=1")
    world.set_version("5.1.15")
    world.wait_for_phase("Failed")
    world.kubectl("delete", "quota", "tight")
    world.wait_for_phase("Running", "5.1.15", seconds=60)
    assert ["5.1.15", "5.1.14"] == [entry["to"] for entry in world.status()["history"]]
    assert ["Completed", "Completed"] == [entry["outcome"] for entry in world.status()["history"]]


def test_going_back_from_a_failed_upgrade_is_free(world: World) -> None:
    """Failed 5.1.15 → back to 5.1.14 without approval: Running, and history tells of the failure."""
    world.install(handoff=DEADLINE)
    world.patch({"version": "5.1.15", "podTemplate": {"annotations": simulate(Behaviour.NEVER_READY)}})
    world.wait_for_phase("Failed")
    world.patch({"version": "5.1.14", "podTemplate": {"annotations": simulate()}})
    world.wait_for_phase("Running", "5.1.14")
    assert "Failed" in [entry["outcome"] for entry in world.status()["history"]]


def test_failed_forced_downgrade_is_told_and_the_way_back_is_free(world: World) -> None:
    """A 4.2.3 that never gets ready: Failed, nobody serves, and 5.1.15 comes back by setting spec.version, without approval."""
    world.install("5.1.15", handoff=DEADLINE)
    world.patch({"version": "4.2.3", "podTemplate": {"annotations": simulate(Behaviour.CRASH_LOOP)}})
    world.wait_for_phase("AwaitingApproval")
    world.approve("4.2.3 CHG-5")
    status = world.wait_for_phase("Failed")
    assert "No agent serves right now" in status["plan"]
    assert "False" == world.condition("Available")["status"]
    world.patch({"version": "5.1.15", "podTemplate": {"annotations": simulate()}})
    world.wait_for_phase("Running", "5.1.15")
    assert ["Completed", "Failed", "Completed"] == [entry["outcome"] for entry in world.status()["history"]]
    assert ["4.2.3 CHG-5"] == world.status()["spentApprovals"]


def test_spec_that_the_api_server_refuses_to_render_is_told_and_stops_nothing(world: World) -> None:
    """A nodePort out of the cluster's range together with a new version: told in words, the agent untouched."""
    world.install()
    [old] = world.pods()
    broken: dict[str, Any] = {
        "version": "5.1.15",
        "service": {"type": "NodePort"},
        "channels": [{"name": "adt", "port": 2575, "nodePort": 80}],
    }
    world.patch(broken)
    status = world.wait_for_phase("Failed")
    assert "WriteRefused" == world.condition("Stalled")["reason"]
    assert "provided port is not in the valid range" in status["plan"]
    assert [old["metadata"]["uid"]] == [pod["metadata"]["uid"] for pod in world.pods()]


def test_missing_image_repository_is_told_before_anything_is_made(world: World) -> None:
    """Neither spec nor setting names a repository: no child is made, and the message says where to set it."""
    world.apply(agent_manifest(image={"pullPolicy": "Always"}))
    status = world.wait_for_phase("Failed")
    assert "spec.image.repository" in status["plan"]
    assert "" == world.kubectl("get", "deployment,service,pdb", "-o", "name")
