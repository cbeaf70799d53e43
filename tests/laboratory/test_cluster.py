"""What other tests rely on: a local cluster is a real one, and its pods behave as their annotations say."""

from __future__ import annotations

import os
import socket
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.cluster import Behaviour, Cluster, KubectlError, local_cluster, processes, simulate, wait_for
from tests.support.cluster.kwok import PORTS
from tests.support.cluster.local import EXISTING
from tests.support.cluster.toolchain.programs import pinned_version

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(120)

OURS = pytest.mark.skipif(EXISTING in os.environ, reason=f"{EXISTING} names a cluster that the tests did not start")


def pod(name: str, annotations: dict[str, str], **spec: Any) -> dict[str, Any]:
    """Return a pod with all that a pod can have: an init container, a native sidecar and two containers."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "initContainers": [
                {"name": "prepare", "image": "example.com/agent:1"},
                {"name": "gate", "image": "example.com/gate:1", "restartPolicy": "Always"},
            ],
            "containers": [
                {"name": "agent", "image": "example.com/agent:1"},
                {"name": "metrics", "image": "example.com/metrics:1"},
            ],
            **spec,
        },
    }


def summary(seen: dict[str, Any]) -> str:
    """Return a pod's phase, its Ready condition and each container's state, in one line."""
    status = seen["status"]
    ready = next((c["status"] for c in status.get("conditions", []) if c["type"] == "Ready"), "unknown")
    words = [f"{status['phase']} ready={ready}"]
    for container in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        (state, detail), *_ = container["state"].items()
        ended = container["lastState"].get("terminated", {})
        words.append(
            f"{container['name']}={detail.get('reason', state)}"
            + ("" if container["ready"] else " unready")
            + (f" exit {ended['exitCode']} {ended.get('message', '(silent)')}" if ended else "")
        )
    return "; ".join(words)


BEHAVIOURS = {
    Behaviour.READY: (
        simulate(),
        "Running ready=True; prepare=Completed; gate=running; agent=running; metrics=running",
    ),
    Behaviour.SLOW_READY: (
        simulate(Behaviour.SLOW_READY, ready_after="2s"),
        "Running ready=True; prepare=Completed; gate=running; agent=running; metrics=running",
    ),
    Behaviour.NEVER_READY: (
        simulate(Behaviour.NEVER_READY, container="gate"),
        "Running ready=False; prepare=Completed; gate=running unready; agent=running; metrics=running",
    ),
    Behaviour.IMAGE_PULL_FAILS: (
        simulate(Behaviour.IMAGE_PULL_FAILS),
        "Pending ready=False; prepare=Completed; gate=running; agent=ImagePullBackOff unready; metrics=running",
    ),
    Behaviour.CONFIG_ERROR: (
        simulate(Behaviour.CONFIG_ERROR),
        "Pending ready=False; prepare=Completed; gate=running; agent=CreateContainerConfigError unready; metrics=running",
    ),
    Behaviour.CRASH_LOOP: (
        simulate(Behaviour.CRASH_LOOP, container="metrics", exit_code=137),
        (
            "Running ready=False; prepare=Completed; gate=running; agent=running; "
            "metrics=CrashLoopBackOff unready exit 137 (silent)"
        ),
    ),
    Behaviour.CRASH_LOOP_MESSAGE: (
        simulate(Behaviour.CRASH_LOOP_MESSAGE, message='cannot read "x"\nat line 3'),
        (
            "Running ready=False; prepare=Completed; gate=running; "
            'agent=CrashLoopBackOff unready exit 1 cannot read "x"\nat line 3; metrics=running'
        ),
    ),
    Behaviour.CRASH_LOOP_SILENT: (
        simulate(Behaviour.CRASH_LOOP_SILENT),
        (
            "Running ready=False; prepare=Completed; gate=running; "
            "agent=CrashLoopBackOff unready exit 1 (silent); metrics=running"
        ),
    ),
}


@pytest.fixture(scope="module")
def actors(simulated_cluster: Cluster) -> Iterator[str]:
    """A namespace with one pod for each behaviour."""
    with simulated_cluster.namespace("actors") as name:
        pods = (pod(str(behaviour), annotations) for behaviour, (annotations, _) in BEHAVIOURS.items())
        simulated_cluster.apply(*pods, namespace=name)
        yield name


def test_the_server_is_the_pinned_kubernetes(simulated_cluster: Cluster) -> None:
    """A cluster answers, and says the version that go.mod pins."""
    versions = simulated_cluster.kubectl("version", "--output", "json").stdout
    assert f'"gitVersion": "{pinned_version("kubernetes")}"' in versions


@pytest.mark.parametrize("behaviour", list(Behaviour))
def test_a_pod_does_as_its_annotation_says(simulated_cluster: Cluster, actors: str, behaviour: Behaviour) -> None:
    """Each behaviour shows in the pod's status as a kubelet would show it."""
    expected = BEHAVIOURS[behaviour][1]
    seen = ""
    deadline = time.monotonic() + 10
    while seen != expected and time.monotonic() < deadline:
        seen = summary(simulated_cluster.read("pod", str(behaviour), "--namespace", actors))
    assert expected == seen


