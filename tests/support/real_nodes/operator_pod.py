"""The operator as a pod: install it from its own image and manifests, scale it, kill it, delete it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import yaml

from tests.support.cluster import wait_for
from tests.support.operator_process import NAMESPACE, ROOT, SERVICE_ACCOUNT

if TYPE_CHECKING:
    from tests.support.cluster import Cluster


def install_operator(cluster: Cluster, *, image: str, agent_repository: str) -> None:
    """Apply `manifests/base` with this image and agent repository, as a user does, and wait until the operator is ready."""
    rendered = cluster.kubectl("kustomize", str(ROOT / "manifests" / "base")).stdout
    objects = list(yaml.safe_load_all(rendered))
    [deployment] = [item for item in objects if item["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    container["image"] = image
    container["env"][0]["value"] = agent_repository
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=yaml.safe_dump_all(objects))
    cluster.kubectl("rollout", "status", f"deployment/{SERVICE_ACCOUNT}", "--namespace", NAMESPACE, "--timeout=90s")


def uninstall_operator(cluster: Cluster) -> None:
    """Delete everything that `install_operator` applied, the CRD included, and wait until it is gone."""
    base = str(ROOT / "manifests" / "base")
    cluster.kubectl("delete", "--kustomize", base, "--ignore-not-found", "--timeout=100s", check=False)


def operator_pods(cluster: Cluster) -> list[str]:
    """Return the names of its pods."""
    found = cluster.read("pods", "--namespace", NAMESPACE)["items"]
    return [pod["metadata"]["name"] for pod in found]


def end_operator(cluster: Cluster) -> None:
    """Scale it to 0, and wait until its pod is gone."""
    cluster.kubectl("scale", f"deployment/{SERVICE_ACCOUNT}", "--namespace", NAMESPACE, "--replicas=0")
    wait_for(lambda: not operator_pods(cluster), what="the operator's pod is gone")


def begin_operator(cluster: Cluster) -> None:
    """Scale it to 1, and wait until it is ready."""
    cluster.kubectl("scale", f"deployment/{SERVICE_ACCOUNT}", "--namespace", NAMESPACE, "--replicas=1")
    cluster.kubectl("rollout", "status", f"deployment/{SERVICE_ACCOUNT}", "--namespace", NAMESPACE, "--timeout=90s")


def kill_operator_process(cluster: Cluster) -> None:
    """Let the container runtime send SIGKILL: no preStop hook, no grace period. Return after the restart."""
    [pod] = cluster.read("pods", "--namespace", NAMESPACE)["items"]
    [status] = pod["status"]["containerStatuses"]
    container = status["containerID"].removeprefix("containerd://")
    [machine] = [each for each in cluster.machines if each.name == pod["spec"]["nodeName"]]
    machine.ctr("tasks", "kill", "--signal", "SIGKILL", container)

    def restarted() -> bool:
        after = json.loads(cluster.kubectl("get", "pod", "-n", NAMESPACE, pod["metadata"]["name"], "-o", "json").stdout)
        return bool(after["status"]["containerStatuses"][0]["restartCount"] > status["restartCount"])

    wait_for(restarted, what="the operator's container restarts")
