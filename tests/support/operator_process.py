"""Runs the operator as a process with the rights of its own ServiceAccount, for tests, demo, playground and bench.

`install` applies the CRD and the rights from `manifests/base` as a user does, without the operator's own Deployment: in the local cluster
pods are simulated, so the program runs beside the cluster, with exactly the rights that it has inside.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tests.support.cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.cluster import Cluster

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("medplum-agent-operator")
NAMESPACE = "medplum-agent-operator"
SERVICE_ACCOUNT = "medplum-agent-operator"


def install(cluster: Cluster) -> None:
    """Apply the CRD and the operator's rights, as `kubectl apply -k manifests/base` does, without its Deployment."""
    rendered = cluster.kubectl("kustomize", str(ROOT / "manifests" / "base")).stdout
    objects = [item for item in yaml.safe_load_all(rendered) if item["kind"] != "Deployment"]
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=yaml.safe_dump_all(objects))

    def established() -> bool:
        # `kubectl wait` and jsonpath fail on a CRD without conditions, which happens on a busy machine.
        conditions = cluster.read("crd", "medplumagents.agents.medplum.com").get("status", {}).get("conditions") or ()
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    wait_for(established, what="the CRD established")


@dataclass(slots=True)
class OperatorProcess:
    """A running operator."""

    process: subprocess.Popen[bytes]
    log: Path
    _health: int | None = field(default=None)

    @property
    def health_port(self) -> int:
        """The port for /healthz and /readyz, from its log."""
        if self._health is None:
            self._health = int(self._wait_for_text("health on port ").split()[0].strip('",}'))
        return self._health

    def _wait_for_text(self, text: str, seconds: float = 30) -> str:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            _, found, rest = self.log.read_text().partition(text)
            if found and "\n" in rest:
                return rest
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise TimeoutError(f"the operator did not log {text!r}:\n{self.log.read_text()[-4000:]}")

    def get(self, path: str) -> tuple[int, str]:
        """Send a GET to its health server. Returns status and text."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read().decode()

    def wait_until_ready(self, seconds: float = 30) -> None:
        """Wait until /readyz answers 200."""
        deadline = time.monotonic() + seconds
        while self.get("/readyz")[0] != 200:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the operator is not ready:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Send SIGKILL, as the OOM killer does, or a node that fails."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 10) -> int:
        """Send SIGTERM. Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def rss_bytes(self) -> int:
        """Its resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def start_operator(
    kubeconfig: Path,
    log: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    source: Path | None = None,
) -> OperatorProcess:
    """Start the operator with a kubeconfig; the caller must end it. Its health server listens on a free port of loopback.

    `source`: a folder with the package of another release; default: the installed package.
    """
    program = [str(PROGRAM)]
    if source is not None:
        program = [sys.executable, "-m", "medplum_agent_operator"]
        environment = {**(environment or {}), "PYTHONPATH": str(source)}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MEDPLUM_AGENT_OPERATOR_")}
    clean.pop("KUBERNETES_SERVICE_HOST", None)
    # The client library writes the kubeconfig's certificates into temporary files, and SIGKILL leaves them there.
    temporary = log.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*program, "--health-host", "127.0.0.1", "--health-port", "0", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=clean | {"KUBECONFIG": str(kubeconfig), "TMPDIR": str(temporary)} | dict(environment or {}),
        )
    return OperatorProcess(process, log)


@contextmanager
def running_operator(cluster: Cluster, log: Path, *arguments: str) -> Iterator[OperatorProcess]:
    """Run an operator as its ServiceAccount until the end of the block. It is ready at the start of the block."""
    kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, SERVICE_ACCOUNT)
    operator = start_operator(kubeconfig, log, *arguments)
    try:
        operator.wait_until_ready()
        yield operator
    finally:
        if operator.process.poll() is None:
            operator.kill()
