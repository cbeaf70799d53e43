"""One whole pass against a fake API server: what is asked, what is written, and what a refusal or a conflict leads to."""

from __future__ import annotations

import copy
import logging
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Outcome, Phase
from medplum_agent_operator.core.observed.gate_reports import Channel, Traffic
from medplum_agent_operator.core.observed.model import Key
from medplum_agent_operator.errors import LONGEST_MESSAGE, ClusterError, ConflictError, RefusedError
from tests.support.builders import ABSENT, agent
from tests.support.ports import KEY, Stage
from tests.support.simulated_cluster import SimulatedCluster, installed

if TYPE_CHECKING:
    from collections.abc import Callable

STATUS = f"patch {KIND}/status"
FORBIDDEN = "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"


async def test_a_pass_that_finds_nothing_to_do_costs_no_request() -> None:
    """What the watches have seen is enough to know that."""
    stage = Stage(installed())
    assert await stage.one_pass() is None
    assert [] == stage.cluster.requests


async def test_what_gates_tell_is_one_status_and_no_more_for_a_while() -> None:
    """Each answer of a gate is a look; it costs a write where something is worth telling."""
    stage = Stage(installed(gate={"enabled": True}))
    await stage.one_pass()
    before = len(stage.cluster.requests)
    for devices in (3, 4, 5):
        stage.gates.told = Traffic(2, {"adt": Channel("adt", devices)})
        await stage.one_pass()
    assert 1 == stage.cluster.requests[before:].count(STATUS)
    assert [3] == [channel.connected_devices for channel in stage.simulated.status.channels]


async def test_a_cordon_is_read_live_before_an_agent_is_moved() -> None:
    """The watch has seen a cordon that was taken back meanwhile: nothing is written."""
    stage = Stage(installed().cordon("node-1"))
    stage.simulated.cordoned.clear()
    await stage.one_pass()
    assert "get Node" in stage.cluster.requests
    assert [] == stage.writes
    stage.simulated.cordon("node-1")
    await stage.one_pass()
    assert ["apply Deployment", STATUS, "create Event"] == stage.writes


async def test_an_agent_that_is_not_known_costs_no_request() -> None:
    """It was deleted meanwhile."""
    stage = Stage(installed())
    assert await stage.reconciler(Key("clinic", "other")) is None
    assert [] == stage.cluster.requests


async def test_an_installation_reads_everything_and_writes_in_order() -> None:
    """Children first, the Deployment last of them, then the status, then the Event."""
    stage = Stage(SimulatedCluster())
    await stage.one_pass()
    assert {
        f"get {KIND}",
        "get Deployment",
        "get Service",
        "get PodDisruptionBudget",
        "get ServiceAccount",
        "list Pod",
    } == set(stage.cluster.requests[:6])
    assert [
        "apply ServiceAccount",
        "apply Service",
        "apply PodDisruptionBudget",
        "apply Deployment",
        STATUS,
        "create Event",
    ] == stage.writes
    assert ["Installing"] == stage.reasons


async def test_writes_are_decided_on_what_is_read_live_and_not_on_what_the_watches_saw() -> None:
    """The watches still show an upgrade that the user has paused meanwhile: nothing is written but the pause."""
    simulated = installed("5.1.14").edit(version="5.1.15")
    stage = Stage(simulated)
    simulated.edit(paused=True)
    await stage.one_pass()
    assert [STATUS, "create Event"] == stage.writes
    assert Phase.PAUSED is simulated.status.phase


async def test_drift_that_only_a_late_watch_shows_is_not_repaired() -> None:
    """The live object is as it should be: no write."""
    simulated = installed()
    right = copy.deepcopy(simulated.objects["Service"])
    simulated.objects["Service"]["spec"]["type"] = "NodePort"
    stage = Stage(simulated)
    simulated.objects["Service"] = right
    await stage.one_pass()
    assert "get Service" in stage.cluster.requests
    assert [] == stage.writes