def test_a_pod_is_started_before_it_is_ready(simulated_cluster: Cluster, namespace: str) -> None:
    """Between being scheduled and being ready a pod runs unready for the time that its annotation says."""
    simulated_cluster.apply(pod("one", simulate(ready_after="1h")), namespace=namespace)
    expected = "Running ready=False; prepare=Completed; gate=running; agent=running unready; metrics=running unready"
    wait_for(lambda: expected == summary(simulated_cluster.read("pod", "one", "--namespace", namespace)), what=expected)


def test_a_running_pod_follows_a_changed_annotation(simulated_cluster: Cluster, namespace: str) -> None:
    """A ready pod turns unready and ready again when its behaviour is changed."""

    def ready(status: str) -> str:
        return f"--for=jsonpath={{.status.conditions[?(@.type=='Ready')].status}}={status}"

    place = ("--namespace", namespace)
    simulated_cluster.apply(pod("one", simulate(ready_after="0s")), namespace=namespace)
    simulated_cluster.kubectl("wait", "pod/one", ready("True"), *place, "--timeout=10s")
    for behaviour, status in (("never-ready", "False"), ("ready", "True")):
        simulated_cluster.kubectl(
            "annotate", "pod/one", f"sim.medplum.com/behaviour={behaviour}", "--overwrite", *place
        )
        simulated_cluster.kubectl("wait", "pod/one", ready(status), *place, "--timeout=10s")


def test_a_deleted_pod_takes_its_time(simulated_cluster: Cluster, namespace: str) -> None:
    """A deleted pod is still there while it drains, beside others, and gone after that."""
    simulated_cluster.apply(
        pod("quick", simulate(terminate_after="10ms")), pod("usual", simulate()), namespace=namespace
    )
    simulated_cluster.kubectl(
        "wait", "pod", "--all", "--for=condition=Ready", "--namespace", namespace, "--timeout=10s"
    )
    since = time.monotonic()
    simulated_cluster.kubectl("delete", "pod", "--all", "--wait=false", "--namespace", namespace)
    gone: dict[str, float] = {}
    while len(gone) < 2:
        left = {item["metadata"]["name"] for item in simulated_cluster.read("pods", "--namespace", namespace)["items"]}
        for name in {"quick", "usual"} - left - set(gone):
            gone[name] = time.monotonic() - since
        assert time.monotonic() - since < 10
    assert 1.5 <= gone["usual"]
    assert gone["quick"] < gone["usual"]


