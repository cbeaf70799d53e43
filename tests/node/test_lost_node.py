"""A node that cannot reach the API server while its pods keep running: the worst case, as the API server cannot know."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cluster.node import Machine
    from tests.support.real_nodes.clinic import Clinic

pytestmark = pytest.mark.timeout(400)

SOON = [
    {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    for taint in ("unreachable", "not-ready")
]
"""Kubernetes gives a pod up five seconds after its node was taken for lost, instead of five minutes."""


@contextlib.contextmanager
def lost_node(clinic: Clinic, version: str, **spec: Any) -> Iterator[str]:
    """An agent on a node that is cut off from the control plane; the server that it needs is on the other one."""
    if not clinic.cluster.machines:
        pytest.skip("a node of a cluster that the tests did not start cannot be cut off")
    one, other = clinic.cluster.machines
    try:
        clinic.kubectl("cordon", one.name)
        clinic.open()
        clinic.kubectl("uncordon", one.name)
        clinic.kubectl("cordon", other.name)
        clinic.install(
            version,
            podTemplate={**clinic.manifest(version)["spec"].get("podTemplate", {}), "tolerations": SOON},
            **spec,
        )
        clinic.kubectl("uncordon", other.name)
        cut_off(one)
        clinic.wait(lambda: says(clinic) == ("False", "NodeLost"), "the operator reports it", 150)
        yield one.name
    finally:
        one.run("nft", "add", "table", "ip", "lost")  # no error where it is there, or where it never was
        one.run("nft", "delete", "table", "ip", "lost")
        clinic.kubectl("uncordon", one.name, other.name)
        clinic.wait(lambda: heard_of(clinic, one.name), "the node is back", 120)


def cut_off(machine: Machine) -> None:
    """Nothing of the node itself gets to the control plane; what its pods send to other nodes does."""
    machine.run("nft", "add", "table", "ip", "lost")
    machine.run("nft", "add chain ip lost out { type filter hook output priority -300; }")
    rule = f"ip daddr {machine.addresses.control_plane} meta l4proto tcp reject with tcp reset"
    machine.run("nft", f"add rule ip lost out {rule}")


def says(clinic: Clinic) -> tuple[str, str]:
    """Of the condition Ready."""
    found = clinic.condition("Ready")
    return found["status"], found["reason"]


def heard_of(clinic: Clinic, node: str) -> bool:
    """Whether a node is ready."""
    conditions = clinic.read("node", node)["status"]["conditions"]
    return any((c["type"], c["status"]) == ("Ready", "True") for c in conditions)


def where_it_serves(clinic: Clinic) -> list[str]:
    """The nodes of ready pods."""
    return [
        pod["spec"]["nodeName"]
        for pod in clinic.pods()
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
    ]


def test_from_4_2_4_on_the_agent_serves_from_another_node(clinic: Clinic) -> None:
    """As soon as Kubernetes gives up the lost pod. When the node returns, the old agent ends, and one agent is left."""
    with lost_node(clinic, "5.1.15") as node:
        assert node in clinic.status()["plan"]
        clinic.wait(lambda: where_it_serves(clinic) not in ([], [node]), "the agent serves from the other node", 120)
        clinic.wait(lambda: clinic.condition("Available")["status"] == "True", "Available")
    clinic.wait(lambda: len(clinic.pods()) == 1, "one pod", 120)
    assert [node] != where_it_serves(clinic)


def test_before_4_2_4_nothing_starts_until_the_old_agent_is_known_to_have_ended(clinic: Clinic) -> None:
    """The replacement waits, and status names the command that would end the wait. The clinic asserts that two never ran."""
    with lost_node(clinic, "4.2.3") as node:
        plan = clinic.status()["plan"]
        assert f"kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute" in plan
        clinic.wait(lambda: len(clinic.pods()) == 2, "the replacement", 60)
        waiting = [pod for pod in clinic.pods() if not pod["metadata"].get("deletionTimestamp")]
        assert [None] == [pod["spec"].get("nodeName") for pod in waiting]
    clinic.wait(lambda: where_it_serves(clinic), "the agent serves again", 120)
    clinic.wait_for_phase("Running", "4.2.3", seconds=60)
