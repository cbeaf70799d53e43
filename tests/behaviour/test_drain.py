"""A node drain is a handoff: with the API server's own evictions, the real scheduler, and `kubectl drain` itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.audit import calls_of_the_operator, resource, writes_of_the_operator
from tests.support.cluster import simulate
from tests.support.operator_process import ROOT
from tests.support.world import QUICK, agent_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.world import World

BUDGET = "front-desk-moves-by-handoff"


@pytest.fixture
def nodes(world: World) -> Iterator[list[str]]:
    """Two nodes for this test only, so that cordons do not affect other tests."""
    template = next(iter(yaml.safe_load_all((ROOT / "tests/support/cluster/nodes.yaml").read_text())))
    names = [f"{world.namespace}-{letter}" for letter in "ab"]
    for name in names:
        labels = {**template["metadata"]["labels"], "kubernetes.io/hostname": name, "pool": world.namespace}
        taint = {"key": "pool", "value": world.namespace, "effect": "NoSchedule"}
        node = {
            **template,
            "metadata": {**template["metadata"], "name": name, "labels": labels},
            "spec": {"taints": [taint]},
        }
        world.cluster.apply(node)
    yield names
    world.cluster.kubectl("delete", "node", *names)


def on_own_nodes(world: World, **fields: Any) -> dict[str, Any]:
    """A podTemplate that binds the agent to the nodes of this test."""
    return {
        "annotations": dict(QUICK),
        "nodeSelector": {"pool": world.namespace},
        "tolerations": [{"key": "pool", "operator": "Exists"}],
        **fields,
    }


def node_of(world: World, name: str = "front-desk") -> str:
    """The node of the agent's only pod."""
    [pod] = world.pods(name)
    return str(pod["spec"].get("nodeName", ""))


def evict(world: World, *flags: str) -> str:
    """POST an Eviction of the agent's pod. Returns the output of kubectl."""
    name = world.pods()[0]["metadata"]["name"]
    body = json.dumps({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}})
    path = f"/api/v1/namespaces/{world.namespace}/pods/{name}/eviction"
    return str(world.cluster.kubectl("create", "--raw", path, "-f", "-", *flags, input=body, check=False).stderr)


def nodes_of(world: World) -> set[str | None]:
    """The nodes of all pods of the agent, in one read."""
    return {pod["spec"].get("nodeName") for pod in world.pods()}


def wait_for_the_budget(world: World, name: str = BUDGET) -> None:
    """Wait until the budget counts the pod."""
    world.wait(lambda: world.read("pdb", name)["status"].get("currentHealthy") == 1, "the budget counts the pod")


