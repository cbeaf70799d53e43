"""The image is there before the old agent is stopped; if it cannot be pulled, the old agent is not stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Phase
from medplum_agent_operator.core.objects.agent_pod import render_pod_template, selector
from medplum_agent_operator.core.observed.jobs import FetchJob
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.plan import make_plan
from medplum_agent_operator.core.policy.prepull import Fetch, hopeless, needed_fetch, render_job, trouble
from medplum_agent_operator.errors import RefusedError
from tests.support.builders import (
    NOW,
    REPOSITORY,
    SERVER,
    agent,
    container_status,
    observed,
    owned_by,
    parsed,
    pod,
    stamp,
)
from tests.support.ports import Stage
from tests.support.simulated_cluster import SimulatedCluster, installed, kinds_of
from tests.support.simulated_cluster.situations import HOLD

NEW = f"{REPOSITORY}:4.2.3"


def forced(**spec: Any) -> SimulatedCluster:
    """An approved downgrade that is about to begin, whose image cannot be pulled."""
    cluster = installed("5.1.15", **spec).annotate("4.2.3 CHG-1").edit(version="4.2.3")
    cluster.never_pulled.add("4.2.3")
    return cluster


def kinds(cluster: SimulatedCluster) -> list[str]:
    """The kinds that a pass would apply now."""
    return kinds_of(cluster.plan())


def test_a_change_that_stops_first_fetches_its_image_first() -> None:
    """Only a Job until the node has the image, then the change; one Job in all."""
    cluster = installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3")
    plan = cluster.reconcile()
    assert [("Job", "missing", False)] == [(each.kind, each.difference, each.disruptive) for each in plan.actions]
    assert (Phase.RECREATING, Reason.FETCHING_IMAGE) == (plan.phase, plan.reason)
    assert "Pulling the image of 4.2.3 before the old agent stops." == plan.message.summary
    assert f"The new agent needs image {NEW} on node node-1." == plan.message.cause
    assert ("True", "Serving") == cluster.condition("Available")
    assert ["5.1.15"] == cluster.running
    cluster.settle()
    assert (["4.2.3"], Phase.RUNNING) == (cluster.running, cluster.status.phase)
    assert (1, 2) == (cluster.writes.count("Job"), cluster.writes.count("Deployment"))


def test_an_image_that_cannot_be_pulled_stops_no_agent() -> None:
    """The message quotes the kubelet at once. After the deadline the phase is Failed. With onFailure Hold the change starts when the image comes."""
    cluster = forced(handoff=HOLD)
    cluster.settle()
    assert "Blocked: Node node-1 cannot pull the image." in (cluster.status.plan or "")
    assert f"Cause: The kubelet reports: {NEW}: not found." in (cluster.status.plan or "")
    assert Reason.IMAGE_PULL_FAILED in {finding.reason for finding in cluster.told}
    cluster.tick(61)
    cluster.settle()
    assert (Phase.FAILED, "5.1.15") == (cluster.status.phase, cluster.status.active_version)
    assert ("True", "ImagePullFailed") == cluster.condition("Stalled")
    assert ("True", "Serving") == cluster.condition("Available")
    for way_out in ('set spec.version back to "5.1.15"', "the operator stopped no agent", "spec.image.pullSecrets"):
        assert way_out in (cluster.status.plan or "")
    assert (["5.1.15"], 1, 1) == (cluster.running, cluster.writes.count("Deployment"), cluster.writes.count("Job"))
    cluster.never_pulled.clear()
    assert ["4.2.3"] == cluster.settle().running


def test_a_missing_secret_stops_no_agent() -> None:
    """It fails at once, with the kubelet's words; nothing is stopped and no approval is used. After a retry with the Secret the change is made."""
    cluster = installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3")
    cluster.without_secret.add("4.2.3")
    status = cluster.settle().status
    assert (Phase.FAILED, "5.1.15", ["5.1.15"]) == (status.phase, status.active_version, cluster.running)
    assert ("True", "ContainerConfigError") == cluster.condition("Stalled")
    assert ("True", "Serving") == cluster.condition("Available")
    assert 'The agent\'s container cannot be created. The kubelet reports: secret "lab" not found.' in (
        status.plan or ""
    )
    assert ((), 1) == (status.spent_approvals, len(status.history))
    cluster.without_secret.clear()
    cluster.mark(names.RETRY, "the Secret is there").settle()
    assert (["4.2.3"], ("4.2.3 CHG-1",)) == (cluster.running, cluster.status.spent_approvals)


