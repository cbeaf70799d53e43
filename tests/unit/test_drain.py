"""A node drain is a handoff: who is moved, once, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from medplum_agent_operator.api.annotations import MOVED_OFF, TEMPLATE_HASH
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Outcome, Phase, Strategy
from medplum_agent_operator.core.objects.agent_pod import with_annotation
from medplum_agent_operator.core.observed.drift import fingerprint
from medplum_agent_operator.core.observed.scope import Config
from medplum_agent_operator.core.plan import make_plan
from medplum_agent_operator.core.policy.drain import (
    live_moved_off_mark,
    moved_off_mark,
    on_departing_node,
    pod_to_move,
    protected,
)
from tests.support.builders import CONFIG, NOW, REPOSITORY, agent, observed, pod, spec_of
from tests.support.simulated_cluster import SimulatedCluster, changing, installed

HERE = [{"metadata": {"name": "node-1"}, "spec": {"unschedulable": True}}]


def moved_off(cluster: SimulatedCluster) -> str | None:
    """The note on the live template."""
    found: str | None = cluster.deployment["spec"]["template"]["metadata"]["annotations"].get(MOVED_OFF)
    return found


def where(cluster: SimulatedCluster) -> list[str]:
    """The nodes of the pods."""
    return [pod.node for pod in cluster.pods]


@pytest.mark.parametrize(
    ("version", "fields", "held"),
    [
        pytest.param("5.1.15", {}, True, id="from 4.2.4 on: handed over first"),
        pytest.param("4.2.4", {}, True, id="4.2.4 itself too"),
        pytest.param("4.2.3", {}, False, id="before 4.2.4: cannot run beside another"),
        pytest.param("5.1.15", {"handoff": {"onNodeDrain": "Evict"}}, False, id="the user wants the eviction"),
        pytest.param("5.1.15", {"podTemplate": {"hostNetwork": True}}, False, id="in the node's network: stop first"),
        pytest.param(
            "5.1.15",
            {"podTemplate": {"tolerations": [{"operator": "Exists"}]}},
            False,
            id="tolerates everything: might land on the cordoned node again and again",
        ),
        pytest.param(
            "5.1.15",
            {"podTemplate": {"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]}},
            False,
            id="tolerates a cordon",
        ),
        pytest.param(
            "5.1.15",
            {"podTemplate": {"tolerations": [{"operator": "Exists", "effect": "NoExecute"}]}},
            True,
            id="tolerates what ends pods: a cordon is none of that",
        ),
        pytest.param(
            "5.1.15",
            {"podTemplate": {"tolerations": [{"key": "clinic", "operator": "Exists"}]}},
            True,
            id="tolerates a taint of its own",
        ),
    ],
)
def test_an_eviction_is_held_back_where_somebody_hands_over(
    version: str, fields: dict[str, Any], *, held: bool
) -> None:
    """The budget and the move are one decision: nothing is held back for ever."""
    spec = spec_of(version, **fields)
    assert held is protected(spec, nodes_watched=True)
    assert protected(spec, nodes_watched=False) is False
    cluster = installed(version, **fields)
    assert held is ("minAvailable" in cluster.objects["PodDisruptionBudget"]["spec"])
    cluster.cordon("node-1")
    assert held is bool(cluster.plan().actions)


def test_a_cordoned_node_moves_its_agent_once_by_a_handoff() -> None:
    """One write of the Deployment; both agents run for a while; then all is at rest on the other node, with no further write."""
    cluster = installed("5.1.15")
    [before] = cluster.pods
    plan = cluster.cordon("node-1").reconcile()
    assert (Phase.HANDING_OFF, Reason.MOVING_OFF_NODE) == (plan.phase, plan.reason)
    assert "off node node-1" in plan.message.summary
    assert ["ControllerRevision", "Deployment"] == [action.kind for action in plan.actions]
    cluster.tick()
    cluster.tick()
    assert ["5.1.15", "5.1.15"] == cluster.running
    cluster.settle()
    assert ["node-2"] == where(cluster)
    assert f"node-1 (pod {before.name})" == moved_off(cluster)
    assert 2 == cluster.writes.count("Deployment")
    entry = cluster.status.history[0]
    assert ("5.1.15", "5.1.15", "node-1") == (entry.from_version, entry.to, entry.moved_off)
    assert (Strategy.ROLLING_HANDOFF, Outcome.COMPLETED) == (entry.strategy, entry.outcome)
    assert 0.0 == entry.gap_seconds
    assert () == cluster.plan().actions


def test_the_note_stays_through_what_follows() -> None:
    """An uncordon, another version and a restart leave it as it is: without it the template would be another one."""
    cluster = installed("5.1.14").cordon("node-1").settle()
    note = moved_off(cluster)
    cluster.uncordon().settle()
    assert 2 == cluster.writes.count("Deployment")
    cluster.edit(version="5.1.15").settle()
    assert note == moved_off(cluster)
    assert "5.1.15" == cluster.applied_version
    assert () == cluster.plan().actions


ANNOUNCED = [
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
    "ToBeDeletedByClusterAutoscaler",
    "aws-node-termination-handler/spot-itn",
    "aws-node-termination-handler/scheduled-maintenance",
    "cloud.google.com/impending-node-termination",
    "node.cloudprovider.kubernetes.io/shutdown",
    "node.kubernetes.io/unschedulable",
    "medik8s.io/drain",
    "clinic.example.org/patching",
]
PATCHING = replace(CONFIG, eviction_taints=("clinic.example.org/*",))


@pytest.mark.parametrize("effect", ["NoSchedule", "NoExecute"])
@pytest.mark.parametrize("key", ANNOUNCED)
def test_a_taint_that_announces_evictions_moves_the_agent_once(key: str, effect: str) -> None:
    """Autoscalers and interruption handlers taint a node and evict its pods, without a cordon."""
    cluster = installed("5.1.15")
    cluster.config = PATCHING
    plan = cluster.taint("node-1", key, effect=effect, value="1700000000").reconcile()
    assert (Phase.HANDING_OFF, Reason.MOVING_OFF_NODE) == (plan.phase, plan.reason)
    cluster.settle()
    assert (["node-2"], 2) == (where(cluster), cluster.writes.count("Deployment"))
    assert ("node-1", 0.0) == (cluster.status.history[0].moved_off, cluster.status.history[0].gap_seconds)
    assert () == cluster.plan().actions


@pytest.mark.parametrize(
    ("key", "effect", "spec"),
    [
        pytest.param("ToBeDeletedByClusterAutoscaler", "PreferNoSchedule", {}, id="a soft one"),
        pytest.param("DeletionCandidateOfClusterAutoscaler", "PreferNoSchedule", {}, id="a candidate may stay"),
        pytest.param("node.kubernetes.io/not-ready", "NoExecute", {}, id="a state of the node"),
        pytest.param("node.kubernetes.io/disk-pressure", "NoSchedule", {}, id="another one"),
        pytest.param("node.cilium.io/agent-not-ready", "NoSchedule", {}, id="a daemon that starts again"),
        pytest.param("clinic.example.org/dedicated", "NoSchedule", {}, id="an unknown one: nobody may drain"),
        pytest.param("karpenter.sh/disrupted", "NoSchedule", {"podTemplate": {"tolerations": [{"key": "karpenter.sh/disrupted", "operator": "Exists"}]}}, id="a tolerated one: it could come back at once"),
        pytest.param("aws-node-termination-handler/spot-itn", "NoSchedule", {"podTemplate": {"tolerations": [{"key": "aws-node-termination-handler/spot-itn", "value": "id"}]}}, id="a tolerated one, with its value"),
        pytest.param("karpenter.sh/disrupted", "NoSchedule", {"handoff": {"onNodeDrain": "Evict"}}, id="evictions are wanted"),
    ],
)  # fmt: skip
def test_other_taints_move_nobody(key: str, effect: str, spec: dict[str, Any]) -> None:
    """Nothing is written."""
    cluster = installed("5.1.15", **spec).taint("node-1", key, effect=effect, value="id")
    assert () == cluster.plan().actions


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("clinic.example.org/dedicated", True),
        ("node.kubernetes.io/memory-pressure", False),
        ("ebs.csi.aws.com/agent-not-ready", False),
        ("node.cluster.x-k8s.io/uninitialized", False),
    ],
)
def test_an_unknown_taint_is_told_with_what_moves_the_agent(key: str, *, told: bool) -> None:
    """The cluster shows no refused eviction, so the plan says what a drain would meet; a passing state is not told."""
    cluster = installed("5.1.15").taint("node-1", key).settle()
    assert told is (
        f"Node node-1 has taint {key}:NoSchedule, which the agent does not tolerate." in cluster.plan().text
    )
    assert told is ("--eviction-taints" in cluster.plan().text)
    assert (Phase.RUNNING, ["node-1"]) == (cluster.status.phase, where(cluster))
    writes = len(cluster.writes)
    assert writes == len(cluster.settle().writes)
    assert "has taint" not in cluster.untaint().plan().text


def test_an_unknown_taint_of_an_agent_that_evictions_stop_is_not_told() -> None:
    """There a drain does not wait."""
    for cluster in (installed("4.2.3"), installed("5.1.15", handoff={"onNodeDrain": "Evict"})):
        assert "has taint" not in cluster.taint("node-1", "clinic.example.org/dedicated").plan().text


@pytest.mark.parametrize("key", ["ToBeDeletedByClusterAutoscaler", "cloud.google.com/impending-node-termination"])
def test_whoever_tolerates_an_announcement_is_not_kept_from_eviction(key: str) -> None:
    """It would not be moved, so nothing may wait for that."""
    assert not protected(
        spec_of("5.1.15", podTemplate={"tolerations": [{"key": key, "operator": "Exists"}]}), nodes_watched=True
    )


def test_a_paused_agent_names_the_taint() -> None:
    """Instead of a cordon."""
    cluster = installed("5.1.15").edit(paused=True).settle().taint("node-1", "karpenter.sh/disrupted").settle()
    assert "Node node-1 has taint karpenter.sh/disrupted, and a drain of it waits" in (cluster.status.plan or "")


def test_each_further_cordon_moves_it_again() -> None:
    """There and back: one move for each pod."""
    cluster = installed("5.1.15").cordon("node-1").settle().uncordon().cordon("node-2").settle()
    assert ["node-1"] == where(cluster)
    assert 3 == cluster.writes.count("Deployment")
    cluster.uncordon().cordon("node-1").settle()
    assert ["node-2"] == where(cluster)
    assert 4 == cluster.writes.count("Deployment")


def test_a_cordon_that_is_taken_back_ends_harmlessly() -> None:
    """In the middle of the move: it is finished, once."""
    cluster = installed("5.1.15").cordon("node-1")
    cluster.reconcile()
    cluster.tick()
    cluster.uncordon().settle()
    assert Phase.RUNNING is cluster.status.phase
    assert 2 == cluster.writes.count("Deployment")
    assert ["5.1.15"] == cluster.running


def test_without_another_node_nothing_is_stopped() -> None:
    """The old agent keeps serving, before and after the deadline. The plan says that the drain waits and how it can continue."""
    cluster = installed("5.1.15").cordon("node-1", "node-2").settle()
    for words in (
        "Blocked: No other node accepts the agent; a drain of node node-1 waits.",
        "Impact: None; the agent keeps serving devices on node-1.",
    ):
        assert words in (cluster.status.plan or "")
    assert ("True", "Serving") == cluster.condition("Available")
    cluster.wait_for_deadline()
    assert (Phase.FAILED, "5.1.15") == (cluster.status.phase, cluster.status.active_version)
    assert "could not be moved off node node-1" in (cluster.status.plan or "")
    assert "spec.handoff.onNodeDrain to Evict" in (cluster.status.plan or "")
    assert ["5.1.15"] == cluster.running
    assert 2 == cluster.writes.count("Deployment")
    cluster.cordoned.remove("node-2")
    cluster.tick()
    cluster.settle()
    assert (Phase.RUNNING, ["node-2"]) == (cluster.status.phase, where(cluster))


def test_a_refused_downgrade_does_not_hinder_the_move() -> None:
    """What is in force is moved: the version that serves, not the one that waits for an approval."""
    cluster = installed("5.1.15").edit(version="4.2.3").settle().cordon("node-1").settle()
    assert Phase.AWAITING_APPROVAL is cluster.status.phase
    assert (["node-2"], ["5.1.15"]) == (where(cluster), cluster.running)
    assert "node-1" == cluster.status.history[0].moved_off


def test_a_paused_agent_is_not_moved_and_says_so() -> None:
    """Nothing is written. The plan names the node, says that a drain waits, and has the command that moves the agent."""
    cluster = installed("5.1.15").edit(paused=True).settle().cordon("node-1").settle()
    assert ["node-1"] == where(cluster)
    assert "Node node-1 is cordoned, and a drain of it waits while the agent is paused." in (cluster.status.plan or "")
    assert "kubectl -n clinic rollout restart deployment/lab" in (cluster.status.plan or "")
    cluster.edit(paused=False).settle()
    assert ["node-2"] == where(cluster)


def test_a_change_under_way_goes_first() -> None:
    """While a rollout is under way nothing is moved; the pod that it starts avoids the node anyway."""
    cluster = changing("5.1.14", "5.1.15").cordon("node-1")
    assert () == cluster.plan().actions
    cluster.never_ready.clear()
    cluster.settle()
    assert "5.1.15" == cluster.status.active_version


def test_a_change_made_while_the_node_is_cordoned_is_the_change_and_no_move() -> None:
    """One rollout for both: the new version starts on another node."""
    cluster = installed("5.1.14").cordon("node-1").edit(version="5.1.15").settle()
    assert ["node-2"] == where(cluster)
    assert 2 == cluster.writes.count("Deployment")
    assert None is cluster.status.history[0].moved_off


def test_a_restart_by_hand_moves_it_just_as_well() -> None:
    """`kubectl rollout restart` under a cordon, as the budget's note says where the operator does not run: then nothing is left to do."""
    cluster = installed("5.1.15").cordon("node-1").restart_pods()
    cluster.settle(operator=False)
    assert ["node-2"] == where(cluster)
    cluster.settle()
    assert 1 == cluster.writes.count("Deployment")


