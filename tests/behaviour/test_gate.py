"""The gate's objects on a real API server: created, selected by the Service, left alone, bypassed.

Its pods are simulated; `tests/gate` and `tests/node` test the messages through a gate.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.audit import writes_of_the_operator
from tests.support.operator_process import ROOT
from tests.support.world import GATE_IMAGE, agent_manifest

if TYPE_CHECKING:
    from tests.support.world import World

TO_GATE = {"agents.medplum.com/gate-of": "front-desk", "app.kubernetes.io/name": "medplum-agent-gate"}
TO_AGENT = {"agents.medplum.com/agent": "front-desk", "app.kubernetes.io/name": "medplum-agent"}


def selected_by_the_service(world: World) -> dict[str, str]:
    """The selector of the Service."""
    found: dict[str, str] = world.read("service", "front-desk")["spec"]["selector"]
    return found


def forwarding(world: World) -> tuple[str, str]:
    """Status and reason of the condition."""
    condition = world.condition("Forwarding")
    return condition["status"], condition["reason"]


def set_gate(world: World, **spec: Any) -> None:
    """Change `spec.gate`."""
    world.apply(agent_manifest(gate=spec))


@pytest.fixture
def gated(world: World) -> World:
    """An agent behind a gate."""
    world.install(gate={"enabled": True})
    world.wait(lambda: selected_by_the_service(world) == TO_GATE, "the Service leads to the gate")
    world.wait_for_phase("Running", "5.1.14")
    return world


def test_a_gate_is_created_and_selected_by_the_service(gated: World) -> None:
    """Two pods, a headless Service for the agent's address, and the right to read its endpoints and nothing else; all objects are owned."""
    uid = gated.agent()["metadata"]["uid"]
    for kind, name in (
        ("deployment", "front-desk-gate"),
        ("service", "front-desk-agent"),
        ("serviceaccount", "front-desk-gate"),
        ("rolebinding", "front-desk-gate"),
        ("pdb", "front-desk-gate"),
    ):
        [owner] = gated.read(kind, name)["metadata"]["ownerReferences"]
        assert (uid, True) == (owner["uid"], owner["controller"])
    pods = gated.read("pods", "-l", "agents.medplum.com/gate-of=front-desk")["items"]
    assert [GATE_IMAGE, GATE_IMAGE] == [pod["spec"]["containers"][0]["image"] for pod in pods]
    account = f"system:serviceaccount:{gated.namespace}:front-desk-gate"

    def may(verb: str, what: str) -> bool:
        asked = gated.cluster.kubectl(
            "auth", "can-i", verb, what, "--as", account, "--namespace", gated.namespace, check=False
        )
        return asked.stdout.strip() == "yes"

    assert may("watch", "endpointslices.discovery.k8s.io")
    assert not may("get", "pods")
    assert not may("list", "secrets")
    assert 1 == len(gated.pods()), "a gate's pod counts as an agent's"


def test_a_gate_without_drift_costs_no_write(gated: World) -> None:
    """Not even after a restart of the operator. A newer release reports once that an update is pending, and interrupts no device for it."""
    gated.wait(lambda: gated.deployment("front-desk-gate")["status"].get("availableReplicas") == 2, "both gates")
    assert [] == written_by_the_next(gated, GATE_IMAGE)
    assert ["patch medplumagents/status"] == written_by_the_next(gated, "registry.test/medplum-agent-operator:9.9.9")
    assert "its gate's pods (spec.containers[name=gate].image)" in gated.status()["waitingForNextChange"]


def written_by_the_next(gated: World, image: str) -> list[str]:
    """The writes of an operator with this image in its first seconds."""
    since = datetime.now(UTC)
    gated.operators[-1].stop()
    gated.start_operator("--gate-image", image)
    marker = datetime.now(UTC)
    gated.wait(lambda: (datetime.now(UTC) - marker).total_seconds() > 4, "four seconds")
    return writes_of_the_operator(gated, since)


def test_a_change_of_the_gate_rolls_it_and_leaves_the_agent_alone(gated: World) -> None:
    """Only the gate's Deployment changes."""
    [before] = gated.pods()
    set_gate(gated, enabled=True, holdSeconds=30)
    gated.wait(
        lambda: "--hold-seconds=30" in str(gated.deployment("front-desk-gate")["spec"]["template"]), "the new flag"
    )
    gated.wait_for_phase("Running", "5.1.14")
    [after] = gated.pods()
    assert before["metadata"]["uid"] == after["metadata"]["uid"]


def test_a_gate_without_a_ready_pod_is_bypassed(gated: World) -> None:
    """The Service selects the agent, status says so, and the Service selects the gate again as soon as it is ready."""
    gated.kubectl("delete", "pods", "-l", "agents.medplum.com/gate-of=front-desk", "--grace-period=0", "--force")
    gated.wait(lambda: selected_by_the_service(gated) == TO_AGENT, "the Service leads to the agent")
    gated.wait(lambda: forwarding(gated) == ("Unknown", "GateNotServing"), "the condition reports it")
    gated.wait(lambda: selected_by_the_service(gated) == TO_GATE, "the Service leads to the gate again")
    gated.wait(lambda: forwarding(gated) == ("Unknown", "GatesUnreachable"), "simulated gates cannot be asked")
    assert [] == gated.events("GateNotServing"), "a moment without is no warning"
    assert "NetworkPolicies" in gated.status()["plan"]


def test_a_disabled_gate_is_removed_after_the_service_bypasses_it(gated: World) -> None:
    """The agent is handed over, because its drain differs without a gate; the gate's Deployment stays, with zero replicas."""
    set_gate(gated, enabled=False)
    gated.wait(lambda: selected_by_the_service(gated) == TO_AGENT, "the Service leads to the agent")
    gated.wait(lambda: gated.deployment("front-desk-gate")["spec"]["replicas"] == 0, "no gate any more")
    gated.wait_for_phase("Running", "5.1.14")
    assert 2 == gated.recorder.most_running["front-desk"]


def test_the_gate_is_deleted_with_the_agent(gated: World) -> None:
    """By garbage collection: the operator deletes nothing."""
    gated.kubectl("delete", "mpa", "front-desk")
    gated.wait(
        lambda: not gated.kubectl("get", "deployments,rolebindings,services", "-o", "name").strip(),
        "nothing is left",
        60,
    )


def test_the_api_server_accepts_the_sample_of_network_policies(gated: World) -> None:
    """The sample selects the existing pods. Enforcement depends on the cluster's network, and is not tested."""
    rendered = gated.cluster.kubectl("kustomize", str(ROOT / "manifests" / "network-policy")).stdout
    policies = [
        policy | {"metadata": policy["metadata"] | {"namespace": gated.namespace}}
        for policy in yaml.safe_load_all(rendered)
    ]
    gated.cluster.apply(*policies, namespace=gated.namespace)
    for policy in policies:
        selected = ",".join(f"{key}={value}" for key, value in policy["spec"]["podSelector"]["matchLabels"].items())
        assert gated.read("pods", "-l", selected)["items"]
