"""Whole passes against a fake API server: which requests a pass sends, and what a refusal or a conflict leads to."""

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
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.errors import LONGEST_MESSAGE, ClusterError, ConflictError, RefusedError
from medplum_agent_operator.reconcile import SECONDS_IF_NOT_FOUND
from tests.support.builders import ABSENT, agent
from tests.support.ports import KEY, Stage
from tests.support.simulated_cluster import SimulatedCluster, installed

if TYPE_CHECKING:
    from collections.abc import Callable

STATUS = f"patch {KIND}/status"
FORBIDDEN = "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"


async def test_a_pass_without_changes_sends_no_request() -> None:
    """What the watches have seen is enough to know that."""
    stage = Stage(installed())
    assert await stage.one_pass() is None
    assert [] == stage.cluster.requests


async def test_reports_of_gates_lead_to_few_status_writes() -> None:
    """Each report starts a pass, but only significant changes are written."""
    stage = Stage(installed(gate={"enabled": True}))
    await stage.one_pass()
    before = len(stage.cluster.requests)
    for devices in (3, 4, 5):
        stage.gates.reports = Traffic(2, {"adt": Channel("adt", devices)})
        await stage.one_pass()
    assert 1 == stage.cluster.requests[before:].count(STATUS)
    assert [3] == [channel.connected_devices for channel in stage.simulated.status.channels]


async def test_a_cordon_is_read_live_before_an_agent_is_moved() -> None:
    """The watch has seen a cordon that has been reverted since: the pass writes nothing."""
    stage = Stage(installed().cordon("node-1"))
    stage.simulated.cordoned.clear()
    await stage.one_pass()
    assert "get Node" in stage.cluster.requests
    assert [] == stage.writes
    stage.simulated.cordon("node-1")
    await stage.one_pass()
    assert ["create ControllerRevision", "apply Deployment", STATUS, "create Event"] == stage.writes


async def test_an_unknown_agent_costs_no_request() -> None:
    """It was deleted meanwhile."""
    stage = Stage(installed())
    assert await stage.reconciler(Key("clinic", "other")) is None
    assert [] == stage.cluster.requests


async def test_an_installation_reads_everything_and_writes_in_order() -> None:
    """The children first, the Deployment last of them, then the status, then the Event."""
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
        "create ControllerRevision",
        "apply ServiceAccount",
        "apply Service",
        "apply PodDisruptionBudget",
        "apply Deployment",
        STATUS,
        "create Event",
    ] == stage.writes
    assert ["Installing"] == stage.reasons


async def test_writes_are_decided_on_live_objects_not_on_the_cache() -> None:
    """The watches still show an upgrade that the user has paused meanwhile: only the pause is written."""
    simulated = installed("5.1.14").edit(version="5.1.15")
    stage = Stage(simulated)
    simulated.edit(paused=True)
    await stage.one_pass()
    assert [STATUS, "create Event"] == stage.writes
    assert Phase.PAUSED is simulated.status.phase


async def test_drift_that_only_a_late_watch_shows_is_not_repaired() -> None:
    """The live object has no drift, so the pass writes nothing."""
    simulated = installed()
    right = copy.deepcopy(simulated.objects["Service"])
    simulated.objects["Service"]["spec"]["type"] = "NodePort"
    stage = Stage(simulated)
    simulated.objects["Service"] = right
    await stage.one_pass()
    assert "get Service" in stage.cluster.requests
    assert [] == stage.writes


async def test_the_next_pass_knows_the_answer_to_a_write() -> None:
    """No watch has reported it yet, but the next pass does not repeat the write."""
    stage = Stage(SimulatedCluster())
    await stage.one_pass()
    stage.cluster.requests.clear()
    await stage.one_pass()
    assert [] == stage.cluster.requests


async def test_an_agent_that_is_deleted_before_the_live_read_is_left_alone() -> None:
    """No child is created for it."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    stage.cluster.gone = True
    assert SECONDS_IF_NOT_FOUND == await stage.one_pass()
    assert [] == stage.writes


async def test_an_agent_that_was_not_found_is_tried_again() -> None:
    """A 404 while the API is not served is no deletion: the change begins without a new event."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    stage.cluster.gone = True
    assert await stage.one_pass() is not None
    stage.cluster.gone = False
    await stage.one_pass()
    assert "apply Deployment" in stage.writes


