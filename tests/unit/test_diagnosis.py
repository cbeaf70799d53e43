"""Why a rollout does not get on, in the words of its pods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.observed.findings import Severity
from medplum_agent_operator.core.policy.diagnosis import trouble, unready_ports
from tests.support.builders import NOW, Raw, agent, container_status, observed, pod

if TYPE_CHECKING:
    from medplum_agent_operator.core.observed.findings import Finding
    from medplum_agent_operator.core.observed.model import Observed

CHANNELS = [{"name": "adt", "port": 2575}, {"name": "lab", "port": 2576}, {"name": "rad", "port": 104}]
BACK_OFF = "Back-off pulling image"


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
    """What stands in the way."""
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
    pytest.param(pod(containers=[waiting("ErrImagePull", "not found.")]), Reason.IMAGE_PULL_FAILED, "cannot be pulled: not found", id="an image that is not there"),
    pytest.param(pod(containers=[waiting("InvalidImageName", "bad name")]), Reason.IMAGE_PULL_FAILED, "bad name", id="an image name that is none"),
    pytest.param(pod(containers=[waiting("ImagePullBackOff", BACK_OFF)]), Reason.IMAGE_PULL_FAILED, "the kubelet keeps trying", id="the kubelet backs off pulling"),
    pytest.param(pod(containers=[waiting("ErrImageNeverPull")]), Reason.IMAGE_PULL_FAILED, ": ErrImageNeverPull", id="no words: the kubelet's reason"),
    pytest.param(
        pod(containers=[waiting("CreateContainerConfigError", 'secret "lab-credentials" not found')]),
        Reason.CONTAINER_CONFIG_ERROR,
        'Container agent of pod lab-1 cannot be started: secret "lab-credentials" not found. If a Secret or a key is missing, create it: the pod reads Secret lab-credentials.',
        id="a Secret that is missing",
    ),
    pytest.param(pod(containers=[waiting("RunContainerError", "exec failed")]), Reason.CONTAINER_CONFIG_ERROR, "exec failed", id="a container that cannot be run"),
    pytest.param(
        pod(containers=[crashing(64, "The client secret contains '='.")]),
        Reason.CREDENTIALS_REFUSED,
        "refuses to write agent.properties: The client secret contains '='.",
        id="credentials that the file form cannot carry",
    ),
    pytest.param(
        pod(containers=[container_status("agent", state={"terminated": {"exitCode": 64, "message": "The client id is empty."}})]),
        Reason.CREDENTIALS_REFUSED,
        "The client id is empty.",
        id="credentials that are refused: the first end is enough",
    ),
    pytest.param(pod(containers=[crashing(64)]), Reason.CRASH_LOOP, "exit code 64. It left no message.", id="exit 64 without a word: not the start script"),
    pytest.param(pod(init_containers=[crashing(1, name="mesh-init")]), Reason.CRASH_LOOP, "Container mesh-init", id="an init container that a webhook put there"),
    pytest.param(pod(containers=[crashing(1)]), Reason.CRASH_LOOP, "exit code 1. The agent says nothing when it cannot write its log folder", id="exit 1 without a word: the likely causes"),
    pytest.param(pod(containers=[crashing(0)]), Reason.CRASH_LOOP, "Exit code 0 proves nothing", id="exit 0: what it does not prove"),
    pytest.param(pod(containers=[crashing(126)]), Reason.CRASH_LOOP, "execute permission", id="exit 126: not executable"),
    pytest.param(pod(containers=[crashing(127)]), Reason.CRASH_LOOP, "spec.image.command is not in the image", id="exit 127: not there"),
    pytest.param(pod(containers=[crashing(137)]), Reason.CRASH_LOOP, "more memory than", id="exit 137: killed"),
    pytest.param(pod(containers=[crashing(42)]), Reason.CRASH_LOOP, "exit code 42. It left no message.", id="any other exit: no guess"),
    pytest.param(pod(containers=[crashing(1, "EACCES\n")]), Reason.CRASH_LOOP, "Its last words: EACCES", id="last words come before guesses"),
    pytest.param(pod(unschedulable="0/3 nodes are available"), Reason.UNSCHEDULABLE, "No node takes pod lab-1: 0/3 nodes are available", id="no node takes it"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "reason", "words"), ROWS)
def test_each_fault_is_told_in_words(raw: Raw, reason: Reason, words: str) -> None:
    """The reason is one of ours, the message holds the cluster's own words or the likely cause, and it is a warning."""
    found = found_in(raw)
    assert found is not None
    assert (reason, Severity.WARNING) == (found.reason, found.severity)
    assert words in str(found.message)


