"""A change that fails ends with what was active before, exactly as it was, and is not tried again by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Outcome, Phase, Strategy
from medplum_agent_operator.core.observed.drift import first_difference
from medplum_agent_operator.core.observed.findings import Message, warning
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.plan import make_plan
from medplum_agent_operator.core.policy.failure import has_failed, record_failure, should_roll_back
from medplum_agent_operator.core.report.progress import DEFERRAL
from tests.support.builders import CONFIG, NOW, agent, observed, parsed, spec_of
from tests.support.simulated_cluster import SimulatedCluster
from tests.support.simulated_cluster.admission import AdmittingCluster
from tests.support.simulated_cluster.apply import copied
from tests.support.simulated_cluster.situations import HOLD, QUICK, changing, installed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.builders import Raw

NO_IMAGE = ("ImagePullBackOff", "Back-off pulling image: ErrImagePull: registry.example.org/x: not found")
CRASHES = ("CrashLoopBackOff", "back-off restarting failed container")


def failed(before: str = "5.1.14", after: str = "5.1.15", **options: Any) -> SimulatedCluster:
    """A change that missed its deadline and was taken back; all is at rest."""
    return changing(before, after, **options).wait_for_deadline()


def history(cluster: SimulatedCluster) -> list[tuple[str | None, str, Outcome | None, str | None]]:
    """From, to, outcome, and what was taken back."""
    return [(one.from_version, one.to, one.outcome, one.rolled_back_from) for one in cluster.status.history]


def retry(cluster: SimulatedCluster, text: str) -> SimulatedCluster:
    """Somebody asks for another try."""
    cluster.agent["metadata"]["annotations"][names.RETRY] = text
    cluster._touch(cluster.agent)
    return cluster


def test_a_failed_handoff_never_stops_the_old_agent() -> None:
    """The old pod stays, the new one is deleted, and the plan has the cause and the ways out."""
    cluster = changing("5.1.14", "5.1.15")
    (old,) = [pod.name for pod in cluster.pods if pod.ready_since is not None]
    cluster.wait_for_deadline()
    assert [old] == [pod.name for pod in cluster.pods]
    status = cluster.status
    assert (Phase.FAILED, "5.1.14", "5.1.15") == (status.phase, status.active_version, status.target_version)
    assert ("True", "PortNotReady") == cluster.condition("Stalled")
    assert ("True", "Serving") == cluster.condition("Available")
    for words in (
        "The change from 5.1.14 to 5.1.15 failed and was rolled back; it is not retried automatically.\nCause: Pod ",
        "Impact: 5.1.14 keeps serving devices.",
        'agents.medplum.com/retry="',
        'set spec.version back to "5.1.14", which needs no approval',
    ):
        assert words in (status.plan or "")


def test_history_tells_of_the_change_and_of_its_way_back() -> None:
    """Two rollouts, two entries."""
    assert [
        ("5.1.14", "5.1.14", Outcome.COMPLETED, "5.1.15"),
        ("5.1.14", "5.1.15", Outcome.FAILED, None),
        (None, "5.1.14", Outcome.COMPLETED, None),
    ] == history(failed())


def test_during_a_rollback_the_plan_says_so() -> None:
    """The phase is RollingBack, with the cause; afterwards the failure is still reported."""
    cluster = changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1")
    cluster.settle().tick(61)
    cluster.until(lambda: cluster.record.rolled_back_from is not None and cluster.plans[-1].begins is None)
    assert Phase.ROLLING_BACK is cluster.status.phase
    assert (cluster.status.plan or "").startswith(
        "Rolling back to 5.1.15 by recreate: the change to 4.2.3 failed.\nRollout: Recreate, because 4.2.3 is older than 4.2.4 and cannot run beside another agent.\nCause: Pod "
    )
    assert Phase.FAILED is cluster.settle().status.phase


@pytest.mark.parametrize(
    ("before", "after", "approval"),
    [
        pytest.param("5.1.15", "4.2.3", "4.2.3 CHG-1", id="a forced downgrade to a broken version"),
        pytest.param("4.2.3", "5.1.15", None, id="an upgrade from below 4.2.4"),
    ],
)
def test_a_failed_recreate_brings_back_what_was_active_by_recreate(
    before: str, after: str, approval: str | None
) -> None:
    """The broken one is stopped first (I1 is asserted at every turn), and what was active serves again."""
    cluster = failed(before, after, approval=approval)
    assert [before] == cluster.running
    assert (Phase.FAILED, before) == (cluster.status.phase, cluster.status.active_version)
    assert [
        (before, before, Outcome.COMPLETED, after),
        (before, after, Outcome.FAILED, None),
    ] == history(cluster)[:2]


def test_what_bound_a_port_of_its_node_comes_back_by_stopping_first() -> None:
    """The failed one binds none; what comes back does, as it did when it served."""
    bound = [{"name": "adt", "port": 2575, "hostPort": 2575}]
    cluster = installed("5.1.14", channels=bound)
    cluster.never_ready.add("5.1.15")
    cluster.edit(version="5.1.15", channels=[{"name": "adt", "port": 2575}]).settle().wait_for_deadline()
    assert ("5.1.15", Strategy.RECREATE) == (cluster.record.rolled_back_from, cluster.record.strategy)


def test_the_way_back_is_one_change_of_the_pods_also_beside_one_whose_version_nobody_can_read() -> None:
    """Such a pod may not be able to hand over: what comes back waits for its end. The agent that serves is of the template that comes back, and stays."""
    cluster = changing("5.1.14", "5.1.15").settle()
    cluster.tick(61)
    seen = cluster.observe()
    (broken,) = seen.current_pods
    seen = replace(seen, pods=(*seen.earlier_pods, replace(broken, version=None)))
    plan = make_plan(seen, config=CONFIG, now=cluster.now)
    (change,) = (action for action in plan.actions if action.kind == "Deployment")
    assert (True, "spec.strategy.type") == (change.disruptive, change.difference)
    assert plan.begins is not None
    assert ("5.1.15", Strategy.RECREATE) == (plan.begins.rolled_back_from, plan.begins.strategy)
    assert (False, cluster.now + DEFERRAL) == (plan.defer_reporting, plan.requeue_at)


def test_what_fails_while_the_way_back_is_under_way_leads_to_the_same() -> None:
    """4.2.3 failed, 5.1.15 is on its way back and not there yet, 5.1.16 is asked for and fails as well."""
    cluster = changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1")
    cluster.never_ready.add("5.1.16")
    cluster.until(lambda: cluster.record.rolled_back_from is not None)
    assert "5.1.15" not in cluster.running
    cluster.edit(version="5.1.16").settle().wait_for_deadline()
    assert ("5.1.16", "5.1.15", ["5.1.15"]) == (cluster.record.rolled_back_from, cluster.record.to, cluster.running)


def test_an_approval_whose_downgrade_failed_is_spent() -> None:
    """Another try needs another approval, and the command in the plan has one."""
    cluster = failed("5.1.15", "4.2.3", approval="4.2.3")
    assert ("4.2.3",) == cluster.status.spent_approvals
    assert 'force-downgrade="4.2.3 approval 2"' in (cluster.status.plan or "")
    retry(cluster, "please").settle()
    assert (Phase.AWAITING_APPROVAL, ["5.1.15"]) == (cluster.status.phase, cluster.running)
    cluster.never_ready.clear()
    assert ["4.2.3"] == cluster.annotate("4.2.3 CHG-2").settle().running


def test_a_new_approval_is_another_try() -> None:
    """A person has said so, about exactly this change."""
    cluster = failed("5.1.15", "4.2.3", approval="4.2.3 CHG-1")
    cluster.never_ready.clear()
    assert ["4.2.3"] == cluster.annotate("4.2.3 CHG-2").settle().running


def test_what_failed_is_not_tried_again_by_itself() -> None:
    """Not when the cause has gone, not by another operator, not with a status that somebody wiped, not over a pause."""
    cluster = failed()
    cluster.never_ready.clear()
    rollouts = list(cluster.books.rollouts)
    cluster.settle().tick(3600)
    cluster.settle().lose_status().settle()
    cluster.edit(paused=True).settle().edit(paused=False).settle()
    assert rollouts == cluster.books.rollouts
    assert (Phase.FAILED, ["5.1.14"]) == (cluster.status.phase, cluster.running)


def test_at_rest_after_a_rollback_nothing_is_written() -> None:
    """Stalled is a stable state."""
    cluster = failed()
    writes = list(cluster.writes)
    cluster.settle().tick(600)
    cluster.settle()
    assert writes == cluster.writes


@pytest.mark.parametrize("opens", ["retry", "another spec", "there and back"])
def test_what_opens_the_latch(opens: str) -> None:
    """A new text in the annotation; any other spec; going back to what serves, and asking anew."""
    cluster = failed()
    cluster.never_ready.clear()
    if opens == "retry":
        retry(cluster, "now")
    elif opens == "another spec":
        cluster.edit(logging={"level": "DEBUG"})
    else:
        cluster.edit(version="5.1.14").settle()
        assert (Phase.RUNNING, "True") == (cluster.status.phase, cluster.condition("Ready")[0])
        cluster.edit(version="5.1.15")
    assert (["5.1.15"], Phase.RUNNING) == (cluster.settle().running, cluster.status.phase)


def test_the_same_retry_counts_once() -> None:
    """It fails again: then that text is used up."""
    cluster = retry(failed(), "once").settle().wait_for_deadline()
    assert 2 == [entry.outcome for entry in cluster.status.history].count(Outcome.FAILED)
    rollouts = list(cluster.books.rollouts)
    assert rollouts == cluster.settle().books.rollouts


def test_what_was_asked_for_before_it_failed_opens_nothing() -> None:
    """Neither the retry nor the approval that stood there already."""
    cluster = changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1")
    retry(cluster, "once more").settle().wait_for_deadline()
    noted = cluster.record.failed
    assert noted is not None
    assert ("once more", "4.2.3 CHG-1") == (noted.retry, noted.approval)
    rollouts = list(cluster.books.rollouts)
    assert rollouts == cluster.settle().books.rollouts


@pytest.mark.parametrize("text", [None, "", "  "])
def test_an_annotation_that_says_nothing_is_none(text: str | None) -> None:
    """It neither opens the latch nor is it kept."""
    cluster = failed()
    annotations = cluster.agent["metadata"]["annotations"]
    annotations.pop(names.RETRY, None)
    if text is not None:
        annotations[names.RETRY] = text
    noted = record_failure(MedplumAgent.parse(cluster.agent), spec_of("5.1.15"), WHY)
    assert (None, None) == (noted.retry, noted.approval)


WHY = warning(Reason.PORT_NOT_READY, Message("It does not listen."))


@pytest.mark.parametrize(("length", "kept"), [(1999, 1999), (2000, 2000), (2001, 2000), (9000, 2000)])
def test_a_long_explanation_is_kept_as_far_as_there_is_room(length: int, kept: int) -> None:
    """And ends with an ellipsis then."""
    message = record_failure(parsed("5.1.14"), spec_of("5.1.15"), replace(WHY, message=Message("x" * length))).message
    assert (kept, "…" if length > kept else "x") == (len(message), message[-1])
    assert "x" * (kept - 1) == message[:-1]


def test_a_spec_is_known_again_by_every_release() -> None:
    """Another way to tell it would open every latch there is when the operator is upgraded."""
    spec = spec_of("5.1.15", handoff={"drainSeconds": 7}, service={"type": "NodePort"})
    assert "f0a4e966fcdef522" == record_failure(parsed("5.1.15"), spec, WHY).spec


def test_going_back_in_the_spec_is_free_and_replaces_no_pod() -> None:
    """Only the note of the failure is taken off."""
    cluster = failed()
    (pod,) = cluster.pods
    rollouts = list(cluster.books.rollouts)
    cluster.edit(version="5.1.14").settle()
    assert ([pod.name], rollouts) == ([one.name for one in cluster.pods], cluster.books.rollouts)
    assert None is cluster.record.failed
    assert Phase.RUNNING is cluster.status.phase


def test_hold_leaves_things_as_they_are() -> None:
    """Both pods stay; once the cause is fixed, the rollout resumes automatically."""
    cluster = failed(handoff=HOLD)
    assert ["5.1.14", "5.1.15"] == cluster.running
    assert "The change is not rolled back, because spec.handoff.onFailure is Hold." in (cluster.status.plan or "")
    cluster.never_ready.clear()
    assert ["5.1.15"] == cluster.settle().running
    assert [("5.1.14", "5.1.15", Outcome.COMPLETED, None)] == history(cluster)[:1]


def test_a_change_of_settings_is_rolled_back_too() -> None:
    """The version is the same, and the pod that served stays."""
    cluster = installed("5.1.15")
    (old,) = [pod.name for pod in cluster.pods]
    cluster.never_ready.add("5.1.15")
    cluster.edit(podTemplate={"nodeSelector": {"zone": "nowhere"}}).settle().wait_for_deadline()
    assert [old] == [pod.name for pod in cluster.pods]
    assert "nodeSelector" not in cluster.deployment["spec"]["template"]["spec"]
    assert "The change of 5.1.15's settings failed and was rolled back; it is not retried automatically." in (
        cluster.status.plan or ""
    )


def test_a_first_installation_that_fails_has_nothing_to_go_back_to() -> None:
    """Kubernetes goes on trying, and it comes right by itself."""
    cluster = SimulatedCluster()
    cluster.never_ready.add("5.1.15")
    cluster.settle().tick(301)
    cluster.settle()
    assert (Phase.FAILED, 1) == (cluster.status.phase, len(cluster.pods))
    cluster.never_ready.clear()
    assert Phase.RUNNING is cluster.settle().status.phase


def test_a_rollback_that_fails_ends_there() -> None:
    """The previous version does not start any more: no third rollout follows, and the plan has the cause."""
    cluster = changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1")
    cluster.never_ready.add("5.1.15")
    cluster.wait_for_deadline().wait_for_deadline()
    rollouts = list(cluster.books.rollouts)
    assert (Phase.FAILED, 3) == (cluster.status.phase, len(rollouts))
    assert "The rollback to 5.1.15 did not complete within 60 seconds." in (cluster.status.plan or "")
    cluster.never_ready.discard("5.1.15")
    assert ["5.1.15"] == cluster.settle().running
    assert rollouts == cluster.books.rollouts


@pytest.mark.parametrize("killed_after", range(4))
def test_the_way_back_is_known_to_an_operator_that_was_not_there(killed_after: int) -> None:
    """Killed at each write of the rollback, and the next one ends it in the same way."""
    cluster = changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1").settle()
    cluster.tick(61)
    cluster.dies_at_each_pass(after=killed_after, passes=3)
    cluster.settle()
    assert ["5.1.15"] == cluster.running
    assert [
        ("5.1.15", "5.1.15", Outcome.COMPLETED, "4.2.3"),
        ("5.1.15", "4.2.3", Outcome.FAILED, None),
        (None, "5.1.15", Outcome.COMPLETED, None),
    ] == history(cluster)
    assert ("4.2.3 CHG-1",) == cluster.status.spent_approvals


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        pytest.param(NO_IMAGE, Reason.IMAGE_PULL_FAILED, id="the registry has no such image"),
        pytest.param(("ErrImageNeverPull", "not present"), Reason.IMAGE_PULL_FAILED, id="it may not be pulled"),
        pytest.param(("InvalidImageName", "bad"), Reason.IMAGE_PULL_FAILED, id="its name is none"),
        pytest.param(
            ("ImagePullBackOff", "ErrImagePull: 401 Unauthorized"), Reason.IMAGE_PULL_FAILED, id="it is not given to us"
        ),
        pytest.param(
            ("CreateContainerConfigError", 'secret "lab" not found'),
            Reason.CONTAINER_CONFIG_ERROR,
            id="a Secret is missing",
        ),
        pytest.param(CRASHES, Reason.CRASH_LOOP, id="it has ended three times"),
    ],
)
def test_what_no_waiting_mends_is_taken_back_at_once(trouble: tuple[str, str], reason: Reason) -> None:
    """Long before the deadline of a minute, in the container's own words."""
    cluster = installed("5.1.14")
    cluster.troubles["5.1.15"] = trouble
    cluster.edit(version="5.1.15").settle(seconds=30)
    assert (Phase.FAILED, reason) == (cluster.status.phase, cluster.plans[-1].reason)
    assert ["5.1.14"] == cluster.running
    assert [Outcome.COMPLETED, Outcome.FAILED] == [entry.outcome for entry in cluster.status.history][:2]


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(("ErrImagePull", "registry.example.org/x: not found"), id="the first try of a pull"),
        pytest.param(("ImagePullBackOff", "ErrImagePull: dial tcp: i/o timeout"), id="a registry out of reach"),
        pytest.param(("CreateContainerConfigError", "failed to sync secret cache"), id="a Secret that is not read yet"),
        pytest.param(("ContainerCreating", ""), id="slow"),
    ],
)
def test_what_may_come_right_waits_for_the_deadline(trouble: tuple[str, str]) -> None:
    """And does come right."""
    cluster = installed("5.1.14")
    cluster.troubles["5.1.15"] = trouble
    cluster.edit(version="5.1.15").settle()
    assert Phase.HANDING_OFF is cluster.status.phase
    cluster.troubles.clear()
    assert ["5.1.15"] == cluster.settle().running