async def test_what_a_write_was_answered_with_is_known_to_the_next_pass() -> None:
    """No watch has told of it yet, and still the pass after it does not do it again."""
    stage = Stage(SimulatedCluster())
    await stage.one_pass()
    stage.cluster.requests.clear()
    await stage.one_pass()
    assert [] == stage.cluster.requests


async def test_an_agent_that_is_deleted_between_look_and_read_is_left_alone() -> None:
    """Nothing is made for it again."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    stage.cluster.gone = True
    assert await stage.one_pass() is None
    assert [] == stage.writes


async def test_an_agent_that_is_being_deleted_is_left_to_garbage_collection() -> None:
    """Foreground deletion: its children go, and are not made again."""
    simulated = installed()
    simulated.agent["metadata"]["deletionTimestamp"] = "2026-09-01T12:00:00Z"
    simulated.delete("Service")
    stage = Stage(simulated)
    assert await stage.one_pass() is None
    assert [] == stage.cluster.requests


async def test_an_agent_that_is_gone_when_its_status_is_written_is_no_fault() -> None:
    """404: no Event, no second try."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    stage.cluster.faults[STATUS] = [ClusterError("not found", status=404)]
    await stage.one_pass()
    assert ["apply Deployment", STATUS] == stage.writes


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(ConflictError("changed", status=409), id="somebody wrote in between"),
        pytest.param(ClusterError("no answer"), id="no answer"),
        pytest.param(ClusterError("busy", status=429), id="too busy"),
    ],
)
@pytest.mark.parametrize("request_", ["apply Deployment", STATUS, "get Deployment", "list Pod"])
async def test_a_fault_that_a_later_try_may_mend_ends_the_pass(fault: ClusterError, request_: str) -> None:
    """It goes up to the queue, which tries again; nothing is written after it, and no Event tells of what was not noted."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    stage.cluster.faults[request_] = [fault]
    with pytest.raises(type(fault)):
        await stage.one_pass()
    assert [] == stage.cluster.events
    assert stage.writes[-1:] in ([], [request_])


async def test_after_a_conflict_the_next_pass_decides_anew() -> None:
    """The write that was lost is made on the state that won."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    stage.cluster.faults["apply Deployment"] = [ConflictError("changed", status=409)]
    with pytest.raises(ConflictError):
        await stage.one_pass()
    stage.simulated.edit(version="5.1.16")
    stage.watch()
    await stage.one_pass()
    assert "5.1.16" == stage.simulated.applied_version