def test_a_secret_that_the_kubelet_has_not_read_yet_is_waited_for() -> None:
    """The kubelet says so for a moment after its own start."""
    waits = {"reason": "CreateContainerConfigError", "message": "failed to sync secret cache: timed out"}
    job = FetchJob.read({"metadata": {"name": "lab-fetch", "uid": "j-1"}}, [job_pod(waiting=waits)])
    fetch = Fetch({"metadata": {"name": "lab-fetch", "namespace": "clinic"}}, "node-1", NEW, job)
    assert not job.image_and_secret_present
    assert not hopeless(fetch)
    assert None is trouble(fetch)


def test_what_was_applied_is_needed_for_a_latch() -> None:
    """Somebody broke its record: the agent keeps serving, and the failure is reported."""
    cluster = forced().settle()
    cluster.remember(spec=None)
    cluster.tick(61)
    cluster.settle()
    assert (Phase.FAILED, ["5.1.15"]) == (cluster.status.phase, cluster.running)
    assert None is cluster.record.failed


@pytest.mark.parametrize("lost", ["nothing", "the record", "the record and history"])
@pytest.mark.parametrize("before", ["4.2.3", "5.1.15"])
def test_a_latch_changes_the_record_and_nothing_else(before: str, lost: str) -> None:
    """Strategy, template, and what was active before what serves now: all of it is still needed."""
    cluster = installed("4.1.12").edit(version=before).settle()
    cluster.annotate("4.2.2 CHG-1").edit(version="4.2.2", image={"tag": "4.2.2"})
    cluster.never_pulled.add("4.2.2")
    before_it = cluster.settle().memory.notes
    assert before_it.before is not None
    if "record" in lost:
        cluster.remember(record=None)
    if "history" in lost:
        cluster.agent["status"]["history"] = []
    was = json.loads(json.dumps(cluster.deployment))
    cluster.tick(61)
    plan = cluster.plan()
    assert ((), True, cluster.now) == (plan.findings, plan.defer_reporting, plan.requeue_at), "the next pass reports it"
    revision, latch = plan.actions
    assert ("ControllerRevision", "Deployment", False) == (revision.kind, latch.kind, latch.disruptive)
    assert latch.difference.startswith("metadata.annotations.")
    cluster.reconcile()
    assert cluster.record.failed is not None
    assert was["spec"] == cluster.deployment["spec"]
    assert replace(before_it, record=None) == replace(cluster.memory.notes, record=None)


def test_an_agent_that_is_down_for_a_moment_is_not_given_up_for_an_image_that_cannot_be_pulled() -> None:
    """The old agent crashes while the image is being fetched in vain: it comes back, and the change still waits."""
    deployment = installed().deployment
    seen = observed(agent(), deployment=deployment, pods=[serving(ready_since=None)], nodes=[node()])
    name = render_job(seen.agent, seen.agent.spec, image=NEW, node="node-1")["metadata"]["name"]

    def waits(*jobs: FetchJob) -> bool:
        return needed_fetch(replace(seen, fetches=jobs), seen.agent.spec, image=NEW) is not None

    assert not waits()
    assert waits(FetchJob(name))
    assert not waits(FetchJob(name, image_and_secret_present=True))
    assert not waits(FetchJob(name, ended=True))


