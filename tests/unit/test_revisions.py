"""The pass with revisions: what it creates, deletes and rehearses, and what it reads of others' revisions."""

from __future__ import annotations

import json

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.status import Phase, Strategy
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy.strategy import choose
from medplum_agent_operator.errors import ClusterError, ConflictError, RefusedError
from tests.support.ports import Stage
from tests.support.simulated_cluster import changing, installed
from tests.support.simulated_cluster.apply import copied

REFUSED = RefusedError("exceeded quota: objects", status=403)


@pytest.mark.parametrize("request_", ["would create ControllerRevision", "would apply Deployment"])
@pytest.mark.parametrize(
    ("before", "after", "approval"), [("5.1.15", "4.2.3", "4.2.3 CHG-1"), ("4.2.3", "5.1.15", None)]
)
async def test_a_change_that_stops_first_and_could_not_be_rolled_back_stops_nothing(
    before: str, after: str, approval: str | None, request_: str
) -> None:
    """The dry run of the rollback is refused: the agent keeps serving, nothing unused stays, and the approval stays valid."""
    stage = Stage(installed(before).annotate(approval).edit(version=after).fetched())
    stage.cluster.faults[f"list: {request_}"] = [REFUSED]
    known = set(stage.simulated.revisions)
    assert 60.0 == await stage.one_pass()
    assert "apply Deployment" not in stage.writes
    assert (before, known) == (stage.simulated.applied_version, set(stage.simulated.revisions))
    status = stage.simulated.status
    assert (Phase.FAILED, ("True", "WayBackRefused")) == (status.phase, stage.simulated.condition("Stalled"))
    assert () == status.spent_approvals
    assert f"The change to {after} does not start: if it failed, it could not be rolled back." in (status.plan or "")
    assert "exceeded quota: objects" in (status.plan or "")
    stage.watch()
    await stage.one_pass()
    assert after == stage.simulated.applied_version, "the refusal is over"


async def test_another_programs_rolling_parameters_refuse_no_rehearsal() -> None:
    """kubernetes#24198: the write itself frees them first."""
    stage = Stage(installed("4.2.3").edit(version="5.1.15").fetched())
    refusal = "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"
    stage.cluster.faults["list: would apply Deployment"] = [RefusedError(refusal, status=422)]
    await stage.one_pass()
    assert "5.1.15" == stage.simulated.applied_version


@pytest.mark.parametrize(
    ("before", "after", "fields", "rehearsed"),
    [
        pytest.param("4.2.3", "5.1.15", {}, True, id="it stops first"),
        pytest.param("5.1.14", "5.1.15", {}, False, id="a handoff"),
        pytest.param("4.2.3", "5.1.15", {"handoff": {"onFailure": "Hold"}}, False, id="it would not be rolled back"),
    ],
)
async def test_only_what_would_be_rolled_back_and_stops_first_is_rehearsed(
    before: str, after: str, fields: dict[str, object], *, rehearsed: bool
) -> None:
    """Two requests more."""
    stage = Stage(installed(before, **fields).edit(version=after).fetched())
    await stage.one_pass()
    asked = [request for request in stage.cluster.requests if request.startswith("list: would")]
    assert asked == (["list: would create ControllerRevision", "list: would apply Deployment"] if rehearsed else [])
    assert after == stage.simulated.applied_version


async def test_a_revision_that_is_refused_stops_the_pass() -> None:
    """Nothing else is written."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    stage.cluster.faults["create ControllerRevision"] = [REFUSED]
    assert 60.0 == await stage.one_pass()
    assert "apply Deployment" not in stage.writes
    assert "The change to 5.1.15 does not start: the operator cannot record what it would apply." in (
        stage.simulated.status.plan or ""
    )


async def test_a_revision_whose_use_is_refused_is_deleted_again() -> None:
    """A change that is refused for hours leaves no trail of revisions."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    known = set(stage.simulated.revisions)
    for _ in range(3):
        stage.cluster.faults["apply Deployment"] = [REFUSED]
        await stage.one_pass()
        stage.watch()
    assert known == set(stage.simulated.revisions)


