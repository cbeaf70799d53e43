"""The demo's second tier: a real node, the operator as a pod from its own image, stand-ins for agent and server, traffic.

Opened by `run` where the machine can do it (root, Linux, some packages). It speaks through the clinic of tests/node.
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
    "Real here: API server, controller-manager, scheduler, etcd, and a node with kubelet, kube-proxy, containerd and runc. The "
    "operator is a pod from its own image, with the rights of its own ServiceAccount. Stand-ins (docs/internals/stand-ins.md), in pods "
    "too: the Medplum Agent, the Medplum server, and the devices that send HL7 messages all the time."
)
LOOK_SECONDS: Final = 5.0
"""A look at the operator's pod takes a call of kubectl: not at every question."""


@dataclass(slots=True)
class RealNode:
    """Pods that are processes."""

    cluster: Cluster
    clinic: Clinic
    recorder: LifeRecorder
    _stack: ExitStack
    _looked: float = field(default=0.0)

    def operator_fault(self) -> str:
        """Look at the pod, now and then: a container that was started again has ended before."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return ""
        self._looked = now
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
        """Ask the API for it."""
        return self.clinic.log

    def furnish(self, namespace: str) -> str:
        """Server and devices, as pods under Pod Security *restricted*."""
        self.cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        self.cluster.kubectl(
            "wait", "serviceaccount/default", "--namespace", namespace, "--for=create", "--timeout=30s"
        )
        self.clinic.start_server({CREDENTIAL: CREDENTIAL})
        return "The stand-in for the Medplum server is up, and the devices stand ready. Pod Security here: restricted."

    def placed(self, agent: dict[str, Any]) -> dict[str, Any]:
        """Its image and its server are the stand-ins'."""
        there = self.clinic.manifest(agent["spec"]["version"])["spec"]
        agent["spec"]["image"]["repository"] = REPOSITORY
        agent["spec"] |= {name: there[name] for name in ("server", "channels", "podTemplate")}
        return agent

    def start_devices(self) -> Devices:
        """Send from the pod of the devices, through the agent's Service."""
        devices = Devices(self.clinic)
        self._stack.callback(devices.abandon)
        devices.start()
        return devices

    def processes_that_met(self) -> list[str]:
        """Ask the container runtime, which nothing stands before."""
        if self.recorder.faults or not self.clinic.lives:
            return [*self.recorder.faults, "the container runtime told of no agent"]
        return violations(self.clinic.lives)


@contextmanager
def real_node() -> Iterator[RealNode]:
    """Start the cluster and the operator for the block; the first time on a machine, its images are built before."""
    ensure_tools()
    with nodes_with_operator(1) as (cluster, recorder), ExitStack() as stack:
        # The API's recorder stays silent: here the pods' watch and the container runtime are the judges.
        clinic = Clinic(cluster, NAMESPACE, cluster.folder, Recorder(), lives_recorder=recorder)
        yield RealNode(cluster, clinic, recorder, stack)
