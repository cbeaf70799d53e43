"""The status: what it tells, and that no crash makes it forget a rollout or a used approval."""

from __future__ import annotations

from datetime import timedelta

import pytest

from medplum_agent_operator.api.reasons import ConditionType, Reason
from medplum_agent_operator.api.status import Condition, ConditionStatus, Outcome, Phase, parse_status
from medplum_agent_operator.core.observed.findings import Message, warning
from medplum_agent_operator.core.plan import make_plan
from medplum_agent_operator.core.report.conditions import conditions
from medplum_agent_operator.core.status import LONGEST_HISTORY, project, unreadable
from tests.support.builders import CONFIG, NOW, SERVER, agent, observed, owned_by
from tests.support.simulated_cluster import OperatorDiedError, SimulatedCluster, changing, installed
from tests.support.simulated_cluster.situations import HOLD


def told(cluster: SimulatedCluster) -> list[tuple[str | None, str, Outcome | None]]:
    """History as from, to, outcome; the latest first."""
    return [(entry.from_version, entry.to, entry.outcome) for entry in cluster.status.history]


def test_an_installation_is_the_first_entry() -> None:
    """It came from nothing, and neither gap nor overlap is told of it."""
    (entry,) = installed("5.1.15").status.history
    assert (None, "5.1.15", Outcome.COMPLETED) == (entry.from_version, entry.to, entry.outcome)
    assert (None, None, None) == (entry.gap_seconds, entry.overlap_seconds, entry.approval)


def test_a_change_of_version_costs_at_most_three_status_writes() -> None:
    """Begun, and done: what changes in between costs none."""
    cluster = installed("5.1.14")
    before = len(cluster.writes)
    cluster.edit(version="5.1.15").settle()
    assert 1 == cluster.writes[before:].count("Deployment")
    assert cluster.writes[before:].count("status") <= 3


def test_a_change_that_stops_first_costs_one_more_where_the_drain_is_long() -> None:
    """Begun, the old one ended, the new one ready, done: the moment of the end is noted when it is over, for the gap."""
    cluster = installed("5.1.15", handoff={"minReadySeconds": 2, "drainSeconds": 5, "progressDeadlineSeconds": 60})
    before = len(cluster.writes)
    cluster.annotate("4.2.3").edit(version="4.2.3").settle()
    assert (1, 5) == (cluster.writes[before:].count("Deployment"), cluster.writes[before:].count("status"))


def test_a_handoff_in_history() -> None:
    """No gap; an overlap from the new pod's readiness to the old one's end."""
    entry = installed("5.1.14").edit(version="5.1.15").settle().status.history[0]
    assert ("5.1.14", "5.1.15", "RollingHandoff", Outcome.COMPLETED) == (
        entry.from_version,
        entry.to,
        entry.strategy,
        entry.outcome,
    )
    # Two seconds ready, then a drain of two.
    assert (0.0, 4.0) == (entry.gap_seconds, entry.overlap_seconds)


BY_KUBECTL = [
    {
        "manager": "kubectl-annotate",
        "time": "2026-09-01T12:00:00Z",
        "fieldsV1": {"f:metadata": {"f:annotations": {"f:agents.medplum.com/force-downgrade": {}}}},
    }
]
"""What the API server notes of who set the approval."""


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.ABORTED, Outcome.SUPERSEDED])
def test_history_tells_who_approved_a_downgrade_that_was_given_up_too(outcome: Outcome) -> None:
    """Taken back, given up, or given up for another one."""
    cluster = installed("5.1.15").annotate("4.2.3 CHG-1042").edit(version="4.2.3")
    cluster.agent["metadata"]["managedFields"] = BY_KUBECTL
    cluster.never_ready.add("4.2.3")
    cluster.until(lambda: cluster.applied_version == "4.2.3")
    cluster.reconcile()
    if outcome is Outcome.FAILED:
        cluster.settle().wait_for_deadline()
    else:
        cluster.edit(version="5.1.15" if outcome is Outcome.ABORTED else "5.1.16").settle()
    [entry] = [entry for entry in cluster.status.history if entry.to == "4.2.3"]
    assert entry.approval is not None
    assert (outcome, "4.2.3 CHG-1042", "kubectl-annotate") == (entry.outcome, entry.approval.text, entry.approval.by)


