"""A failed change: reported with the cause from its pods, rolled back unless the setting is Hold, and not retried automatically."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cluster import Behaviour, simulate
from tests.support.world import agent_manifest

if TYPE_CHECKING:
    from tests.support.world import World

DEADLINE = {"minReadySeconds": 0, "drainSeconds": 1, "progressDeadlineSeconds": 4}
HOLD = {**DEADLINE, "onFailure": "Hold"}
RETRY = "agents.medplum.com/retry"


@pytest.mark.parametrize(
    ("pod", "reason", "words"),
    [
        (simulate(Behaviour.IMAGE_PULL_FAILS), "ImagePullFailed", "cannot pull its image"),
        (simulate(Behaviour.CONFIG_ERROR), "ContainerConfigError", "secret"),
        (
            simulate(Behaviour.CRASH_LOOP_SILENT),
            "CrashLoop",
            "exiting with code 1. Possible causes that leave no message: Medplum refuses access to Agent or Endpoints",
        ),
        (
            simulate(Behaviour.CRASH_LOOP_MESSAGE, exit_code=3),
            "CrashLoop",
            "exiting with code 3. Its last message: Error: connect ECONNREFUSED",
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
def test_failed_upgrade_is_explained_and_the_old_agent_serves(
    world: World, pod: dict[str, str], reason: str, words: str
) -> None:
    """5.1.14 → 5.1.15 cannot succeed: rolled back, Stalled, with cause and fixes; the old pod was never touched."""
    world.install(handoff=DEADLINE)
    [old] = world.pods()
    world.patch({"version": "5.1.15", "podTemplate": {"annotations": pod}})
    status = world.wait_for_phase("Failed")
    assert words in status["plan"]
    assert "5.1.14 keeps serving devices" in status["plan"]
    assert "it is not retried automatically" in status["plan"]
    assert 'set spec.version back to "5.1.14"' in status["plan"]
    stalled = world.condition("Stalled")
    assert ("True", reason) == (stalled["status"], stalled["reason"])
    assert "True" == world.condition("Available")["status"]
    assert ("5.1.14", "5.1.14") == (status["activeVersion"], status["lastGoodVersion"])
    assert ["Completed", "Failed"] == [entry["outcome"] for entry in status["history"]][:2]
    assert "5.1.15" == status["history"][0]["rolledBackFrom"]
    world.wait(
        lambda: [old["metadata"]["uid"]] == [pod["metadata"]["uid"] for pod in world.pods()], "the old pod alone"
    )
    assert 1 == len(world.wait(lambda: world.events(reason), "the Event")[:1])


def test_a_repeated_change_is_judged_by_its_own_try(empty_world: World) -> None:
    """Up, down and up again, and this time 5.1.15 never opens its port: the old state of the ReplicaSet does not count."""
    world = empty_world
    slow = {**DEADLINE, "progressDeadlineSeconds": 10}
    pods = {"annotations": simulate(Behaviour.NEVER_READY)}
    world.start_operator()
    world.apply(agent_manifest("front-desk", "4.2.3", handoff=slow, podTemplate=pods))
    world.make_ready("agents.medplum.com/version=4.2.3")
    world.wait_for_phase("Running", "4.2.3")
    world.approve("4.2.3 CHG-1")
    for version in ("5.1.15", "4.2.3"):
        world.set_version(version)
        world.make_ready(f"agents.medplum.com/version={version}")
        world.wait_for_phase("Running", version)
    world.set_version("5.1.15")
    world.wait_for_phase("RollingBack")
    world.make_ready("agents.medplum.com/version=4.2.3")
    status = world.wait_for_phase("Failed", "4.2.3")
    outcomes = [(entry["to"], entry["outcome"]) for entry in status["history"]]
    assert [("4.2.3", "Completed"), ("5.1.15", "Failed"), ("4.2.3", "Completed"), ("5.1.15", "Completed")] == outcomes[
        :4
    ]


def test_unschedulable_pod_is_reported_with_the_schedulers_message(world: World) -> None:
    """Unschedulable: the reason and the scheduler's message."""
    world.install(handoff=DEADLINE)
    world.patch({"version": "5.1.15", "podTemplate": {"nodeSelector": {"kubernetes.io/hostname": "nowhere"}}})
    status = world.wait_for_phase("Failed")
    assert "Unschedulable" == world.condition("Stalled")["reason"]
    assert "nodes are available" in status["plan"]


def test_a_rollout_with_hold_resumes_when_its_cause_is_fixed(world: World) -> None:
    """After the quota is deleted, the rollout completes; history has one entry for it, now Completed."""
    world.install(handoff=HOLD)
    world.kubectl("create", "quota", "tight", "--hard=pods=1")
    world.set_version("5.1.15")
    status = world.wait_for_phase("Failed")
    assert "spec.handoff.onFailure is Hold" in status["plan"]
    world.kubectl("delete", "quota", "tight")
    world.wait_for_phase("Running", "5.1.15", seconds=60)
    assert ["5.1.15", "5.1.14"] == [entry["to"] for entry in world.status()["history"]]
    assert ["Completed", "Completed"] == [entry["outcome"] for entry in world.status()["history"]]


