"""Why a rollout is blocked, in the words of its pods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.observed.findings import Severity
from medplum_agent_operator.core.policy.diagnosis import hopeless, never_serves, not_ready, trouble, unready_ports
from tests.support.builders import NOW, Raw, agent, container_status, observed, pod

if TYPE_CHECKING:
    from medplum_agent_operator.core.observed.findings import Finding
    from medplum_agent_operator.core.observed.model import Observed

CHANNELS = [{"name": "adt", "port": 2575}, {"name": "lab", "port": 2576}, {"name": "rad", "port": 104}]
BACK_OFF = "Back-off pulling image"

ADDED = "Container {}, which a policy added to pod lab-1,"


def seen(*pods: Raw, creation_failure: str = "") -> Observed:
    """The given pods of the live template "hash"."""
    conditions = [{"type": "ReplicaFailure", "status": "True", "message": creation_failure}] if creation_failure else []
    deployment: Raw = {
        "metadata": {"name": "lab"},
        "spec": {"template": {"metadata": {"annotations": {names.TEMPLATE_HASH: "hash"}}, "spec": {}}},
        "status": {"conditions": conditions},
    }
    return observed(agent(channels=CHANNELS), deployment=deployment, pods=pods)


def found_in(*pods: Raw, creation_failure: str = "") -> Finding | None:
    """The finding of the diagnosis."""
    now = seen(*pods, creation_failure=creation_failure)
    return trouble(now, now.agent.spec)


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """A container that the kubelet cannot start."""
    return container_status("agent", state={"waiting": {"reason": reason, "message": message}})


def crashing(code: int, words: str = "", *, name: str = "agent") -> Raw:
    """A container that keeps ending."""
    return container_status(
        name,
        restartCount=3,
        state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}},
        lastState={"terminated": {"exitCode": code, "message": words}},
    )


ROWS = [
    pytest.param(pod(containers=[waiting("ErrImagePull", "not found.")]), Reason.IMAGE_PULL_FAILED, "Pod lab-1 cannot pull its image.\nCause: The kubelet reports: not found.", id="an image that does not exist"),
    pytest.param(pod(containers=[waiting("InvalidImageName", "bad name")]), Reason.IMAGE_PULL_FAILED, "bad name", id="an invalid image name"),
    pytest.param(pod(containers=[waiting("ImagePullBackOff", BACK_OFF)]), Reason.IMAGE_PULL_FAILED, "the kubelet keeps trying", id="the kubelet backs off pulling"),
    pytest.param(pod(containers=[waiting("ErrImageNeverPull")]), Reason.IMAGE_PULL_FAILED, "Cause: The kubelet reports: ErrImageNeverPull.", id="no message: the kubelet's reason"),
    pytest.param(
        pod(containers=[waiting("CreateContainerConfigError", 'secret "lab-credentials" not found')]),
        Reason.CONTAINER_CONFIG_ERROR,
        'Container agent of pod lab-1 cannot be created.\nCause: The kubelet reports: secret "lab-credentials" not found.\nFix: Create what is missing. Secret lab-credentials must have the keys clientId and clientSecret.',
        id="a Secret that is missing",
    ),
    pytest.param(pod(containers=[waiting("RunContainerError", "exec failed")]), Reason.CONTAINER_CONFIG_ERROR, "exec failed", id="a container that cannot be run"),
    pytest.param(
        pod(containers=[crashing(64, "The client secret contains '='.")]),
        Reason.CREDENTIALS_REFUSED,
        "Pod lab-1 refuses to write agent.properties.\nCause: The client secret contains '='.",
        id="credentials that agent.properties cannot express",
    ),
    pytest.param(
        pod(containers=[container_status("agent", state={"terminated": {"exitCode": 64, "message": "The client id is empty."}})]),
        Reason.CREDENTIALS_REFUSED,
        "The client id is empty.",
        id="credentials that are refused: the first exit is enough",
    ),
    pytest.param(pod(containers=[crashing(64)]), Reason.CRASH_LOOP, "keeps exiting with code 64.\nCause: It left no message.", id="exit 64 without a message: not the start script"),
    pytest.param(pod(containers=[crashing(1)]), Reason.CRASH_LOOP, "keeps exiting with code 1.\nCause: Possible causes that leave no message: Medplum refuses access to Agent or Endpoints, the log folder is not writable, or a TCP or ASTM device resets its connection.", id="exit 1 without a message: the likely causes"),
    pytest.param(pod(init_containers=[crashing(1, name="mesh-init")]), Reason.CRASH_LOOP, f"{ADDED.format('mesh-init')} keeps exiting with code 1.\nFix: Correct", id="an init container that a webhook added"),
    pytest.param(pod(containers=[crashing(1, name="istio-proxy")]), Reason.CRASH_LOOP, f"{ADDED.format('istio-proxy')} keeps exiting with code 1.\nFix: Correct", id="a sidecar: nothing is guessed about it"),
    pytest.param(pod(containers=[crashing(1, "no istiod", name="ready-gone")]), Reason.CRASH_LOOP, f"{ADDED.format('ready-gone')} keeps exiting with code 1.\nCause: Its last message: no istiod", id="a sidecar whose name resembles ours"),
    pytest.param(pod(containers=[{**waiting("ErrImagePull", "proxy:1: not found"), "name": "istio-proxy"}]), Reason.IMAGE_PULL_FAILED, f"{ADDED.format('istio-proxy')} cannot pull its image.\nCause: The kubelet reports: proxy:1: not found.\nFix: Correct", id="a sidecar's image"),
    pytest.param(pod(containers=[{**waiting("CreateContainerConfigError", "no configmap"), "name": "istio-proxy"}]), Reason.CONTAINER_CONFIG_ERROR, f"{ADDED.format('istio-proxy')} cannot be created.\nCause: The kubelet reports: no configmap.\nFix: Correct", id="a sidecar's configuration"),
    pytest.param(pod(containers=[crashing(1, name="istio-proxy"), waiting("ErrImagePull", "not found.")]), Reason.IMAGE_PULL_FAILED, "Pod lab-1 cannot pull its image.", id="ours comes first"),
    pytest.param(pod(containers=[crashing(0)]), Reason.CRASH_LOOP, "Exit code 0 proves nothing", id="exit 0 proves nothing"),
    pytest.param(pod(containers=[crashing(126)]), Reason.CRASH_LOOP, "execute permission", id="exit 126: not executable"),
    pytest.param(pod(containers=[crashing(127)]), Reason.CRASH_LOOP, "The program is not in the image.\nFix: Correct spec.image.command", id="exit 127: no such program"),
    pytest.param(pod(containers=[crashing(137)]), Reason.CRASH_LOOP, "exceeded its memory limit", id="exit 137: killed"),
    pytest.param(pod(containers=[crashing(42)]), Reason.CRASH_LOOP, "keeps exiting with code 42.\nCause: It left no message.", id="any other exit: no guess"),
    pytest.param(pod(containers=[crashing(1, "EACCES\n")]), Reason.CRASH_LOOP, "Its last message: EACCES", id="the last message comes before guesses"),
    pytest.param(pod(unschedulable="0/3 nodes are available"), Reason.UNSCHEDULABLE, "No node accepts pod lab-1.\nCause: The scheduler reports: 0/3 nodes are available", id="no node accepts it"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "reason", "words"), ROWS)
def test_each_fault_has_a_reason_and_a_message(raw: Raw, reason: Reason, words: str) -> None:
    """The finding is a warning with a reason of ours; its message quotes the cluster or names the likely cause."""
    found = found_in(raw)
    assert found is not None
    assert (reason, Severity.WARNING) == (found.reason, found.severity)
    assert words in str(found.message)


def test_a_pod_that_the_cluster_refuses_to_create_comes_first() -> None:
    """A quota, Pod Security or a webhook, in the words of the ReplicaSet."""
    found = found_in(pod(containers=[crashing(1)]), creation_failure="exceeded quota: compute")
    assert found is not None
    assert Reason.POD_CREATION_FAILED is found.reason
    assert "exceeded quota: compute" in str(found.message)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(pod(ready_since=NOW, containers=[crashing(1)]), id="a ready pod that crashed before"),
        pytest.param(pod(terminating=True, containers=[crashing(1)]), id="a terminating pod"),
        pytest.param(pod(phase="Failed", containers=[crashing(1)]), id="a failed pod"),
        pytest.param(pod(template_hash="older", containers=[crashing(1)]), id="a pod of an earlier template"),
        pytest.param(pod(containers=[waiting("ContainerCreating")]), id="a container that is being created"),
        pytest.param(pod(containers=[container_status("agent")]), id="a container that runs"),
        pytest.param(
            pod(init_containers=[container_status("mesh-init", state={"terminated": {"exitCode": 0}})]),
            id="an init container that has completed",
        ),
        pytest.param(
            pod(
                containers=[
                    container_status(
                        "agent",
                        restartCount=1,
                        lastState={"terminated": {"exitCode": 64, "message": "The client id is empty."}},
                    )
                ]
            ),
            id="credentials were refused once, and the agent runs with better ones",
        ),
        pytest.param(
            pod(containers=[container_status("agent", state={"terminated": {"exitCode": 1}})]),
            id="a first exit is no loop yet",
        ),
    ],
)
def test_an_ordinary_state_is_no_finding(raw: Raw) -> None:
    """A slow start, earlier exits and pods of other templates are no faults."""
    assert found_in(raw) is None


def test_messages_that_change_with_each_try_are_not_quoted() -> None:
    """The kubelet's back-off message changes with each try. A copy would cost a status write each time."""
    first = found_in(pod(containers=[waiting("ImagePullBackOff", 'Back-off pulling image "a": 10s')]))
    later = found_in(pod(containers=[waiting("ImagePullBackOff", 'Back-off pulling image "a": 5m0s')]))
    assert first == later