async def test_a_status_that_was_not_found_is_written_later() -> None:
    """The same for the status: a refusal that nobody could read is published by the next pass."""
    stage = Stage(installed("5.1.15").edit(version="4.2.3"))
    stage.cluster.faults["patch MedplumAgent/status"] = [ClusterError("it is not served", status=404)]
    assert SECONDS_IF_NOT_FOUND == await stage.one_pass()
    assert [] == stage.reasons
    await stage.one_pass()
    assert "DowngradeNotApproved" in stage.reasons


async def test_an_agent_that_is_being_deleted_is_left_to_garbage_collection() -> None:
    """Foreground deletion: its children are deleted and not created again."""
    simulated = installed()
    simulated.agent["metadata"]["deletionTimestamp"] = "2026-09-01T12:00:00Z"
    simulated.delete("Service")
    stage = Stage(simulated)
    assert await stage.one_pass() is None
    assert [] == stage.cluster.requests


async def test_an_agent_that_is_deleted_before_its_status_is_written_is_not_a_fault() -> None:
    """404: no Event; the next pass is some seconds away."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    stage.cluster.faults[STATUS] = [ClusterError("not found", status=404)]
    await stage.one_pass()
    assert ["create ControllerRevision", "apply Deployment", STATUS] == stage.writes


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(ConflictError("changed", status=409), id="another client wrote in between"),
        pytest.param(ClusterError("no answer"), id="no answer"),
        pytest.param(ClusterError("busy", status=429), id="too busy"),
    ],
)
@pytest.mark.parametrize("request_", ["apply Deployment", STATUS, "get Deployment", "list Pod"])
async def test_a_temporary_fault_ends_the_pass(fault: ClusterError, request_: str) -> None:
    """The queue gets the fault and tries again. Nothing is written after it, and no Event reports what status does not."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    stage.cluster.faults[request_] = [fault]
    with pytest.raises(type(fault)):
        await stage.one_pass()
    assert [] == stage.cluster.events
    assert stage.writes[-1:] in ([], [request_])


async def test_after_a_conflict_the_next_pass_decides_again() -> None:
    """The next write is based on the state that won."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    stage.cluster.faults["apply Deployment"] = [ConflictError("changed", status=409)]
    with pytest.raises(ConflictError):
        await stage.one_pass()
    stage.simulated.edit(version="5.1.16")
    stage.watch()
    await stage.one_pass()
    assert "5.1.16" == stage.simulated.applied_version


async def test_a_refused_write_is_reported_and_ends_the_actions() -> None:
    """A refused Service stops the write of the Deployment too. Status and Event have the API server's message, and the pass repeats every minute."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15", service={"annotations": {"a": "b"}}))
    stage.cluster.faults["apply Service"] = [RefusedError("Service lab is invalid: nodePort taken.", status=422)]
    assert 60.0 == await stage.one_pass()
    assert [
        "create ControllerRevision",
        "apply Service",
        "delete ControllerRevision",
        STATUS,
        "create Event",
    ] == stage.writes
    status = stage.simulated.status
    assert (Phase.FAILED, ("True", "WriteRefused")) == (status.phase, stage.simulated.condition("Stalled"))
    assert "The API server refuses to write Service lab." in (status.plan or "")
    assert "nodePort taken." in (status.plan or "")
    assert "5.1.14" == stage.simulated.applied_version
    assert ["WriteRefused"] == stage.reasons


async def test_a_refusal_of_any_length_is_reported() -> None:
    """A webhook may answer with a book; a condition takes 32 KiB."""
    stage = Stage(installed("5.1.14"))
    stage.simulated.edit(version="5.1.15")
    stage.watch()
    stage.cluster.faults["apply Deployment"] = [RefusedError("#" * 40_000, status=422)]
    await stage.one_pass()
    assert "WriteRefused" == stage.simulated.condition("Stalled")[1]
    assert f"Cause: {'#' * (LONGEST_MESSAGE - 1)}…" in (stage.simulated.status.plan or "").splitlines()


