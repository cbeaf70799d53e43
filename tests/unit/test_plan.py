"""From what was observed to what is to be done."""

from __future__ import annotations

import copy
import json
from datetime import timedelta
from typing import Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Outcome, Phase, Strategy
from medplum_agent_operator.core.observed.drift import first_difference
from medplum_agent_operator.core.observed.findings import Severity
from medplum_agent_operator.core.observed.rollout_record import Change
from tests.support.builders import stamp
from tests.support.simulated_cluster import OperatorDiedError, SimulatedCluster, changing, installed, kinds_of
from tests.support.simulated_cluster.situations import HOLD

WINDOWS = [{"schedule": "0 2 * * 0", "duration": "2h"}]


def kinds(cluster: SimulatedCluster) -> list[str]:
    """What a pass would apply now, in its order."""
    return kinds_of(cluster.plan())


def reasons(cluster: SimulatedCluster) -> list[Reason]:
    """What a pass would tell now."""
    return [finding.reason for finding in cluster.plan().findings]


def test_an_installation_makes_what_a_pod_needs_before_the_pod() -> None:
    """ServiceAccount, Service and budget come first; the Deployment last, and it alone is disruptive."""
    cluster = SimulatedCluster()
    assert ["ServiceAccount", "Service", "PodDisruptionBudget", "Deployment"] == kinds(cluster)
    assert [False, False, False, False, True] == [action.disruptive for action in cluster.plan().actions]
    assert {"missing"} == {action.difference for action in cluster.plan().actions}


def test_a_settled_agent_needs_nothing() -> None:
    """No action, nothing to tell, no time to look again."""
    plan = installed().plan()
    assert ((), (), None, Phase.RUNNING) == (plan.actions, plan.findings, plan.requeue_at, plan.phase)


def test_a_version_change_is_one_write_of_the_deployment() -> None:
    """Template, strategy and the note of the rollout go in one request."""
    cluster = installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3").fetched()
    assert ["ControllerRevision", "PodDisruptionBudget", "Deployment"] == kinds(cluster)
    deployment = cluster.plan().actions[-1]
    body = deployment.body
    assert "Recreate" == body["spec"]["strategy"]["type"]
    assert "4.2.3" == body["spec"]["template"]["metadata"]["labels"][names.VERSION_LABEL]
    assert '"approval":"4.2.3 CHG-1"' in body["metadata"]["annotations"][names.ROLLOUT]


def test_a_rollout_is_noted_before_the_next_one_begins() -> None:
    """Killed between Deployment and status, the operator first writes down what it began, and only then goes on."""
    cluster = installed("5.1.14").edit(version="5.1.15")
    with pytest.raises(OperatorDiedError):
        cluster.reconcile(dies_after=2)
    cluster.edit(version="5.1.16")
    plan = cluster.reconcile()
    assert () == plan.actions
    assert plan.requeue_at == cluster.now
    assert cluster.status.rollout is not None
    assert "5.1.15" == cluster.status.rollout.to
    assert ["ControllerRevision", "Deployment"] == [action.kind for action in cluster.reconcile().actions]
    assert Outcome.SUPERSEDED is cluster.status.history[0].outcome


def test_the_strategy_of_a_rollout_under_way_is_left_alone() -> None:
    """A recreate from 4.2.3 stays one to its end, although only newer versions are left in its middle."""
    cluster = changing("4.2.3", "5.1.15", seconds=10)
    assert ["5.1.15"] == cluster.running
    assert ("Recreate", []) == (cluster.strategy, kinds(cluster))


def test_a_settled_deployment_is_made_ready_for_a_handoff() -> None:
    """After the recreate the strategy is switched, so that a `kubectl rollout restart` is a handoff; that is no news."""
    cluster = changing("4.2.3", "5.1.15", seconds=10)
    cluster.never_ready.clear()
    while not cluster.observe().activation.settled:
        cluster.tick()
    plan = cluster.plan()
    assert ["spec.strategy.type"] == [action.difference for action in plan.actions]
    assert [False] == [action.disruptive for action in plan.actions]
    assert [Reason.ROLLOUT_COMPLETED] == [finding.reason for finding in plan.findings]
    before = cluster.record
    assert "RollingUpdate" == cluster.settle().strategy
    assert before == cluster.record