def test_kubectl_drain_hands_over_every_agent_of_the_node(world: World, nodes: list[str]) -> None:
    """Two agents on the node: each runs twice for a moment, both serve on the other node, and the drain completes."""
    world.kubectl("cordon", nodes[1])
    both = ("front-desk", "lab")
    world.apply(*(agent_manifest(name, "5.1.15", podTemplate=on_own_nodes(world)) for name in both))
    for name in both:
        world.wait_for_phase("Running", "5.1.15", name)
        wait_for_the_budget(world, f"{name}-moves-by-handoff")
        assert nodes[0] == node_of(world, name)
    world.kubectl("uncordon", nodes[1])
    before = {name: world.deployment(name)["metadata"]["generation"] for name in both}
    since = datetime.now(UTC)
    world.cluster.kubectl("drain", nodes[0], "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
    for name in both:
        world.wait_for_phase("Running", "5.1.15", name)
        assert nodes[1] == node_of(world, name)
        entry = next(e for e in world.status(name)["history"] if "movedOff" in e)
        assert (nodes[0], "5.1.15", "5.1.15", "Completed") == (
            entry["movedOff"],
            entry["from"],
            entry["to"],
            entry["outcome"],
        )
        assert 2 == world.recorder.most_running[name]
        assert world.events("MovingOffNode", name)
        assert before[name] + 1 == world.deployment(name)["metadata"]["generation"]
    assert 2 == writes_of_the_operator(world, since).count("patch deployments")


def test_a_refused_eviction_names_the_budget_with_the_instructions(world: World, nodes: list[str]) -> None:
    """429: its causes name the budget, and the budget's annotation has the command for the case that the operator does not run."""
    world.install("5.1.15", podTemplate=on_own_nodes(world))
    wait_for_the_budget(world)
    said = evict(world, "-v=9")
    assert "TooManyRequests" in said
    assert f"The disruption budget {BUDGET} needs 1 healthy pods and has 1 currently" in said
    note = world.read("pdb", BUDGET)["metadata"]["annotations"]["agents.medplum.com/node-drain"]
    assert f"kubectl -n {world.namespace} rollout restart deployment/front-desk" in note
    assert nodes


def test_without_an_operator_the_command_in_the_annotation_unblocks_the_drain(world: World, nodes: list[str]) -> None:
    """The operator is dead and the node cordoned: `kubectl rollout restart` hands over, and the next operator has nothing left to do."""
    world.install("5.1.15", podTemplate=on_own_nodes(world))
    here = node_of(world)
    other = next(name for name in nodes if name != here)
    world.operators[-1].kill()
    world.kubectl("cordon", here)
    world.kubectl("rollout", "restart", "deployment/front-desk")
    world.kubectl("rollout", "status", "deployment/front-desk", "--timeout=60s")
    world.wait(lambda: len(world.pods()) == 1, "the old pod gone")
    assert other == node_of(world)
    generation = world.deployment()["metadata"]["generation"]
    world.start_operator()
    world.wait_for_phase("Running", "5.1.15")
    assert generation == world.deployment()["metadata"]["generation"]


def test_without_another_node_the_agent_keeps_serving(world: World, nodes: list[str]) -> None:
    """Both nodes are cordoned: the agent keeps serving, and the plan says that no other node takes it. After an uncordon the message is gone."""
    world.install("5.1.15", podTemplate=on_own_nodes(world))
    world.kubectl("cordon", *nodes)
    plan = world.wait(
        lambda: (text := world.status().get("plan", "")) and "No other node accepts the agent" in text and text,
        "the plan",
    )
    assert "unschedulable" in plan
    assert "True" == world.condition("Available")["status"]
    world.kubectl("uncordon", *nodes)
    world.wait_for_phase("Running", "5.1.15")


def test_evict_lets_the_eviction_through(world: World, nodes: list[str]) -> None:
    """spec.handoff.onNodeDrain: Evict: the cordon moves no agent, the eviction stops the agent, and it starts elsewhere."""
    handoff = {"minReadySeconds": 1, "drainSeconds": 1, "progressDeadlineSeconds": 60, "onNodeDrain": "Evict"}
    world.install("5.1.15", handoff=handoff, podTemplate=on_own_nodes(world))
    here = node_of(world)
    generation = world.deployment()["metadata"]["generation"]
    world.kubectl("cordon", here)
    world.wait(lambda: world.read("pdb", BUDGET)["status"].get("disruptionsAllowed") == 1, "the budget allows it")
    assert "" == evict(world)
    world.wait(lambda: len(world.pods()) == 1 and node_of(world) not in {"", here}, "the agent elsewhere")
    assert generation == world.deployment()["metadata"]["generation"]
    assert nodes


def test_an_agent_before_4_2_4_stops_and_then_starts(world: World, nodes: list[str]) -> None:
    """`kubectl drain`: never two at the same time (I1), and the operator writes nothing for it."""
    slow = {**simulate(ready_after="300ms", terminate_after="1500ms")}
    world.install("4.2.3", podTemplate=on_own_nodes(world, annotations=slow))
    here = node_of(world)
    generation = world.deployment()["metadata"]["generation"]
    world.cluster.kubectl("drain", here, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
    world.wait(lambda: len(world.pods()) == 1 and node_of(world) not in {"", here}, "the agent elsewhere")
    assert 1 == world.recorder.most_running["front-desk"]
    assert generation == world.deployment()["metadata"]["generation"]
    assert nodes


def test_a_node_s_own_reports_cost_nothing(world: World, nodes: list[str]) -> None:
    """A label, a condition, a heartbeat of the agent's node: no request at all, the regular LISTs apart. Only a cordon is looked at."""
    world.install("5.1.15", podTemplate=on_own_nodes(world))
    world.wait(lambda: world.events("RolloutCompleted"), "the last Event of the installation")
    since = datetime.now(UTC)
    for number in range(3):
        world.kubectl("label", "node", *nodes, f"beat={number}", "--overwrite")
    marker = datetime.now(UTC)
    world.wait(lambda: (datetime.now(UTC) - marker).total_seconds() > 1, "a second")
    calls = [
        f"{c['verb']} {resource(c)}" for c in calls_of_the_operator(world, since) if c["verb"] not in {"watch", "list"}
    ]
    assert [] == calls


def test_a_taint_that_announces_evictions_is_a_handoff(world: World, nodes: list[str]) -> None:
    """As Karpenter does it: a taint and no cordon. The eviction is refused until the agent is on the other node."""
    world.install("5.1.15", podTemplate=on_own_nodes(world, tolerations=[{"key": "pool", "operator": "Exists"}]))
    wait_for_the_budget(world)
    here = node_of(world)
    (other,) = set(nodes) - {here}
    world.kubectl("taint", "node", here, "karpenter.sh/disrupted:NoSchedule")
    refused = evict(world, "-v=9")
    assert "TooManyRequests" in refused or nodes_of(world) != {here}, refused
    world.wait(lambda: nodes_of(world) == {other}, "the move")
    world.wait_for_phase("Running", "5.1.15")
    assert here == world.status()["history"][0]["movedOff"]
    # An eviction in the moment when both serve is allowed: the old ReplicaSet then starts another pod until it is scaled down.
    assert 2 == world.recorder.most_running["front-desk"] or "TooManyRequests" not in refused