def test_the_cause_of_a_failed_pull_is_shown_during_the_back_off_too() -> None:
    """The message quotes the registry as a whole sentence."""
    cause = 'Back-off pulling image "a:1": ErrImagePull: rpc error: a:1: not found'
    found = found_in(pod(containers=[waiting("ImagePullBackOff", cause)]))
    assert found is not None
    assert "The kubelet reports: rpc error: a:1: not found." == found.message.cause


@pytest.mark.parametrize(
    ("ready", "ports"),
    [
        pytest.param((), "2575, 2576, 104", id="none is open"),
        pytest.param(("agent",), "2576, 104", id="the readiness of the agent container is the first channel's port"),
        pytest.param(("agent", "ready-rad"), "2576", id="each further port has its own container"),
    ],
)
def test_closed_ports_are_named_by_number(ready: tuple[str, ...], ports: str) -> None:
    """The container that is not ready shows which channel's port is closed."""
    raw = pod(containers=[container_status(name, ready=name in ready) for name in ("agent", "ready-lab", "ready-rad")])
    now = seen(raw)
    found = unready_ports(now, now.agent.spec)
    assert found is not None
    assert Reason.PORT_NOT_READY is found.reason
    assert found.message.summary.endswith(f"does not listen on port {ports}.")


def test_open_ports_are_no_finding() -> None:
    """All containers are ready."""
    raw = pod(containers=[container_status(name, ready=True) for name in ("agent", "ready-lab", "ready-rad")])
    now = seen(raw)
    assert unready_ports(now, now.agent.spec) is None