def test_the_record_of_a_rollout_is_kept_as_long_as_the_template_is() -> None:
    """A later repair of the Deployment does not tell of another rollout."""
    cluster = installed("5.1.14").edit(version="5.1.15").settle()
    before = cluster.deployment["metadata"]["annotations"][names.ROLLOUT]
    cluster.deployment["spec"]["replicas"] = 0
    (action,) = cluster.plan().actions
    assert before == action.body["metadata"]["annotations"][names.ROLLOUT]
    assert not action.disruptive


TEMPLATE = "the template"


@pytest.mark.parametrize(
    ("note", "text"),
    [
        pytest.param(
            names.ROLLOUT,
            '{"change":"None","to":"5.1.15","strategy":"Recreate","startedAt":"2026-09-01T12:00:00"}',
            id="no zone",
        ),
        pytest.param(
            names.ROLLOUT,
            '{"change":"None","to":"5.1.15","strategy":"Recreate","startedAt":"2026-09-01T12:00:00Z","stops":'
            + "9" * 5000
            + "}",
            id="a number that no change has",
        ),
        pytest.param(TEMPLATE, '{"revision":1,"template":{"spec":{"containers":[]}}}', id="no agent"),
        pytest.param(
            TEMPLATE,
            '{"revision":1,"template":{"spec":{"containers":[{"name":"agent","image":"x"}]}}}',
            id="no metadata",
        ),
        pytest.param(
            TEMPLATE,
            '{"revision":1,"template":{"metadata":{},"spec":{"containers":[{"name":"agent","image":"x"}]}}}',
            id="no annotations",
        ),
    ],
)
def test_a_note_that_somebody_broke_reads_as_absent(note: str, text: str) -> None:
    """Nothing fails by it, and no pod is replaced. A template is read from revisions alone."""
    cluster = installed()
    before = [pod.name for pod in cluster.pods]
    if note == TEMPLATE:
        cluster.remember(template=json.loads(text))
    else:
        cluster.as_before_revisions().deployment["metadata"]["annotations"][note] = text
    cluster.agent["status"] = {}
    cluster.reconcile()
    assert (Phase.RUNNING, before) == (cluster.settle().status.phase, [pod.name for pod in cluster.pods])


def test_a_record_that_nobody_knows_any_more_begins_now() -> None:
    """Somebody removed the annotation and status: what is there is written down anew, and no pod is replaced."""
    cluster = installed().as_before_revisions()
    del cluster.deployment["metadata"]["annotations"][names.ROLLOUT]
    cluster.agent["status"] = {}
    cluster.reconcile()
    assert (Change.NONE, cluster.now) == (cluster.record.change, cluster.record.started_at)
    assert not cluster.plans[-1].actions[0].disruptive


def test_a_removed_record_is_put_back_from_status() -> None:
    """Somebody removed the annotation: the latest history entry tells the same, and no rollout begins."""
    cluster = installed("5.1.14").edit(version="5.1.15").settle()
    before, history = cluster.record, cluster.status.history
    cluster.as_before_revisions()
    del cluster.deployment["metadata"]["annotations"][names.ROLLOUT]
    cluster.reconcile()
    assert (before.started_at, before.from_version, before.to) == (
        cluster.record.started_at,
        cluster.record.from_version,
        cluster.record.to,
    )
    assert history == cluster.settle().status.history
    assert ["5.1.15"] == cluster.running


