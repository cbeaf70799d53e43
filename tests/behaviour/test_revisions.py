"""The operator's memory on a real API server: who may write it, what forging its name does, and a way back that would be refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.world import World

REVISION = "agents.medplum.com/revision"
EVIL = "registry.example.org/evil:5.1.15"


def revisions(world: World) -> list[dict[str, Any]]:
    """The agent's revisions, the oldest first."""
    found = world.read("controllerrevisions", "-l", REVISION)["items"]
    return sorted(found, key=lambda raw: int(raw["revision"]))


def in_force(world: World) -> str:
    """The name of the revision that the Deployment names."""
    return str(world.deployment()["metadata"]["annotations"][REVISION])


@pytest.mark.parametrize("role", ["edit", "admin"])
def test_the_built_in_roles_may_read_and_not_write_it(world: World, role: str) -> None:
    """What the decision rests on (docs/adr/0032)."""
    user = f"{role}-of-{world.namespace}"
    world.kubectl("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}")

    def may(verb: str, resource: str) -> bool:
        answer = world.cluster.kubectl(
            "-n", world.namespace, "auth", "can-i", verb, resource, f"--as={user}", check=False
        )
        return answer.stdout.strip() == "yes"

    world.wait(lambda: may("patch", "deployments.apps"), "the RoleBinding in force")
    assert may("get", "controllerrevisions.apps")
    assert not [verb for verb in ("create", "update", "patch", "delete") if may(verb, "controllerrevisions.apps")]


def test_status_the_deployment_and_the_revision_agree(world: World) -> None:
    """Each change has a revision of its own; ten stay; a restart writes nothing."""
    world.install("5.1.1")
    for patch in range(2, 13):
        world.set_version(f"5.1.{patch}")
        world.wait_for_phase("Running", f"5.1.{patch}")
    world.wait(lambda: len(revisions(world)) == 10, "ten revisions")
    found = revisions(world)
    assert found[-1]["metadata"]["name"] == in_force(world) == world.status()["revision"]
    assert "5.1.12" == found[-1]["data"]["spec"]["version"]
    (owner,) = found[-1]["metadata"]["ownerReferences"]
    assert world.agent()["metadata"]["uid"] == owner["uid"]
    world.kubectl("delete", "mpa", "front-desk")
    world.wait(lambda: not revisions(world), "garbage collection")


@pytest.mark.parametrize("name", ["the first revision", "no revision", "one that does not exist"])
def test_a_forged_name_is_not_believed_and_is_reported(world: World, name: str) -> None:
    """Somebody who may edit Deployments goes back in the operator's memory: no pod is replaced."""
    world.install("5.1.14")
    world.set_version("5.1.15")
    world.wait_for_phase("Running", "5.1.15")
    world.wait(lambda: in_force(world) == world.status()["revision"], "the revision in status")
    pods, known = world.pods(), in_force(world)
    forged = {
        "the first revision": revisions(world)[0]["metadata"]["name"],
        "no revision": None,
        "one that does not exist": "front-desk-r99-0123456789",
    }[name]
    patch = {"metadata": {"annotations": {REVISION: forged}}}
    world.kubectl("patch", "deployment", "front-desk", "--type=merge", "-p", json.dumps(patch))
    (event,) = world.wait(lambda: world.events("RecordRestored"), "the Warning")
    assert "Warning" == event["type"]
    assert "annotation agents.medplum.com/revision" in event["message"]
    world.wait(lambda: in_force(world) == known, "the name restored")
    assert [pod["metadata"]["uid"] for pod in pods] == [pod["metadata"]["uid"] for pod in world.pods()]


def test_kubectl_rollout_undo_goes_back_to_no_earlier_version(world: World) -> None:
    """It restores template and annotations of an older ReplicaSet: the operator restores what is in force, and needs no approval for that."""
    world.install("5.1.14")
    world.set_version("5.1.15")
    world.wait_for_phase("Running", "5.1.15")
    world.wait(lambda: len(world.pods()) == 1, "one pod")
    world.kubectl("rollout", "undo", "deployment/front-desk")
    world.wait(lambda: world.events("RecordRestored"), "the Warning")
    world.wait_for_phase("Running", "5.1.15")
    world.wait(lambda: in_force(world) == world.status()["revision"], "the record restored")
    assert "5.1.15" == world.status()["activeVersion"]
    # The recorder saw the user's own write, and what followed from it.
    assert "the Deployment went from 5.1.15 to 5.1.14 without an approval" in world.recorder.violations[0]
    world.recorder.violations.clear()


def test_a_forged_template_of_an_older_release_becomes_no_pod(world: World) -> None:
    """The annotations of releases before revisions, with another image: they decide nothing."""
    world.install("5.1.15")
    template = world.deployment()["spec"]["template"]
    template["spec"]["containers"][0]["image"] = EVIL
    forged = {
        "agents.medplum.com/applied-template": json.dumps({"revision": 1, "template": template}),
        REVISION: None,
    }
    world.kubectl(
        "patch", "deployment", "front-desk", "--type=merge", "-p", json.dumps({"metadata": {"annotations": forged}})
    )
    world.wait(lambda: world.events("RecordRestored"), "the Warning")
    world.kubectl("rollout", "restart", "deployment/front-desk")
    world.wait_for_phase("Running", "5.1.15")
    assert EVIL not in json.dumps(world.pods())


def test_a_change_whose_rollback_a_quota_would_refuse_stops_nothing(world: World) -> None:
    """There is room for the revision of the change and for none of its rollback."""
    world.install("4.2.3")
    (old,) = world.pods()
    number = len(revisions(world))
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few"},
        "spec": {"hard": {"count/controllerrevisions.apps": str(number + 1)}},
    }
    world.apply(quota)
    world.wait(lambda: "used" in world.read("quota", "few").get("status", {}), "the quota in force")
    world.set_version("5.1.15")
    status = world.wait_for_phase("Failed")
    assert "The change to 5.1.15 does not start: if it failed, it could not be rolled back." in status["plan"]
    assert "exceeded quota" in status["plan"]
    assert ("True", "WayBackRefused") == tuple(world.condition("Stalled")[key] for key in ("status", "reason"))
    assert [old["metadata"]["uid"]] == [pod["metadata"]["uid"] for pod in world.pods()]
    assert number == len(revisions(world))
    world.kubectl("delete", "quota", "few")
    world.wait_for_phase("Running", "5.1.15", seconds=90)


def test_an_agent_with_a_huge_spec_can_be_changed_and_rolled_back(world: World) -> None:
    """200 KiB of pod annotations: the Deployment's own annotations stay small."""
    large = {"annotations": {"example.org/text": "x" * 200_000}}
    world.install("5.1.14", podTemplate=large)
    world.set_version("5.1.15")
    world.wait_for_phase("Running", "5.1.15")
    own = world.deployment()["metadata"]["annotations"]
    assert sum(map(len, own.values())) < 20_000
    assert "x" * 200_000 == revisions(world)[-1]["data"]["spec"]["podTemplate"]["annotations"]["example.org/text"]