def test_an_agent_before_4_2_4_is_never_moved() -> None:
    """Its budget lets the eviction through instead: stop, then start, one at a time (I1)."""
    cluster = installed("4.2.3").cordon("node-1").settle()
    assert ["node-1"] == where(cluster)
    cluster.evict().settle()
    assert (["node-2"], ["4.2.3"]) == (where(cluster), cluster.running)
    assert 1 == cluster.writes.count("Deployment")


def test_a_node_that_is_not_known_moves_nobody() -> None:
    """Nodes are not watched, or the watch has not seen this one yet."""
    raw = pod(ready_since=NOW, node="node-1")
    assert None is on_departing_node(observed(agent(), pods=[raw]), spec_of())
    seen = observed(agent(), pods=[raw], nodes=HERE)
    assert "node-1" == getattr(on_departing_node(seen, spec_of()), "node", None)
    assert None is pod_to_move(seen, seen.agent.spec, config=CONFIG), "there is no Deployment"


def test_without_watching_nodes_an_eviction_goes_through() -> None:
    """Nobody would hand the agent over: so nothing is held back."""
    cluster = installed("5.1.15")
    plan = make_plan(cluster.observe(), config=Config(image_repository=REPOSITORY, nodes_watched=False), now=NOW)
    (budget,) = plan.actions
    assert {"maxUnavailable": 1} == {key: budget.body["spec"][key] for key in ("maxUnavailable",)}
    assert "minAvailable" not in budget.body["spec"]


