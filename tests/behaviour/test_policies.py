"""The policy for the operator's own writes: the operator can do all of its work under it, and its account nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.audit import USER
from tests.support.world import agent_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.world import World

POLICY = Path(__file__).parents[2] / "manifests" / "policies" / "operator-writes.yaml"
SHIPPED = "system:serviceaccount:medplum-agent-operator:medplum-agent-operator"
DENIED = "ValidatingAdmissionPolicy 'medplum-agent-operator-writes' with binding 'medplum-agent-operator-writes' denied request"


@pytest.fixture
def policy(world: World) -> Iterator[World]:
    """The policy is in force for the tests' operator."""
    text = POLICY.read_text(encoding="utf-8")
    assert 1 == text.count(SHIPPED)
    text = text.replace(SHIPPED, USER)
    world.cluster.kubectl("apply", "-f", "-", input=text)
    try:
        world.wait(lambda: DENIED in tried(world, manifest("Service", "probe")), "the policy in force")
        yield world
    finally:
        world.cluster.kubectl("delete", "-f", "-", input=text)


def tried(world: World, raw: dict[str, Any], *verb: str) -> str:
    """What the API server says if the operator's account tries a write, as a dry run."""
    done = world.cluster.kubectl(
        "-n",
        world.namespace,
        *(verb or ("create",)),
        "--dry-run=server",
        f"--as={USER}",
        "-f",
        "-",
        input=yaml.safe_dump(raw),
        check=False,
    )
    return str(done.stdout + done.stderr)


def manifest(kind: str, name: str, owner: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """An object with an owner or none."""
    metadata = {"name": name} | ({} if owner is None else {"ownerReferences": [owner]})
    raw: dict[str, Any] = {"apiVersion": "v1", "kind": kind, "metadata": metadata}
    if kind == "Service":
        raw["spec"] = {"selector": {"app": "x"}, "ports": [{"port": 80}]}
    if kind == "Deployment":
        pod = {"containers": [{"name": "agent", "image": "registry.example.org/agent:5.1.15"}], **spec}
        labels = {"app": "x"}
        raw |= {
            "apiVersion": "apps/v1",
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }
    if kind == "RoleBinding":
        raw |= {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        }
    return raw


def test_the_operator_does_all_of_its_work_under_the_policy(policy: World) -> None:
    """Gate, handoff, recreate with a backup, rollback, and a gate that is switched off: no write is refused."""
    world = policy
    world.apply(agent_manifest(version="5.1.14", gate={"enabled": True}))
    world.wait_for_phase("Running", "5.1.14")
    for patch in range(15, 27):
        world.set_version(f"5.1.{patch}")
        world.wait_for_phase("Running", f"5.1.{patch}")
    world.set_version("4.2.3")
    world.approve("4.2.3")
    world.wait_for_phase("Running", "4.2.3", seconds=60)
    world.patch({"gate": {"enabled": False}})
    world.wait(lambda: world.read("deployment", "front-desk-gate")["spec"]["replicas"] == 0, "the gate off")
    world.wait(
        lambda: len(world.read("controllerrevisions", "-l", "agents.medplum.com/revision")["items"]) == 10, "ten"
    )
    assert [] == world.events("WriteRefused")
    assert DENIED not in world.operators[-1].log.read_text()


def test_what_others_have_added_stops_no_write_of_the_operator(policy: World) -> None:
    """A user lets the agent's pod see the processes of its node: the next change of the agent is made all the same."""
    world = policy
    world.install("5.1.14")
    patch = json.dumps({"spec": {"template": {"spec": {"hostPID": True}}}})
    world.kubectl("patch", "deployment", "front-desk", "--type=merge", "-p", patch)
    world.wait_for_phase("Running", "5.1.14")
    world.set_version("5.1.15")
    world.wait_for_phase("Running", "5.1.15")
    assert [] == world.events("WriteRefused")


def test_its_account_can_do_nothing_else(policy: World) -> None:
    """What a stolen token is worth: no object of others, no pod with the rights of its node."""
    world = policy
    world.install("5.1.15")
    uid = world.agent()["metadata"]["uid"]
    owner = {"apiVersion": "agents.medplum.com/v1alpha1", "kind": "MedplumAgent", "name": "front-desk", "uid": uid, "controller": True, "blockOwnerDeletion": True}  # fmt: skip
    container = {"name": "agent", "image": "registry.example.org/agent:5.1.15"}
    host = {"name": "root", "hostPath": {"path": "/"}}
    for what, raw in {
        "no owner": manifest("Deployment", "evil"),
        "an owner of another kind": manifest("Service", "front-desk-x", {**owner, "kind": "Deployment", "apiVersion": "apps/v1"}),
        "an owner that does not control": manifest("Service", "front-desk-x", {**owner, "controller": False}),
        "another name": manifest("Service", "kubernetes", owner),
        "the processes of the node": manifest("Deployment", "front-desk-x", owner, hostPID=True),
        "a privileged container": manifest("Deployment", "front-desk-x", owner, containers=[{**container, "securityContext": {"privileged": True}}]),
        "a capability": manifest("Deployment", "front-desk-x", owner, containers=[{**container, "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]),
        "a folder of the node": manifest("Deployment", "front-desk-x", owner, volumes=[host]),
        "a ServiceAccount of nobody": manifest("ServiceAccount", "evil"),
    }.items():  # fmt: skip
        assert DENIED in tried(world, raw), what
    assert "created (server dry run)" in tried(world, manifest("Deployment", "front-desk-x", owner))
    # A Service of somebody else becomes no child of an agent.
    world.kubectl("create", "-f", "-", input=json.dumps(manifest("Service", "front-desk-theirs")))
    taken = manifest("Service", "front-desk-theirs", owner)
    assert DENIED in tried(world, taken, "apply", "--server-side", "--force-conflicts")
    patch = ["patch", "service", "front-desk-theirs", "--type=merge", "-p", '{"spec":{"selector":{"app":"y"}}}']
    refused = world.cluster.kubectl("-n", world.namespace, *patch, f"--as={USER}", check=False)
    assert DENIED in refused.stderr