DRIFT = [
    pytest.param("Deployment", lambda raw: raw["spec"].update(replicas=0), "spec.replicas", id="scaled to zero"),
    pytest.param(
        "Deployment",
        lambda raw: raw["spec"].update(paused=True),
        None,
        id="a field that we do not render is left alone",
    ),
    pytest.param("Service", lambda raw: raw["spec"].update(type="NodePort"), "spec.type", id="another type of Service"),
    pytest.param(
        "Service",
        lambda raw: raw["spec"]["ports"].clear(),
        "spec.ports[name=adt]",
        id="a port taken out of the Service",
    ),
    pytest.param(
        "Service",
        lambda raw: raw["metadata"]["annotations"].update(mine="1"),
        None,
        id="somebody's annotation is left alone",
    ),
    pytest.param(
        "PodDisruptionBudget",
        lambda raw: raw["spec"].update(minAvailable=0),
        "spec.minAvailable",
        id="a loosened budget",
    ),
    pytest.param(
        "ServiceAccount",
        lambda raw: raw.update(automountServiceAccountToken=True),
        "automountServiceAccountToken",
        id="a mounted token",
    ),
]


@pytest.mark.parametrize(("kind", "change", "path"), DRIFT)
def test_drift_is_repaired_and_reported_with_its_path(kind: str, change: Any, path: str | None) -> None:
    """Fields that the operator renders are put back without touching pods; fields that others add stay."""
    cluster = installed()
    change(cluster.objects[kind])
    plan = cluster.plan()
    assert ([] if path is None else [(kind, path, False)]) == [
        (action.kind, action.difference, action.disruptive) for action in plan.actions
    ]
    if path is not None:
        assert [(Reason.DRIFT_REPAIRED, f"Repaired drift: {kind} ({path}).")] == [
            (finding.reason, str(finding.message)) for finding in plan.findings
        ]


def test_a_template_that_was_changed_by_hand_is_put_back_by_a_rollout() -> None:
    """It replaces the pod, so it is a rollout like any other: same version, on the record."""
    cluster = installed("5.1.15")
    cluster.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "agent:9.9.9"
    plan = cluster.plan()
    assert [("ControllerRevision", False), ("Deployment", True)] == [
        (action.kind, action.disruptive) for action in plan.actions
    ]
    assert plan.begins is not None
    assert ("5.1.15", "5.1.15") == (plan.begins.from_version, plan.begins.to)


def test_a_change_of_the_spec_that_replaces_no_pod_is_no_drift() -> None:
    """The same write is told as SpecApplied when the spec has changed, and status is at rest all the while."""
    cluster = installed().edit(service={"annotations": {"lb": "internal"}})
    plan = cluster.plan()
    assert (["Service", "Deployment"], [Reason.SPEC_APPLIED], Phase.RUNNING) == (
        kinds(cluster),
        reasons(cluster),
        plan.phase,
    )
    assert not any(action.disruptive for action in plan.actions)
    pods = [pod.name for pod in cluster.pods]
    assert pods == [pod.name for pod in cluster.settle().pods]
    cluster.objects["Service"]["metadata"]["annotations"]["lb"] = "public"
    assert [Reason.DRIFT_REPAIRED] == reasons(cluster)


def test_a_restart_by_kubectl_is_left_to_the_deployment_controller() -> None:
    """`kubectl rollout restart` adds a field that is not ours: no action, phase HandingOff, then Running."""
    cluster = installed().restart_pods()
    cluster.tick()
    cluster.tick()
    plan = cluster.plan()
    assert ((), Phase.HANDING_OFF, Reason.RESTARTING) == (plan.actions, plan.phase, plan.reason)
    history = cluster.status.history
    assert Phase.RUNNING is cluster.settle().status.phase
    assert history == cluster.status.history


def test_a_rollout_fails_at_its_own_deadline() -> None:
    """Not before it, and then with the Deployment controller's word for it."""
    cluster = changing("5.1.14", "5.1.15", handoff=HOLD).settle()
    assert Phase.HANDING_OFF is cluster.plan().phase
    assert Phase.FAILED is cluster.wait_for_deadline().plan().phase
    assert Reason.PORT_NOT_READY is cluster.plan().reason
    assert "5.1.14 keeps serving devices." in cluster.plan().message.impact


