"""The image is on the node before the old agent is stopped: a real Job on a real API server, with a simulated pod."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.audit import calls_of_the_operator, is_write, resource
from tests.support.cluster import Behaviour, simulate
from tests.support.world import QUICK, REGISTRY_AWAY

if TYPE_CHECKING:
    from tests.support.world import World

DEADLINE = {"minReadySeconds": 0, "drainSeconds": 1, "progressDeadlineSeconds": 4}
UNPULLABLE = {"annotations": simulate(Behaviour.IMAGE_PULL_FAILS)}


def go_down(world: World, **spec: Any) -> None:
    """Ask for 4.2.3 and approve it."""
    world.patch({"version": "4.2.3", **spec})
    world.approve("4.2.3 CHG-7")


def test_the_image_is_fetched_before_the_agent_is_stopped(world: World) -> None:
    """One Job, in a namespace that enforces Pod Security `restricted`, on the agent's node; then the Deployment is written."""
    world.kubectl("label", "namespace", world.namespace, "pod-security.kubernetes.io/enforce=restricted")
    world.install("5.1.15")
    [old] = world.pods()
    since = datetime.now(UTC)
    go_down(world)
    world.wait_for_phase("Running", "4.2.3")
    [job] = world.jobs()
    [pod] = world.read("pods", "-l", f"batch.kubernetes.io/job-name={job['metadata']['name']}")["items"]
    assert old["spec"]["nodeName"] == pod["spec"]["nodeName"]
    assert "registry.example.org/medplum-agent:4.2.3" == pod["spec"]["containers"][0]["image"]
    world.wait(lambda: world.jobs()[0]["status"].get("succeeded") == 1, "the Job complete")
    written = [
        resource(call)
        for call in calls_of_the_operator(world, since)
        if is_write(call) and call["verb"] == "patch" and resource(call) in {"jobs", "deployments"}
    ]
    assert ["jobs", "deployments"] == written
    assert world.events("FetchingImage")


def test_a_missing_secret_stops_no_agent(world: World) -> None:
    """The change fails at once, long before the deadline. The old pod is the same, and the approval is unspent."""
    world.install("5.1.15", handoff={**DEADLINE, "progressDeadlineSeconds": 3600})
    [old] = world.pods()
    go_down(world, podTemplate={"annotations": simulate(Behaviour.CONFIG_ERROR)})
    status = world.wait_for_phase("Failed", "5.1.15")
    assert "The agent's container cannot be created" in status["plan"]
    assert "ContainerConfigError" == world.condition("Stalled")["reason"]
    assert [old["metadata"]["uid"]] == [pod["metadata"]["uid"] for pod in world.pods()]
    assert (1, []) == (len(status["history"]), status.get("spentApprovals", []))


def test_an_image_that_cannot_be_pulled_stops_no_agent(world: World) -> None:
    """The plan has the kubelet's message, then the change fails. The old pod is the same, the return needs no approval, and the approval is unspent."""
    world.install("5.1.15", handoff=DEADLINE)
    [old] = world.pods()
    go_down(world, podTemplate=UNPULLABLE)
    status = world.wait_for_phase("Failed")
    assert "failed to resolve reference" in status["plan"]
    assert "was rolled back" not in status["plan"]
    assert "ImagePullFailed" == world.condition("Stalled")["reason"]
    assert "True" == world.condition("Available")["status"]
    assert [old["metadata"]["uid"]] == [pod["metadata"]["uid"] for pod in world.pods()]
    assert 1 == len(world.jobs())
    world.patch({"version": "5.1.15", "podTemplate": {"annotations": dict(QUICK)}})
    status = world.wait_for_phase("Running", "5.1.15")
    assert [] == status.get("spentApprovals", [])
    assert [old["metadata"]["uid"]] == [pod["metadata"]["uid"] for pod in world.pods()]


@pytest.mark.parametrize("on_failure", ["Hold", "Rollback"])
def test_a_late_image_stops_no_agent_unasked(world: World, on_failure: str) -> None:
    """The kubelet keeps trying and succeeds after the deadline. With Hold the change resumes; without it only on request."""
    world.install("5.1.15", handoff={**DEADLINE, "onFailure": on_failure})
    go_down(world, podTemplate=REGISTRY_AWAY)
    world.wait_for_phase("Failed")
    name = world.jobs()[0]["metadata"]["name"]
    pull(world, name)
    if on_failure == "Rollback":
        world.wait(lambda: world.jobs()[0].get("status", {}).get("succeeded") == 1, "the image fetched")
        assert "5.1.15" == world.deployment()["metadata"]["labels"]["agents.medplum.com/version"]
        world.kubectl("annotate", "mpa", "front-desk", "agents.medplum.com/retry=the image is there")
        world.wait(lambda: len(world.jobs()) == 2, "another try")
        pull(world, next(job["metadata"]["name"] for job in world.jobs() if job["metadata"]["name"] != name))
    world.wait(lambda: world.deployment()["spec"]["strategy"]["type"] == "Recreate", "the Deployment written")
    assert "4.2.3" == world.deployment()["metadata"]["labels"]["agents.medplum.com/version"]


def pull(world: World, job: str) -> None:
    """Let the pod of this Job pull its image from now on."""
    world.make_ready(f"batch.kubernetes.io/job-name={job}")


def test_a_quota_that_refuses_the_pod_stops_no_agent(world: World) -> None:
    """The Job's pod cannot be created: after the deadline the plan says where to look. Without the quota the change resumes."""
    world.install("5.1.15", handoff=DEADLINE)
    [old] = world.pods()
    world.kubectl("create", "quota", "tight", "--hard=pods=1")
    go_down(world)
    status = world.wait_for_phase("Failed")
    assert "describe job" in status["plan"]
    assert [old["metadata"]["uid"]] == [pod["metadata"]["uid"] for pod in world.pods()]
    world.patch({"handoff": {**DEADLINE, "prePull": False}})
    world.wait_for_phase("Running", "4.2.3")
