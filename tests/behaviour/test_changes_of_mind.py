"""Changes of mind during a change, on the real controllers. `tests/unit` covers every moment of every kind of change, on a model."""

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
    """5.1.14 serves, and 5.1.15 runs beside it without becoming ready."""
    world.install()
    world.patch({"version": "5.1.15", "podTemplate": STUCK})
    world.wait_for_phase("HandingOff")
    world.wait(lambda: world.recorder.most_running.get("front-desk") == 2, "both agents")


def stopping(world: World) -> None:
    """An approved downgrade from 5.1.15 to 4.2.3 has begun, and 5.1.15 has not ended yet."""
    world.install("5.1.15", podTemplate=SLOW_END)
    world.approve("4.2.3 CHG-1")
    world.set_version("4.2.3")
    world.wait(lambda: any("deletionTimestamp" in pod["metadata"] for pod in world.pods()), "5.1.15 terminates")


def fetching(world: World) -> None:
    """An approved downgrade from 5.1.15 to 4.2.3 waits for its image."""
    world.install("5.1.15")
    world.patch({"version": "4.2.3", "podTemplate": REGISTRY_AWAY})
    world.approve("4.2.3 CHG-1")
    world.wait_for_phase("Recreating")


def the_image_comes(world: World) -> None:
    """Let the Job fetch the image and complete."""
    [job] = world.jobs()
    world.make_ready(f"batch.kubernetes.io/job-name={job['metadata']['name']}")
    world.wait(lambda: world.jobs()[0]["status"].get("succeeded") == 1, "the Job complete")


def uids(world: World) -> list[str]:
    """The uids of the agent's pods."""
    return [pod["metadata"]["uid"] for pod in world.pods()]


def outcomes(world: World) -> list[str]:
    """The outcomes of the rollouts, the latest first."""
    return [entry["outcome"] for entry in world.status().get("history", [])]


def test_an_approved_downgrade_during_a_handoff_stops_both_agents_first(world: World) -> None:
    """5.1.14 is active, 5.1.15 beside it: 4.2.3 starts after both have ended (the recorder judges that), as a downgrade from 5.1.14."""
    handing_over(world)
    world.approve("4.2.3 CHG-1")
    world.patch({"version": "4.2.3", "podTemplate": WORKS})
    status = world.wait_for_phase("Running", "4.2.3")
    assert ["Completed", "Superseded", "Completed"] == outcomes(world)
    newest = status["history"][0]
    assert ("5.1.14", "Recreate", "4.2.3 CHG-1") == (newest["from"], newest["strategy"], newest["approval"]["text"])
    assert ["4.2.3 CHG-1"] == status["spentApprovals"]


def test_abort_during_a_recreate_restores_the_active_version(world: World) -> None:
    """5.1.15 terminates, 4.2.3 has not started: the return to 5.1.15 needs no approval, and the used approval is spent."""
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
    """It is withdrawn while the image is fetched, so no agent stops afterwards. Set again, the same text is valid: it was never used."""
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
    """The downgrade that used it completes, and history names the approval."""
    stopping(world)
    world.kubectl("annotate", "mpa", "front-desk", f"{FORCE}-")
    status = world.wait_for_phase("Running", "4.2.3")
    assert ("4.2.3 CHG-1", ["4.2.3 CHG-1"]) == (status["history"][0]["approval"]["text"], status["spentApprovals"])


def test_a_handoff_completes_while_the_agent_is_paused(world: World) -> None:
    """The Deployment controller completes it, and history records it. A change during the pause waits for its end."""
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


def test_a_pause_before_the_old_agent_is_stopped_keeps_it_running(world: World) -> None:
    """The pause begins while the image is fetched. The agent keeps serving, and the approval is valid after the pause."""
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


def test_deletion_during_a_forced_downgrade_leaves_nothing(world: World) -> None:
    """The agent that ends, the one that would start, the Job and the backup are all deleted."""
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
def test_an_agent_is_deleted_and_created_again_during_a_change(
    world: World, middle: Callable[[World], None], version: str
) -> None:
    """The new one is installed without an approval, after the pods of the first have ended (the recorder judges that). It takes nothing over."""
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
