"""What every chapter needs: a cluster with the operator, the terminal, perhaps devices, and checks.

`run` creates it, `story` uses it. A command is always run exactly as it is shown. A failed check ends the demo.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from tests.support.cluster import wait_for
from tests.tools.demo.faults import StepFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.cluster import Cluster
    from tests.tools.demo.devices import Devices, Tally
    from tests.tools.demo.terminal import Terminal
    from tests.tools.demo.tier import Tier

T = TypeVar("T")

AGENT = "front-desk"
NAMESPACE = "clinic"
CREDENTIAL = "demo"
"""The agent's client id and its secret: there is nothing to protect."""
LOG_LINES = 15


@dataclass(slots=True)
class Stage:
    """A running cluster and operator, and the terminal that shows them."""

    tier: Tier
    terminal: Terminal
    devices: Devices | None = None
    """The devices that are sending now."""
    tallies: list[Tally] = field(default_factory=list)
    """The result of each step's traffic, once the devices have stopped."""

    @property
    def cluster(self) -> Cluster:
        """The cluster."""
        return self.tier.cluster

    def kubectl(
        self, *arguments: str, brief: Callable[[str], str] | None = None, pictured: bool = True, shown: bool = True
    ) -> str:
        """Show a command, run it, show and return its output."""
        if shown:
            self.terminal.command(*arguments, pictured=pictured)
        with self.terminal.waiting("…"):
            result = self.cluster.kubectl(*arguments)
        # kubectl writes "No resources found" to standard error.
        said = result.stdout or result.stderr
        if shown:
            self.terminal.output(said, brief=brief, pictured=pictured)
        return said.rstrip("\n")

    def agent(self) -> dict[str, Any]:
        """Return the MedplumAgent as it is now."""
        found: dict[str, Any] = self.cluster.read("mpa", AGENT)
        return found

    def status(self) -> dict[str, Any]:
        """Return its status, which is empty until the operator has reconciled it."""
        status: dict[str, Any] = self.agent().get("status", {})
        return status

    def pods(self) -> list[dict[str, Any]]:
        """Return the namespace's pods."""
        found: list[dict[str, Any]] = self.cluster.read("pods", "-l", "agents.medplum.com/agent")["items"]
        return found

    def check(self, fact: object, text: str, *, found: object = None) -> None:
        """Show a fact that holds. Raise StepFailedError, with what was found, if it does not."""
        if not fact:
            raise StepFailedError(f"Check failed: {text}." + ("" if found is None else f" Found: {found}"))
        self.terminal.passed(text)

    def wait_until(self, question: Callable[[], T], *, what: str, seconds: float = 30) -> T:
        """Wait until the answer is truthy. Raise StepFailedError on a timeout, or at once if the operator has ended."""

        def answer() -> T:
            fault = self.tier.operator_fault()
            if fault:
                raise StepFailedError(f"The operator {fault} while the demo waited: {what}.")
            return question()

        with self.terminal.waiting(f"waiting: {what}"):
            try:
                return wait_for(answer, what=what, seconds=seconds)
            except TimeoutError as error:
                raise StepFailedError(f"Timed out: {error}.") from error

    def let_devices_send(self) -> None:
        """Start devices that send to the agent, if the agent's pods run a program."""
        with self.terminal.waiting("starting the devices"):
            self.devices = self.tier.start_devices()
        if self.devices is not None:
            self.terminal.live = self.devices.live

    def begin(self, step: str) -> None:
        """Begin a step: traffic from now on counts for it."""
        if self.devices is not None:
            self.devices.begin(step)

    def show_traffic(self) -> None:
        """Show the traffic of the step that ends."""
        if self.devices is not None:
            self.terminal.traffic(self.devices.summary())

    def stop_devices(self) -> None:
        """Stop the devices and collect the results."""
        if self.devices is None:
            return
        self.show_traffic()
        devices, self.devices, self.terminal.live = self.devices, None, None
        with self.terminal.waiting("stopping the devices"):
            self.tallies = devices.stop()

    def log_tail(self) -> str:
        """Return the end of the operator's log."""
        return "\n".join(self.tier.operator_log().splitlines()[-LOG_LINES:])
