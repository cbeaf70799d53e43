"""Where a chapter plays: the cluster, the operator and the terminal, with the few things that every chapter does.

`run` sets it up, `story` uses it. A command is always run as it is shown, and a check that fails ends the story.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tests.cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster import Cluster
    from tests.demo.terminal import Terminal
    from tests.operator_process import OperatorProcess

T = TypeVar("T")

AGENT = "front-desk"
NAMESPACE = "clinic"
LOG_LINES = 15


class StepFailedError(Exception):
    """A step of the story did not happen."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A running cluster and operator, and somebody who looks on."""

    cluster: Cluster
    operator: OperatorProcess
    terminal: Terminal

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
            code = self.operator.process.poll()
            if code is not None:
                raise StepFailedError(f"The operator ended with exit code {code} while this was waited for: {what}.")
            return question()

        with self.terminal.waiting(f"waiting: {what}"):
            try:
                return wait_for(asked, what=what, seconds=seconds)
            except TimeoutError as error:
                raise StepFailedError(f"Did not happen: {error}.") from error

    def log_tail(self) -> str:
        """Return the end of the operator's log."""
        return "\n".join(self.operator.log.read_text(encoding="utf-8").splitlines()[-LOG_LINES:])