def test_a_condition_that_tells_of_the_template_before_fails_nothing() -> None:
    """Right after a retarget the Deployment controller still says ProgressDeadlineExceeded: that was the target before."""
    cluster = changing("5.1.14", "5.1.15", handoff=HOLD).wait_for_deadline()
    cluster.edit(version="5.1.16").reconcile()
    cluster.deployment["status"]["observedGeneration"] = cluster.deployment["metadata"]["generation"]
    assert "ProgressDeadlineExceeded" == cluster.deployment["status"]["conditions"][0]["reason"]
    assert Phase.HANDING_OFF is cluster.plan().phase
    later = cluster.now + timedelta(seconds=61)
    workload = cluster.observe().deployment
    assert workload is not None
    assert (False, True) == (
        workload.progress_deadline_exceeded(cluster.now),
        workload.progress_deadline_exceeded(later),
    )


def test_a_rollout_that_is_done_only_according_to_the_template_before_is_not_done() -> None:
    """In the gap of a recreate the condition still says NewReplicaSetAvailable: no pod counts, so nothing is complete."""
    cluster = installed("4.2.3").edit(version="5.1.15").fetched()
    cluster.reconcile()
    cluster.tick()
    status = cluster.deployment["status"]
    assert ("NewReplicaSetAvailable", 0) == (status["conditions"][0]["reason"], status["updatedReplicas"])
    assert not cluster.observe().activation.settled
    assert Phase.RECREATING is cluster.plan().phase


def test_a_clock_that_is_ahead_does_not_end_a_recreate_in_its_gap() -> None:
    """The condition of the template before may seem younger than the rollout: while no pod counts, nothing is complete."""
    cluster = installed("4.2.3").edit(version="5.1.15").fetched()
    cluster.reconcile()
    cluster.tick()
    cluster.deployment["status"]["conditions"][0]["lastUpdateTime"] = stamp(cluster.now + timedelta(seconds=30))
    workload = cluster.observe().deployment
    assert workload is not None
    assert not workload.rolled_out


def test_a_deployment_that_the_controller_has_not_looked_at_is_not_rolled_out() -> None:
    """What its status says is about the generation before."""
    cluster = installed("5.1.14").edit(version="5.1.15")
    cluster.reconcile()
    workload = cluster.observe().deployment
    assert workload is not None
    assert "NewReplicaSetAvailable" == cluster.deployment["status"]["conditions"][0]["reason"]
    assert not workload.rolled_out


def test_while_a_rollout_is_under_way_the_next_look_is_at_its_deadline() -> None:
    """A computed time, never a sleep; none any more once it has passed."""
    cluster = installed("5.1.14").edit(version="5.1.15")
    cluster.reconcile()
    assert cluster.record.started_at + timedelta(seconds=61) == cluster.plan().requeue_at
    cluster.now += timedelta(seconds=61)
    assert cluster.plan().requeue_at is None


@pytest.mark.parametrize(
    ("before", "after", "approval"),
    [
        pytest.param("5.1.14", "5.1.15", None, id="a handoff"),
        pytest.param("4.2.3", "5.1.15", None, id="a recreate"),
        pytest.param("5.1.15", "4.2.3", "4.2.3 CHG-1", id="a forced downgrade"),
    ],
)
def test_at_most_one_action_is_disruptive(before: str, after: str, approval: str | None) -> None:
    """Whatever else has to be repaired in the same pass."""
    cluster = installed(before).annotate(approval).edit(version=after, channels=[{"name": "lab", "port": 1}]).fetched()
    cluster.objects["ServiceAccount"]["automountServiceAccountToken"] = True
    plan = cluster.plan()
    first = ["ControllerRevision"] if approval else []
    assert [*first, "ServiceAccount", "Service"] == kinds_of(plan)[: len(first) + 2]
    assert [True] == [action.disruptive for action in plan.actions if action.disruptive]


