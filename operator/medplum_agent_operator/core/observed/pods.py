"""A pod of an agent: the parts that decisions need. Built by `model`; read by every wing."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.core.observed.version import AgentVersion, version_of

AGENT_CONTAINER: Final = "agent"
"""The container that runs the agent."""
GATE_CONTAINER: Final = "gate"
"""The container that runs the gate."""
READY_PREFIX: Final = "ready-"
"""A container with this prefix carries the readiness probe of the channel whose name follows."""
ENDED: Final = frozenset({"Succeeded", "Failed"})
"""Phases of a pod whose containers have all ended and will not restart."""
REFUSED_CREDENTIALS: Final = 64
"""Exit code of the agent's start script if agent.properties cannot carry the credentials.

The termination message then says why.
"""


@dataclass(frozen=True, slots=True)
class Container:
    """One container's state in a pod.

    Attributes:
        running: whether it runs right now; it may have ended before.
        waiting: why it waits (`ImagePullBackOff`, `CrashLoopBackOff`, …); empty if it runs or has ended.
        message: the kubelet's message about why it waits.
        exit_code: its latest exit code; None if it has never ended.
        termination_message: its latest termination message.
    """

    name: str
    ready: bool = False
    restarts: int = 0
    running: bool = False
    waiting: str = ""
    message: str = ""
    exit_code: int | None = None
    termination_message: str = ""

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """Read an entry of `status.containerStatuses` or `status.initContainerStatuses`."""
        state = raw.get("state") or {}
        waiting = state.get("waiting") or {}
        ended = state.get("terminated") or (raw.get("lastState") or {}).get("terminated") or {}
        return cls(
            name=raw.get("name", ""),
            ready=bool(raw.get("ready")),
            restarts=int(raw.get("restartCount", 0)),
            running=state.get("running") is not None,
            waiting=waiting.get("reason", ""),
            message=waiting.get("message", ""),
            exit_code=ended.get("exitCode"),
            termination_message=(ended.get("message") or "").strip(),
        )


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the agent.

    Attributes:
        version: the agent's version; None if neither label nor image tag is a version.
        image: the image of the agent's container, as the pod's spec names it.
        node: the node that it was scheduled to; empty until then.
        template_hash: fingerprint of the pod template that it was created from; None if it has none.
        replica_set: name of the ReplicaSet that created it; empty if none did.
        terminating: whether it was deleted; its containers may still run.
        finished: whether all its containers have ended and will not restart.
        ready_since: when it last became ready, to the second; None while it is not ready.
        ports_closed_since: since when it cannot serve, to the second: its agent has ended, or it is not ready. None while it
            can serve.
        created: when it was created, to the second.
        unschedulable: the scheduler's message why no node takes it; empty if one did.
    """

    name: str
    version: AgentVersion | None
    image: str = ""
    node: str = ""
    template_hash: str | None = None
    replica_set: str = ""
    terminating: bool = False
    finished: bool = False
    ready: bool = False
    ready_since: datetime | None = None
    ports_closed_since: datetime | None = None
    created: datetime | None = None
    unschedulable: str = ""
    init_containers: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """Read a raw pod."""
        metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
        conditions = {c.get("type"): c for c in status.get("conditions") or ()}
        ready = conditions.get("Ready", {})
        is_ready = ready.get("status") == "True"
        since = _time(ready.get("lastTransitionTime"))
        created = _time(metadata.get("creationTimestamp"))
        ended = _agent_ended_at(status)
        closed = min((at for at in (ended, None if is_ready else since) if at is not None), default=None)
        finished = status.get("phase") in ENDED
        scheduled = conditions.get("PodScheduled", {})
        image = next((c.get("image", "") for c in spec.get("containers") or () if c.get("name") == AGENT_CONTAINER), "")
        return cls(
            name=metadata["name"],
            version=version_of(metadata.get("labels") or {}, image),
            image=image,
            node=spec.get("nodeName") or "",
            template_hash=(metadata.get("annotations") or {}).get(names.TEMPLATE_HASH),
            replica_set=next((o["name"] for o in metadata.get("ownerReferences") or () if o.get("controller")), ""),
            terminating=bool(metadata.get("deletionTimestamp")),
            finished=finished,
            ready=is_ready,
            ready_since=since if is_ready else None,
            ports_closed_since=None if is_ready and ended is None and not finished else closed or created,
            created=created,
            unschedulable=scheduled.get("message", "") if scheduled.get("reason") == "Unschedulable" else "",
            init_containers=tuple(map(Container.read, status.get("initContainerStatuses") or ())),
            containers=tuple(map(Container.read, status.get("containerStatuses") or ())),
        )

    @property
    def ports_open(self) -> bool:
        """Whether its agent serves: its ports are open and it has not ended. The pod may be terminating."""
        return self.ready and self.ports_closed_since is None and not self.finished

    def all_containers(self) -> Iterator[Container]:
        """Every container, in the order of their start."""
        yield from self.init_containers
        yield from self.containers

    def own_containers(self, names: Collection[str]) -> tuple[Container, ...]:
        """The containers that the operator rendered. `names`: theirs. Init containers are never among them."""
        return tuple(container for container in self.containers if container.name in names)

    def added_containers(self, names: Collection[str]) -> tuple[Container, ...]:
        """The containers that an admission policy added, init containers first. `names`: those of the operator's own."""
        return (*self.init_containers, *(each for each in self.containers if each.name not in names))


def _agent_ended_at(status: Mapping[str, Any]) -> datetime | None:
    """When the agent's container ended; None if it runs or waits to restart."""
    for container in status.get("containerStatuses") or ():
        if container.get("name") == AGENT_CONTAINER:
            return _time(((container.get("state") or {}).get("terminated") or {}).get("finishedAt"))
    return None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
