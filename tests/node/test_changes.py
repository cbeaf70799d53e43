"""Changes of version under traffic: what devices notice, what arrives, and that two agents never meet where they must not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.operator_process import NAMESPACE as OPERATOR_NAMESPACE
from tests.support.real_nodes.clinic import HL7_PORT
from tests.support.real_nodes.operator_pod import kill_operator_process, operator_pods

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.cluster import Cluster
    from tests.support.real_nodes.clinic import Clinic, TrafficRun

pytestmark = pytest.mark.timeout(300)

WHOLE_SECOND = 1.0
"""How inexact a time from Kubernetes may be."""


def nothing_lost(traffic: TrafficRun) -> dict[str, Any]:
    """Check that every offered message was acknowledged, and every acknowledged message arrived. Return the figures."""
    overall: dict[str, Any] = traffic.report["overall"]
    assert overall["sent"] > 100, traffic.text
    assert (0, 0) == (overall["lost"], overall["unacknowledged"]), traffic.text
    return overall


def unnoticed(traffic: TrafficRun, *, pushes_repeated: bool = False) -> None:
    """No device noticed anything: nothing lost, refused, broken, late or repeated, except pushes where two agents are connected."""
    overall = nothing_lost(traffic)
    noticed = {name: overall[name] for name in ("refused", "reset", "closed", "timeouts", "repeated", "unreachable")}
    assert not any(noticed.values()), traffic.text
    pushes = traffic.report["shapes"]["push"]
    assert 0 == pushes["lost"], traffic.text
    assert pushes_repeated == (pushes["repeated"] > 0), traffic.text


def handed_over(traffic: TrafficRun) -> None:
    """A handoff as it may be: nothing lost or refused, and at most one break for each connection that stays open."""
    overall = nothing_lost(traffic)
    assert (0, 0, 0) == (overall["refused"], overall["unreachable"], overall["timeouts"]), traffic.text
    assert overall["most_breaks_on_one_connection"] <= 1, traffic.text


def test_a_handoff_loses_and_refuses_nothing(clinic: Clinic) -> None:
    """5.1.14 to 5.1.15: the new agent serves before the old one ends, and the history shows how long both ran."""
    clinic.open()
    clinic.install("5.1.14")
    with clinic.traffic() as traffic:
        entry = clinic.change("5.1.15")
        time.sleep(2)
    handed_over(traffic)
    assert ("RollingHandoff", 0) == (entry["strategy"], entry["gapSeconds"])
    if clinic.lives:
        old, new = clinic.lives
        assert new.started < old.end
        # Both ran from the new one's start; both were ready a little later.
        beside = (old.end - new.started).total_seconds()
        assert 2 <= entry["overlapSeconds"] <= beside + WHOLE_SECOND


def test_both_agents_are_connected_no_longer_than_they_must(clinic: Clinic) -> None:
    """The time in which the server pushes to two agents is bounded: minReadySeconds, drainSeconds, and starting up."""
    clinic.open()
    clinic.install("5.1.14")
    with clinic.traffic() as traffic:
        clinic.change("5.1.15")
        time.sleep(2)
    old, new = clinic.connections()
    both = old["disconnectedAt"] - new["connectedAt"]
    assert 0 < both <= 2 + 2 + 1 + 2 * WHOLE_SECOND
    # What was pushed meanwhile came twice; nothing else did.
    pushes = traffic.report["shapes"]["push"]
    assert 0 < pushes["repeated"] <= pushes["sent"], traffic.text
    assert 0 == pushes["lost"]


def test_a_forced_downgrade_stops_first(clinic: Clinic) -> None:
    """5.1.15 to 4.2.3, approved: a gap, in which devices are refused, and after which all that they sent has arrived."""
    clinic.open()
    clinic.install("5.1.15")
    with clinic.traffic() as traffic:
        entry = clinic.change("4.2.3", approval="4.2.3 CHG-1042")
        time.sleep(2)
    overall = nothing_lost(traffic)
    assert ("Recreate", 0) == (entry["strategy"], entry["overlapSeconds"])
    assert "4.2.3 CHG-1042" == entry["approval"]["text"]
    assert_gap(clinic, entry, overall)


def test_an_upgrade_from_an_old_agent_stops_first(clinic: Clinic) -> None:
    """4.2.3 to 5.1.15: no approval is needed, and the old agent is gone before the new one starts."""
    clinic.open()
    clinic.install("4.2.3")
    with clinic.traffic() as traffic:
        entry = clinic.change("5.1.15")
        time.sleep(2)
    overall = nothing_lost(traffic)
    assert ("Recreate", 0) == (entry["strategy"], entry["overlapSeconds"])
    assert_gap(clinic, entry, overall)


def assert_gap(clinic: Clinic, entry: dict[str, Any], overall: dict[str, Any]) -> None:
    """The gap in the history is the gap that devices saw, within Kubernetes' whole seconds."""
    assert entry["gapSeconds"] > 0
    assert abs(entry["gapSeconds"] - overall["longest_pause_seconds"]) <= 2 * WHOLE_SECOND
    if clinic.lives:
        old, new = clinic.lives
        assert old.end <= new.started
        assert entry["gapSeconds"] >= (new.started - old.end).total_seconds() - WHOLE_SECOND