def test_a_failure_that_waiting_cannot_fix_is_rolled_back_long_before_the_deadline(world: World) -> None:
    """A missing Secret, with an hour left until the deadline."""
    world.install(handoff={**DEADLINE, "progressDeadlineSeconds": 3600})
    world.patch({"version": "5.1.15", "podTemplate": {"annotations": simulate(Behaviour.CONFIG_ERROR)}})
    assert "5.1.14" == world.wait_for_phase("Failed")["activeVersion"]


def test_a_retried_recreate_has_its_deadline_too(world: World) -> None:
    """Its ReplicaSet exists from the first try: the real Deployment controller considers that complete and never times out."""
    world.install("4.2.3", handoff=DEADLINE)
    world.patch({"version": "5.1.15", "podTemplate": {"annotations": simulate(Behaviour.NEVER_READY)}})
    world.wait_for_phase("Failed", "4.2.3")
    world.kubectl("annotate", "mpa", "front-desk", f"{RETRY}=one")
    world.wait(lambda: 2 == outcomes(world).count("Failed"), "the second try")
    assert "does not listen on port 2575" in world.wait_for_phase("Failed", "4.2.3")["plan"]


def test_a_failed_change_is_retried_only_on_request(world: World) -> None:
    """Another operator does not retry it; a new text in the annotation does, and the same text not again."""
    world.install(handoff=DEADLINE)
    world.kubectl("create", "quota", "tight", "--hard=pods=1")
    world.set_version("5.1.15")
    world.wait_for_phase("Failed", "5.1.14")
    world.kubectl("annotate", "mpa", "front-desk", f"{RETRY}=one")
    world.wait(lambda: 2 == outcomes(world).count("Failed"), "the second try")
    world.wait_for_phase("Failed", "5.1.14")
    world.kubectl("delete", "quota", "tight")
    world.operators[-1].kill()
    generation = world.deployment()["metadata"]["generation"]
    world.start_operator("--resync-seconds", "5")
    world.wait(lambda: world.operators[-1].get("/readyz")[0] == 200, "the next operator")
    time.sleep(11)  # two resyncs: only waiting shows that nothing happens
    assert generation == world.deployment()["metadata"]["generation"]
    world.kubectl("annotate", "mpa", "front-desk", "--overwrite", f"{RETRY}=two")
    world.wait_for_phase("Running", "5.1.15")


def outcomes(world: World) -> list[str]:
    """The outcomes of the rollouts, the latest first."""
    return [entry["outcome"] for entry in world.status().get("history", [])]


def test_return_from_a_failed_upgrade_needs_no_approval(world: World) -> None:
    """Failed 5.1.15 → back to 5.1.14 without approval: Running, and history records the failure."""
    world.install(handoff=DEADLINE)
    world.patch({"version": "5.1.15", "podTemplate": {"annotations": simulate(Behaviour.NEVER_READY)}})
    world.wait_for_phase("Failed")
    world.patch({"version": "5.1.14", "podTemplate": {"annotations": simulate()}})
    world.wait_for_phase("Running", "5.1.14")
    assert "Failed" in [entry["outcome"] for entry in world.status()["history"]]


@pytest.mark.parametrize(("before", "after"), [("5.1.15", "4.2.3"), ("4.2.3", "5.1.15")])
def test_failed_recreate_is_rolled_back(world: World, before: str, after: str) -> None:
    """A forced downgrade to a version that keeps crashing, or an upgrade from below 4.2.4: the active version serves again, by recreate."""
    world.install(before, handoff=DEADLINE)
    world.patch({"version": after, "podTemplate": {"annotations": simulate(Behaviour.CRASH_LOOP)}})
    if after == "4.2.3":
        world.wait_for_phase("AwaitingApproval")
        world.approve("4.2.3 CHG-5")
    status = world.wait_for_phase("Failed", before)
    assert f"The change from {before} to {after} failed and was rolled back" in status["plan"]
    assert f"{before} keeps serving devices" in status["plan"]
    assert "True" == world.condition("Available")["status"]
    assert ["Completed", "Failed", "Completed"] == outcomes(world)
    assert ["Recreate", "Recreate"] == [entry["strategy"] for entry in status["history"][:2]]
    assert 1 == world.recorder.most_running["front-desk"]
    assert (["4.2.3 CHG-5"] if after == "4.2.3" else []) == status.get("spentApprovals", [])
    world.patch({"version": before, "podTemplate": {"annotations": simulate()}})
    world.wait_for_phase("Running", before)


def test_child_that_the_api_server_refuses_is_reported_and_stops_no_agent(world: World) -> None:
    """A nodePort outside the cluster's range together with a new version: the plan has the message, the agent is untouched."""
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


def test_missing_image_repository_is_reported_before_any_child_is_created(world: World) -> None:
    """Neither spec nor setting has a repository: no child is created, and the message says where to set it."""
    world.apply(agent_manifest(image={"pullPolicy": "Always"}))
    status = world.wait_for_phase("Failed")
    assert "spec.image.repository" in status["plan"]
    assert "" == world.kubectl("get", "deployment,service,pdb", "-o", "name")
