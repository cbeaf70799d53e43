"""A real node, the operator as a pod from its own image, stand-ins for agent and server, HL7 traffic.

Opened by `run` if the machine can run a real node (Linux, root, packages). `existing` uses `RealPods` too.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.support.cluster.toolchain import ensure_tools
from tests.support.operator_process import NAMESPACE as OPERATOR_NAMESPACE
from tests.support.real_nodes.clinic import REPOSITORY, Clinic
from tests.support.real_nodes.lives import LifeRecorder, violations
from tests.support.real_nodes.nodes import nodes_with_operator
from tests.support.recorder import Recorder
from tests.tools.demo.devices import Devices
from tests.tools.demo.stage import CREDENTIAL, NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cluster import Cluster

ABOUT: Final = (
    "The cluster is real: control plane, and a node with kubelet, kube-proxy, containerd and runc. The operator is a pod from its "
    "own image, with the rights of its own ServiceAccount. Stand-ins (docs/internals/stand-ins.md) run in pods: the Medplum Agent, "
    "the Medplum server, and devices that send HL7 messages all the time."
)
CHECK_SECONDS: Final = 5.0
"""How often to check the operator's pod: each check costs a call of kubectl."""


@dataclass(slots=True)
class RealPods:
    """Pods that run programs.

    Attributes:
        recorder: listens to the container runtime; None on a cluster that the demo did not start.
    """

    cluster: Cluster
    clinic: Clinic
    recorder: LifeRecorder | None
    _stack: ExitStack
    _checked: float = field(default=0.0)

    def operator_fault(self) -> str:
        """Check the pod every CHECK_SECONDS: a container that was restarted has ended before."""
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return ""
        self._checked = now
        statuses = [
            status
            for pod in self.cluster.read("pods", "--namespace", OPERATOR_NAMESPACE)["items"]
            for status in pod["status"].get("containerStatuses", ())
        ]
        restarts = sum(status["restartCount"] for status in statuses)
        if not restarts and all("running" in status["state"] for status in statuses):
            return ""
        return f"ended (restarts: {restarts})"

    def operator_log(self) -> str:
        """Read it through the API."""
        return self.clinic.log

    def furnish(self, namespace: str) -> str:
        """Start server and devices as pods, under Pod Security *restricted*."""
        self.cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        self.cluster.kubectl(
            "wait", "serviceaccount/default", "--namespace", namespace, "--for=create", "--timeout=30s"
        )
        self.clinic.start_server({CREDENTIAL: CREDENTIAL})
        return "The Medplum server (a stand-in) and the devices are ready. Pod Security in this namespace: restricted."

    def placed(self, agent: dict[str, Any]) -> dict[str, Any]:
        """Use image and server of the stand-ins."""
        ours = self.clinic.manifest(agent["spec"]["version"])["spec"]
        agent["spec"]["image"]["repository"] = REPOSITORY
        agent["spec"] |= {name: ours[name] for name in ("server", "channels", "podTemplate")}
        return agent

    def start_devices(self) -> Devices:
        """Send from the pod `devices`, through the agent's Service."""
        devices = Devices(self.clinic)
        self._stack.callback(devices.abandon)
        devices.start()
        return devices

    def overlapping_processes(self) -> list[str] | None:
        """Ask the container runtime."""
        if self.recorder is None:
            return None
        if self.recorder.faults or not self.clinic.lives:
            return [*self.recorder.faults, "the container runtime reported no agent"]
        return violations(self.clinic.lives)


@contextmanager
def real_node() -> Iterator[RealPods]:
    """Start a cluster and the operator for the block. The first run on a machine builds the programs and the images."""
    ensure_tools()
    with nodes_with_operator(1) as (cluster, recorder), ExitStack() as stack:
        # This recorder is not started: the pod watch and the container runtime check the demo.
        clinic = Clinic(cluster, NAMESPACE, cluster.folder, Recorder(), lives_recorder=recorder)
        yield RealPods(cluster, clinic, recorder, stack)
