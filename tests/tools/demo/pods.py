"""Count the agent pods that exist at once, with `kubectl get pods --watch` during a change.

Used by `story`. A watch reports every pod that is created or deleted, in order, so it misses none. It only reads.
"""

from __future__ import annotations

import os
import subprocess
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from tests.support.cluster import wait_for
from tests.tools.demo.faults import StepFailedError

if TYPE_CHECKING:
    from types import TracebackType

    from tests.support.cluster import Cluster

AGENTS = ("-l", "agents.medplum.com/agent")
"""Selects agent pods, not the pod of a Job that pulls an image."""
WATCH = ("get", "pods", *AGENTS, "--watch", "--output-watch-events", "-L", "agents.medplum.com/version")
ENDED = ("Completed", "Error", "Succeeded", "Failed")
"""STATUS of a pod whose containers have all ended. Every other pod counts as live, even a Terminating one."""


@dataclass(slots=True)
class Census:
    """The live pods, counted from the lines of the watch: EVENT NAME READY STATUS RESTARTS AGE VERSION.

    >>> census = Census()
    >>> for event, pod, status in (
    ...     ("ADDED", "a", "Running"),
    ...     ("MODIFIED", "a", "Terminating"),
    ...     ("ADDED", "b", "Pending"),
    ...     ("DELETED", "a", "Terminating"),
    ... ):
    ...     census.count(f"{event}  {pod}  1/1  {status}  0  1s  5.1.15")
    >>> census.most, census.live
    (2, {'b'})
    """

    lines: list[str] = field(default_factory=list)
    live: set[str] = field(default_factory=set)
    most: int = 0

    def count(self, line: str) -> None:
        """Count one line."""
        self.lines.append(line)
        match line.split():
            case ["DELETED", name, *_]:
                self.live.discard(name)
            case ["ADDED" | "MODIFIED", name, _, status, *_]:
                (self.live.discard if status in ENDED else self.live.add)(name)
        self.most = max(self.most, len(self.live))


class PodWatch:
    """Watches the agent pods of the namespace during the block; `census` is complete after the block."""

    def __init__(self, cluster: Cluster) -> None:
        self.census = Census()
        self._cluster = cluster
        self._kubectl: subprocess.Popen[str]
        self._reader = threading.Thread(target=self._read, name="pod watch")

    def __enter__(self) -> Self:
        """Start, and wait until the watch has reported every existing pod."""
        self._kubectl = subprocess.Popen(
            [str(self._cluster.kubectl_program), "--kubeconfig", str(self._cluster.kubeconfig), *WATCH],
            env=os.environ | {"KUBECACHEDIR": str(self._cluster.folder / "kubectl-cache"), "KUBERC": "off"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader.start()
        try:
            self._catch_up()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until the watch has caught up with the cluster, and end it."""
        try:
            if kind is None:
                self._catch_up()
        finally:
            self._end()

    def _catch_up(self) -> None:
        def caught_up() -> bool:
            if self._kubectl.poll() is not None:
                raise StepFailedError(f"kubectl get pods --watch ended with exit code {self._kubectl.returncode}.")
            now = {pod["metadata"]["name"] for pod in self._cluster.read("pods", *AGENTS)["items"]}
            return now == self.census.live

        wait_for(caught_up, what="the pod watch catches up with the cluster", seconds=15)

    def _read(self) -> None:
        assert self._kubectl.stdout is not None
        for line in self._kubectl.stdout:
            self.census.count(line.rstrip())

    def _end(self) -> None:
        self._kubectl.terminate()
        self._kubectl.wait()
        self._reader.join()
        if self._kubectl.stdout is not None:
            self._kubectl.stdout.close()
