"""Start and stop one control plane with kwokctl, and name the component that failed if it does not start.

`local_cluster` and `cluster_with_nodes` call this, and tests that end its API server. It leaves ports, folders and signals to its caller.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from tests.support.cluster import processes
from tests.support.cluster.errors import ClusterStartError
from tests.support.cluster.toolchain.programs import pinned_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.cluster.toolchain import Tools

HERE: Final = Path(__file__).parent
AUDIT_POLICY: Final = HERE / "audit-policy.yaml"
START_SECONDS: Final = 90.0
SECOND_CHECK_SECONDS: Final = 0.5
LOG_LINES: Final = 30
API_SERVER: Final = "kube-apiserver"

CLUSTERS: Final = Path("kwok") / "clusters"

PORTS: Final = (
    "etcdPort",
    "etcdPeerPort",
    "kubeApiserverPort",
    "kubeControllerManagerPort",
    "kubeSchedulerPort",
    "kwokControllerPort",
)
COMPONENTS: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok-controller")
"""In order of dependency: if several have ended, the first is the cause."""

FLAGS: Final[Mapping[str, Mapping[str, str]]] = {
    "etcd": {"unsafe-no-fsync": "true", "log-level": "warn"},
    # Blocking is what makes the audit log complete at any moment; kept in one file up to 10 GB.
    "kube-apiserver": {
        "audit-log-mode": "blocking",
        "audit-log-maxsize": "10000",
        "profiling": "false",
        # The default has addresses for 254 Services; `make bench` makes two for each of 1,000 agents.
        "service-cluster-ip-range": "10.0.0.0/16",
    },
    # One instance each: an election would only cost time and writes.
    "kube-controller-manager": {"leader-elect": "false"},
    "kube-scheduler": {"leader-elect": "false"},
}


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """One control plane: its folder, programs and flags."""

    name: str
    folder: Path
    tools: Tools
    ports: Mapping[str, int]
    stages: Path
    flags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """More flags by component; they override FLAGS."""
    within: tuple[str, ...] = ()
    """A command prefix that enters another network namespace; empty for the machine's own."""
    address: str | None = None
    """A further address of the API server; if set, the server listens on all addresses."""
    further_names: tuple[str, ...] = ()
    """More addresses for its certificate."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        """The API server's audit log, one JSON object a line."""
        return self.workdir / "logs" / "audit.log"

    @property
    def keys(self) -> Path:
        """The folder of the cluster's certificates and keys."""
        return self.workdir / "pki"

    @property
    def workdir(self) -> Path:
        """Where kwokctl keeps this cluster's pids, logs and keys."""
        return self.folder / CLUSTERS / self.name

    def create(self) -> None:
        """Start all components and return when the API server answers; raise ClusterStartError as soon as one ends."""
        config = self.folder / "kwokctl.yaml"
        config.write_text(self._render_config(), encoding="utf-8")
        log = self.folder / "kwokctl.log"
        command = ["create", "cluster", "--config", str(config), "--kubeconfig", str(self.kubeconfig)]
        deadline = time.monotonic() + START_SECONDS
        with log.open("w", encoding="utf-8") as output:
            kwokctl = subprocess.Popen(
                self._kwokctl(*command),
                env=self._environment(),
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that the kubectl calls it makes can be ended with it
            )
            try:
                while kwokctl.poll() is None:
                    self.check_components()
                    if time.monotonic() > deadline:
                        raise ClusterStartError(API_SERVER, "did not answer in time", self._last_lines(API_SERVER))
                    time.sleep(0.05)
            finally:
                processes.end_group(kwokctl)
        self.check_components()
        if kwokctl.returncode:
            said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            raise ClusterStartError("kwokctl", f"failed with exit code {kwokctl.returncode}", said)

    def check_components(self) -> None:
        """Raise ClusterStartError for a component that was started and has ended."""
        if not self._ended():
            return
        # During exec a process has no command line for a moment, so check twice before an error.
        time.sleep(SECOND_CHECK_SECONDS)
        for name in self._ended():
            raise ClusterStartError(name, "ended while the cluster was starting", self._last_lines(name))

    def _ended(self) -> list[str]:
        pids, running = processes.recorded(self.workdir), processes.running(self.workdir)
        return [name for name in COMPONENTS if name in pids and pids[name] not in running]

    def delete(self) -> None:
        """Stop everything, even after a partial start, and return when every process has ended."""
        command = self._kwokctl("delete", "cluster")
        try:
            subprocess.run(command, env=self._environment(), capture_output=True, check=False, timeout=30)
        finally:
            processes.end_all(self.workdir)

    def restart_api_server(self, *, away_seconds: float = 0.0) -> None:
        """Kill the API server, wait `away_seconds`, start it again, and return when it answers.

        Everything else keeps running. Raises ClusterStartError if the API server does not start again.
        """
        pid = processes.recorded(self.workdir)[API_SERVER]
        if pid not in processes.running(self.workdir):
            raise ClusterStartError(API_SERVER, "does not run", self._last_lines(API_SERVER))
        processes.end(pid)
        # kwokctl starts components without a live pid on record, and takes a zombie for alive.
        (self.workdir / "pids" / f"{API_SERVER}.pid").unlink()
        time.sleep(away_seconds)
        started = subprocess.run(
            self._kwokctl("start", "cluster"),
            env=self._environment(),
            capture_output=True,
            check=False,
            timeout=START_SECONDS * 2,
        )
        # kwokctl also exits with 0 after its own timeout.
        if started.returncode or b"not served yet" in started.stderr:
            raise ClusterStartError(API_SERVER, "does not come back", self._last_lines(API_SERVER))
        self.check_components()

    def _kwokctl(self, *arguments: str) -> list[str]:
        return [*self.within, str(self.tools["kwokctl"]), *arguments, "--name", self.name]

    def _environment(self) -> dict[str, str]:
        own = {
            "KWOK_WORKDIR": str((self.folder / CLUSTERS).parent),
            "KWOK_KUBE_VERSION": pinned_version("kubernetes"),
            # kwokctl also reads settings in ~/.kwok, and prefers a kubectl on PATH to the configured one.
            "HOME": str(self.folder),
            "PATH": os.pathsep.join([str(self.tools["kubectl"].parent), os.environ.get("PATH", os.defpath)]),
        }
        return {name: value for name, value in os.environ.items() if not name.startswith("KWOK_")} | own

    def _last_lines(self, component: str) -> list[str]:
        log = self.workdir / "logs" / f"{component}.log"
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:] if log.is_file() else []

    def _render_config(self) -> str:
        flags = {name: {**FLAGS.get(name, {}), **self.flags.get(name, {})} for name in COMPONENTS}
        settings = {
            "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
            "kind": "KwokctlConfiguration",
            "options": {
                "runtime": "binary",
                "bindAddress": "127.0.0.1",
                "disableQPSLimits": True,
                "kubeAuthorization": True,
                "kubeAdmission": True,
                "securePort": True,
                "kubeAuditPolicy": str(AUDIT_POLICY),
                "etcdBinary": str(self.tools["etcd"]),
                "kubeApiserverBinary": str(self.tools["kube-apiserver"]),
                "kubeControllerManagerBinary": str(self.tools["kube-controller-manager"]),
                "kubeSchedulerBinary": str(self.tools["kube-scheduler"]),
                "kubectlBinary": str(self.tools["kubectl"]),
                "kwokControllerBinary": str(self.tools["kwok"]),
                **self.ports,
                **({"kubeApiserverCertSANs": [self.address, *self.further_names]} if self.address else {}),
            },
            "componentsPatches": [
                {"name": name, "extraArgs": [{"key": key, "value": value} for key, value in some.items()]}
                for name, some in flags.items()
                if some
            ],
        }
        stages = [file.read_text(encoding="utf-8") for file in sorted(self.stages.glob("*.yaml"))]
        return "---\n".join([yaml.safe_dump(settings, sort_keys=False), *stages])