def test_a_refused_change_is_answered_by_the_live_deployment_to_the_letter() -> None:
    """What would be applied while a downgrade is refused is what is live: I2."""
    cluster = installed("5.1.15").edit(version="4.2.3")
    cluster.deployment["spec"]["replicas"] = 5
    (action,) = cluster.plan().actions
    cluster.deployment["spec"]["replicas"] = 1
    assert first_difference(action.body, cluster.deployment) is None
    assert Phase.AWAITING_APPROVAL is cluster.plan().phase


@pytest.mark.parametrize(
    ("used", "annotation"),
    [
        pytest.param(None, None, id="nothing was used before"),
        pytest.param(None, "true", id="the annotation is malformed"),
        pytest.param("4.2.3", "4.2.3", id="the bare target was used before and is there still"),
        pytest.param("4.2.3", "true", id="the bare target was used before, the annotation is malformed now"),
        pytest.param("4.2.3 CHG-1", "4.2.3 CHG-1", id="a ticket was used before and is there still"),
    ],
)
def test_the_command_in_a_refusal_approves_when_it_is_copied(used: str | None, annotation: str | None) -> None:
    """Whatever was approved and used before: its value, as it stands, lets the downgrade go ahead."""
    cluster = installed("5.1.15")
    if used is not None:
        cluster.annotate(used).edit(version="4.2.3").settle().edit(version="5.1.15").settle()
    if annotation is not None:
        cluster.annotate(annotation)
    plan = cluster.edit(version="4.2.3").plan()
    assert Phase.AWAITING_APPROVAL is plan.phase
    value = plan.text.rpartition(f'{names.FORCE_DOWNGRADE}="')[2].partition('"')[0]
    cluster.annotate(value).settle()
    assert ["4.2.3"] == cluster.running


def test_while_refused_a_template_changed_by_hand_is_put_back_without_the_users_approval() -> None:
    """It goes back to what was applied; the record tells of a replacement, not of the refused change."""
    cluster = installed("5.1.15").edit(version="4.2.3")
    cluster.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "agent:9.9.9"
    plan = cluster.plan()
    assert plan.begins is not None
    assert ("5.1.15", None, Strategy.ROLLING_HANDOFF) == (plan.begins.to, plan.begins.approval, plan.begins.strategy)
    assert (Phase.AWAITING_APPROVAL, Reason.DOWNGRADE_NOT_APPROVED) == (plan.phase, plan.reason)


def test_without_a_record_of_the_applied_spec_nothing_is_touched() -> None:
    """A refused change of a Deployment whose record of the applied spec is broken: the plan says so and does nothing."""
    cluster = installed("5.1.15").edit(version="4.2.3").as_before_revisions()
    cluster.deployment["metadata"]["annotations"][names.APPLIED_SPEC] = "junk"
    plan = cluster.plan()
    assert ((), Phase.AWAITING_APPROVAL) == (plan.actions, plan.phase)
    assert "The operator cannot read which spec it applied last, so it repairs nothing of this agent." in plan.text


def test_a_deployment_that_somebody_deleted_is_created_again() -> None:
    """The message says so, and the version that ran before is installed again."""
    cluster = installed("5.1.15").delete("Deployment")
    plan = cluster.plan()
    lost = "The Deployment was deleted; installing 5.1.15 again. No agent serves until it is ready."
    assert plan.text.startswith(lost)
    assert "Rollout:" not in plan.text, "nothing is handed over"
    assert (Severity.WARNING, lost) in [(found.severity, found.message.summary) for found in plan.findings]
    assert plan.begins is not None
    assert ("5.1.15", "5.1.15") == (plan.begins.from_version, plan.begins.to)
    assert ["5.1.15"] == cluster.settle().running


def test_planning_changes_nothing_that_it_was_given() -> None:
    """The same observation gives the same plan, twice, and is the same afterwards."""
    cluster = installed("5.1.14").edit(version="5.1.15")
    seen = copy.deepcopy((cluster.agent, cluster.objects))
    assert cluster.plan() == cluster.plan()
    assert seen == (cluster.agent, cluster.objects)