def test_a_recreate_in_history() -> None:
    """A gap from the old one's end to the new one's readiness: not its drain; no overlap; who approved what."""
    cluster = installed("5.1.15").annotate("4.2.3 CHG-1042").edit(version="4.2.3")
    cluster.agent["metadata"]["managedFields"] = BY_KUBECTL
    entry = cluster.settle().status.history[0]
    assert ("5.1.15", "4.2.3", "Recreate") == (entry.from_version, entry.to, entry.strategy)
    assert (2.0, 0.0) == (entry.gap_seconds, entry.overlap_seconds)
    assert entry.approval is not None
    assert ("4.2.3 CHG-1042", "kubectl-annotate") == (entry.approval.text, entry.approval.by)


def test_a_rollout_that_missed_its_deadline_stands_once_in_history_and_is_mended_in_place() -> None:
    """Failed while it hangs, Completed when it comes right: one entry, at the same start."""
    cluster = changing("5.1.14", "5.1.15", handoff=HOLD).wait_for_deadline()
    assert ("5.1.14", "5.1.15", Outcome.FAILED) == told(cluster)[0]
    started = cluster.status.history[0].started_at
    cluster.never_ready.clear()
    cluster.settle()
    assert [("5.1.14", "5.1.15", Outcome.COMPLETED), (None, "5.1.14", Outcome.COMPLETED)] == told(cluster)
    assert started == cluster.status.history[0].started_at


@pytest.mark.parametrize(
    ("then", "outcome"),
    [
        pytest.param("5.1.16", Outcome.SUPERSEDED, id="for another target: Superseded"),
        pytest.param("5.1.14", Outcome.ABORTED, id="for the version that serves: Aborted"),
    ],
)
def test_a_target_that_is_given_up_is_told(then: str, outcome: Outcome) -> None:
    """The entry of the target that never became active, and then the one of what came after it."""
    cluster = changing("5.1.14", "5.1.15").edit(version=then).settle()
    assert [("5.1.14", then, Outcome.COMPLETED), ("5.1.14", "5.1.15", outcome)] == told(cluster)[:2]


def test_a_failed_rollout_that_is_given_up_stays_failed() -> None:
    """That it was left later does not make it look better."""
    cluster = changing("5.1.14", "5.1.15", handoff=HOLD).wait_for_deadline().edit(version="5.1.14").settle()
    assert ("5.1.14", "5.1.15", Outcome.FAILED) == told(cluster)[1]


def test_a_rollout_that_is_under_way_is_no_failure_because_something_else_is() -> None:
    """A Service that somebody else owns stalls the agent; the rollout that goes on meanwhile has not missed its deadline."""
    cluster = changing("5.1.14", "5.1.15")
    cluster.objects["Service"]["metadata"]["ownerReferences"] = []
    cluster.reconcile()
    assert (Phase.FAILED, Reason.NAME_TAKEN) == (cluster.status.phase, cluster.plans[-1].reason)
    assert [(None, "5.1.14", Outcome.COMPLETED)] == told(cluster)


@pytest.mark.parametrize("writes", range(4))
@pytest.mark.parametrize(
    ("before", "after", "approval"),
    [("5.1.14", "5.1.15", None), ("5.1.15", "4.2.3", "4.2.3 CHG-1"), ("4.2.3", "5.1.15", None)],
)
def test_killed_at_any_write_the_operator_forgets_neither_rollout_nor_approval(
    before: str, after: str, approval: str | None, writes: int
) -> None:
    """Killed after each number of writes, and started again: the same history as without."""
    cluster = installed(before).annotate(approval).edit(version=after)
    try:
        cluster.reconcile(dies_after=writes)
    except OperatorDiedError:
        cluster.tick()
    cluster.settle()
    assert [(before, after, Outcome.COMPLETED), (None, before, Outcome.COMPLETED)] == told(cluster)
    assert (() if approval is None else (approval,)) == cluster.status.spent_approvals


