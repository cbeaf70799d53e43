"""A Job that pulls an image onto a node, and its progress. Built by `model`; read by `policy.prepull`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER, Container, Pod

_WAITS_ONCE_CREATABLE: Final = {"CrashLoopBackOff", "CreateContainerError", "RunContainerError"}
"""Waiting reasons that prove that image and Secret are there: the kubelet pulls, reads Secrets, creates the container.

Source: https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/kuberuntime/kuberuntime_container.go (startContainer)
"""


@dataclass(frozen=True, slots=True)
class FetchJob:
    """A Job whose pod exists only to pull an image onto a node.

    Attributes:
        created: when it was created, to the second; None if that is missing.
        image_and_secret_present: whether the node has the image and the kubelet found the Secret. The container may still
            have failed. Containers that an admission policy added to the pod prove nothing.
        ended: whether the Job is complete or has failed.
        pod: its pod; None if it has no pod yet or no longer.
    """

    name: str
    created: datetime | None = None
    image_and_secret_present: bool = False
    ended: bool = False
    pod: Pod | None = None

    @classmethod
    def read(cls, raw: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> Self:
        """Read a raw Job, and find its pod among `pods` by owner reference."""
        metadata, status = raw["metadata"], raw.get("status") or {}
        true_conditions = {c.get("type") for c in status.get("conditions") or () if c.get("status") == "True"}
        own = [pod for pod in pods if _is_owned_by(pod, metadata)]
        created = metadata.get("creationTimestamp")
        return cls(
            name=metadata["name"],
            created=datetime.fromisoformat(created) if created else None,
            image_and_secret_present="Complete" in true_conditions or any(map(_container_was_created, own)),
            ended=bool(true_conditions & {"Complete", "Failed"}),
            pod=Pod.read(own[0]) if own else None,
        )


def _is_owned_by(pod: Mapping[str, Any], job: Mapping[str, Any]) -> bool:
    return any(owner.get("uid") == job.get("uid") for owner in pod["metadata"].get("ownerReferences") or ())


def _container_was_created(pod: Mapping[str, Any]) -> bool:
    for raw in (pod.get("status") or {}).get("containerStatuses") or ():
        state = raw.get("state") or {}
        container = Container.read(raw)
        if container.name != AGENT_CONTAINER:
            continue
        if "running" in state or container.exit_code is not None or container.waiting in _WAITS_ONCE_CREATABLE:
            return True
    return False