@pytest.mark.parametrize("where", ["containers", "init_containers"])
@pytest.mark.parametrize(
    "status",
    [crashing(1), waiting("ImagePullBackOff", "not found"), waiting("CreateContainerConfigError", "no configmap")],
    ids=["it exits", "it has no image", "it has no configuration"],
)
def test_a_container_that_a_policy_added_does_not_end_a_change(where: str, status: Raw) -> None:
    """Its own control plane may come back, and a rollback would get the same container: the deadline decides."""
    fields: dict[str, Any] = {where: [{**status, "name": "istio-proxy"}]}
    assert not hopeless(seen(pod(**fields)))
    assert hopeless(seen(pod(containers=[status])))


@pytest.mark.parametrize(
    ("status", "alone", "beside"),
    [
        pytest.param(crashing(1), 4, 5, id="exit 1 without a message: the server may be away"),
        pytest.param(crashing(1, "EACCES"), 3, 3, id="exit 1 with a message"),
        pytest.param(crashing(64), 3, 3, id="another exit code"),
        pytest.param(crashing(1, name="ready-rad"), 3, 3, id="another container of ours"),
    ],
)
def test_an_exit_that_may_be_the_servers_fault_ends_a_change_later(status: Raw, alone: int, beside: int) -> None:
    """A server that answers 503 for a moment makes each agent exit with 1. While an earlier agent serves, there is more time."""

    def needed(*others: Raw) -> int:
        for exits in range(1, 9):
            one = pod(name="lab-2", containers=[{**status, "restartCount": exits - 1}])
            if hopeless(seen(one, *others)):
                return exits
        raise AssertionError

    assert alone == needed()
    assert beside == needed(pod("5.1.14", template_hash="older", ready_since=NOW))