async def test_a_revision_that_cannot_be_deleted_ends_no_pass(caplog: pytest.LogCaptureFixture) -> None:
    """The log names it, and it is never believed."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    stage.cluster.faults["apply Deployment"] = [REFUSED]
    stage.cluster.faults["delete ControllerRevision"] = [ClusterError("no answer")]
    assert 60.0 == await stage.one_pass()
    assert "is not deleted: no answer" in caplog.text
    assert "5.1.14" == stage.simulated.edit(version="5.1.14").settle().applied_version


async def test_a_revision_of_another_operator_is_read_live() -> None:
    """It took over, and the watch of this one has not reported its revision: no false Warning, and no write."""
    stage = Stage(installed("5.1.14"))
    stage.simulated.edit(version="5.1.15").settle()
    stage.seen.put("Deployment", copied(stage.simulated.deployment))
    stage.seen.put("MedplumAgent", copied(stage.simulated.agent))
    await stage.one_pass()
    assert "get ControllerRevision" in stage.cluster.requests
    assert [] == stage.writes
    assert [] == stage.reasons


@pytest.mark.parametrize(
    ("label", "tag", "expected"),
    [
        ("5.1.15", "5.1.15", Strategy.ROLLING_HANDOFF),
        ("4.2.3", "5.1.15", Strategy.RECREATE),
        ("5.1.15", "4.2.3-debian", Strategy.RECREATE),
        ("5.1.15", "of-our-own", Strategy.ROLLING_HANDOFF),
        (None, "4.2.3", Strategy.RECREATE),
    ],
)
def test_the_lower_of_the_spec_and_what_the_template_runs_decides(
    label: str | None, tag: str, expected: Strategy
) -> None:
    """The spec says 5.1.15; the template that is to be written may run something else."""
    template = {
        "metadata": {"labels": {} if label is None else {names.VERSION_LABEL: label}},
        "spec": {"containers": [{"name": "agent", "image": f"registry.example.org/agent:{tag}"}]},
    }
    seen = installed("5.1.14").observe()
    assert expected is choose(seen, AgentVersion.parse("5.1.15"), host_ports=False, template=template).strategy


def test_a_template_that_was_put_back_by_hand_proves_nothing_about_the_applied_one() -> None:
    """`kubectl rollout undo` in the middle of a change: what serves then is not what was applied, which was never active."""
    cluster = changing("5.1.15", "5.1.16")
    before = cluster.memory.notes.before
    assert before is not None
    cluster.edit_template(lambda template: template.update(copied(dict(before.applied.template))))
    cluster.settle(operator=False)
    seen = cluster.observe()
    assert ("5.1.15", False) == (str(seen.last_active), seen.activation.became_active)


async def test_devices_notice_nothing_of_a_change_that_could_not_be_rolled_back() -> None:
    """The rehearsal comes before the Service: a port that moves would cut a working agent off."""
    stage = Stage(installed("4.2.3").edit(version="5.1.15", channels=[{"name": "adt", "port": 3000}]).fetched())
    stage.cluster.faults["list: would apply Deployment"] = [REFUSED]
    await stage.one_pass()
    assert "WayBackRefused" == stage.simulated.condition("Stalled")[1]
    assert [2575] == [port["port"] for port in stage.simulated.objects["Service"]["spec"]["ports"]]


async def test_a_change_is_not_rehearsed_while_no_agent_serves() -> None:
    """There is nothing to lose."""
    cluster = installed("4.2.3")
    cluster.never_ready.add("4.2.3")
    cluster.evict().settle()
    stage = Stage(cluster.edit(version="5.1.15"))
    stage.cluster.faults["list: would apply Deployment"] = [REFUSED]
    await stage.one_pass()
    assert "5.1.15" == stage.simulated.applied_version


async def test_a_conflict_deletes_no_revision() -> None:
    """A proxy may have sent a write twice: then the second answer is a conflict, and the revision is in force."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    known = set(stage.simulated.revisions)
    stage.cluster.faults["apply Deployment"] = [ConflictError("changed", status=409)]
    with pytest.raises(ConflictError):
        await stage.one_pass()
    assert known < set(stage.simulated.revisions)


