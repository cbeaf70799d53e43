"""The operator's start time in the cluster, and the size that its image adds to the base. Called by the bench."""

from __future__ import annotations

import json
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.cluster.images import image
from tests.support.cluster.images.oci import Layout
from tests.support.operator_process import NAMESPACE
from tests.support.real_nodes.operator_pod import operator_pods
from tests.support.recorder import documents

if TYPE_CHECKING:
    from tests.support.cluster import Cluster


def layers_mb() -> tuple[float, ...]:
    """Return the sizes of the operator image's layers that its base does not have."""
    sizes = []
    for name in ("operator", "base"):
        built = image(name)
        with tempfile.TemporaryDirectory() as folder:
            layout = Layout.unpack(built.archive, Path(folder))
            sizes.append([layer.stat().st_size for layer in layout.layers(built.reference)])
    ours, base = sizes
    return tuple(round(size / 1e6, 1) for size in ours[len(base) :])


def start_seconds(cluster: Cluster) -> float:
    """Delete the operator's pod; return the seconds from the creation of the next container until its pod is seen ready.

    The runtime reports when it created the container, some 100 ms before its start. This program dates readiness when
    the watch reports it, as Kubernetes' own date has whole seconds. Both make the figure too long rather than too short.
    """
    gone = set(operator_pods(cluster))
    watch = subprocess.Popen(
        [
            *(str(cluster.kubectl_program), f"--kubeconfig={cluster.kubeconfig}", f"--namespace={NAMESPACE}"),
            *("get", "pods", "--watch", "--output=json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        cluster.kubectl("delete", "pod", "--namespace", NAMESPACE, "--wait=false", *gone)
        for pod in documents(watch.stdout):
            if pod["metadata"]["name"] not in gone and _ready(pod):
                return (datetime.now(UTC) - _made(cluster, pod)).total_seconds()
        raise RuntimeError("the watch of the operator's pods ended")
    finally:
        watch.kill()
        watch.communicate()


def _ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _made(cluster: Cluster, pod: dict[str, Any]) -> datetime:
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    [machine] = [each for each in cluster.machines if each.name == pod["spec"]["nodeName"]]
    stamp: str = json.loads(machine.ctr("containers", "info", container))["CreatedAt"]
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{(fraction + '000000')[:6]}").replace(tzinfo=UTC)