def test_whoever_s_container_is_stuck_the_pod_does_not_serve() -> None:
    """So a fix need not wait for a maintenance window, also if a policy's container is the reason."""
    stuck = {**waiting("CreateContainerConfigError", "no configmap"), "name": "istio-proxy"}
    assert never_serves(seen(pod(containers=[stuck])))
    assert never_serves(seen(pod(containers=[waiting("CreateContainerConfigError", "no secret")])))
    assert not never_serves(seen(pod(ready_since=NOW, containers=[stuck])))
    assert not never_serves(seen(pod(terminating=True, containers=[stuck])))


GATES = 'the status of pod readiness gate "target-health.elbv2.k8s.aws/lab" is not "True", but False'


def with_conditions(**conditions: tuple[str, str]) -> Raw:
    """A pod on a node with these conditions: status and message by type."""
    raw = pod(node="node-1", containers=[container_status("agent", ready=True)])
    raw["status"]["conditions"] = [
        {"type": kind, "status": status, "message": message} for kind, (status, message) in conditions.items()
    ]
    return raw


def test_a_readiness_gate_that_nobody_satisfies_is_named() -> None:
    """After the deadline, in the kubelet's words. Before it, the pod is only slow."""
    raw = with_conditions(ContainersReady=("True", ""), Ready=("False", GATES))
    now = seen(raw)
    found = not_ready(now, now.agent.spec)
    assert found is not None
    assert Reason.READINESS_GATE is found.reason
    assert f"The kubelet reports: {GATES}." in str(found.message)
    assert found_in(raw) is None


def test_a_pod_without_a_sandbox_is_named() -> None:
    """The network plugin of the node fails: the kubelet has a condition for that."""
    now = seen(
        with_conditions(PodReadyToStartContainers=("False", ""), ContainersReady=("False", ""), Ready=("False", ""))
    )
    found = not_ready(now, now.agent.spec)
    assert found is not None
    assert Reason.SANDBOX_NOT_READY is found.reason


def test_a_pod_whose_containers_are_not_ready_is_about_its_ports() -> None:
    """Also if it has a readiness gate."""
    now = seen(with_conditions(ContainersReady=("False", ""), Ready=("False", GATES)))
    found = not_ready(now, now.agent.spec)
    assert found is None or Reason.PORT_NOT_READY is found.reason