def test_what_is_brought_back_is_what_was_applied_whatever_this_release_would_render() -> None:
    """The revision counts: an operator that renders otherwise brings back the same pod."""
    cluster = changing("5.1.14", "5.1.15")
    before = cluster.revisions[cluster.in_force]["data"]["before"]
    older = before["applied"]["template"]
    older["metadata"]["annotations"]["rendered-by"] = "an older release"
    cluster.remember(before=before)
    cluster.books.active_template = older
    cluster.wait_for_deadline()
    live = cluster.deployment["spec"]["template"]
    assert older["metadata"] == live["metadata"]
    assert None is first_difference(older, live)


def test_a_rollout_that_an_older_release_began_is_not_rolled_back() -> None:
    """The Deployment does not record what was active before: the plan says so, and the operator guesses nothing."""
    cluster = changing("5.1.14", "5.1.15")
    cluster.as_before_revisions()
    cluster.wait_for_deadline()
    assert ["5.1.14", "5.1.15"] == cluster.running
    assert "an older operator release started it and did not record what was active before" in (
        cluster.status.plan or ""
    )


def test_an_image_that_does_not_come_is_not_waited_for_for_ever() -> None:
    """Nothing was stopped; when the image comes at night, nothing is stopped either, until somebody asks."""
    cluster = installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3")
    cluster.never_pulled.add("4.2.3")
    cluster.settle().tick(61)
    cluster.settle()
    assert (Phase.FAILED, ()) == (cluster.status.phase, cluster.status.spent_approvals)
    cluster.never_pulled.clear()
    assert ["5.1.15"] == cluster.settle().running
    assert ["4.2.3"] == retry(cluster, "the image is there").settle().running