async def test_a_rollback_does_not_wait_for_other_children() -> None:
    """Another Service has the port by now: the agent serves again first, then the plan reports the conflict."""
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
    """A write that did not happen starts no rollout and uses no approval."""
    stage = Stage(installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").fetched())
    stage.cluster.faults["apply Deployment"] = [RefusedError("no", status=403)]
    await stage.one_pass()
    status = stage.simulated.status
    assert (None, (), [Outcome.COMPLETED]) == (
        status.rollout,
        status.spent_approvals,
        [e.outcome for e in status.history],
    )


async def test_a_downgrade_waits_for_its_backup() -> None:
    """A missing right or a quota: no agent stops, nothing else is written, the approval stays valid, and the pass repeats."""
    stage = Stage(installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").fetched())
    stage.cluster.faults["create ControllerRevision"] = [RefusedError("controllerrevisions is forbidden.", status=403)]
    assert 60.0 == await stage.one_pass()
    assert ["create ControllerRevision", STATUS, "create Event"] == stage.writes
    status = stage.simulated.status
    assert (Phase.FAILED, (), None) == (status.phase, status.spent_approvals, status.rollout)
    for words in (
        "The approved downgrade from 5.1.15 to 4.2.3 does not start: its backup cannot be written.",
        "Cause: ControllerRevision lab-backup-",
        "Impact: 5.1.15 keeps serving devices. The operator stopped no agent, and the approval is not used up.",
        "Fix: Correct what the cause names: a quota, an admission policy, the operator's RBAC or the spec.",
    ):
        assert words in (status.plan or "")
    assert ["WriteRefused"] == stage.reasons
    stage.watch()
    await stage.one_pass()
    assert "4.2.3" == stage.simulated.applied_version


async def test_an_existing_backup_counts_as_written() -> None:
    """The operator was killed after it wrote the backup. The next one fails to create it, continues, and names the same in the record."""
    stage = Stage(installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").fetched())
    stage.cluster.faults["apply PodDisruptionBudget"] = [ClusterError("no answer")]
    with pytest.raises(ClusterError):
        await stage.one_pass()
    (name,) = stage.simulated.backups
    await stage.one_pass()
    assert 4 == stage.writes.count("create ControllerRevision"), "in each pass the backup, and a revision"
    assert ([name], name) == (list(stage.simulated.backups), stage.simulated.record.backup)


async def test_another_conflict_over_a_backup_ends_the_pass() -> None:
    """For example a conflict over a quota: the backup does not exist, so the downgrade does not continue."""
    stage = Stage(installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").fetched())
    stage.cluster.faults["create ControllerRevision"] = [ConflictError("quota", status=409, reason="Conflict")]
    with pytest.raises(ConflictError):
        await stage.one_pass()
    assert ["create ControllerRevision"] == stage.writes


async def test_the_data_of_a_backup_is_not_cached() -> None:
    """It is for people. Revisions are cached, compressed."""
    stage = Stage(installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").fetched())
    await stage.one_pass()
    found = [stage.seen.get("ControllerRevision", *name) or {} for name in stage.seen.names("ControllerRevision")]
    assert {("-backup-" in raw["metadata"]["name"], type(raw.get("data"))) for raw in found} == {
        (True, type(None)),
        (False, bytes),
    }
    assert "get ControllerRevision" not in stage.cluster.requests


async def test_a_refusal_that_is_over_leaves_no_trace() -> None:
    """The next try succeeds, and status reports the rollout as if there had been no refusal."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    stage.cluster.faults["apply Deployment"] = [RefusedError("no", status=403)]
    await stage.one_pass()
    await stage.one_pass()
    assert Phase.HANDING_OFF is stage.simulated.status.phase
    assert "5.1.15" == stage.simulated.applied_version


async def test_a_strategy_of_another_field_manager_is_freed_first() -> None:
    """kubernetes#24198: a patch removes the rolling parameters and touches no template, then the same apply is repeated."""
    stage = Stage(installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").fetched())
    stage.cluster.faults["apply Deployment"] = [RefusedError(FORBIDDEN, status=422)]
    await stage.one_pass()
    assert [
        "create ControllerRevision",
        "create ControllerRevision",
        "apply PodDisruptionBudget",
        "apply Deployment",
        "patch Deployment",
        "apply Deployment",
    ] == stage.writes[:6]
    kind, patch = stage.cluster.patches[0]
    assert ("Deployment", {"strategy": {"type": "Recreate", "rollingUpdate": None}}) == (kind, patch["spec"])
    assert ("Recreate", "4.2.3") == (stage.simulated.strategy, stage.simulated.applied_version)


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        pytest.param(
            lambda: installed("5.1.14").edit(version="5.1.15"),
            FORBIDDEN,
            id="a rolling handoff has no parameters to free",
        ),
        pytest.param(
            lambda: installed("4.2.3").edit(version="5.1.15").fetched(),
            "quota",
            id="the patch does not fix another refusal",
        ),
    ],
)
async def test_other_refusals_are_reported_without_a_patch(cluster: Callable[[], SimulatedCluster], words: str) -> None:
    """The patch is only for that one refusal of that one write."""
    stage = Stage(cluster())
    stage.cluster.faults["apply Deployment"] = [RefusedError(words, status=422)]
    await stage.one_pass()
    assert "patch Deployment" not in stage.writes
    assert Phase.FAILED is stage.simulated.status.phase


async def test_obsolete_fields_are_removed_from_status() -> None:
    """The merge patch sets them to null: after a rollout, status reports none in progress."""
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


async def test_a_status_is_bound_to_the_state_that_it_describes() -> None:
    """It has the resource version of the read: a status over a newer spec is a conflict."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    version = stage.simulated.agent["metadata"]["resourceVersion"]
    await stage.one_pass()
    assert version == stage.cluster.patches[0][1]["metadata"]["resourceVersion"]


async def test_an_existing_event_is_not_a_fault() -> None:
    """Its name is a hash of its content, so it was published before."""
    stage = Stage(SimulatedCluster())
    stage.cluster.faults["create Event"] = [ConflictError("exists", status=409, reason="AlreadyExists")]
    await stage.one_pass()
    assert Phase.INSTALLING is stage.simulated.status.phase


async def test_an_event_that_cannot_be_written_does_not_fail_the_pass(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, with the agent and the reason."""
    stage = Stage(SimulatedCluster())
    stage.cluster.faults["create Event"] = [RefusedError("quota", status=403)]
    with caplog.at_level(logging.WARNING, logger="medplum_agent_operator"):
        await stage.one_pass()
    (record,) = [one for one in caplog.records if "could not be written" in one.getMessage()]
    assert (str(KEY), "Installing") == (record.__dict__["agent"], record.__dict__["reason"])


async def test_a_finding_is_published_once_as_event_and_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """A refusal: a Warning with the reason of the condition, and nothing more at the next pass."""
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


async def test_each_answer_to_a_person_is_an_event_of_its_own() -> None:
    """The same approval is taken off and put back, twice, within one second and one generation: each time is told, no pass more."""
    simulated = (
        installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").settle().edit(version="5.1.15").settle()
    )
    stage = Stage(simulated.edit(version="4.2.3"))
    for text in ("4.2.3 CHG-1", None, "4.2.3 CHG-1", None, "4.2.3 CHG-1", "true", "yes"):
        simulated.annotate(text)
        stage.watch()
        await stage.one_pass()
        await stage.one_pass()
    told = [event["reason"] for event in stage.cluster.events]
    spent, none, malformed = "ApprovalSpent", "DowngradeNotApproved", "ApprovalMalformed"
    assert [spent, none, spent, none, spent, malformed, malformed] == told
    assert len(told) == len({event["metadata"]["name"] for event in stage.cluster.events})


async def test_a_refused_downgrade_writes_only_its_status() -> None:
    """I2: no request for any other object, not even a read."""
    stage = Stage(installed("5.1.15").edit(version="4.2.3"))
    await stage.one_pass()
    assert [STATUS, "create Event"] == stage.cluster.requests


async def test_an_object_that_does_not_fit_the_model_is_reported_and_left_alone() -> None:
    """A CRD of another release let it in: the plan names the field, nothing is applied, and the rest of status stays."""
    simulated = installed().edit(server=ABSENT)
    stage = Stage(simulated)
    await stage.one_pass()
    assert [STATUS, "create Event"] == stage.cluster.requests
    assert (Phase.FAILED, "5.1.15") == (simulated.status.phase, simulated.status.active_version)
    assert (
        "Cause: server: Field required.\nImpact: The running agent keeps serving devices. No edit of the spec is applied.\n"
        in (simulated.status.plan or "")
    )
    assert ("True", str(Reason.INVALID_SPEC)) == simulated.condition("Stalled")
    await stage.one_pass()
    assert [STATUS, "create Event"] == stage.cluster.requests


async def test_a_pass_returns_the_seconds_until_its_requeue() -> None:
    """During a rollout: its deadline plus one second."""
    stage = Stage(SimulatedCluster(agent(handoff={"progressDeadlineSeconds": 60})))
    await stage.one_pass()
    stage.simulated.now += timedelta(seconds=20)
    assert 41.0 == await stage.one_pass()


async def test_applied_children_are_logged_with_the_difference(caplog: pytest.LogCaptureFixture) -> None:
    """Object, field and agent, and whether pods are replaced."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    with caplog.at_level(logging.INFO, logger="medplum_agent_operator"):
        await stage.one_pass()
    _, record = [one for one in caplog.records if one.getMessage().startswith("applied")]
    assert record.getMessage().startswith("applied Deployment (spec.template.")
    assert ("clinic/lab", True) == (record.__dict__["agent"], record.__dict__["disruptive"])


@pytest.mark.parametrize("behind", ["agent", "Deployment", "Pod"])
async def test_an_api_server_that_lags_behind_its_watches_leads_to_no_write(behind: str) -> None:
    """It returns an older state than its own watches: the pass ends with a conflict and repeats later."""
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


async def fail(stage: Stage, request: str, fault: ClusterError, passes: int) -> None:
    """Let passes fail at one request."""
    stage.cluster.faults[request] = [fault] * passes
    for _ in range(passes):
        with pytest.raises(type(fault)):
            await stage.one_pass()


WEBHOOK_AWAY = ClusterError("Internal error: failed calling webhook x: connection refused", status=500)


@pytest.mark.parametrize(
    "request_", ["apply Deployment", "apply Service", "get Deployment", "get Service", "list Pod", STATUS]
)
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(WEBHOOK_AWAY, id="webhook"),
        pytest.param(ClusterError("no answer"), id="no answer"),
        pytest.param(ClusterError("range is full", status=500), id="no address"),
    ],
)
async def test_a_request_that_keeps_failing_is_reported(request_: str, fault: ClusterError) -> None:
    """From the third failed pass on, with the server's words. A new agent has a status too."""
    stage = Stage(SimulatedCluster())
    await fail(stage, request_, fault, 2)
    assert "status" not in stage.simulated.agent
    assert [] == stage.reasons
    await fail(stage, request_, fault, 1)
    assert ["RequestFailing"] == stage.reasons
    status = stage.simulated.status
    assert (Phase.FAILED, ("True", "RequestFailing")) == (status.phase, stage.simulated.condition("Stalled"))
    assert ("False", "RequestFailing") == stage.simulated.condition("Ready")
    assert f"Cause: {fault}" in (status.plan or "")


async def test_a_read_that_is_refused_is_reported() -> None:
    """A missing right to read: no write is refused, so nothing else reports it."""
    stage = Stage(SimulatedCluster())
    await fail(stage, "list Pod", RefusedError("pods is forbidden", status=403), 3)
    assert ["RequestFailing"] == stage.reasons


async def test_a_request_that_keeps_failing_is_reported_once() -> None:
    """Further failures with the same words write nothing."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    await fail(stage, "apply Deployment", WEBHOOK_AWAY, 6)
    assert (1, 1) == (stage.writes.count(STATUS), stage.writes.count("create Event"))
    assert "5.1.14" == stage.simulated.status.active_version


async def test_a_status_that_cannot_be_written_is_reported_by_an_event() -> None:
    """And by the log: both have the reason."""
    stage = Stage(SimulatedCluster())
    stage.cluster.faults[STATUS] = [WEBHOOK_AWAY] * 4
    for _ in range(3):
        with pytest.raises(ClusterError):
            await stage.one_pass()
    assert ["RequestFailing"] == stage.reasons


async def test_a_request_that_succeeds_again_leaves_no_trace() -> None:
    """The next pass reports the rollout, and the failures before it do not count."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    await fail(stage, "apply Deployment", WEBHOOK_AWAY, 3)
    await stage.one_pass()
    assert Phase.HANDING_OFF is stage.simulated.status.phase
    assert ("False", "Settled") == stage.simulated.condition("Stalled")
    stage.simulated.edit(version="5.1.16")
    stage.watch()
    await fail(stage, "apply Deployment", WEBHOOK_AWAY, 2)
    assert 1 == stage.reasons.count("RequestFailing")


async def test_a_conflict_without_end_is_reported() -> None:
    """A few conflicts are ordinary in a rollout; eight in a row are not."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    conflict = ConflictError("the object has been modified", status=409)
    await fail(stage, "apply Deployment", conflict, 7)
    assert [] == stage.reasons
    await fail(stage, "apply Deployment", conflict, 1)
    assert ["RequestFailing"] == stage.reasons
    assert "Cause: the object has been modified" in (stage.simulated.status.plan or "")


async def test_failures_of_a_deleted_agent_are_forgotten() -> None:
    """A new agent of the same name begins without them."""
    stage = Stage(SimulatedCluster())
    await fail(stage, "get Deployment", WEBHOOK_AWAY, 2)
    stage.seen.drop(KIND, stage.simulated.agent)
    await stage.one_pass()
    stage.simulated.agent["metadata"]["uid"] = "agent-2"
    stage.watch()
    await fail(stage, "get Deployment", WEBHOOK_AWAY, 2)
    assert [] == stage.reasons