def test_the_budget_says_by_its_name_what_it_is_for() -> None:
    """A refused eviction names the budget and nothing else; its note says how a drain goes on without the operator."""
    budget = installed("5.1.15").objects["PodDisruptionBudget"]["metadata"]
    assert "lab-moves-by-handoff" == budget["name"]
    note = budget["annotations"]["agents.medplum.com/node-drain"]
    assert "kubectl -n clinic rollout restart deployment/lab" in note


def test_only_when_nothing_is_under_way_is_a_pod_moved() -> None:
    """Neither in the middle of a change nor of a restart by hand: a pod that starts avoids the node anyway."""
    cluster = installed("5.1.14").edit(version="5.1.15")
    cluster.reconcile()
    cluster.tick()
    seen = cluster.cordon("node-1").observe()
    assert on_departing_node(seen, spec_of()) is not None
    assert pod_to_move(seen, spec_of("5.1.15"), config=CONFIG) is None
    cluster = installed("5.1.15").restart_pods()
    cluster.tick()
    cluster.tick()
    seen = cluster.cordon("node-1").observe()
    assert (True, True) == (seen.activation.settled, seen.deployment is not None and seen.deployment.replacing)
    assert pod_to_move(seen, spec_of("5.1.15"), config=CONFIG) is None


def test_a_pod_of_another_template_is_not_moved() -> None:
    """Nor one that is not there."""
    cluster = installed("5.1.15").cordon("node-1")
    seen = cluster.observe()
    assert seen.pods[0] == pod_to_move(seen, spec_of("5.1.15"), config=CONFIG)
    other = replace(seen.pods[0], template_hash="another")
    assert pod_to_move(replace(seen, pods=(other,)), spec_of("5.1.15"), config=CONFIG) is None
    assert pod_to_move(replace(seen, pods=()), spec_of("5.1.15"), config=CONFIG) is None


