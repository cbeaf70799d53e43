"""The cluster under a stage: `SimulatedPods` (simulated.py) or `RealPods` (real.py, existing.py). The story is the same on both.

Opened by `run` and used by `stage`. Only what differs between the two is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tests.support.cluster import Cluster
    from tests.tools.demo.devices import Devices


class Tier(Protocol):
    """A cluster with a running operator, and pods that are simulated or real."""

    @property
    def cluster(self) -> Cluster:
        """The cluster."""

    def operator_fault(self) -> str:
        """Return how the operator ended; "" while it runs."""

    def operator_log(self) -> str:
        """Return the operator's whole log."""

    def furnish(self, namespace: str) -> str:
        """Create what an agent needs in its namespace; return a sentence about it, or ""."""

    def placed(self, agent: dict[str, Any]) -> dict[str, Any]:
        """Return the sample agent adapted to this cluster. Call `furnish` first."""

    def start_devices(self) -> Devices | None:
        """Start devices that send to the agent; None if pods are simulated."""

    def overlapping_processes(self) -> list[str] | None:
        """Return agents before 4.2.4 whose processes overlapped; None if the container runtime cannot be observed."""