@pytest.mark.parametrize(("before", "after"), [("4.2.3", "5.1.15"), ("5.1.15", "4.2.3")])
def test_what_is_stopped_for_and_tried_again_has_its_deadline_too(before: str, after: str) -> None:
    """Its ReplicaSet is another than that of the first try, of which the Deployment controller goes on saying what was true then."""
    cluster = changing(before, after, approval=f"{after} CHG-1").wait_for_deadline()
    assert [before] == cluster.running
    retry(cluster.annotate(f"{after} CHG-2"), "once more").settle()
    assert after == cluster.applied_version
    assert Phase.RECREATING is cluster.status.phase
    assert "NewReplicaSetAvailable" != cluster.deployment["status"]["conditions"][0]["reason"]
    assert "2" == cluster.deployment["spec"]["template"]["metadata"]["annotations"][names.STOPPED_FIRST]
    cluster.wait_for_deadline()
    assert (Phase.FAILED, [before]) == (cluster.status.phase, cluster.running)
    assert [after, after] == [entry.to for entry in cluster.status.history if entry.outcome is Outcome.FAILED]


def test_what_was_tried_by_a_release_that_numbered_no_stops_has_its_deadline_too() -> None:
    """The ReplicaSet was there before, and the Deployment controller takes that for complete and never gives up."""
    cluster = changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1", seconds=5).settle()
    told = {"reason": "NewReplicaSetAvailable", "message": 'ReplicaSet "lab-1" has successfully progressed.'}
    cluster.deployment["status"]["conditions"][0] |= told
    seen = cluster.observe()
    due = seen.overdue_at
    assert due is not None
    assert (False, True) == (has_failed(seen, now=due - timedelta(microseconds=1)), has_failed(seen, now=due))