@pytest.mark.parametrize(
    ("credentials", "asked_for"),
    [
        pytest.param({"name": "lab-credentials"}, False, id="the same"),
        pytest.param({"name": "another"}, True, id="another Secret"),
        pytest.param({"name": "lab-credentials", "clientSecretKey": "another"}, True, id="another key of it"),
    ],
)
def test_the_secret_is_asked_for_also_where_the_image_is_there(credentials: dict[str, str], *, asked_for: bool) -> None:
    """A rotation by name: an agent is stopped only for a Secret that is there."""
    cluster = installed("4.2.3")
    cluster.edit(server={**SERVER, "credentialsSecretRef": credentials}, logging={"level": "ERROR"}).reconcile()
    assert asked_for is bool(cluster.fetching)
    assert asked_for is ("Job" in [action.kind for action in cluster.plans[-1].actions])


def test_a_job_whose_pod_was_deleted_is_created_again() -> None:
    """An evicted or deleted pod says nothing about the image, so the change does not fail before its deadline."""
    body = {"metadata": {"name": "lab-fetch-1", "namespace": "clinic"}}
    fetch = Fetch(body, "node-1", NEW, FetchJob("lab-fetch-1", ended=True))
    found = trouble(fetch)
    assert found is not None
    assert "the operator automatically creates another Job 120 seconds after the end of this one." in found.message.fix
    assert not hopeless(fetch)


@pytest.mark.parametrize(("kind", "owner", "found"), [("Job", "agent", 1), ("Job", "other", 0), ("Pod", "agent", 0)])
def test_what_fetches_is_a_job_of_ours(kind: str, owner: str, found: int) -> None:
    """A Job that somebody else made with our label, and anything else with it, tells nothing."""
    raw = agent()
    job = owned_by(
        {"kind": kind, "metadata": {"name": "lab-fetch-1", "uid": "1"}},
        {"agent": raw["metadata"]["uid"]}.get(owner, owner),
    )
    assert found == len(
        Observed.of(MedplumAgent.parse(raw), deployment=None, children={}, pods=(), fetching=[job]).fetches
    )


def test_the_approval_is_spent_only_when_the_agent_is_stopped() -> None:
    """Taken off while the image is fetched: nothing happens, and it counts again later."""
    cluster = forced()
    cluster.settle()
    assert () == cluster.status.spent_approvals
    cluster.annotate(None)
    cluster.never_pulled.clear()
    cluster.settle()
    assert (["5.1.15"], Phase.AWAITING_APPROVAL) == (cluster.running, cluster.status.phase)
    assert 1 == cluster.writes.count("Deployment")


@pytest.mark.parametrize(
    ("version", "phase", "running"),
    [
        pytest.param("5.1.15", Phase.RUNNING, "5.1.15", id="back to what serves: there is nothing to do"),
        pytest.param(
            "5.1.16", Phase.RUNNING, "5.1.16", id="another version, by a handoff: no image has to be there first"
        ),
    ],
)
def test_another_spec_gives_the_fetch_up(version: str, phase: Phase, running: str) -> None:
    """Nobody waits for an image that is no longer asked for."""
    cluster = forced()
    cluster.settle()
    cluster.edit(version=version).settle()
    assert (phase, [running]) == (cluster.status.phase, cluster.running)
    assert 1 == cluster.writes.count("Job")


def test_a_corrected_pull_secret_is_another_try() -> None:
    """The Job's name is made of all that is in it: a Job cannot be changed."""
    cluster = forced()
    cluster.settle()
    cluster.edit(image={"pullSecrets": [{"name": "registry"}]}).settle()
    assert 2 == cluster.writes.count("Job") == len(set(cluster.fetching))


def test_what_serves_stays_as_it_was_applied_while_the_image_is_fetched() -> None:
    """Service and budget of the new spec wait with it; drift is repaired towards the old one."""
    cluster = forced()
    cluster.edit(channels=[{"name": "adt", "port": 2600}]).reconcile()
    assert 2575 == cluster.objects["Service"]["spec"]["ports"][0]["port"]
    assert "minAvailable" in cluster.objects["PodDisruptionBudget"]["spec"]
    cluster.delete("Service")
    assert ["Service"] == kinds(cluster)
    cluster.reconcile()
    assert 2575 == cluster.objects["Service"]["spec"]["ports"][0]["port"]