def test_a_rollout_that_ended_while_the_operator_was_away_is_told_afterwards() -> None:
    """Killed right after the Deployment was written, gone until all is over: the entry is there."""
    cluster = installed("5.1.14").edit(version="5.1.15")
    with pytest.raises(OperatorDiedError):
        cluster.reconcile(dies_after=2)
    cluster.settle(operator=False).settle()
    assert ("5.1.14", "5.1.15", Outcome.COMPLETED) == told(cluster)[0]
    entry = cluster.status.history[0]
    assert (None, None) == (entry.gap_seconds, entry.overlap_seconds)  # nobody saw the old one end


def test_history_keeps_the_latest_ten() -> None:
    """The oldest go."""
    cluster = installed("5.1.0")
    for minor in range(1, 13):
        cluster.edit(version=f"5.1.{minor}").settle()
    assert LONGEST_HISTORY == len(cluster.status.history)
    assert [f"5.1.{minor}" for minor in range(12, 2, -1)] == [entry.to for entry in cluster.status.history]


def test_a_used_approval_is_remembered_when_history_is_full() -> None:
    """Ten further rollouts push its entry out of history; the text still counts no more."""
    cluster = installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").settle()
    for minor in range(11):
        cluster.edit(version=f"5.1.{minor}").settle()
    assert not any(entry.approval for entry in cluster.status.history)
    cluster.edit(version="4.2.3").settle()
    assert (Phase.AWAITING_APPROVAL, Reason.APPROVAL_SPENT) == (cluster.status.phase, cluster.plans[-1].reason)
    assert "5.1.10" == cluster.applied_version


def test_a_used_approval_is_never_forgotten() -> None:
    """Neither another text in its place nor the annotation's removal frees it: GitOps that puts it back approves nothing."""
    cluster = installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").settle().edit(version="5.1.15").settle()
    cluster.annotate("4.2.3 CHG-2").settle()
    assert ["4.2.3 CHG-1"] == list(cluster.status.spent_approvals)
    cluster.annotate(None).settle()
    assert ["4.2.3 CHG-1"] == list(cluster.status.spent_approvals)
    cluster.annotate("4.2.3 CHG-1").edit(version="4.2.3").settle()
    assert (["5.1.15"], Reason.APPROVAL_SPENT) == (cluster.running, cluster.plans[-1].reason)
    cluster.annotate("4.2.3 CHG-2").settle()
    assert (["4.2.3"], ("4.2.3 CHG-1", "4.2.3 CHG-2")) == (cluster.running, cluster.status.spent_approvals)


def test_more_approvals_than_status_lists_are_all_remembered() -> None:
    """Sixty downgrades later the first text, taken off and put back, still approves nothing."""
    cluster = installed("5.1.15")
    for number in range(60):
        cluster.annotate(f"4.2.3 CHG-{number}").edit(version="4.2.3").settle().edit(version="5.1.15").settle()
    cluster.annotate(None).settle().annotate("4.2.3 CHG-0").edit(version="4.2.3").settle()
    assert (["5.1.15"], Reason.APPROVAL_SPENT) == (cluster.running, cluster.plans[-1].reason)
    assert (50, 10) == (len(cluster.status.spent_approvals), len(cluster.status.spent_fingerprints))


def test_an_approval_whose_downgrade_failed_is_spent_too() -> None:
    """Used is used: the same text does not approve a second try."""
    cluster = changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1").wait_for_deadline()
    cluster.edit(version="5.1.15").settle().edit(version="4.2.3").settle()
    assert Reason.APPROVAL_SPENT is cluster.plans[-1].reason
    assert ["5.1.15"] == cluster.running