@pytest.mark.parametrize(
    ("before", "edits"),
    [
        pytest.param("4.2.3", [{"version": "5.1.15"}, {"version": "4.2.3"}, {"version": "5.1.15"}], id="versions"),
        pytest.param(
            "5.1.15",
            [{"logging": {"level": level}} for level in ("ERROR", "INFO", "ERROR")],
            id="settings, with a port of the node",
        ),
    ],
)
def test_the_same_once_more_is_judged_by_this_time(before: str, edits: list[Any]) -> None:
    """It was active before, and now it never opens its port: it has not become active, and is taken back."""
    ports = [{"name": "adt", "port": 2575, "hostPort": 2575}]
    cluster = installed(before, channels=ports).annotate("4.2.3 CHG-1")
    for edit in edits[:-1]:
        cluster.edit(**edit).settle()
    (serving,) = cluster.running
    cluster.never_ready.add(edits[-1].get("version", "5.1.15"))
    cluster.edit(**edits[-1]).settle()
    assert not cluster.observe().activation.became_active
    cluster.wait_for_deadline()
    cluster.never_ready.clear()
    assert ("Failed", [serving]) == (cluster.settle().status.phase, cluster.running)
    assert [Outcome.COMPLETED, Outcome.FAILED, Outcome.COMPLETED] == [one.outcome for one in cluster.status.history[:3]]
    assert None is not cluster.status.history[0].rolled_back_from


