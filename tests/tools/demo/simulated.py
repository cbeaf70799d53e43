"""A real control plane, pods simulated by kwok, the operator as a process. Needs no root.

Opened by `run`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.support.cluster import local_cluster
from tests.support.operator_process import install, running_operator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cluster import Cluster
    from tests.support.operator_process import OperatorProcess

ABOUT: Final = (
    "The control plane is real: API server, controller-manager, scheduler and etcd. The operator runs as a process with the rights "
    "of its own ServiceAccount. The pods are simulated by kwok: they start, become ready and end like real pods, but run no program."
)

GATE_IMAGE: Final = "registry.example.org/medplum-agent-operator:dev"


@dataclass(frozen=True, slots=True)
class SimulatedPods:
    """Pods that run no program."""

    cluster: Cluster
    operator: OperatorProcess

    def operator_fault(self) -> str:
        """Ask for the process's exit code."""
        code = self.operator.process.poll()
        return "" if code is None else f"ended with exit code {code}"

    def operator_log(self) -> str:
        """Read its log file."""
        return self.operator.log.read_text(encoding="utf-8")

    def furnish(self, namespace: str) -> str:  # noqa: ARG002 - the protocol's
        """A simulated agent needs nothing."""
        return ""

    def placed(self, agent: dict[str, Any]) -> dict[str, Any]:
        """Return the sample unchanged."""
        return agent

    def start_devices(self) -> None:
        """Start none: no agent would answer."""

    def overlapping_processes(self) -> None:
        """Return None: no agent has a process."""


@contextmanager
def simulated_pods() -> Iterator[SimulatedPods]:
    """Start the cluster and the operator for the block."""
    with local_cluster() as cluster:
        install(cluster)
        log = cluster.folder / "operator.log"
        # The operator runs as a process here, so it has no image that gates could use.
        with running_operator(cluster, log, "--log-format", "console", "--gate-image", GATE_IMAGE) as operator:
            yield SimulatedPods(cluster, operator)