async def test_what_the_api_server_refuses_is_told_and_nothing_after_it_is_done() -> None:
    """A Service that is refused holds the Deployment back too; status and Event hold the API server's words; a try a minute."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15", service={"annotations": {"a": "b"}}))
    stage.cluster.faults["apply Service"] = [RefusedError("Service lab is invalid: nodePort taken.", status=422)]
    assert 60.0 == await stage.one_pass()
    assert ["apply Service", STATUS, "create Event"] == stage.writes
    status = stage.simulated.status
    assert (Phase.FAILED, ("True", "WriteRefused")) == (status.phase, stage.simulated.condition("Stalled"))
    assert "The API server refuses Service lab, " in (status.plan or "")
    assert "nodePort taken." in (status.plan or "")
    assert "5.1.14" == stage.simulated.applied_version
    assert ["WriteRefused"] == stage.reasons


async def test_a_refusal_of_any_length_is_told() -> None:
    """A webhook may answer a book; a condition takes 32 KiB."""
    stage = Stage(installed("5.1.14"))
    stage.simulated.edit(version="5.1.15")
    stage.watch()
    stage.cluster.faults["apply Deployment"] = [RefusedError("x" * 40_000, status=422)]
    await stage.one_pass()
    assert "WriteRefused" == stage.simulated.condition("Stalled")[1]
    assert f"Cause: {'x' * (LONGEST_MESSAGE - 1)}…" in (stage.simulated.status.plan or "").splitlines()


async def test_what_comes_back_is_kept_from_it_by_nothing_beside_it() -> None:
    """The Service's port is another's by now: the agent serves again, and then that is told."""
    ports = [[{"name": "adt", "port": 2575, "nodePort": number}] for number in (30001, 30002)]
    stage = Stage(installed("4.2.3", service={"type": "NodePort"}, channels=ports[0]))
    cluster = stage.simulated
    cluster.never_ready.add("5.1.15")
    cluster.edit(version="5.1.15", channels=ports[1])
    for second in range(200):
        if second == 30:
            stage.cluster.faults["apply Service"] = [RefusedError("nodePort taken.", status=422)] * 1000
        cluster.tick()
        stage.watch()
        await stage.one_pass()
    assert ("5.1.15", ["4.2.3"]) == (cluster.record.rolled_back_from, cluster.running)
    assert ("True", "WriteRefused") == cluster.condition("Stalled")
    assert ("True", "Serving") == cluster.condition("Available")


async def test_a_refused_write_begins_no_rollout_in_status() -> None:
    """What was not written did not happen: neither a rollout under way nor a used approval."""
    stage = Stage(installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").fetched())
    stage.cluster.faults["apply Deployment"] = [RefusedError("no", status=403)]
    await stage.one_pass()
    status = stage.simulated.status
    assert (None, (), [Outcome.COMPLETED]) == (
        status.rollout,
        status.spent_approvals,
        [e.outcome for e in status.history],
    )


async def test_a_backup_that_cannot_be_written_holds_the_downgrade_back() -> None:
    """A missing right, a quota: nothing is stopped, nothing else is written, the approval still counts, and it is tried again."""
    stage = Stage(installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").fetched())
    stage.cluster.faults["create ControllerRevision"] = [RefusedError("controllerrevisions is forbidden.", status=403)]
    assert 60.0 == await stage.one_pass()
    assert ["create ControllerRevision", STATUS, "create Event"] == stage.writes
    status = stage.simulated.status
    assert (Phase.FAILED, (), None) == (status.phase, status.spent_approvals, status.rollout)
    for words in (
        "The approved downgrade does not start: its backup, ControllerRevision lab-backup-",
        "Cause: controllerrevisions is forbidden.",
        "Impact: None; nothing was stopped, and the approval is not used up.",
        "Fix: Correct the quota or the operator's rights that the cause names",
    ):
        assert words in (status.plan or "")
    assert ["WriteRefused"] == stage.reasons
    stage.watch()
    await stage.one_pass()
    assert "4.2.3" == stage.simulated.applied_version


async def test_a_backup_that_is_there_already_is_as_good_as_written() -> None:
    """The operator was killed after it: the next one creates it in vain, goes on, and names the same in the record."""
    stage = Stage(installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").fetched())
    stage.cluster.faults["apply PodDisruptionBudget"] = [ClusterError("no answer")]
    with pytest.raises(ClusterError):
        await stage.one_pass()
    (name,) = stage.simulated.backups
    await stage.one_pass()
    assert 2 == stage.writes.count("create ControllerRevision")
    assert ([name], name) == (list(stage.simulated.backups), stage.simulated.record.backup)


async def test_another_conflict_over_a_backup_ends_the_pass() -> None:
    """Such as that of a quota: it is not there, so nothing goes on without it."""
    stage = Stage(installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").fetched())
    stage.cluster.faults["create ControllerRevision"] = [ConflictError("quota", status=409, reason="Conflict")]
    with pytest.raises(ConflictError):
        await stage.one_pass()
    assert ["create ControllerRevision"] == stage.writes


async def test_a_backup_is_not_kept_in_memory() -> None:
    """No watch tells of it, so nothing would ever take it out of the cache."""
    stage = Stage(installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").fetched())
    await stage.one_pass()
    assert [] == stage.seen.names("ControllerRevision")
    assert "get ControllerRevision" not in stage.cluster.requests


async def test_a_refusal_that_has_gone_is_forgotten() -> None:
    """The next try goes through, and status tells of the rollout as if nothing had been."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    stage.cluster.faults["apply Deployment"] = [RefusedError("no", status=403)]
    await stage.one_pass()
    await stage.one_pass()
    assert Phase.HANDING_OFF is stage.simulated.status.phase
    assert "5.1.15" == stage.simulated.applied_version