def test_the_same_once_more_that_became_active_unseen_is_not_taken_back() -> None:
    """5.1.15 again after a forced downgrade; the operator was away for an hour, and comes back in the second in which it is unready."""
    cluster = installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").settle()
    cluster.edit(version="5.1.15").fetched().reconcile()
    for _ in range(3600):
        cluster.tick()
    assert ["5.1.15"] == cluster.running
    (pod,) = cluster.pods
    pod.ready_since, pod.unready_since = None, cluster.now
    cluster.never_ready.add("5.1.15")
    cluster.tick()
    cluster.reconcile()
    cluster.reconcile()
    assert None is cluster.record.rolled_back_from
    cluster.never_ready.clear()
    assert ["5.1.15"] == cluster.settle().running


def test_each_change_that_stops_first_has_a_number_of_its_own() -> None:
    """Kept through handoffs and the way back; what comes back is exactly as it was."""

    def numbers() -> tuple[int | None, int]:
        seen = cluster.observe()
        return cluster.record.recreate_count, 0 if seen.deployment is None else seen.deployment.recreate_count

    cluster = installed("4.2.3")
    assert (None, 0) == numbers()
    assert (1, 1) == (cluster.edit(version="5.1.14").settle() and numbers())
    assert (1, 1) == (cluster.edit(version="5.1.15").settle() and numbers())
    cluster.never_ready.add("4.2.3")
    cluster.annotate("4.2.3 CHG-1").edit(version="4.2.3").settle()
    assert (2, 2) == numbers()
    cluster.wait_for_deadline()
    assert (2, 1) == numbers()
    cluster.never_ready.clear()
    cluster.annotate("4.2.3 CHG-2").settle()
    assert (["4.2.3"], (3, 3)) == (cluster.running, numbers())
    cluster.deployment["metadata"]["annotations"][names.ROLLOUT] = "broken"
    assert (4, 4) == (cluster.edit(version="5.1.15").settle() and numbers())


