"""The demo's first tier: a real control plane, pods simulated by kwok, the operator as a process. Needs no root.

Opened by `run`, and by every test that is not about real nodes.
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
    "API server, controller-manager, scheduler and etcd are the real ones, built from their sources, and the operator runs with "
    "the rights of its own ServiceAccount. The pods are simulated by kwok: they start, get ready and end as real ones do, but "
    "run no program, so nothing is sent to them."
)

GATE_IMAGE: Final = "registry.example.org/medplum-agent-operator:dev"


@dataclass(frozen=True, slots=True)
class SimulatedPods:
    """Pods that run no program."""

    cluster: Cluster
    operator: OperatorProcess

    def operator_fault(self) -> str:
        """Ask the process."""
        code = self.operator.process.poll()
        return "" if code is None else f"ended with exit code {code}"

    def operator_log(self) -> str:
        """Read the file that it logs to."""
        return self.operator.log.read_text(encoding="utf-8")

    def furnish(self, namespace: str) -> str:  # noqa: ARG002 - nothing has to be put there
        """A simulated agent needs nothing."""
        return ""

    def placed(self, agent: dict[str, Any]) -> dict[str, Any]:
        """Any agent will do."""
        return agent

    def start_devices(self) -> None:
        """Nobody would answer."""

    def processes_that_met(self) -> None:
        """There is no process."""


@contextmanager
def simulated_pods() -> Iterator[SimulatedPods]:
    """Start the cluster and the operator for the block."""
    with local_cluster() as cluster:
        install(cluster)
        log = cluster.folder / "operator.log"
        # As a process it has no image of its own that a gate could be run from.
        with running_operator(cluster, log, "--log-format", "console", "--gate-image", GATE_IMAGE) as operator:
            yield SimulatedPods(cluster, operator)
