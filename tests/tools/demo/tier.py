"""What a stage stands on: `SimulatedPods` (simulated.py) or `RealNode` (real.py). The story is the same on both.

Opened by `run` and asked by `stage`. Only what truly differs between the two is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tests.support.cluster import Cluster
    from tests.tools.demo.devices import Devices


class Tier(Protocol):
    """A cluster with a running operator, simulated or real."""

    @property
    def cluster(self) -> Cluster:
        """The cluster."""

    def operator_fault(self) -> str:
        """Say what became of an operator that has ended; nothing of one that runs."""

    def operator_log(self) -> str:
        """Return everything that the operator has logged."""

    def furnish(self, namespace: str) -> str:
        """Put into the clinic's namespace what an agent needs there to serve; return a sentence about it, or nothing."""

    def placed(self, agent: dict[str, Any]) -> dict[str, Any]:
        """Return the sample agent as it has to be here, once the clinic is furnished."""

    def start_devices(self) -> Devices | None:
        """Let devices send to the agent; None where there is nobody to send to."""

    def processes_that_met(self) -> list[str] | None:
        """Name agents that ran beside another although one is before 4.2.4; None where nothing runs that could."""