@pytest.mark.parametrize("mark", [None, "2026-09-01"])
def test_a_restart_that_stands_in_the_spec_is_none_by_hand(mark: str | None) -> None:
    """The operator is away from its write until the old agent has ended: what it comes back to is taken back all the same."""
    annotations = {} if mark is None else {names.RESTARTED_AT: mark}
    cluster = installed("4.2.3")
    cluster.never_ready.add("5.1.15")
    cluster.edit(version="5.1.15", podTemplate={"annotations": annotations}).fetched().reconcile()
    assert mark == cluster.record.restart_mark
    for _ in range(10):
        cluster.tick()
    cluster.settle().wait_for_deadline()
    assert ("5.1.15", ["4.2.3"]) == (cluster.record.rolled_back_from, cluster.running)


def test_a_change_that_fails_before_status_has_it_is_in_history() -> None:
    """The operator died after its first write, and the next one starts after the deadline."""
    cluster = installed("5.1.14")
    cluster.never_ready.add("5.1.15")
    cluster.edit(version="5.1.15").dies_at_each_pass(after=2, passes=1)
    cluster.settle(operator=False).tick(61)
    assert not cluster.observe().rollout_in_status
    first = cluster.reconcile()
    assert ((), False, cluster.now) == (first.actions, first.defer_reporting, first.requeue_at)
    assert (Phase.FAILED, ["5.1.14"]) == (cluster.settle().status.phase, cluster.running)
    assert [("5.1.15", Outcome.FAILED), ("5.1.14", Outcome.COMPLETED)] == [
        (entry.to, entry.outcome) for entry in cluster.status.history[1:]
    ]


def test_without_a_deployment_nothing_is_taken_back() -> None:
    """Somebody deleted it: it is made again."""
    seen = observed(agent())
    assert not has_failed(seen, now=NOW)
    assert not should_roll_back(seen, seen.agent.spec, now=NOW)


def test_what_is_held_and_comes_right_has_not_failed_any_more() -> None:
    """Whatever history still tells of it, in the pass that finds it active."""
    cluster = failed(handoff=HOLD)
    assert has_failed(cluster.observe(), now=cluster.now)
    cluster.never_ready.clear()
    cluster.settle(operator=False)
    assert Outcome.FAILED is cluster.status.history[0].outcome
    assert not has_failed(cluster.observe(), now=cluster.now)


def test_what_was_told_to_have_failed_stays_so_until_it_serves() -> None:
    """An agent that ended three times runs for a moment once more, long before the deadline."""
    cluster = installed("5.1.14", handoff={**HOLD, "progressDeadlineSeconds": 3600})
    cluster.troubles["5.1.15"] = ("CreateContainerConfigError", "secret not found")
    cluster.edit(version="5.1.15").settle()
    assert Phase.FAILED is cluster.status.phase
    cluster.troubles.clear()
    cluster.never_ready.add("5.1.15")
    cluster.count += 1
    assert Phase.FAILED is cluster.settle().status.phase
    assert Phase.RUNNING is cluster.mend().settle().status.phase


def test_a_way_back_that_never_gets_ready_is_said_to_have_failed() -> None:
    """There is no third rollout; status says what is wrong."""
    cluster = changing("4.2.3", "5.1.15")
    cluster.never_ready.add("4.2.3")
    cluster.wait_for_deadline()
    assert (Phase.ROLLING_BACK, "4.2.3") == (cluster.status.phase, cluster.applied_version)
    cluster.wait_for_deadline()
    assert (Phase.FAILED, "4.2.3") == (cluster.status.phase, cluster.applied_version)
    assert ("True", "PortNotReady") == cluster.condition("Stalled")