def test_nobody_notices_a_refused_downgrade(clinic: Clinic) -> None:
    """5.1.15 to 4.2.3, not approved: the same pod keeps serving, and no device notices anything."""
    clinic.open()
    clinic.install("5.1.15")
    [before] = clinic.pods()
    with clinic.traffic() as traffic:
        clinic.set_version("4.2.3")
        clinic.wait_for_phase("AwaitingApproval")
        time.sleep(5)
    unnoticed(traffic)
    [after] = clinic.pods()
    assert before["metadata"]["uid"] == after["metadata"]["uid"]
    assert 0 == after["status"]["containerStatuses"][0]["restartCount"]


@pytest.mark.parametrize(
    ("start", "target", "reason"),
    [
        pytest.param("5.1.14", "5.1.99", "Image", id="handoff to an image that is nowhere"),
        pytest.param("5.1.15", "4.2.2", "Image", id="forced downgrade to an image that is nowhere"),
        pytest.param("5.1.14", "5.1.16", "NotReady", id="handoff to an agent that never opens its port"),
    ],
)
def test_an_agent_that_serves_is_not_stopped_for_one_that_cannot(
    clinic: Clinic, start: str, target: str, reason: str
) -> None:
    """An image that cannot be had, an agent that never gets ready: the old agent serves throughout, and status says why.

    An agent connects to the server before it opens its port, so the one that never does gets every push as well.
    """
    clinic.open()
    clinic.install(start, handoff={"minReadySeconds": 2, "drainSeconds": 2, "progressDeadlineSeconds": 15})
    [before] = clinic.pods()
    with clinic.traffic() as traffic:
        if start == "5.1.15":
            clinic.approve(f"{target} CHG-7")
        clinic.set_version(target)
        clinic.wait(lambda: trouble(clinic, reason), f"status shows {reason}", seconds=60)
        time.sleep(3)
    unnoticed(traffic, pushes_repeated=reason == "NotReady")
    assert before["metadata"]["uid"] in [pod["metadata"]["uid"] for pod in clinic.pods()]
    assert "True" == clinic.condition("Available")["status"]
    assert start == clinic.status()["activeVersion"]


def trouble(clinic: Clinic, reason: str) -> bool:
    """Whether status shows it: the kubelet's message about an image, or the port that stays closed."""
    words = {"Image": "failed to resolve image", "NotReady": f"port {HL7_PORT}"}[reason]
    return words in clinic.status().get("plan", "")


def delete_operator_pod(cluster: Cluster) -> None:
    """Take the operator's pod away by force; its Deployment makes another one."""
    pods = operator_pods(cluster)
    cluster.kubectl("delete", "pod", "--namespace", OPERATOR_NAMESPACE, "--grace-period=0", "--force", *pods)


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(kill_operator_process, id="its process is killed"),
        pytest.param(delete_operator_pod, id="its pod is deleted"),
    ],
)
@pytest.mark.parametrize(("start", "target"), [("5.1.14", "5.1.15"), ("5.1.15", "4.2.3")], ids=["handoff", "downgrade"])
def test_a_change_is_finished_when_the_operator_dies_in_the_middle(
    clinic: Clinic, start: str, target: str, kill: Callable[[Cluster], None]
) -> None:
    """The next operator finishes what the last one began: nothing lost, one entry in history, one approval used once."""
    clinic.open()
    clinic.install(start)
    with clinic.traffic() as traffic:
        if target == "4.2.3":
            clinic.approve("4.2.3 CHG-9")
        clinic.set_version(target)
        clinic.wait(lambda: clinic.deployment()["metadata"]["generation"] > 1, "the change has begun")
        kill(clinic.cluster)
        clinic.completed(target, seconds=150)
        time.sleep(2)
    if target == "4.2.3":
        nothing_lost(traffic)
    else:
        handed_over(traffic)
    assert [target, start] == [entry["to"] for entry in clinic.status()["history"]]


def test_the_old_agent_stays_while_the_server_is_away(clinic: Clinic) -> None:
    """The Medplum server goes away for 20 s in the middle of a handoff: the old agent is not stopped before the new one can serve."""
    clinic.open()
    clinic.install("5.1.14")
    with clinic.traffic() as traffic:
        clinic.post("away", seconds=20)
        gone = time.time()
        clinic.set_version("5.1.15")
        clinic.completed("5.1.15", seconds=150)
        time.sleep(2)
    assert time.time() - gone > 20
    # Devices wait for their ACK while the server is away: that is upstream's way, and no message is lost by it.
    nothing_lost(traffic)
    assert 0 == traffic.report["overall"]["refused"], traffic.text
    if clinic.lives:
        old, new = clinic.lives
        assert new.started < old.end
        assert old.end.timestamp() > gone + 20