def test_a_deleted_pod_has_ended_before_it_is_gone(simulated_cluster: Cluster, namespace: str) -> None:
    """Its containers have ended at a time, its phase says so, and it is not ready any more: all that is reported while it is there."""
    held = pod("held", simulate(terminate_after="10ms"))
    held["metadata"]["finalizers"] = ["example.com/held"]
    place = ("--namespace", namespace)
    simulated_cluster.apply(held, namespace=namespace)
    simulated_cluster.kubectl("wait", "pod/held", "--for=condition=Ready", *place, "--timeout=10s")
    simulated_cluster.kubectl("delete", "pod", "held", "--wait=false", *place)
    expected = (
        "Succeeded ready=False; prepare=Completed; gate=running; agent=Completed unready; metrics=Completed unready"
    )
    wait_for(lambda: expected == summary(simulated_cluster.read("pod", "held", *place)), what=expected)
    ended = simulated_cluster.read("pod", "held", *place)["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["startedAt"] <= ended["finishedAt"]
    simulated_cluster.kubectl("patch", "pod", "held", "--type=merge", "-p", '{"metadata":{"finalizers":null}}', *place)
    simulated_cluster.kubectl("wait", "pod/held", "--for=delete", *place, "--timeout=10s")


def test_a_pod_that_fits_no_node_stays_pending(cluster: Cluster, namespace: str) -> None:
    """The scheduler is a real one: a selector that matches nothing leaves the pod unscheduled, with the reason."""
    cluster.apply(pod("one", {}, nodeSelector={"kubernetes.io/hostname": "nowhere"}), namespace=namespace)
    path = "jsonpath={.status.conditions[?(@.type=='PodScheduled')].reason}"
    cluster.kubectl("wait", "pod/one", f"--for={path}=Unschedulable", "--namespace", namespace, "--timeout=10s")


def test_a_deployment_rolls_out(simulated_cluster: Cluster, namespace: str) -> None:
    """The controllers are real ones: a Deployment becomes available through its ReplicaSet and pods."""
    place = ("--namespace", namespace)
    simulated_cluster.kubectl("create", "deployment", "web", "--image=example.com/web:1", "--replicas=2", *place)
    simulated_cluster.kubectl("rollout", "status", "deployment/web", "--timeout=20s", *place)


def test_a_service_account_is_held_to_its_rights(cluster: Cluster, namespace: str) -> None:
    """A ServiceAccount's kubeconfig is exactly that identity, and RBAC refuses everything that no role grants."""
    config = cluster.service_account_kubeconfig(namespace, "default")
    as_account = ("--kubeconfig", str(config))
    who = cluster.kubectl("auth", "whoami", "--output=jsonpath={.status.userInfo.username}", *as_account).stdout
    assert f"system:serviceaccount:{namespace}:default" == who
    with pytest.raises(KubectlError, match="forbidden"):
        cluster.kubectl("get", "secrets", *as_account)


def test_the_audit_log_shows_who_did_what(audited_cluster: Cluster, namespace: str) -> None:
    """Each call is in the audit log as soon as it has been answered, once, with its user and without bodies."""
    since = datetime.now(UTC)
    audited_cluster.kubectl("create", "configmap", "noted", "--namespace", namespace)
    calls = [
        (event["verb"], event["objectRef"]["resource"], event["stage"], event["responseStatus"]["code"])
        for event in audited_cluster.audit_events(since)
        if event.get("objectRef", {}).get("name") == "noted" and event["user"]["username"] == "kwok-admin"
    ]
    assert [("create", "configmaps", "ResponseComplete", 201)] == calls
    assert [] == list(audited_cluster.audit_events(datetime.now(UTC).replace(year=9000)))
    assert not any("requestObject" in event for event in audited_cluster.audit_events())


def test_an_api_server_that_was_killed_comes_back(simulated_cluster: Cluster, namespace: str) -> None:
    """Killed twice, it still has all objects, on the same port, and the controllers continue automatically."""
    plane = simulated_cluster.plane
    assert plane is not None
    place = ("--namespace", namespace)
    before = processes.recorded(plane.workdir)
    simulated_cluster.kubectl("create", "configmap", "kept", *place)
    for _ in range(2):
        plane.restart_api_server(away_seconds=0.5)
    simulated_cluster.kubectl("get", "configmap", "kept", *place)
    simulated_cluster.kubectl("create", "deployment", "web", "--image=example.com/web:1", *place)
    simulated_cluster.kubectl("rollout", "status", "deployment/web", "--timeout=30s", *place)
    after = processes.recorded(plane.workdir)
    assert {"kube-apiserver"} == {name for name in before if before[name] != after[name]}


@OURS
def test_it_listens_on_the_loopback_only(cluster: Cluster) -> None:
    """No component listens on an address that other machines could reach: not even 127.0.0.2 is answered."""
    options = next(yaml.safe_load_all((cluster.folder / "kwokctl.yaml").read_text(encoding="utf-8")))["options"]
    for name in PORTS:
        socket.create_connection(("127.0.0.1", options[name]), timeout=5).close()
        with pytest.raises(OSError, match=r"refused|unreachable|assign|timed out"):
            socket.create_connection(("127.0.0.2", options[name]), timeout=1)


def test_a_namespace_goes_with_its_block(cluster: Cluster) -> None:
    """Two namespaces never have the same name, and each is deleted when its block ends."""
    with cluster.namespace() as one, cluster.namespace() as two:
        assert one != two
    gone = '{range .items[?(@.status.phase=="Terminating")]}{.metadata.name} {end}'
    deleted = cluster.kubectl("get", "namespaces", f"--output=jsonpath={gone}").stdout.split()
    alive = {item["metadata"]["name"] for item in cluster.read("namespaces")["items"]} - set(deleted)
    assert not alive & {one, two}


@OURS
def test_an_existing_cluster_can_be_used(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """With E2E_KUBECONFIG the harness starts nothing and hands out that cluster, which has no audit log to read."""
    monkeypatch.setenv(EXISTING, str(cluster.kubeconfig))
    with local_cluster() as existing:
        assert (cluster.server, None, False) == (existing.server, existing.audit_log, existing.simulated)
        assert len(cluster.read("nodes")["items"]) == len(existing.read("nodes")["items"])
    assert cluster.kubectl("get", "--raw", "/readyz").stdout == "ok"
