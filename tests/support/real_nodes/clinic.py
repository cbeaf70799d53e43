"""One clinic for a test on real nodes: a namespace with a Medplum server, an agent and traffic.

The operator runs in the cluster, from its own image and manifests (conftest.py). Server, agent and devices are stand-ins
(docs/internals/stand-ins.md) and run as pods too, under Pod Security *restricted*, so the same tests run on any cluster.
"""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.core.objects.gate_pod import HTTP_PORT
from tests.support.cluster import wait_for
from tests.support.operator_process import NAMESPACE, SERVICE_ACCOUNT
from tests.support.real_nodes.lives import Life, violations
from tests.support.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.real_nodes.lives import LifeRecorder

AGENT: Final = "front-desk"
AGENT_ID: Final = "7ee1a9a5-6b6f-4d8c-9a55-0d3c2c5f4e21"
REPOSITORY: Final = "registry.test/medplum-agent"
SERVER_IMAGE: Final = "registry.test/medplum-server:1"
TRAFFIC_IMAGE: Final = "registry.test/traffic:1"
IMAGES: Final = ("pause", "operator", "agent", "medplum-server", "traffic")
"""The images that a clinic needs, by name in the catalogue."""
SERVER_PORT: Final = 8103
HL7_PORT: Final = 2575
ADDRESS: Final = f"mllp://0.0.0.0:{HL7_PORT}"
RESTRICTED: Final = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONNECTS: Final = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10):
    print("connected", flush=True)
    sys.stdin.read()