async def test_a_strategy_that_somebody_else_holds_is_freed_first() -> None:
    """kubernetes#24198: the rolling parameters go by a patch that touches no template, then the same apply is made once more."""
    stage = Stage(installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").fetched())
    stage.cluster.faults["apply Deployment"] = [RefusedError(FORBIDDEN, status=422)]
    await stage.one_pass()
    assert [
        "create ControllerRevision",
        "apply PodDisruptionBudget",
        "apply Deployment",
        "patch Deployment",
        "apply Deployment",
    ] == stage.writes[:5]
    kind, patch = stage.cluster.patches[0]
    assert ("Deployment", {"strategy": {"type": "Recreate", "rollingUpdate": None}}) == (kind, patch["spec"])
    assert ("Recreate", "4.2.3") == (stage.simulated.strategy, stage.simulated.applied_version)


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        pytest.param(
            lambda: installed("5.1.14").edit(version="5.1.15"), FORBIDDEN, id="a rolling handoff has nothing to free"
        ),
        pytest.param(
            lambda: installed("4.2.3").edit(version="5.1.15").fetched(),
            "quota",
            id="another refusal is not mended by it",
        ),
    ],
)
async def test_other_refusals_are_told_as_they_are(cluster: Callable[[], SimulatedCluster], words: str) -> None:
    """The way round is for that one refusal of that one write."""
    stage = Stage(cluster())
    stage.cluster.faults["apply Deployment"] = [RefusedError(words, status=422)]
    await stage.one_pass()
    assert "patch Deployment" not in stage.writes
    assert Phase.FAILED is stage.simulated.status.phase


async def test_what_is_no_longer_so_is_taken_out_of_status() -> None:
    """The merge patch sets it to null: after a rollout nothing tells of one under way."""
    simulated = installed("5.1.14").edit(version="5.1.15")
    stage = Stage(simulated)
    await stage.one_pass()
    assert "rollout" in simulated.agent["status"]
    while not simulated.observe().activation.settled:
        simulated.tick()
    stage.watch()
    await stage.one_pass()
    assert "rollout" not in simulated.agent["status"]
    assert {"rollout": None}.items() <= stage.cluster.patches[-1][1]["status"].items()


async def test_a_status_is_written_on_the_state_that_it_tells_of() -> None:
    """With the resource version of the read: a status over a newer spec would be a conflict."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    version = stage.simulated.agent["metadata"]["resourceVersion"]
    await stage.one_pass()
    assert version == stage.cluster.patches[0][1]["metadata"]["resourceVersion"]


async def test_an_event_that_exists_is_not_told_again() -> None:
    """Its name is made of its words: "exists" is as good as told."""
    stage = Stage(SimulatedCluster())
    stage.cluster.faults["create Event"] = [ConflictError("exists", status=409, reason="AlreadyExists")]
    await stage.one_pass()
    assert Phase.INSTALLING is stage.simulated.status.phase


async def test_an_event_that_cannot_be_written_fails_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, with the agent and the reason."""
    stage = Stage(SimulatedCluster())
    stage.cluster.faults["create Event"] = [RefusedError("quota", status=403)]
    with caplog.at_level(logging.WARNING, logger="medplum_agent_operator"):
        await stage.one_pass()
    (record,) = [one for one in caplog.records if "could not be written" in one.getMessage()]
    assert (str(KEY), "Installing") == (record.__dict__["agent"], record.__dict__["reason"])


