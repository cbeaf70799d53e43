"""The children: owned, repaired after drift, with the fields of other managers left alone, deleted with their owner."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.world import agent_manifest, child

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.world import World

CHILDREN = ("deployment", "service", "pdb", "serviceaccount")


def test_children_are_owned_and_have_few_rights(world: World) -> None:
    """All four have the owner reference. No token is mounted. The pod fits Pod Security `restricted`, which the namespace enforces."""
    world.kubectl("label", "namespace", world.namespace, "pod-security.kubernetes.io/enforce=restricted")
    world.install()
    uid = world.agent()["metadata"]["uid"]
    for kind in CHILDREN:
        [owner] = world.read(kind, child(kind))["metadata"]["ownerReferences"]
        assert (uid, True) == (owner["uid"], owner["controller"])
    [pod] = world.pods()
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert [] == [volume for volume in pod["spec"]["volumes"] if "projected" in volume or "secret" in volume]


def test_readiness_is_a_connection_to_every_port_and_there_is_no_liveness_probe(world: World) -> None:
    """The pod has a TCP readiness probe by the kubelet for the port of each channel."""
    world.install()
    spec = world.pods()[0]["spec"]
    assert "initContainers" not in spec
    probed = spec["containers"]
    assert {2575, 2576} == {c["readinessProbe"]["tcpSocket"]["port"] for c in probed if "readinessProbe" in c}
    assert [] == [c["name"] for c in probed if "livenessProbe" in c]


@pytest.mark.parametrize("kind", CHILDREN)
def test_deleted_child_is_created_again(world: World, kind: str) -> None:
    """Every deleted child is created again, and status is as before."""
    world.install()
    before = world.read(kind, child(kind))["metadata"]["uid"]
    world.kubectl("delete", kind, child(kind), "--wait=true")

    def back() -> bool:
        found = world.kubectl("get", kind, child(kind), "--ignore-not-found", "-o", "jsonpath={.metadata.uid}")
        return found not in {"", before}

    world.wait(back, f"{kind} made again")
    world.wait_for_phase("Running", "5.1.14")


@pytest.mark.parametrize(
    ("kind", "patch", "look"),
    [
        ("deployment", '{"spec":{"replicas":3}}', lambda o: o["spec"]["replicas"] == 1),
        (
            "deployment",
            '{"spec":{"strategy":{"rollingUpdate":{"maxSurge":2}}}}',
            lambda o: o["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 1,
        ),
        (
            "service",
            '{"spec":{"selector":{"agents.medplum.com/agent":"other"}}}',
            lambda o: o["spec"]["selector"]["agents.medplum.com/agent"] == "front-desk",
        ),
        ("pdb", '{"spec":{"minAvailable":0}}', lambda o: o["spec"]["minAvailable"] == 1),
        (
            "serviceaccount",
            '{"automountServiceAccountToken":true}',
            lambda o: o["automountServiceAccountToken"] is False,
        ),
    ],
    ids=["replicas", "maxSurge", "selector", "minAvailable", "token"],
)
def test_drift_is_repaired(world: World, kind: str, patch: str, look: Callable[[dict[str, Any]], bool]) -> None:
    """A field of ours that was changed by hand is set back, and an Event reports it."""
    world.install()
    world.kubectl("patch", kind, child(kind), "--type=merge", "-p", patch)
    world.wait(lambda: look(world.read(kind, child(kind))), f"{kind} repaired")
    world.wait(lambda: world.events("DriftRepaired"), "the Event")


def test_image_edited_by_hand_is_set_back(world: World) -> None:
    """The operator reverts `kubectl set image` to another version by a rollout to the version of the spec."""
    world.install("5.1.15")
    world.kubectl("set", "image", "deployment/front-desk", "agent=registry.example.org/medplum-agent:5.1.16")
    wanted = "registry.example.org/medplum-agent:5.1.15"
    world.wait(
        lambda: {c["image"] for c in world.deployment()["spec"]["template"]["spec"]["containers"]} == {wanted},
        "the image set back",
    )
    world.wait_for_phase("Running", "5.1.15")


def test_fields_of_others_are_left_alone(world: World) -> None:
    """Labels and annotations of other tools stay on every child when the operator changes it."""
    world.install()
    for kind in CHILDREN:
        world.kubectl("label", kind, child(kind), "team=lab")
        world.kubectl("annotate", kind, child(kind), "example.org/note=keep")
    world.set_version("5.1.15")
    world.wait_for_phase("Running", "5.1.15")
    for kind in CHILDREN:
        metadata = world.read(kind, child(kind))["metadata"]
        assert ("lab", "keep") == (metadata["labels"]["team"], metadata["annotations"]["example.org/note"])


def test_rollout_restart_is_a_handoff(world: World) -> None:
    """`kubectl rollout restart` replaces the pod by a handoff and is not reverted."""
    world.install()
    [old] = world.pods()
    world.kubectl("rollout", "restart", "deployment/front-desk")
    world.wait(
        lambda: len(world.pods()) == 1 and world.pods()[0]["metadata"]["uid"] != old["metadata"]["uid"],
        "the new pod alone",
    )
    world.wait_for_phase("Running", "5.1.14")
    assert 2 == world.recorder.most_running["front-desk"]
    annotations = world.deployment()["spec"]["template"]["metadata"]["annotations"]
    assert "kubectl.kubernetes.io/restartedAt" in annotations


def test_removed_field_is_removed_from_the_child(world: World) -> None:
    """An annotation that is removed from spec.service is removed from the Service; one of another manager stays."""
    world.install(service={"annotations": {"example.org/pool": "a"}})
    world.kubectl("annotate", "service", "front-desk", "example.org/other=stays")
    world.kubectl(
        "patch", "mpa", "front-desk", "--type=json", "-p", '[{"op":"remove","path":"/spec/service/annotations"}]'
    )
    world.wait(
        lambda: "example.org/pool" not in world.read("service", "front-desk")["metadata"]["annotations"],
        "annotation gone",
    )
    assert "stays" == world.read("service", "front-desk")["metadata"]["annotations"]["example.org/other"]


@pytest.mark.parametrize(
    ("kind", "create"),
    [
        ("Deployment", ("create", "deployment", "front-desk", "--image=registry.example.org/other")),
        ("Service", ("create", "service", "clusterip", "front-desk", "--tcp=80:80")),
    ],
)
def test_foreign_object_of_the_same_name_is_never_taken_over(world: World, kind: str, create: tuple[str, ...]) -> None:
    """A foreign Deployment or Service stays as it is; the finding says what to do."""
    world.kubectl(*create)
    before = world.read(kind, child(kind))
    world.apply(agent_manifest())
    status = world.wait_for_phase("Failed")
    assert f"{kind} front-desk already exists and does not belong to this MedplumAgent" in status["plan"]
    assert "NameTaken" == world.condition("Stalled")["reason"]
    after = world.read(kind, child(kind))
    assert (before["spec"], before["metadata"].get("labels")) == (after["spec"], after["metadata"].get("labels"))
    assert "ownerReferences" not in after["metadata"]


@pytest.mark.parametrize("how", ["background", "foreground"])
def test_deleting_the_agent_leaves_nothing_and_never_hangs(world: World, how: str) -> None:
    """There is no finalizer: the object is deleted at once, its children by garbage collection, and none is created again."""
    world.install()
    assert "finalizers" not in world.agent()["metadata"]
    world.kubectl("delete", "mpa", "front-desk", f"--cascade={how}", "--timeout=30s")
    world.wait(
        lambda: (
            "front-desk" not in world.kubectl("get", "mpa,deployment,rs,pods,service,pdb,serviceaccount", "-o", "name")
        ),
        "all gone",
    )


def test_deleting_works_without_an_operator(world: World) -> None:
    """I5: without an operator, the agent and its children are deleted too."""
    world.install()
    world.operators[-1].kill()
    world.kubectl("delete", "mpa", "front-desk", "--timeout=30s")
    world.wait(
        lambda: "front-desk" not in world.kubectl("get", "deployment,pods,service,pdb", "-o", "name"), "all gone"
    )


def test_kopf_leaves_no_mark_on_any_object(world: World) -> None:
    """There is no annotation and no finalizer of Kopf on the agent and its children."""
    world.install()
    everything = world.kubectl("get", "mpa,deployment,service,pdb,serviceaccount,pods", "-o", "yaml")
    assert "kopf" not in everything.lower()


def test_what_kubectl_co_owns_goes_with_the_change_that_removes_it(world: World) -> None:
    """Deployment and Service were applied by kubectl once, then a channel is removed: its container and ports go, in one rollout."""
    world.install()
    for kind in ("deployment", "service"):
        whole = world.read(kind, "front-desk")
        whole["metadata"] = {key: whole["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
        whole.pop("status")
        world.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(whole))
    world.patch({"channels": [{"name": "adt", "port": 2575}]})
    world.wait(lambda: len(world.pods()) == 1 and len(world.pods()[0]["spec"]["containers"]) == 1, "one container")
    status = world.wait_for_phase("Running", "5.1.14")
    pod = world.deployment()["spec"]["template"]["spec"]
    assert [2575] == [port["containerPort"] for port in pod["containers"][0]["ports"]]
    assert [2575] == [port["port"] for port in world.read("service", "front-desk")["spec"]["ports"]]
    assert 2 == len(status["history"])
    assert "2" == world.deployment()["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
    assert [] == world.events("ForeignFields"), "the defaults that kubectl owns too are no news"


def test_what_an_undo_left_is_reported_and_goes_with_the_next_rollout(world: World) -> None:
    """A node selector under the name of kubectl: no pod is replaced for it. The command of the message removes it too."""
    world.install()
    [before] = [pod["metadata"]["uid"] for pod in world.pods()]
    select = '{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/os":"linux"}}}}}'
    world.kubectl("patch", "deployment", "front-desk", "--field-manager=kubectl-rollout", "-p", select)
    [event] = world.wait(lambda: world.events("ForeignFields"), "the Event")
    assert event["message"].startswith("kubectl-rollout has set a field of the pod template")
    world.wait(lambda: [p for p in world.pods() if p["metadata"]["uid"] != before] == world.pods(), "the patch's pod")
    plan = world.wait_for_phase("Running", "5.1.14")["plan"]
    world.set_version("5.1.15")
    world.wait_for_phase("Running", "5.1.15")
    assert "nodeSelector" not in world.deployment()["spec"]["template"]["spec"]
    world.kubectl("patch", "deployment", "front-desk", "-p", select)
    world.wait(lambda: "kubectl-patch has set" in world.status()["plan"], "the notice")
    command = next(line for line in plan.splitlines() if "nodeSelector" in line and line.startswith("Command: "))
    world.cluster.kubectl(*shlex.split(command.removeprefix("Command: kubectl ")))
    world.wait(lambda: "has set a field" not in world.status()["plan"], "no notice")
    assert "nodeSelector" not in world.deployment()["spec"]["template"]["spec"]
