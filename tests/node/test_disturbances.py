"""What happens to nodes, pods and processes beside any change of version, under traffic."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.node.test_changes import handed_over, nothing_lost
from tests.support.real_nodes.clinic import AGENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.real_nodes.clinic import Clinic

pytestmark = pytest.mark.timeout(300)


@contextmanager
def drained(clinic: Clinic) -> Iterator[str]:
    """Drain the agent's node as an admin does, wait until kubectl is done with the agent, and give the node back."""
    [pod] = clinic.pods()
    node = pod["spec"]["nodeName"]
    try:
        clinic.kubectl(
            *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s"),
            f"--pod-selector=agents.medplum.com/agent={AGENT}",
        )
        yield node
    finally:
        clinic.kubectl("uncordon", node)


def test_a_node_drain_is_a_handoff(clinic: Clinic) -> None:
    """From 4.2.4 on the drain waits until the agent serves from another node: nothing lost, nothing refused."""
    clinic.open()
    clinic.install("5.1.15")
    with clinic.traffic() as traffic, drained(clinic) as node:
        status = clinic.wait_for_phase("Running", "5.1.15")
        time.sleep(2)
    handed_over(traffic)
    [pod] = clinic.wait(lambda: [p for p in clinic.pods() if not p["metadata"].get("deletionTimestamp")], "one pod")
    assert node != pod["spec"]["nodeName"]
    assert ["5.1.15", "5.1.15"] == [entry["to"] for entry in status["history"]]


def test_before_4_2_4_a_drain_stops_first(clinic: Clinic) -> None:
    """An old agent is evicted at once, and the next one starts on the other node when it has ended: never two."""
    clinic.open()
    clinic.install("4.2.3")
    with clinic.traffic() as traffic, drained(clinic) as node:
        clinic.wait(lambda: node not in serving_nodes(clinic), "the agent serves from the other node", seconds=60)
        time.sleep(2)
    nothing_lost(traffic)
    if clinic.lives:
        old, new = clinic.lives
        assert old.end <= new.started


def serving_nodes(clinic: Clinic) -> list[str]:
    """The nodes of ready pods; also the agent's own node while no pod is ready."""
    ready = [
        pod["spec"]["nodeName"]
        for pod in clinic.pods()
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
    ]
    return ready or [pod["spec"].get("nodeName", "") for pod in clinic.pods()]


@pytest.mark.parametrize("version", ["4.2.3", "5.1.15"])
def test_a_killed_agent_comes_back(clinic: Clinic, version: str) -> None:
    """SIGKILL of the agent's process: the same pod starts it again, although a PID file was left behind."""
    if not clinic.cluster.machines:
        pytest.skip("processes of a cluster that the tests did not start cannot be killed")
    clinic.open()
    clinic.install(version)
    [pod] = clinic.pods()
    with clinic.traffic() as traffic:
        [machine] = [each for each in clinic.cluster.machines if each.name == pod["spec"]["nodeName"]]
        agent = next(s for s in pod["status"]["containerStatuses"] if s["name"] == "agent")
        machine.ctr("tasks", "kill", "--signal", "SIGKILL", agent["containerID"].removeprefix("containerd://"))
        clinic.wait(lambda: len(clinic.lives) == 2 and clinic.condition("Available")["status"] == "True", "it is back")
        time.sleep(2)
    nothing_lost(traffic)


@pytest.mark.parametrize("version", ["4.2.3", "5.1.15"])
def test_a_deleted_pod_is_replaced(clinic: Clinic, version: str) -> None:
    """`kubectl delete pod` by hand, with its grace period: before 4.2.4 the next agent waits for the old one's end."""
    clinic.open()
    clinic.install(version)
    [pod] = clinic.pods()
    with clinic.traffic() as traffic:
        clinic.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=30")
        clinic.wait_for_phase("Running", version)
        clinic.wait(lambda: clinic.condition("Available")["status"] == "True", "it is back")
        time.sleep(2)
    nothing_lost(traffic)


def test_a_restart_by_hand_is_a_handoff(clinic: Clinic) -> None:
    """`kubectl rollout restart`: nothing lost, nothing refused."""
    clinic.open()
    clinic.install("5.1.15")
    [before] = clinic.pods()
    with clinic.traffic() as traffic:
        clinic.kubectl("rollout", "restart", f"deployment/{AGENT}")
        clinic.kubectl("rollout", "status", f"deployment/{AGENT}", "--timeout=60s")
        clinic.wait(lambda: [p["metadata"]["uid"] for p in clinic.pods()] != [before["metadata"]["uid"]], "a new pod")
        time.sleep(4)
    handed_over(traffic)


def test_new_credentials_are_taken_by_a_restart(clinic: Clinic) -> None:
    """The Secret is rotated as the guide says: write it, restart, and only then take the old credentials away."""
    clinic.open()
    clinic.install("5.1.15")
    with clinic.traffic() as traffic:
        clinic.put("clients/client", secret="rotated")
        clinic.kubectl("patch", "secret", AGENT, "--type=merge", "-p", '{"stringData": {"clientSecret": "rotated"}}')
        clinic.kubectl("rollout", "restart", f"deployment/{AGENT}")
        clinic.kubectl("rollout", "status", f"deployment/{AGENT}", "--timeout=60s")
        time.sleep(4)
    handed_over(traffic)


def test_a_forced_deletion_is_not_guarded(clinic: Clinic) -> None:
    """`--force --grace-period=0` takes the pod from the API before its process has ended: nothing can guard that, and docs say so."""
    clinic.open()
    clinic.install("5.1.15")
    [pod] = clinic.pods()
    with clinic.traffic() as traffic:
        clinic.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
        clinic.wait(lambda: clinic.condition("Available")["status"] == "True", "it is back")
        time.sleep(4)
    nothing_lost(traffic)