async def test_a_finding_is_one_event_and_one_log_line_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """The refusal: a Warning, with the reason of the condition, and nothing more at the next pass."""
    stage = Stage(installed("5.1.15").edit(version="4.2.3"))
    with caplog.at_level(logging.INFO, logger="medplum_agent_operator"):
        await stage.one_pass()
        await stage.one_pass()
    assert [STATUS, "create Event"] == stage.writes
    (event,) = stage.cluster.events
    assert ("Warning", "DowngradeNotApproved") == (event["type"], event["reason"])
    assert event["message"] == (stage.simulated.status.plan or "").splitlines()[0]
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert (event["message"], "clinic/lab", "DowngradeNotApproved") == (
        record.getMessage(),
        record.__dict__["agent"],
        record.__dict__["reason"],
    )


async def test_a_refused_downgrade_writes_nothing_but_its_status() -> None:
    """I2, to the letter: no request for any other object, not even a read."""
    stage = Stage(installed("5.1.15").edit(version="4.2.3"))
    await stage.one_pass()
    assert [STATUS, "create Event"] == stage.cluster.requests


async def test_an_object_that_does_not_fit_the_model_is_told_and_left_alone() -> None:
    """A CRD of another release let it in: the field is named, nothing is applied, what is known stays."""
    simulated = installed().edit(server=ABSENT)
    stage = Stage(simulated)
    await stage.one_pass()
    assert [STATUS, "create Event"] == stage.cluster.requests
    assert (Phase.FAILED, "5.1.15") == (simulated.status.phase, simulated.status.active_version)
    assert "Cause: server: Field required\nImpact: Nothing was changed; " in (simulated.status.plan or "")
    assert ("True", str(Reason.INVALID_SPEC)) == simulated.condition("Stalled")
    await stage.one_pass()
    assert [STATUS, "create Event"] == stage.cluster.requests


async def test_the_time_to_look_again_is_told_in_seconds_from_now() -> None:
    """During a rollout: its deadline and a second."""
    stage = Stage(SimulatedCluster(agent(handoff={"progressDeadlineSeconds": 60})))
    await stage.one_pass()
    stage.simulated.now += timedelta(seconds=20)
    assert 41.0 == await stage.one_pass()


async def test_applied_children_are_logged_with_what_differed(caplog: pytest.LogCaptureFixture) -> None:
    """Which object, which field, for which agent, and whether pods are replaced."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    with caplog.at_level(logging.INFO, logger="medplum_agent_operator"):
        await stage.one_pass()
    (record,) = [one for one in caplog.records if one.getMessage().startswith("applied")]
    assert record.getMessage().startswith("applied Deployment (spec.template.")
    assert ("clinic/lab", True) == (record.__dict__["agent"], record.__dict__["disruptive"])


@pytest.mark.parametrize("behind", ["agent", "Deployment", "Pod"])
async def test_an_api_server_that_has_fallen_behind_talks_nobody_into_a_decision(behind: str) -> None:
    """It tells of an older state than its own watches: the pass ends without a write, and begins anew later."""
    stage = Stage(installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3"))
    newer = {"resourceVersion": "999999999"}
    if behind == "agent":
        raw = copy.deepcopy(stage.simulated.agent)
        stage.seen.put(KIND, {**raw, "metadata": {**raw["metadata"], **newer}})
    elif behind == "Deployment":
        raw = copy.deepcopy(stage.simulated.deployment)
        stage.seen.put(behind, {**raw, "metadata": {**raw["metadata"], **newer}})
    else:
        raw = stage.simulated.pods[0].raw()
        stage.seen.put(behind, {**raw, "metadata": {**raw["metadata"], **newer}})
    with pytest.raises(ConflictError, match="older state"):
        await stage.one_pass()
    assert [] == stage.writes
