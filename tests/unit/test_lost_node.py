"""A node whose kubelet stopped reporting: the plan says what to do. Before 4.2.4 no agent starts until the old one is known to have ended."""

from __future__ import annotations

import pytest

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Phase
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.observed.nodes import Node
from tests.support.builders import NOW, stamp
from tests.support.simulated_cluster import installed


def test_from_4_2_4_on_the_agent_serves_from_another_node_after_its_eviction() -> None:
    """Reported at once; five minutes later the agent serves from the other node; the Deployment gets no write."""
    cluster = installed("5.1.15")
    cluster.lose_node("node-1").settle()
    assert (Phase.RUNNING, ("False", "NodeLost")) == (cluster.status.phase, cluster.condition("Ready"))
    for words in ("Node node-1 has been unreachable since", "by default five minutes after the node was lost"):
        assert words in (cluster.status.plan or "")
    writes = cluster.writes.count("Deployment")
    cluster.tick(301)
    cluster.settle()
    assert ["node-2"] == [pod.node for pod in cluster.pods if pod.ready_since is not None]
    assert ("True", "Serving") == cluster.condition("Available")
    assert writes == cluster.writes.count("Deployment")


def test_before_4_2_4_no_agent_starts_until_the_old_one_has_ended() -> None:
    """For hours, with the possible fixes. When the node is back, or known to be off, the rollout resumes automatically."""
    cluster = installed("4.2.3")
    cluster.lose_node("node-1").settle().tick(3600)
    cluster.settle().tick(3600)
    cluster.settle()
    assert [] == [pod for pod in cluster.pods if pod.node == "node-2"]
    for words in (
        "Kubernetes starts no other agent before this one has ended",
        "kubectl taint nodes node-1 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
        "Only if you know that the machine is off, run the command",
    ):
        assert words in (cluster.status.plan or "")
    assert Reason.NODE_LOST in {finding.reason for finding in cluster.told}
    cluster.find_nodes().settle()
    assert ("True", ["4.2.3"]) == (cluster.condition("Ready")[0], cluster.running)


@pytest.mark.parametrize("approval", [None, "4.2.3 CHG-1"])
def test_a_change_that_stops_first_waits_for_a_lost_node_and_says_so(approval: str | None) -> None:
    """An upgrade from 4.2.3, or a forced downgrade to it: no agent starts beside one that may still run."""
    before, after = ("5.1.15", "4.2.3") if approval else ("4.2.3", "5.1.15")
    cluster = installed(before, handoff={"minReadySeconds": 2, "drainSeconds": 2, "prePull": False})
    cluster.lose_node("node-1").annotate(approval).edit(version=after).settle()
    assert "Node node-1 has been unreachable since" in (cluster.status.plan or "")
    cluster.tick(900)
    cluster.settle()
    assert not [pod for pod in cluster.pods if pod.node == "node-2" and pod.running]
    assert [after] == cluster.find_nodes().settle(seconds=400).running


def test_a_heartbeat_needs_no_pass_but_its_absence_does() -> None:
    """A node's heartbeat costs no pass; the loss of the node and its return do."""
    cache = Cache()

    def report(version: int, status: str, at: int) -> bool:
        ready = {"type": "Ready", "status": status, "lastHeartbeatTime": stamp(NOW), "lastTransitionTime": stamp(NOW)}
        metadata = {"name": "node-1", "uid": "1", "resourceVersion": str(version)}
        return cache.put("Node", {"metadata": metadata, "spec": {}, "status": {"conditions": [ready], "n": at}})

    assert [True, False, True, False, True] == [
        report(1, "True", 1),
        report(2, "True", 2),
        report(3, "Unknown", 3),
        report(4, "Unknown", 4),
        report(5, "True", 5),
    ]
    assert (
        NOW
        == Node.read(
            {
                "metadata": {"name": "a"},
                "status": {"conditions": [{"type": "Ready", "status": "Unknown", "lastTransitionTime": stamp(NOW)}]},
            }
        ).lost_since
    )
