"""Where a chapter plays: a tier, the terminal, perhaps devices, with the few things that every chapter does.

`run` sets it up, `story` uses it. A command is always run as it is shown, and a check that fails ends the story.
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
    """A running cluster and operator, and somebody who looks on."""

    tier: Tier
    terminal: Terminal
    devices: Devices | None = None
    """Those that send just now."""
    tallies: list[Tally] = field(default_factory=list)
    """What became of their messages, once they have stopped."""

    @property
    def cluster(self) -> Cluster:
        """The cluster."""
        return self.tier.cluster

    def kubectl(
        self, *arguments: str, brief: Callable[[str], str] | None = None, pictured: bool = True, shown: bool = True
    ) -> str:
        """Show a command, run it, show and return what it says."""
        if shown:
            self.terminal.command(*arguments, pictured=pictured)
        with self.terminal.waiting("…"):
            result = self.cluster.kubectl(*arguments)
        # "No resources found" comes by standard error.
        said = result.stdout or result.stderr
        if shown:
            self.terminal.output(said, brief=brief, pictured=pictured)
        return said.rstrip("\n")

    def agent(self) -> dict[str, Any]:
        """Return the MedplumAgent as it is now."""
        found: dict[str, Any] = self.cluster.read("mpa", AGENT)
        return found

    def status(self) -> dict[str, Any]:
        """Return its status, which is empty until the operator has seen it."""
        status: dict[str, Any] = self.agent().get("status", {})
        return status

    def pods(self) -> list[dict[str, Any]]:
        """Return the namespace's pods."""
        found: list[dict[str, Any]] = self.cluster.read("pods", "-l", "agents.medplum.com/agent")["items"]
        return found

    def check(self, fact: object, text: str, *, found: object = None) -> None:
        """Show that something is so, or end the story with what was found instead."""
        if not fact:
            raise StepFailedError(f"Not so: {text}." + ("" if found is None else f" Found: {found}"))
        self.terminal.passed(text)

    def wait_until(self, question: Callable[[], T], *, what: str, seconds: float = 30) -> T:
        """Wait for something to be so; a dead operator ends the story at once."""

        def asked() -> T:
            fault = self.tier.operator_fault()
            if fault:
                raise StepFailedError(f"The operator {fault} while this was waited for: {what}.")
            return question()

        with self.terminal.waiting(f"waiting: {what}"):
            try:
                return wait_for(asked, what=what, seconds=seconds)
            except TimeoutError as error:
                raise StepFailedError(f"Did not happen: {error}.") from error

    def let_devices_send(self) -> None:
        """From here on devices send to the agent, where there is one that can answer."""
        with self.terminal.waiting("the devices begin to send"):
            self.devices = self.tier.start_devices()
        if self.devices is not None:
            self.terminal.live = self.devices.live

    def begin(self, step: str) -> None:
        """A step begins: what devices see counts for it."""
        if self.devices is not None:
            self.devices.begin(step)

    def tell_of_devices(self) -> None:
        """Show, at a step's end, how the devices have fared in it."""
        if self.devices is not None:
            self.terminal.traffic(self.devices.told())

    def stop_devices(self) -> None:
        """Nothing is sent from here on."""
        if self.devices is None:
            return
        self.tell_of_devices()
        devices, self.devices, self.terminal.live = self.devices, None, None
        with self.terminal.waiting("the devices stop"):
            self.tallies = devices.stop()

    def log_tail(self) -> str:
        """Return the end of the operator's log."""
        return "\n".join(self.tier.operator_log().splitlines()[-LOG_LINES:])