def test_a_refresh_that_fails_opens_no_latch() -> None:
    """While a change is latched somebody asks for pods as this release renders them, and they fail: the change stays latched."""
    cluster = failed()
    assert cluster.record.failed is not None
    known = cluster.record.failed
    cluster.remember(template={"revision": 1, "template": _older(cluster)})
    cluster.deployment["spec"]["template"] = _older(cluster)
    cluster.settle()
    cluster.never_ready.add("5.1.14")
    cluster.mark(names.REFRESH, "now").settle().wait_for_deadline()
    assert known == cluster.record.failed
    assert ["5.1.14"] == [pod.version.text for pod in cluster.pods if pod.ready_since is not None]


def _older(cluster: SimulatedCluster) -> Any:
    """The live template as another release would have rendered it."""
    template = json.loads(json.dumps(cluster.deployment["spec"]["template"]))
    template["spec"]["terminationGracePeriodSeconds"] = 7
    template["metadata"]["annotations"][names.TEMPLATE_HASH] = "of another release"
    return template


def test_a_change_that_was_restarted_by_hand_is_held_and_says_so() -> None:
    """It may have been active before: going back would be a downgrade that nobody approved."""
    cluster = changing("4.2.3", "5.1.15").settle()
    assert () == cluster.observe().earlier_pods
    cluster.restart_pods().wait_for_deadline()
    assert "somebody has requested new pods" in (cluster.status.plan or "")
    assert None is cluster.record.rolled_back_from


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_when_pods_were_restarted_is_told_without_a_clock(hours: int) -> None:
    """Before the change, or since: whatever the clock of the machine shows on which it was asked for."""
    clock = timedelta(hours=hours)
    cluster = installed("4.2.3").restart_pods(clock=clock).settle()
    cluster.never_ready.add("5.1.15")
    cluster.edit(version="5.1.15").settle().wait_for_deadline()
    assert ("5.1.15", ["4.2.3"]) == (cluster.record.rolled_back_from, cluster.running), "restarted before it"
    cluster = changing("4.2.3", "5.1.15").settle().restart_pods(clock=clock).wait_for_deadline()
    assert "somebody has requested new pods" in (cluster.status.plan or ""), "restarted since"


def test_a_handoff_that_was_restarted_by_hand_is_taken_back_while_the_old_agent_serves() -> None:
    """Had the new one been active, the old one would have been stopped."""
    cluster = changing("5.1.14", "5.1.15")
    cluster.restart_pods().wait_for_deadline()
    assert ("5.1.15", "5.1.14") == (cluster.record.rolled_back_from, cluster.record.to)


def test_a_stop_that_was_restarted_by_hand_is_taken_back_if_the_old_agent_was_still_ending() -> None:
    """No pod of the new version was made before that, so it cannot have been active."""
    cluster = installed("4.2.3")
    cluster.never_ready.add("5.1.15")
    cluster.edit(version="5.1.15").fetched().reconcile()
    cluster.tick()
    assert [True] == [pod.terminating for pod in cluster.observe().earlier_pods]
    cluster.restart_pods().reconcile()
    cluster.settle().wait_for_deadline()
    assert ("5.1.15", ["4.2.3"]) == (cluster.record.rolled_back_from, cluster.running)


def test_two_restarts_by_hand_and_two_edits_within_a_second_lead_nowhere_else() -> None:
    """Found by the state machine: 4.2.3 was ending already when the change began, which then counted as having been active."""
    cluster = installed("4.2.3").restart_pods().edit(version="5.1.15").fetched()
    cluster.never_ready.add("5.1.15")
    cluster.reconcile()
    cluster.edit(version="5.1.15", handoff={**cluster.agent["spec"]["handoff"], "drainSeconds": 3}).restart_pods()
    cluster.settle().wait_for_deadline()
    assert "4.2.3" == cluster.record.from_version
    assert ("5.1.15", ["4.2.3"]) == (cluster.record.rolled_back_from, cluster.running)


def test_what_serves_comes_back_although_what_was_active_before_is_newer() -> None:
    """Found by the state machine: an allowed downgrade became active while the operator was away, and was restarted by hand."""
    cluster = installed("5.1.15").edit(version="5.1.14", downgradePolicy={"approval": "BelowZeroDowntime"})
    cluster.reconcile()
    cluster.settle(operator=False).restart_pods().annotate("4.2.3 CHG-1").edit(version="4.2.3")
    cluster.never_ready.add("4.2.3")
    cluster.settle().wait_for_deadline()
    assert ("4.2.3", "5.1.14") == (cluster.record.rolled_back_from, cluster.record.to)


