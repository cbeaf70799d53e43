"""A Job that fetches an image, and how far it has got. Built by `reconcile` from the cache; read by `prepull`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from medplum_agent_operator.core.observed.pods import Container, Pod

MADE: Final = {"CrashLoopBackOff", "CreateContainerError", "RunContainerError"}
"""What a container can wait for only when its image is there and so is what it reads: the kubelet pulls, then looks for Secrets, then makes it.

Source: https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/kuberuntime/kuberuntime_container.go (startContainer)
"""


@dataclass(frozen=True, slots=True)
class FetchJob:
    """A Job whose pod was made only to bring an image to a node.

    Attributes:
        created: when it was made (Kubernetes keeps whole seconds); None where that cannot be read.
        all_is_there: whether its pod got past the pull and has its Secret, however its container ended.
        ended: whether the Job is over.
        pod: its pod; None where there is none (yet, or any more).
    """

    name: str
    created: datetime | None = None
    all_is_there: bool = False
    ended: bool = False
    pod: Pod | None = None

    @classmethod
    def read(cls, raw: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> Self:
        """Read a Job and find its pod by the owner reference."""
        metadata, status = raw["metadata"], raw.get("status") or {}
        held = {c.get("type") for c in status.get("conditions") or () if c.get("status") == "True"}
        own = [pod for pod in pods if _made_by(pod, metadata)]
        since = metadata.get("creationTimestamp")
        return cls(
            name=metadata["name"],
            created=datetime.fromisoformat(since) if since else None,
            all_is_there="Complete" in held or any(map(_has_all, own)),
            ended=bool(held & {"Complete", "Failed"}),
            pod=Pod.read(own[0]) if own else None,
        )


def _made_by(pod: Mapping[str, Any], job: Mapping[str, Any]) -> bool:
    return any(owner.get("uid") == job.get("uid") for owner in pod["metadata"].get("ownerReferences") or ())


def _has_all(pod: Mapping[str, Any]) -> bool:
    for raw in (pod.get("status") or {}).get("containerStatuses") or ():
        state = raw.get("state") or {}
        container = Container.read(raw)
        if "running" in state or container.exit_code is not None or container.waiting in MADE:
            return True
    return False