def test_switched_off_it_stops_at_once() -> None:
    """spec.handoff.prePull: false."""
    cluster = installed("5.1.15", handoff={"prePull": False}).annotate("4.2.3 CHG-1").edit(version="4.2.3")
    assert ["ControllerRevision", "PodDisruptionBudget", "Deployment"] == kinds(cluster)


def test_a_handoff_fetches_nothing_first() -> None:
    """The old agent is stopped last anyway."""
    assert ["Deployment"] == kinds(installed("5.1.14").edit(version="5.1.15"))


def serving(image: str = "agent", **fields: Any) -> dict[str, Any]:
    """A pod that serves."""
    return pod(image=image, **{"ready_since": NOW, "node": "node-1", **fields})


def node(**spec: Any) -> dict[str, Any]:
    """The node that it is on."""
    return {"metadata": {"name": "node-1"}, "spec": spec}


@pytest.mark.parametrize(
    ("pods", "nodes", "fetches"),
    [
        pytest.param([serving()], [node()], True, id="it serves, with another image"),
        pytest.param([serving()], [], True, id="nodes are not watched: fetched all the same"),
        pytest.param([serving(NEW)], [node()], False, id="it runs that image: it is there"),
        pytest.param([serving(ready_since=None)], [node()], False, id="it does not serve: nothing is won by waiting"),
        pytest.param([serving(terminating=True)], [node()], False, id="it is on its way out"),
        pytest.param([serving(node="")], [node()], False, id="it is on no node"),
        pytest.param(
            [serving()], [node(unschedulable=True)], True, id="its node is cordoned: proved there that it can be pulled"
        ),
        pytest.param([], [], False, id="no pod at all"),
    ],
)
def test_an_image_is_fetched_for_an_agent_that_serves(
    pods: list[dict[str, Any]], nodes: list[dict[str, Any]], *, fetches: bool
) -> None:
    """To its own node, where the new pod will find it."""
    deployment = installed().deployment
    seen = observed(agent(), deployment=deployment, pods=pods, nodes=nodes)
    assert fetches is (needed_fetch(seen, seen.agent.spec, image=NEW) is not None)


