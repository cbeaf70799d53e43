"""A pod that was deleted and does not end is reported, whatever waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.policy.endings import ENDS_LATE
from tests.support.simulated_cluster.situations import installed

if TYPE_CHECKING:
    from tests.support.simulated_cluster import SimulatedCluster

LONG = {"minReadySeconds": 2, "drainSeconds": 2, "progressDeadlineSeconds": 600}


def told(cluster: SimulatedCluster) -> set[Reason]:
    """The reasons of all Events so far."""
    return {found.reason for found in cluster.told}


@pytest.mark.parametrize(("before", "after"), [("4.2.3", "5.1.15"), ("5.1.14", "5.1.15")])
def test_an_old_pod_that_does_not_end_is_reported(before: str, after: str) -> None:
    """In a recreate, where everything waits for it, and in a handoff; the operator comes back for it without an event."""
    cluster = installed(before, handoff=LONG)
    cluster.never_end.add(before)
    cluster.edit(version=after).settle()
    assert Reason.POD_NOT_ENDING not in told(cluster)
    requeue = cluster.plans[-1].requeue_at
    assert requeue is not None
    assert requeue <= cluster.now + ENDS_LATE
    cluster.tick((requeue - cluster.now).total_seconds())
    cluster.settle()
    assert Reason.POD_NOT_ENDING in told(cluster)
    assert "should have ended by 2026-09-01T12:" in (cluster.status.plan or "")
    assert "Do not delete it by force" in (cluster.status.plan or "")
    written = len(cluster.writes)
    cluster.tick(300)
    assert written == len(cluster.settle().writes)
    cluster.never_end.clear()
    cluster.count += 1
    cluster.settle()
    assert ([after], False) == (cluster.running, "should have ended" in (cluster.status.plan or ""))


def test_a_restart_whose_old_pod_does_not_end_is_reported_too() -> None:
    """The rollout is complete long ago; the restarted pod's version is the same."""
    cluster = installed("5.1.15")
    cluster.never_end.add("5.1.15")
    cluster.restart_pods().settle().tick(ENDS_LATE.total_seconds())
    cluster.settle()
    assert Reason.POD_NOT_ENDING in told(cluster)


def test_a_pod_of_an_unreachable_node_is_reported_as_that() -> None:
    """Not twice."""
    cluster = installed("5.1.15").lose_node("node-1").settle()
    cluster.tick(301)
    cluster.settle()
    cluster.tick(ENDS_LATE.total_seconds() + 1)
    cluster.settle()
    assert Reason.POD_NOT_ENDING not in told(cluster)


def test_a_pod_whose_image_was_edited_in_place_is_the_version_that_runs() -> None:
    """No controller replaces it, and status names what serves."""
    cluster = installed("5.1.15")
    (pod,) = cluster.pods
    pod.template["spec"]["containers"][0]["image"] = "registry.example.org/medplum-agent:5.1.14"
    cluster.count += 1
    assert "5.1.14" == cluster.settle().status.active_version
    assert "5.1.15" == cluster.status.last_good_version
