"""Times at which a watch reported something, as Kubernetes' own dates have whole seconds. Used by picture and benches."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.recorder import AGENT as LABEL
from tests.support.recorder import documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.real_nodes.clinic import Clinic


@dataclass
class PodTimes:
    """When a watch first reported a pod ready, or terminating, by pod name."""

    ready: dict[str, float] = field(default_factory=dict)
    terminating: dict[str, float] = field(default_factory=dict)

    def see(self, pod: dict[str, Any]) -> None:
        """Take one event."""
        name, now = pod["metadata"]["name"], time.time()
        if LABEL not in (pod["metadata"].get("labels") or {}):
            return
        conditions = pod["status"].get("conditions", ())
        if any(each["type"] == "Ready" and each["status"] == "True" for each in conditions):
            self.ready.setdefault(name, now)
        if pod["metadata"].get("deletionTimestamp"):
            self.terminating.setdefault(name, now)


@dataclass
class GivenUp:
    """When a watch first reported that the Deployment controller gave up the new pod; None before.

    Attributes:
        name: the Deployment's.
    """

    name: str
    at: float | None = None

    def see(self, deployment: dict[str, Any]) -> None:
        """Take one event."""
        conditions = deployment.get("status", {}).get("conditions", ())
        over = any(each.get("reason") == "ProgressDeadlineExceeded" for each in conditions)
        if over and self.at is None and deployment["metadata"]["name"] == self.name:
            self.at = time.time()


@contextmanager
def watched(clinic: Clinic) -> Iterator[PodTimes]:
    """Record the times of pods during the block."""
    times = PodTimes()
    with _following(clinic, "pods", times.see):
        yield times


@contextmanager
def watched_for_its_deadline(clinic: Clinic, name: str) -> Iterator[GivenUp]:
    """Record during the block when the Deployment controller gave up a new pod."""
    given_up = GivenUp(name)
    with _following(clinic, "deployments", given_up.see):
        yield given_up


@contextmanager
def _following(clinic: Clinic, kind: str, see: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    cluster = clinic.cluster
    watch = subprocess.Popen(
        [
            *(str(cluster.kubectl_program), f"--kubeconfig={cluster.kubeconfig}", f"--namespace={clinic.namespace}"),
            *("get", kind, "--watch", "--output-watch-events", "--output=json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )

    def read() -> None:
        for event in documents(watch.stdout):
            see(event["object"])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        watch.kill()
        watch.wait()
        reader.join(10)
        if watch.stdout is not None:
            watch.stdout.close()