def test_a_change_goes_back_to_what_it_went_from_even_if_that_was_active_unseen() -> None:
    """5.1.15 became active while the operator was away and was restarted by hand: no failure of 5.1.16 leads below it."""
    cluster = installed("4.2.3").edit(version="5.1.15")
    cluster.until(lambda: cluster.applied_version == "5.1.15")
    cluster.settle(operator=False).restart_pods().tick()
    cluster.never_ready.add("5.1.16")
    cluster.edit(version="5.1.16").settle().wait_for_deadline()
    assert ("5.1.16", "5.1.15") == (cluster.record.rolled_back_from, cluster.record.to)


@pytest.mark.parametrize(
    ("field", "word", "read"),
    [("change", "Teleport", "None"), ("previousOutcome", "Vanished", "Superseded"), ("previousOutcome", None, None)],
)
def test_what_a_newer_release_noted_is_read_as_far_as_it_can_be(field: str, word: str | None, read: str | None) -> None:
    """A word that this one does not know costs that word, and not what else the note says."""
    raw = json.loads(failed().record.dump())
    record = RolloutRecord.read(json.dumps({**raw, field: word, "failed": {**raw["failed"], "reason": "Haunted"}}))
    assert record is not None
    assert read == json.loads(record.dump()).get(field)
    assert "5.1.14" == record.from_version
    assert record.failed is not None
    assert Reason.PROGRESS_DEADLINE_EXCEEDED is record.failed.reason


def add_variable(template: Raw) -> None:
    """As a reloader does."""
    template["spec"]["containers"][0].setdefault("env", []).append({"name": "STAKATER_LAB_SECRET", "value": "9f0c"})


def change_image(template: Raw) -> None:
    """As `kubectl set image` does: a field that we render."""
    template["spec"]["containers"][0]["image"] = "mirror.example.org/medplum-agent:5.1.15"


def remove_mark(template: Raw) -> None:
    """As `kubectl annotate` or `kubectl edit` can."""
    template["metadata"]["annotations"].pop("kubectl.kubernetes.io/restartedAt", None)
    template["metadata"]["annotations"]["checked"] = "yes"


@pytest.mark.parametrize("edit", [add_variable, change_image, remove_mark])
def test_new_pods_that_anybody_asked_for_lead_to_no_downgrade(edit: Callable[[Raw], None]) -> None:
    """5.1.15 became active while the operator was away; its new pods do not get ready. The operator must not take it down to 4.2.3."""
    cluster = installed("4.2.3").edit(version="5.1.15").fetched()
    cluster.reconcile()
    cluster.settle(operator=False)
    cluster.never_ready.add("5.1.15")
    cluster.edit_template(edit).settle(operator=False).evict().tick(61)
    cluster.settle().wait_for_deadline()
    assert ("5.1.15", {"5.1.15"}) == (cluster.applied_version, set(cluster.running))


def test_an_edit_that_was_reverted_leads_to_no_downgrade_either() -> None:
    """The template is as it was, but its pods are new."""
    cluster = installed("4.2.3").edit(version="5.1.15").fetched()
    cluster.reconcile()
    cluster.settle(operator=False)
    before = copied(cluster.deployment["spec"]["template"])
    cluster.never_ready.add("5.1.15")
    cluster.edit_template(add_variable).settle(operator=False).evict().tick()
    cluster.edit_template(lambda template: template.update(before)).settle(operator=False).tick(61)
    cluster.settle().wait_for_deadline()
    assert "5.1.15" == cluster.applied_version


def test_what_a_policy_adds_at_our_own_write_is_no_request_for_new_pods() -> None:
    """An admission policy that adds a variable to each template: a recreate that fails still leads back."""

    def inject(kind: str, raw: Raw) -> None:
        if kind == "Deployment":
            env = raw["spec"]["template"]["spec"]["containers"][0].setdefault("env", [])
            env.extend([{"name": "INJECTED", "value": "1"}] if not any(e["name"] == "INJECTED" for e in env) else [])

    cluster = AdmittingCluster(agent("4.2.3", handoff=QUICK))
    cluster.policy = inject
    cluster.settle().never_ready.add("5.1.15")
    cluster.edit(version="5.1.15").fetched().reconcile()
    cluster.wait_for_deadline()
    assert ("5.1.15", ["4.2.3"]) == (cluster.record.rolled_back_from, cluster.running)


@pytest.mark.parametrize("edits", [{}, {"logging": {"level": "DEBUG"}}, {"version": "5.1.16"}, {"handoff": HOLD}])
def test_a_first_installation_that_fails_blames_no_other_release(edits: dict[str, Any]) -> None:
    """Nothing was ever active, so there is nothing to return to, with or without later edits."""
    cluster = SimulatedCluster(agent(handoff=QUICK))
    cluster.never_ready |= {"5.1.15", "5.1.16"}
    cluster.settle().edit(**edits).settle().wait_for_deadline()
    assert Phase.FAILED is cluster.status.phase
    assert "not rolled back" not in (cluster.status.plan or "")