def test_a_pod_that_the_template_says_was_moved_is_not_moved_again() -> None:
    """Each once, whatever the cluster makes of it: a move that leads to itself would never end."""
    cluster = installed("5.1.15").cordon("node-1")
    [pod] = cluster.observe().pods
    annotations = cluster.deployment["spec"]["template"]["metadata"]["annotations"]
    annotations[MOVED_OFF] = moved_off_mark(pod)
    assert pod_to_move(cluster.observe(), spec_of("5.1.15"), config=CONFIG) is None
    annotations[MOVED_OFF] = "node-2 (pod another)"
    assert pod == pod_to_move(cluster.observe(), spec_of("5.1.15"), config=CONFIG)


def test_without_a_deployment_nothing_was_ever_moved() -> None:
    """Its note is empty then."""
    assert live_moved_off_mark(observed(agent())) == ""


def test_a_note_makes_it_another_template() -> None:
    """All else stays, and the fingerprint is one of everything but itself."""
    metadata = {"labels": {"app": "lab"}, "annotations": {"of": "somebody", TEMPLATE_HASH: "before"}}
    template = {"metadata": metadata, "spec": {"containers": []}}
    annotations = {"of": "somebody", MOVED_OFF: "node-1 (pod lab-1)"}
    sealed = fingerprint({**template, "metadata": {**metadata, "annotations": annotations}})
    found = with_annotation(template, MOVED_OFF, "node-1 (pod lab-1)")
    assert {**template, "metadata": {**metadata, "annotations": {**annotations, TEMPLATE_HASH: sealed}}} == found
    assert template == with_annotation(template, MOVED_OFF, "")
