"""A second pair of eyes: `kubectl get pods --watch` from before a change until after it, and how many pods lived at once.

Used by `story`. A watch is told of every pod that is made or removed, in order, so nothing between two looks is missed. It
only reads.
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
"""The agents' pods; that of a Job that fetches an image is none."""
WATCH = ("get", "pods", *AGENTS, "--watch", "--output-watch-events", "-L", "agents.medplum.com/version")
ENDED = ("Completed", "Error", "Succeeded", "Failed")
"""STATUS of a pod whose containers have all ended; every other pod counts as live, one that is Terminating too."""


@dataclass(slots=True)
class Census:
    """The pods that live, counted from the watch's lines: EVENT NAME READY STATUS RESTARTS AGE VERSION.

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
        """Take one line into account."""
        self.lines.append(line)
        match line.split():
            case ["DELETED", name, *_]:
                self.live.discard(name)
            case ["ADDED" | "MODIFIED", name, _, status, *_]:
                (self.live.discard if status in ENDED else self.live.add)(name)
        self.most = max(self.most, len(self.live))


class PodWatch:
    """Watches the agents' pods of the namespace for the block; `census` is complete once it has been left."""

    def __init__(self, cluster: Cluster) -> None:
        self.census = Census()
        self._cluster = cluster
        self._kubectl: subprocess.Popen[str]
        self._reader = threading.Thread(target=self._read, name="pod watch")

    def __enter__(self) -> Self:
        """Start, and wait until the watch has told of the pods that are there."""
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
        """Wait until the watch knows what the cluster knows now, and end it."""
        try:
            if kind is None:
                self._catch_up()
        finally:
            self._end()

    def _catch_up(self) -> None:
        def told() -> bool:
            if self._kubectl.poll() is not None:
                raise StepFailedError(f"kubectl get pods --watch ended with exit code {self._kubectl.returncode}.")
            now = {pod["metadata"]["name"] for pod in self._cluster.read("pods", *AGENTS)["items"]}
            return now == self.census.live

        wait_for(told, what="the pods' watch tells of the pods that are there", seconds=15)

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
