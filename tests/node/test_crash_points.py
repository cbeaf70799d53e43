"""The three crash points that matter most, on real nodes and under traffic. On simulated pods every write is one (tests/behaviour).

The operator that dies runs beside the cluster, behind the proxy of `tests/support/crash_points`, so that it can be killed at one write
and at no other; the one in the cluster is scaled to 0 meanwhile, and is the new one that starts.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.audit import READS, calls_of_the_operator, resource
from tests.support.cluster.images import image
from tests.support.crash_points.clinic import Clinics
from tests.support.crash_points.digest import ROLLOUT
from tests.support.crash_points.modes import Aiming
from tests.support.crash_points.scenarios import SCENARIOS
from tests.support.real_nodes.behind_a_gate import broken, install_behind_a_gate, unnoticed
from tests.support.real_nodes.clinic import AGENT, REPOSITORY
from tests.support.real_nodes.operator_pod import begin_operator, end_operator, operator_pods

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.support.cluster import Cluster
    from tests.support.crash_points.clinic import Clinic as Dying
    from tests.support.http_proxy import Call
    from tests.support.real_nodes.clinic import Clinic, TrafficRun

pytestmark = pytest.mark.timeout(300)

APPROVAL: Final = "4.2.3 CHG-1042"
PATIENT_GATE: Final = {"holdSeconds": 60}
PATIENT_DEVICES: Final = ("--ack-timeout", "90")
"""What is asked is whether anything is lost, not how fast a machine is that other tests keep busy while an operator starts."""


def hand_over(clinic: Clinic) -> None:
    """Ask for 5.1.15."""
    clinic.set_version("5.1.15")


def force_down(clinic: Clinic) -> None:
    """Ask for 4.2.3, and approve it when it is refused."""
    clinic.set_version("4.2.3")
    clinic.wait_for_phase("AwaitingApproval")
    clinic.approve(APPROVAL)


def fail_to_go_down(clinic: Clinic) -> None:
    """The same, for a 4.2.3 that can never start."""
    broken(clinic, "4.2.3")
    clinic.wait_for_phase("AwaitingApproval")
    clinic.approve(APPROVAL)


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """A write of the agent's Deployment that is an operator's last, and what must come of it all the same.

    Attributes:
        scenario: its name in the table of scenarios on simulated pods: the same history must come of it.
        before: the version that is installed before.
        act: what the user does.
        last_write: what the write says in the rollout's record.
        phase: in the end.
        serves: the version that serves in the end.
        leads_to: the versions in history, the latest first.
        approvals: what is spent in the end.
        revision: how many pod templates the Deployment controller was given, one after the other.
        next_strategy: what the Deployment is made ready for in the end.
        lives: the version of each agent's process that there ever was, as the container runtime reported it.
        pods: how many there ever were, by what they are for.
        left_nobody: which agents stopped serving while no other served, by what their pods are for.
    """

    scenario: str
    before: str
    act: Callable[[Clinic], None]
    last_write: dict[str, str]
    phase: str
    serves: str
    leads_to: list[str]
    approvals: list[str]
    revision: str
    next_strategy: str
    lives: list[str]
    pods: dict[str, int]
    left_nobody: list[str]

    def is_at(self, call: Call) -> bool:
        """Whether the operator writes this."""
        if call.label != f"PATCH deployments {AGENT}":
            return False
        record: dict[str, Any] = json.loads(json.loads(call.body)["metadata"]["annotations"][ROLLOUT])
        return self.last_write.items() <= record.items()


AROUND: Final = {"gate": 2, "other": 2}
POINTS: Final = (
    CrashPoint(
        "handoff",
        before="5.1.14",
        act=hand_over,
        last_write={"to": "5.1.15"},
        phase="Running",
        serves="5.1.15",
        leads_to=["5.1.15", "5.1.14"],
        approvals=[],
        revision="2",
        next_strategy="RollingUpdate",
        lives=["5.1.14", "5.1.15"],
        pods={"agent 5.1.14": 1, "agent 5.1.15": 1, **AROUND},
        left_nobody=[],
    ),
    CrashPoint(
        "forced downgrade",
        before="5.1.15",
        act=force_down,
        last_write={"to": "4.2.3"},
        phase="Running",
        serves="4.2.3",
        leads_to=["4.2.3", "5.1.15"],
        approvals=[APPROVAL],
        revision="2",
        next_strategy="Recreate",
        lives=["5.1.15", "4.2.3"],
        pods={"agent 5.1.15": 1, "agent 4.2.3": 1, "fetch": 1, **AROUND},
        left_nobody=["agent 5.1.15"],
    ),
    CrashPoint(
        "failed downgrade",
        before="5.1.15",
        act=fail_to_go_down,
        last_write={"to": "5.1.15", "rolledBackFrom": "4.2.3"},
        phase="Failed",
        serves="5.1.15",
        leads_to=["5.1.15", "4.2.3", "5.1.15"],
        approvals=[APPROVAL],
        revision="3",
        next_strategy="RollingUpdate",
        lives=["5.1.15", "5.1.15"],
        pods={"agent 5.1.15": 2, "agent 4.2.3": 1, **AROUND},
        left_nobody=["agent 5.1.15"],
    ),
)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.scenario)
async def test_no_device_notices_that_the_operator_died_at(point: CrashPoint, clinic: Clinic, tmp_path: Path) -> None:
    """Killed by SIGKILL before it sees the answer to that write; another one ends the story as it would have ended."""
    cluster = clinic.cluster
    if cluster.audit_log is None:
        pytest.skip("the audit log of a cluster that the tests did not start cannot be read")
    async with (
        operator_beside(cluster),
        Clinics.open(cluster, tmp_path) as clinics,
        clinics.within(clinic.namespace) as dying,
    ):
        killing = Aiming(point.is_at, dying.kill)
        killing.arm()
        flags = ("--image-repository", REPOSITORY, "--gate-image", image("operator").reference)
        await dying.start_operator(killing, *flags)
        traffic = await asyncio.to_thread(play, clinic, point, dying, killing)
        seen = dying.witness
    noticed = unnoticed(traffic)
    pushes_lost = traffic.report["shapes"]["push"]["lost"]
    figures = {name: noticed[name] for name in ("sent", "lost", "repeated", "longest_pause_seconds")}
    print(json.dumps({"scenario": point.scenario, **figures, "pushes lost": pushes_lost}))  # noqa: T201 - for people too
    if point.left_nobody:
        assert noticed["longest_pause_seconds"] > 0.5, "no device waited, so an agent was always there"
    else:
        assert 0 == pushes_lost, traffic.text
    assert [] == seen.recorder.violations
    assert point.left_nobody == [seen.pods_ever[uid] for uid in seen.left_nobody]
    assert point.pods == count(seen.pods_ever)
    assert point.lives == [life.version for life in clinic.lives]
    ended_as_ever(clinic, point)


@asynccontextmanager
async def operator_beside(cluster: Cluster) -> AsyncIterator[None]:
    """No operator in the cluster, unless the block starts it; in the end there is one again."""
    try:
        await asyncio.to_thread(end_operator, cluster)
        yield
    finally:
        await asyncio.to_thread(begin_operator, cluster)


def play(clinic: Clinic, point: CrashPoint, dying: Dying, killing: Aiming) -> TrafficRun:
    """The whole story. A thread of its own waits in it: the proxy is at work meanwhile."""
    clinic.open()
    began = datetime.now(UTC)
    install_behind_a_gate(clinic, point.before, gate=PATIENT_GATE)
    with clinic.traffic(*PATIENT_DEVICES) as traffic:
        point.act(clinic)
        clinic.wait(killing.struck.is_set, f"the operator writes {point.last_write}", 90)
        begun = died(clinic, point, dying, since=began)
        begin_operator(clinic.cluster)
        clinic.wait(lambda: point.leads_to == versions(clinic), "the new operator reports the whole story", 90)
        clinic.wait_for_phase(point.phase, point.serves, seconds=60)
        time.sleep(2)
    assert begun == rollout(clinic)["startedAt"], "the rollout was begun once more"
    return traffic


def died(clinic: Clinic, point: CrashPoint, dying: Dying, *, since: datetime) -> str:
    """Check that the operator died at that write and none runs. Return the name of its unfinished rollout: its start time."""
    record, history = rollout(clinic), versions(clinic)
    time.sleep(1)  # a living operator would report the write at once
    [operator] = dying.operators
    assert -signal.SIGKILL == operator.process.returncode
    assert [] == operator_pods(clinic.cluster)
    latest = [call for call in calls_of_the_operator(clinic, since) if call["verb"] not in READS][-1]
    written = (latest["verb"], resource(latest), latest["objectRef"]["name"], latest["responseStatus"]["code"])
    assert ("patch", "deployments", AGENT, 200) == written
    assert point.last_write.items() <= record.items()
    assert [point.before] == history, "it had reported the rollout already"
    assert "a pass failed by a bug" not in dying.log
    begun: str = record["startedAt"]
    return begun


def ended_as_ever(clinic: Clinic, point: CrashPoint) -> None:
    """The end is that of a story without a death: one entry for each rollout, each approval spent once, one serving agent."""
    status = clinic.status()
    history = status["history"]
    assert SCENARIOS[point.scenario].history == tuple(entry["outcome"] for entry in history)
    assert point.approvals == [entry["approval"]["text"] for entry in history if "approval" in entry]
    assert point.approvals == status.get("spentApprovals", [])
    assert "True" == clinic.condition("Available")["status"]
    backups = clinic.read("controllerrevisions", "-l", "!agents.medplum.com/revision")["items"]
    assert len(point.approvals) == len(backups), "what was active before is kept once"
    deployment = clinic.deployment()
    assert point.revision == deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
    assert point.next_strategy == deployment["spec"]["strategy"]["type"]
    [pod] = clinic.pods()
    assert point.serves == pod["metadata"]["labels"]["agents.medplum.com/version"]
    assert 0 == sum(container["restartCount"] for container in pod["status"]["containerStatuses"])


def rollout(clinic: Clinic) -> dict[str, Any]:
    """The rollout's record on the Deployment."""
    record: dict[str, Any] = json.loads(clinic.deployment()["metadata"]["annotations"][ROLLOUT])
    return record


def versions(clinic: Clinic) -> list[str]:
    """The versions in the history, the latest first."""
    return [entry["to"] for entry in clinic.status().get("history", ())]


def count(roles: dict[str, str]) -> dict[str, int]:
    """How many pods there ever were, by what they are for."""
    return {role: list(roles.values()).count(role) for role in roles.values()}
