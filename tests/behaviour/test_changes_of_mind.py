"""Changes of mind in the middle of a change, on the real controllers. Every moment of every kind of change is in `tests/unit`, on a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.cluster import Behaviour, simulate
from tests.support.world import FORCE, QUICK, REGISTRY_AWAY, agent_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.world import World

EVERYTHING = "mpa,deployment,rs,pods,service,pdb,serviceaccount,jobs,controllerrevisions"
STUCK = {"annotations": simulate(Behaviour.NEVER_READY)}
WORKS = {"annotations": simulate()}
SLOW_END = {"annotations": {**QUICK, **simulate(terminate_after="4s")}}


def handing_over(world: World) -> None:
    """5.1.14 serves, and 5.1.15 runs beside it without getting ready."""
    world.install()
    world.patch({"version": "5.1.15", "podTemplate": STUCK})
    world.wait_for_phase("HandingOff")
    world.wait(lambda: world.recorder.most_running.get("front-desk") == 2, "both agents")


def stopping(world: World) -> None:
    """An approved 5.1.15 to 4.2.3 has begun, and 5.1.15 takes its time to end."""
    world.install("5.1.15", podTemplate=SLOW_END)
    world.approve("4.2.3 CHG-1")
    world.set_version("4.2.3")
    world.wait(lambda: any("deletionTimestamp" in pod["metadata"] for pod in world.pods()), "5.1.15 told to go")


def fetching(world: World) -> None:
    """An approved 5.1.15 to 4.2.3 waits for its image."""
    world.install("5.1.15")
    world.patch({"version": "4.2.3", "podTemplate": REGISTRY_AWAY})
    world.approve("4.2.3 CHG-1")
    world.wait_for_phase("Recreating")


def the_image_comes(world: World) -> None:
    """Late, and the Job is done."""
    [job] = world.jobs()
    world.make_ready(f"batch.kubernetes.io/job-name={job['metadata']['name']}")
    world.wait(lambda: world.jobs()[0]["status"].get("succeeded") == 1, "the Job complete")


def uids(world: World) -> list[str]:
    """The agent's pods."""
    return [pod["metadata"]["uid"] for pod in world.pods()]


def outcomes(world: World) -> list[str]:
    """How the rollouts ended, the latest first."""
    return [entry["outcome"] for entry in world.status().get("history", [])]


def test_an_approved_retarget_down_in_a_handoff_stops_both_agents_first(world: World) -> None:
    """5.1.14 active, 5.1.15 beside it: 4.2.3 starts when both have gone (the recorder judges that), as a downgrade from 5.1.14."""
    handing_over(world)
    world.approve("4.2.3 CHG-1")
    world.patch({"version": "4.2.3", "podTemplate": WORKS})
    status = world.wait_for_phase("Running", "4.2.3")
    assert ["Completed", "Superseded", "Completed"] == outcomes(world)
    newest = status["history"][0]
    assert ("5.1.14", "Recreate", "4.2.3 CHG-1") == (newest["from"], newest["strategy"], newest["approval"]["text"])
    assert ["4.2.3 CHG-1"] == status["spentApprovals"]


def test_back_again_in_a_recreate_brings_back_what_was_active(world: World) -> None:
    """5.1.15 ends, 4.2.3 has not started: back to 5.1.15 needs no approval, and the one that was used is spent."""
    stopping(world)
    world.set_version("5.1.15")
    world.wait(lambda: len(outcomes(world)) == 3, "the abort in history")
    status = world.wait_for_phase("Running", "5.1.15")
    assert ["Completed", "Aborted", "Completed"] == outcomes(world)
    world.set_version("4.2.3")
    world.wait_for_phase("AwaitingApproval", "5.1.15")
    assert ["4.2.3 CHG-1"] == status["spentApprovals"]
    assert "ApprovalSpent" == world.condition("ApprovalRequired")["reason"]