def test_a_pod_that_the_cluster_refuses_to_create_is_told_first() -> None:
    """Quota, Pod Security or a webhook: the ReplicaSet's own words."""
    found = found_in(pod(containers=[crashing(1)]), creation_failure="exceeded quota: compute")
    assert found is not None
    assert Reason.POD_CREATION_FAILED is found.reason
    assert "exceeded quota: compute" in str(found.message)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(pod(ready_since=NOW, containers=[crashing(1)]), id="a ready pod, whatever happened before"),
        pytest.param(pod(terminating=True, containers=[crashing(1)]), id="a pod on its way out"),
        pytest.param(pod(phase="Failed", containers=[crashing(1)]), id="a pod that has ended for good"),
        pytest.param(pod(template_hash="older", containers=[crashing(1)]), id="a pod of the template before"),
        pytest.param(pod(containers=[waiting("ContainerCreating")]), id="a container that is being made"),
        pytest.param(pod(containers=[container_status("agent")]), id="a container that runs"),
        pytest.param(
            pod(init_containers=[container_status("mesh-init", state={"terminated": {"exitCode": 0}})]),
            id="an init container has done its work",
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
            id="a first end is no loop yet",
        ),
    ],
)
def test_what_is_no_fault_is_not_told(raw: Raw) -> None:
    """Slow is not broken, the past is past, and other templates' pods do not speak for this one."""
    assert found_in(raw) is None


def test_words_that_change_with_each_try_are_not_repeated() -> None:
    """The kubelet's Back-off reads differently each time; copied, it would cost a status write each time."""
    first = found_in(pod(containers=[waiting("ImagePullBackOff", 'Back-off pulling image "a": 10s')]))
    later = found_in(pod(containers=[waiting("ImagePullBackOff", 'Back-off pulling image "a": 5m0s')]))
    assert first == later


def test_why_an_image_cannot_be_pulled_is_told_while_it_is_waited_too() -> None:
    """The night shift needs the registry's words, and reads them in a whole sentence."""
    cause = 'Back-off pulling image "a:1": ErrImagePull: rpc error: a:1: not found'
    found = found_in(pod(containers=[waiting("ImagePullBackOff", cause)]))
    assert found is not None
    assert "rpc error: a:1: not found." == found.message.cause


@pytest.mark.parametrize(
    ("ready", "ports"),
    [
        pytest.param((), "2575, 2576, 104", id="none is open"),
        pytest.param(("agent",), "2576, 104", id="the first channel's port is the agent container's own readiness"),
        pytest.param(("agent", "ready-rad"), "2576", id="each further one is its own container's"),
    ],
)
def test_closed_ports_are_told_by_number(ready: tuple[str, ...], ports: str) -> None:
    """Which channel's port is not open follows from which container is not ready."""
    raw = pod(containers=[container_status(name, ready=name in ready) for name in ("agent", "ready-lab", "ready-rad")])
    now = seen(raw)
    found = unready_ports(now, now.agent.spec)
    assert found is not None
    assert Reason.PORT_NOT_READY is found.reason
    assert f"does not listen on port {ports}. " in str(found.message)


def test_open_ports_are_not_told() -> None:
    """All containers ready: nothing to say."""
    raw = pod(containers=[container_status(name, ready=True) for name in ("agent", "ready-lab", "ready-rad")])
    now = seen(raw)
    assert unready_ports(now, now.agent.spec) is None