async def test_a_write_that_fails_for_hours_leaves_ten_revisions() -> None:
    """A webhook whose backend is away: each try creates one, and outdated ones go first."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    for _ in range(30):
        stage.cluster.faults["apply Deployment"] = [ClusterError("no answer", status=500)]
        with pytest.raises(ClusterError):
            await stage.one_pass()
        stage.watch()
    assert 11 >= len(stage.simulated.revisions)
    assert stage.simulated.in_force in stage.simulated.revisions


async def test_an_object_of_another_with_the_name_of_a_revision_is_not_taken_for_it() -> None:
    """Its content is not what the operator wanted to create."""
    stage = Stage(installed("5.1.14").edit(version="5.1.15"))
    (action, *_) = stage.simulated.plan().actions
    theirs = {**copied(dict(action.body)), "data": {"spec": {}}}
    stage.simulated.revisions[action.name] = theirs
    with pytest.raises(ConflictError):
        await stage.one_pass()
    assert "apply Deployment" not in stage.writes


def test_a_live_template_that_a_user_made_like_the_wanted_one_still_is_a_rollout() -> None:
    """Otherwise the record would name the version before, and the way back to it would need no approval."""
    cluster, other = installed("5.1.15"), installed("5.1.15").edit(version="5.1.16").settle()
    wanted = copied(other.deployment["spec"]["template"])
    cluster.edit(version="5.1.16").edit_template(lambda template: template.update(wanted))
    cluster.settle()
    assert ("5.1.16", "5.1.16") == (cluster.record.to, cluster.status.last_good_version)
    cluster.edit(version="5.1.15").settle()
    assert "DowngradeNotApproved" == cluster.condition("Ready")[1]


def test_no_older_revision_is_believed_if_that_of_status_is_gone() -> None:
    """Whatever the Deployment names."""
    cluster = installed("5.1.14").edit(version="5.1.15").settle()
    first, last = min(cluster.revisions), cluster.in_force
    del cluster.revisions[last]
    cluster.deployment["metadata"]["annotations"][names.REVISION] = first
    cluster.count += 1
    assert "5.1.15" == cluster.settle().applied_version
    assert "5.1.15" == cluster.record.to


def test_of_two_revisions_with_one_number_that_of_status_counts() -> None:
    """The answer to a create was lost, another was created with the number, and the first one landed late."""
    cluster = installed("5.1.14").edit(version="5.1.15").settle()
    twin = copied(cluster.revisions[cluster.in_force])
    twin["metadata"]["name"] = cluster.in_force[:-10] + "0123456789"
    twin["data"]["record"]["to"] = "4.2.3"
    cluster.revisions[twin["metadata"]["name"]] = twin
    cluster.deployment["metadata"]["annotations"][names.REVISION] = twin["metadata"]["name"]
    cluster.count += 1
    cluster.settle()
    assert "5.1.15" == cluster.record.to
    assert twin["metadata"]["name"] != cluster.in_force


@pytest.mark.parametrize("record", ["genuine", "removed", "forged", "of an earlier rollout"])
def test_before_the_hand_over_an_edited_template_is_no_approved_downgrade(record: str) -> None:
    """5.1.15 was active; somebody puts 5.1.13 into template and spec while no operator runs. It needs an approval."""
    cluster = installed("5.1.13").edit(version="5.1.15").settle()
    first = cluster.revisions[min(cluster.revisions)]["data"]
    cluster.as_before_revisions()
    marks = cluster.deployment["metadata"]["annotations"]
    if record == "removed":
        del marks[names.ROLLOUT]
    elif record == "forged":
        marks[names.ROLLOUT] = json.dumps({**json.loads(marks[names.ROLLOUT]), "from": "5.1.15", "to": "5.1.13"})
    elif record == "of an earlier rollout":
        marks[names.ROLLOUT] = json.dumps(first["record"])
    cluster.edit_template(lambda template: template.update(copied(first["template"]["template"])))
    cluster.edit(version="5.1.13").settle()
    assert ("DowngradeNotApproved", "5.1.15") == (cluster.condition("Ready")[1], cluster.status.last_good_version)


def test_a_rollbacks_revision_has_its_state_once() -> None:
    """The API server's limit is about 1.5 MiB, and no dry run sees it."""
    cluster = changing("5.1.14", "5.1.15").wait_for_deadline()
    data = cluster.revisions[cluster.in_force]["data"]
    assert data["before"] is True
    assert cluster.memory.notes.state == cluster.memory.notes.before