def test_a_wiped_status_is_written_anew() -> None:
    """It costs the history, but neither a rollout nor a wrong idea of what is active."""
    cluster = installed("5.1.14").edit(version="5.1.15").settle().lose_status()
    writes = len(cluster.writes)
    status = cluster.settle().status
    assert ["status"] == cluster.writes[writes:]
    assert (Phase.RUNNING, "5.1.15", "5.1.15") == (status.phase, status.active_version, status.last_good_version)


CONDITIONS = [
    pytest.param(installed, {"Ready": "True", "Available": "True"}, id="serving what was asked for"),
    pytest.param(lambda: changing("5.1.14", "5.1.15"), {"Reconciling": "True", "Available": "True"}, id="handing off"),
    pytest.param(
        lambda: changing("4.2.3", "5.1.15"),
        {"Reconciling": "True", "Available": "True"},
        id="recreating, the old one drains and serves",
    ),
    pytest.param(lambda: changing("4.2.3", "5.1.15", seconds=5), {"Reconciling": "True"}, id="recreating, in the gap"),
    pytest.param(
        lambda: changing("5.1.14", "5.1.15").wait_for_deadline(),
        {"Stalled": "True", "Available": "True"},
        id="failed, the old one serves",
    ),
    pytest.param(
        lambda: installed("5.1.15").edit(version="4.2.3").settle(),
        {"ApprovalRequired": "True", "Available": "True"},
        id="a downgrade waits",
    ),
    pytest.param(lambda: installed().edit(paused=True).settle(), {"Available": "True"}, id="paused"),
]


@pytest.mark.parametrize(("make", "true"), CONDITIONS)
def test_which_conditions_hold(make: type[SimulatedCluster], true: dict[str, str]) -> None:
    """All but the gate's are always there, each with a reason; those of the row are True, all others False."""
    cluster = make()
    found = {condition.type: condition for condition in cluster.status.conditions}
    assert {str(kind) for kind in ConditionType} - {"Forwarding"} == set(found)
    assert {kind: true.get(kind, "False") for kind in found} == {kind: str(one.status) for kind, one in found.items()}
    assert all(one.reason and one.observed_generation == cluster.status.observed_generation for one in found.values())


def test_a_condition_changes_its_time_only_with_its_status() -> None:
    """Another reason, message or generation leaves the transition time as it was."""
    before = conditions((), {ConditionType.READY: (ConditionStatus.TRUE, "Serving", "a")}, generation=1, now=NOW)
    later = NOW + timedelta(seconds=5)
    (same,) = conditions(before, {ConditionType.READY: (ConditionStatus.TRUE, "Other", "b")}, generation=2, now=later)
    (turned,) = conditions(
        before, {ConditionType.READY: (ConditionStatus.FALSE, "Serving", "a")}, generation=2, now=later
    )
    assert (NOW, "Other", "b", 2) == (same.last_transition_time, same.reason, same.message, same.observed_generation)
    assert (later, ConditionStatus.FALSE) == (turned.last_transition_time, turned.status)


def test_conditions_of_others_are_kept() -> None:
    """A condition type that is not ours stays, whatever the pass says."""
    theirs = Condition(type="Backup", status=ConditionStatus.TRUE, reason="Done", message="", last_transition_time=NOW)
    cluster = installed()
    cluster.agent["status"]["conditions"].append(theirs.model_dump(by_alias=True, mode="json", exclude_none=True))
    cluster.edit(version="5.1.16").settle()
    assert theirs in cluster.status.conditions


def test_nothing_within_a_handoff_that_people_do_not_need_costs_a_write() -> None:
    """Pod names, counts and seconds are not in the messages: between its beginning and its end status stays as it is."""
    cluster = changing("5.1.14", "5.1.15")
    writes = list(cluster.writes)
    for _ in range(15):
        cluster.tick()
        cluster.reconcile()
    assert writes == cluster.writes