def test_an_approval_that_is_withdrawn_before_it_is_used_approves_nothing(world: World) -> None:
    """While the image is fetched; when it comes nobody is stopped. Set again, the same words count: they were never used."""
    fetching(world)
    old = uids(world)
    world.kubectl("annotate", "mpa", "front-desk", f"{FORCE}-")
    world.wait_for_phase("AwaitingApproval", "5.1.15")
    the_image_comes(world)
    world.patch({"podTemplate": WORKS})
    status = world.wait_for_phase("AwaitingApproval", "5.1.15")
    assert (old, [], ["Completed"]) == (uids(world), status.get("spentApprovals", []), outcomes(world))
    world.approve("4.2.3 CHG-1")
    assert ["4.2.3 CHG-1"] == world.wait_for_phase("Running", "4.2.3")["spentApprovals"]


def test_an_approval_that_is_withdrawn_after_it_was_used_changes_nothing(world: World) -> None:
    """The downgrade that it let begin is finished, and history tells what approved it."""
    stopping(world)
    world.kubectl("annotate", "mpa", "front-desk", f"{FORCE}-")
    status = world.wait_for_phase("Running", "4.2.3")
    assert ("4.2.3 CHG-1", []) == (status["history"][0]["approval"]["text"], status.get("spentApprovals", []))


def test_a_handoff_that_was_begun_ends_while_the_agent_is_paused(world: World) -> None:
    """The Deployment controller finishes it, and history tells; what is asked for then waits until the pause is over."""
    handing_over(world)
    world.patch({"paused": True})
    assert "5.1.15" == world.wait_for_phase("Paused", "5.1.14")["rollout"]["to"]
    world.make_ready("agents.medplum.com/version=5.1.15")
    world.wait(lambda: outcomes(world) == ["Completed", "Completed"], "the end of the handoff in history")
    world.patch({"version": "5.1.16", "podTemplate": WORKS})
    assert "5.1.15" == world.wait_for_phase("Paused", "5.1.15")["history"][0]["to"]
    world.patch({"paused": False})
    world.wait_for_phase("Running", "5.1.16")
    assert ["Completed"] * 3 == outcomes(world)


def test_a_pause_before_the_old_agent_is_stopped_stops_nobody(world: World) -> None:
    """While the image is fetched; when it comes the agent serves on, and the approval counts when the pause is over."""
    fetching(world)
    old = uids(world)
    world.patch({"paused": True})
    world.wait_for_phase("Paused", "5.1.15")
    the_image_comes(world)
    world.patch({"podTemplate": WORKS})
    status = world.wait_for_phase("Paused", "5.1.15")
    assert (old, []) == (uids(world), status.get("spentApprovals", []))
    world.patch({"paused": False})
    assert ["4.2.3 CHG-1"] == world.wait_for_phase("Running", "4.2.3")["spentApprovals"]


def test_deleted_in_the_middle_of_a_forced_downgrade_nothing_is_left(world: World) -> None:
    """The agent that ends, the one that was to start, the Job, the backup: all go."""
    stopping(world)
    world.kubectl("delete", "mpa", "front-desk", "--timeout=30s")
    world.wait(lambda: "front-desk" not in world.kubectl("get", EVERYTHING, "-o", "name"), "all gone", seconds=90)


@pytest.mark.parametrize(
    ("middle", "version"),
    [
        pytest.param(handing_over, "4.2.3", id="of a handoff, older"),
        pytest.param(stopping, "4.2.3", id="of a forced downgrade, the same"),
        pytest.param(stopping, "5.1.15", id="of a forced downgrade, newer"),
    ],
)
def test_deleted_and_created_anew_in_the_middle(world: World, middle: Callable[[World], None], version: str) -> None:
    """An installation without an approval, when the first one's pods have gone (the recorder judges that); nothing of it is taken over."""
    middle(world)
    first = world.agent()["metadata"]["uid"]
    world.kubectl("delete", "mpa", "front-desk", "--timeout=30s")
    world.apply(agent_manifest(version=version))
    status = world.wait_for_phase("Running", version, seconds=90)
    assert [(None, version, "Completed")] == [
        (entry.get("from"), entry["to"], entry["outcome"]) for entry in status["history"]
    ]
    assert [] == status.get("spentApprovals", [])
    assert first not in world.kubectl("get", EVERYTHING, "-o", "yaml")