"""
"""A device that connects and sends nothing, until its input ends."""
SHAPES: Final = ("--reconnecting", "15", "--long-lived", "4:15", "--slow", "20:3", "--push", "2")
"""About 80 messages a second: the limit of two cores that also run the cluster."""


@dataclass
class Clinic(World):
    """A namespace on real nodes, with everything that `World` offers."""

    lives_recorder: LifeRecorder | None = None
    """None if the container runtime cannot be observed: then only the API counts."""
    _server_address: str = ""
    _traffic: list[TrafficRun] = field(default_factory=list)

    @property
    def log(self) -> str:
        """The log of the operator in the cluster."""
        found = self.cluster.kubectl("logs", "--namespace", NAMESPACE, f"deployment/{SERVICE_ACCOUNT}", check=False)
        return found.stdout

    # The Medplum server.

    def open(self, *, address: str = ADDRESS, **settings: Any) -> None:
        """Start the server, register the agent, and create the Secret with its credentials.

        `address` is the Endpoint's; it ends in `?enhanced=true` where the agent shall acknowledge on receipt.
        """
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": AGENT},
                "stringData": {"clientId": "client", "clientSecret": "secret"},
            },
            namespace=self.namespace,
        )
        self.start_server({"client": "secret"}, address=address, **settings)

    def start_server(self, clients: dict[str, str], *, address: str = ADDRESS, **settings: Any) -> None:
        """Start the server, which accepts these clients, and the pod that sends traffic."""
        config = {
            "clients": clients,
            "agents": {AGENT_ID: {"channels": [{"name": "adt", "address": address}]}},
            "settings": settings,
        }
        container = {
            "name": "server",
            "image": SERVER_IMAGE,
            "env": [{"name": "MEDPLUM_DOUBLE_CONFIG", "value": json.dumps(config)}],
            "ports": [{"name": "http", "containerPort": SERVER_PORT}],
            "readinessProbe": {"httpGet": {"path": "/control/health", "port": "http"}, "periodSeconds": 1},
            "securityContext": RESTRICTED,
        }
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "medplum"},
                "spec": {"selector": {"app": "medplum"}, "ports": [{"name": "http", "port": SERVER_PORT}]},
            },
            _pod("medplum", container, labels={"app": "medplum"}),
            _pod("devices", {"name": "devices", "image": TRAFFIC_IMAGE, "securityContext": RESTRICTED} | _IDLE),
            namespace=self.namespace,
        )
        self.kubectl("wait", "pod/medplum", "pod/devices", "--for=condition=Ready", "--timeout=60s")
        self._server_address = self.read("service", "medplum")["spec"]["clusterIP"]

    def ask(self, path: str) -> Any:
        """GET from the server's control API."""
        return json.loads(self.cluster.kubectl("get", "--raw", self._proxy(path)).stdout)

    def post(self, path: str, **body: Any) -> Any:
        """POST to the server's control API."""
        answer = self.cluster.kubectl("create", "--raw", self._proxy(path), "-f", "-", input=json.dumps(body)).stdout
        return json.loads(answer)

    def put(self, path: str, **body: Any) -> Any:
        """PUT to the server's control API."""
        answer = self.cluster.kubectl("replace", "--raw", self._proxy(path), "-f", "-", input=json.dumps(body)).stdout
        return json.loads(answer)

    def _proxy(self, path: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/services/medplum:{SERVER_PORT}/proxy/control/{path}"

    def connections(self) -> list[dict[str, Any]]:
        """The agents' connections as the server saw them, in order."""
        found: list[dict[str, Any]] = self.ask("connections")["connections"]
        return found

    @property
    def server_url(self) -> str:
        """Where agents find the server."""
        return f"http://{self._server_address}:{SERVER_PORT}"

    # The agent.

    def manifest(self, version: str, **spec: Any) -> dict[str, Any]:
        """A MedplumAgent of this clinic."""
        return {
            "apiVersion": "agents.medplum.com/v1alpha1",
            "kind": "MedplumAgent",
            "metadata": {"name": AGENT},
            "spec": {
                "version": version,
                "server": {
                    "baseUrl": f"{self.server_url}/",
                    "agentId": AGENT_ID,
                    "credentialsSecretRef": {"name": AGENT},
                },
                "channels": [{"name": "adt", "port": HL7_PORT}],
                "gate": {"enabled": False},
                "handoff": {"minReadySeconds": 2, "drainSeconds": 2, "progressDeadlineSeconds": 60},
                "podTemplate": {
                    "securityContext": {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532},
                    "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
                },
            }
            | spec,
        }

    def install(self, version: str = "5.1.14", **spec: Any) -> dict[str, Any]:
        """Create the agent and wait until it serves."""
        self.apply(self.manifest(version, **spec))
        return self.wait_for_phase("Running", version, seconds=60)

    def wait_for_the_gate(self) -> None:
        """Wait until the Service selects the gate, every gate accepts connections, and devices reach it.

        A node's kube-proxy learns the new endpoints a moment later; until then a device bypasses the gate.
        """
        self.wait(
            lambda: "gate-of" in str(self.read("service", AGENT)["spec"]["selector"]),
            "the Service selects the gate",
            60,
        )
        self.kubectl("rollout", "status", f"deployment/{AGENT}-gate", "--timeout=60s")
        self.wait(self._comes_by_a_gate, "a device reaches a gate", 60)

    def _comes_by_a_gate(self) -> bool:
        """Whether the gates count a connection from the pod of the devices."""
        before, address = self.devices_at_gates(), self.read("service", AGENT)["spec"]["clusterIP"]
        kubectl = [
            str(self.cluster.kubectl_program),
            f"--kubeconfig={self.cluster.kubeconfig}",
            f"--namespace={self.namespace}",
        ]
        with subprocess.Popen(
            [*kubectl, "exec", "--stdin", "devices", "--", "python3", "-c", CONNECTS, address, str(HL7_PORT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as device:
            assert device.stdout is not None
            return device.stdout.readline() == b"connected\n" and self.devices_at_gates() > before

    def gates(self) -> list[dict[str, Any]]:
        """The agent's gates."""
        found: list[dict[str, Any]] = self.read("pods", "-l", f"{names.GATE_LABEL}={AGENT}")["items"]
        return found

    def devices_at_gates(self) -> int:
        """How many connections of devices the gates count."""
        place = f"/api/v1/namespaces/{self.namespace}/pods/{{}}:{HTTP_PORT}/proxy/metrics"
        metrics = [self.kubectl("get", "--raw", place.format(pod["metadata"]["name"])) for pod in self.gates()]
        found = re.findall(r"(?m)^medplum_agent_gate_devices{.*} (.+)$", "".join(metrics))
        return int(sum(map(float, found)))

    def change(self, version: str, *, approval: str | None = None) -> dict[str, Any]:
        """Change the version, with this approval if given, and wait until it serves. Return the new entry of the history."""
        if approval is not None:
            self.approve(approval)
        self.set_version(version)
        return self.completed(version)

    def completed(self, version: str, **at_least: Any) -> dict[str, Any]:
        """Wait until a version serves and its rollout is in the history. Return that entry."""
        status = self.wait_for_phase("Running", version, seconds=at_least.pop("seconds", 90), **at_least)
        entry: dict[str, Any] = status["history"][0]
        assert (version, "Completed") == (entry["to"], entry["outcome"])
        return entry

    @property
    def lives(self) -> list[Life]:
        """The agent processes that the container runtime reported, oldest first."""
        return [] if self.lives_recorder is None else self.lives_recorder.of(self.namespace)

    def judge(self) -> None:
        """Fail if the container runtime saw a forbidden overlap. Called by the fixture after every test."""
        if self.lives_recorder is None:
            return
        assert self.lives_recorder.faults == []
        assert self.lives, "the container runtime reported no agent"
        assert violations(self.lives) == []

    # The devices.

    def route(self, *, service: str = AGENT, agent_id: str = AGENT_ID) -> tuple[str, ...]:
        """Arguments for the traffic generator: the addresses of agent, server, and of the device that receives pushes."""
        address = self.read("service", service)["spec"]["clusterIP"]
        device = self.read("pod", "devices")["status"]["podIP"]
        return (
            f"{address}:{HL7_PORT}",
            *("--server", self.server_url, "--agent-id", agent_id),
            *("--listen", "0.0.0.0:4000", "--push-host", device),
        )

    @contextmanager
    def traffic(
        self, *arguments: str, shapes: tuple[str, ...] = SHAPES, service: str = AGENT, agent_id: str = AGENT_ID
    ) -> Iterator[TrafficRun]:
        """Send traffic of four shapes during the block; `report` is available after it."""
        run = TrafficRun(self, len(self._traffic))
        self._traffic.append(run)
        run.start(*self.route(service=service, agent_id=agent_id), *shapes, *arguments)
        try:
            run.wait_until_flowing()
            yield run
        except BaseException:
            run.abandon()
            raise
        run.stop()


_IDLE: Final[dict[str, Any]] = {
    "command": ["sleep", "infinity"],
    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - in its pod
}


def _pod(name: str, container: dict[str, Any], *, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


@dataclass
class TrafficRun:
    """One run of the generator in the clinic's pod of devices."""

    clinic: Clinic
    number: int
    report: dict[str, Any] = field(default_factory=dict)
    series: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    _process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str) -> None:
        """Start to send."""
        place = f"/tmp/{self.number}"  # noqa: S108 - in its pod
        script = (
            f"echo $$ > {place}.pid; "
            f'exec python3 -m tests.support.traffic "$@" --marks --output {place}.json --series {place}.series'
        )
        cluster = self.clinic.cluster
        self._process = subprocess.Popen(
            [
                *(str(cluster.kubectl_program), "--kubeconfig", str(cluster.kubeconfig), "--namespace"),
                *(self.clinic.namespace, "exec", "--stdin", "devices", "--"),
                *("sh", "-c", script, "traffic", *arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_until_flowing(self) -> None:
        """Wait until messages arrive at the server."""
        before = self.clinic.ask("counts")["messages"]

        def flowing() -> bool:
            if self._process is None or self._process.poll() is not None:
                raise AssertionError(f"traffic ended at once: {self._output()}")
            return bool(self.clinic.ask("counts")["messages"] >= before + 20)

        wait_for(flowing, what="messages arrive at the server")

    def mark(self, name: str) -> None:
        """Mark this moment: the report counts from mark to mark, and the picture shows marks."""
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("this traffic has not been started")
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Stop sending gracefully and read the report."""
        self._signal()
        self.text = self._output()
        place = f"/tmp/{self.number}"  # noqa: S108 - in its pod
        self.report = json.loads(self.clinic.kubectl("exec", "devices", "--", "cat", f"{place}.json"))
        self.series = json.loads(self.clinic.kubectl("exec", "devices", "--", "cat", f"{place}.series"))

    def abandon(self) -> None:
        """Kill it without a report: the test has failed already."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def _signal(self) -> None:
        self.clinic.kubectl("exec", "devices", "--", "sh", "-c", f"kill -TERM $(cat /tmp/{self.number}.pid)")

    def _output(self) -> str:
        if self._process is None:
            return ""
        return self._process.communicate(timeout=180)[0]