def test_an_unreadable_spec_leaves_everything_known_in_place() -> None:
    """Only phase, plan and conditions tell of the fault; whether an agent serves is as it was."""
    before = installed().status
    fault = warning(Reason.INVALID_SPEC, Message("No."))
    after = unreadable(before, fault, generation=7, now=NOW)
    assert (before.history, before.active_version) == (after.history, after.active_version)
    assert (Phase.FAILED, "No.", 7) == (after.phase, after.plan, after.observed_generation)
    holds = {condition.type for condition in after.conditions if condition.status is ConditionStatus.TRUE}
    assert {"Stalled", "Available"} == holds


def test_in_the_gap_of_a_recreate_no_version_is_active() -> None:
    """`activeVersion` is what pods run, not what somebody wishes."""
    cluster = changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1", seconds=6)
    assert ["4.2.3"] == cluster.running
    assert (None, "4.2.3", "5.1.15") == (
        cluster.status.active_version,
        cluster.status.target_version,
        cluster.status.last_good_version,
    )


def test_while_refused_status_tells_both_versions() -> None:
    """`activeVersion` differs from `spec.version`, and that is a state like any other."""
    status = installed("5.1.15").edit(version="4.2.3", server=SERVER).settle().status
    assert ("5.1.15", "4.2.3", Phase.AWAITING_APPROVAL) == (status.active_version, status.target_version, status.phase)


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        pytest.param(
            {"phase": "Dreaming", "activeVersion": "5.1.15"}, {"activeVersion": "5.1.15"}, id="an unknown phase"
        ),
        pytest.param(
            {"history": [{"to": "5.1.15"}, 7, {}]}, {"history": [{"to": "5.1.15"}]}, id="history entries that are none"
        ),
        pytest.param(
            {"conditions": "junk", "spentApprovals": ["a", 3]}, {"spentApprovals": ["a"]}, id="junk instead of lists"
        ),
        pytest.param({"fromTheFuture": 1}, {}, id="a field of a later release"),
    ],
)
def test_a_broken_status_reads_as_far_as_it_can(raw: dict[str, object], kept: dict[str, object]) -> None:
    """What does not fit reads as absent; everything beside it stays."""
    dumped = parse_status(raw).model_dump(by_alias=True, exclude_none=True, mode="json")
    assert kept == {key: value for key, value in dumped.items() if value}


def test_a_deleted_namesake_s_rollouts_are_not_this_agent_s() -> None:
    """While its Deployment waits for garbage collection, the new agent has no history, no last good version, no rollout."""
    left = owned_by(installed("5.1.15").deployment, "agent-0")
    seen = observed(agent("4.2.3"), deployment=left)
    status = project(seen, make_plan(seen, config=CONFIG, now=NOW), now=NOW)
    assert (Phase.INSTALLING, [], None, None) == (
        status.phase,
        list(status.history),
        status.rollout,
        status.last_good_version,
    )


def test_a_message_beyond_what_a_condition_takes_is_cut() -> None:
    """An admission webhook may say anything, and the pass that tells of it must not fail for that."""
    told = {ConditionType.READY: (ConditionStatus.FALSE, "WriteRefused", "x" * 40_000)}
    [ready] = conditions([], told, generation=1, now=NOW)
    assert 32_768 == len(ready.message)


def test_a_refused_agent_can_be_read_in_describe() -> None:
    """`kubectl describe` shows all of status: no long line in a condition, no paragraph twice, and the command at the plan's end."""
    status = installed("5.1.15").edit(version="4.2.3").settle().status
    plan = (status.plan or "").splitlines()
    assert plan[-1].startswith("Command: kubectl annotate medplumagent ")
    assert 220 >= max(map(len, plan))
    assert {1} == set(map(plan.count, plan))
    for condition in status.conditions:
        assert "\n" not in condition.message
        assert 120 >= len(condition.message)
    everything = status.model_dump_json()
    assert [] == [line for line in plan[1:] if everything.count(line) > 1]