def job_pod(**state: Any) -> dict[str, Any]:
    """The Job's pod in a state."""
    raw = pod(name="lab-fetch-1", containers=[container_status("agent", state=state)])
    raw["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "lab-fetch", "uid": "j-1", "controller": True}]
    return raw


def beside(own: dict[str, Any], *, native: bool = False, **state: Any) -> dict[str, Any]:
    """The Job's pod, to which a policy has added a container in a state. `native`: an init container that runs on."""
    raw = job_pod(**own)
    key = "initContainerStatuses" if native else "containerStatuses"
    raw["status"][key] = [container_status("istio-proxy", state=state), *raw["status"][key]]
    return raw


PULLING = {"waiting": {"reason": "ErrImagePull", "message": f"{NEW}: not found"}}
INITIALIZING = {"waiting": {"reason": "PodInitializing"}}


@pytest.mark.parametrize(
    ("conditions", "pods", "there"),
    [
        pytest.param(["Complete"], [], True, id="the Job is done, its pod gone"),
        pytest.param([], [job_pod(running={})], True, id="its container runs"),
        pytest.param(
            ["Failed"], [job_pod(terminated={"exitCode": 127})], True, id="it ended badly: there is no `true` in it"
        ),
        pytest.param(
            [], [job_pod(waiting={"reason": "CreateContainerError"})], True, id="it was pulled, and has its Secret"
        ),
        pytest.param([], [job_pod(waiting={"reason": "CreateContainerConfigError"})], False, id="there is no Secret"),
        pytest.param([], [job_pod(waiting={"reason": "ContainerCreating"})], False, id="it is being pulled"),
        pytest.param([], [job_pod(waiting={"reason": "ErrImagePull"})], False, id="it cannot be pulled"),
        pytest.param([], [job_pod(waiting={"reason": "ImagePullBackOff"})], False, id="it cannot be pulled, again"),
        pytest.param(["Failed"], [], False, id="the Job ran out of time"),
        pytest.param([], [beside(PULLING, running={})], False, id="only a container that a policy added runs"),
        pytest.param([], [beside(PULLING, terminated={"exitCode": 0})], False, id="only that one has ended"),
        pytest.param(
            [], [beside(PULLING, waiting={"reason": "CrashLoopBackOff"})], False, id="only that one was pulled"
        ),
        pytest.param([], [beside(INITIALIZING, native=True, running={})], False, id="only a native sidecar runs"),
        pytest.param([], [beside({"terminated": {"exitCode": 0}}, running={})], True, id="that one never ends"),
        pytest.param(
            [], [beside({"terminated": {"exitCode": 0}}, native=True, running={})], True, id="a native one never ends"
        ),
        pytest.param([], [pod(containers=[container_status("agent")])], False, id="somebody else's pod"),
        pytest.param([], [], False, id="no pod yet"),
    ],
)
def test_when_all_counts_as_there(conditions: list[str], pods: list[dict[str, Any]], *, there: bool) -> None:
    """Once the kubelet has pulled the image and found the Secret, however the container then ended."""
    raw = {
        "metadata": {"name": "lab-fetch", "uid": "j-1", "creationTimestamp": stamp(NOW)},
        "status": {"conditions": [{"type": kind, "status": "True"} for kind in conditions]},
    }
    job = FetchJob.read(raw, pods)
    assert (there, NOW) == (job.image_and_secret_present, job.created)


NEVER = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off: proxy:1: not found"}}


@pytest.mark.parametrize(
    ("raw", "reason", "words", "ends_it"),
    [
        pytest.param(beside(PULLING, waiting=NEVER["waiting"]), Reason.IMAGE_PULL_FAILED, "Node node-1 cannot pull the image.", False, id="both cannot be pulled: ours is told of"),
        pytest.param(beside({"waiting": {"reason": "ContainerCreating"}}, waiting=NEVER["waiting"]), None, "", False, id="ours is on its way: the other does not matter"),
        pytest.param(beside(NEVER, running={}), Reason.IMAGE_PULL_FAILED, "Node node-1 cannot pull the image.", True, id="ours never comes"),
        pytest.param(
            beside(INITIALIZING, native=True, waiting=NEVER["waiting"]),
            Reason.IMAGE_PULL_FAILED,
            "Container istio-proxy, which a policy added to pod lab-fetch-1, cannot pull its image.",
            False,
            id="ours waits for an init container: that is told of, and may be corrected",
        ),
    ],
)  # fmt: skip
def test_troubles_of_containers_that_a_policy_added(
    raw: dict[str, Any], reason: Reason | None, words: str, *, ends_it: bool
) -> None:
    """They are named as what they are, and never end a change before its deadline."""
    job = FetchJob.read({"metadata": {"name": "lab-fetch", "uid": "j-1"}}, [raw])
    fetch = Fetch({"metadata": {"name": "lab-fetch", "namespace": "clinic"}}, "node-1", NEW, job)
    found = trouble(fetch)
    assert (reason, ends_it) == (found and found.reason, hopeless(fetch))
    assert words in ("" if found is None else found.message.summary)


@pytest.mark.parametrize("native", [True, False])
def test_a_sidecar_does_not_stop_an_agent_whose_image_is_missing(*, native: bool) -> None:
    """A policy adds a container to every pod: the old agent serves on, and the change begins when the image is there."""
    cluster = forced(handoff=HOLD)
    cluster.sidecar = "native" if native else "regular"
    assert ["5.1.15"] == cluster.settle().running
    assert Reason.IMAGE_PULL_FAILED in {finding.reason for finding in cluster.told}
    cluster.never_pulled.clear()
    assert ["4.2.3"] == cluster.settle().running


def test_the_job_s_pod_is_nobody_s_agent_and_may_run_anywhere_an_agent_may() -> None:
    """No selector of an agent finds it; Pod Security `restricted`; no token; on that node, with the agent's tolerations."""
    found = parsed(
        "4.2.3",
        image={"pullPolicy": "Always", "pullSecrets": [{"name": "registry"}]},
        podTemplate={"tolerations": [{"key": "clinic", "operator": "Exists"}], "serviceAccountName": "agents"},
    )
    job = render_job(found, found.spec, image=NEW, node="node-1")
    template = job["spec"]["template"]
    labels, spec = template["metadata"]["labels"], template["spec"]
    assert not set(selector(found).items()) <= set(labels.items())
    assert names.AGENT_LABEL not in labels
    assert ("lab", "medplum-agent-operator") == (labels[names.FETCH_LABEL], labels[names.MANAGED_BY_LABEL])
    assert (False, "agents", "Never") == (
        spec["automountServiceAccountToken"],
        spec["serviceAccountName"],
        spec["restartPolicy"],
    )
    assert [{"name": "registry"}] == spec["imagePullSecrets"]
    [container] = spec["containers"]
    agents = render_pod_template(found, found.spec, image=NEW)["spec"]["containers"][0]["env"]
    assert [variable for variable in agents if "valueFrom" in variable] == container["env"], "what the agent reads"
    assert (NEW, "Always", ["true"]) == (container["image"], container["imagePullPolicy"], container["command"])
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert {"drop": ["ALL"]} == container["securityContext"]["capabilities"]
    [term] = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert ["node-1"] == term["matchFields"][0]["values"]
    everywhere = {"operator": "Exists", "effect": "NoSchedule"}
    assert [{"key": "clinic", "operator": "Exists"}, everywhere] == spec["tolerations"]
    assert [True] == [owner["controller"] for owner in job["metadata"]["ownerReferences"]]


def test_the_job_s_name_fits_whatever_the_agent_s_name() -> None:
    """63 characters at the most: it is a label's value too. Same content, same name; another node, another one."""
    raw = agent("4.2.3")
    raw["metadata"]["name"] = "x" * 40 + "-" * 3 + "y" * 20
    long = type(parsed()).parse(raw)
    jobs = [render_job(long, long.spec, image=NEW, node=name)["metadata"]["name"] for name in ("a", "a", "b")]
    assert [True] * 3 == [len(name) <= 63 for name in jobs]
    assert jobs[0] == jobs[1] != jobs[2]


async def test_a_refused_job_stops_no_agent_and_the_message_says_how_to_do_without() -> None:
    """A quota, a right or admission: the message says so, and that the user can turn the pull off."""
    stage = Stage(forced())
    stage.cluster.faults["apply Job"] = [RefusedError("exceeded quota", status=403)]
    await stage.one_pass()
    assert "apply Deployment" not in stage.writes
    status = stage.simulated.status
    assert Phase.FAILED is status.phase
    assert "The API server refuses to write Job lab-fetch-" in (status.plan or "")
    assert "spec.handoff.prePull to false" in (status.plan or "")
    assert ["5.1.15"] == stage.simulated.running


def test_a_job_that_is_suspended_says_so() -> None:
    """A queue suspends Jobs until it admits them: the Job has no pod, and a condition."""
    cluster = installed("4.2.3").edit(version="5.1.15")
    cluster.reconcile()
    seen = cluster.observe()
    (job,) = seen.fetches
    raw = {**cluster.jobs[0], "status": {"conditions": [{"type": "Suspended", "status": "True"}]}}
    assert FetchJob.read(raw, []).suspended
    plan = make_plan(replace(seen, fetches=(replace(job, suspended=True),)), config=cluster.config, now=cluster.now)
    assert Reason.JOB_SUSPENDED in {found.reason for found in plan.findings}
    assert "is suspended, so Kubernetes creates no pod for it" in plan.text
