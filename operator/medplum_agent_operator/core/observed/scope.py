"""Which MedplumAgent a pass is about, and with which settings of the operator. Read by every wing and by the shell. Pure."""

from dataclasses import dataclass, field
from typing import NamedTuple


class Key(NamedTuple):
    """Namespace and name of a MedplumAgent."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What MedplumAgents may use. A list has values or, with `*` at the end, their beginnings; an empty one is no limit.

    Attributes:
        image_repositories: repositories of agents' images. The operator's own default is always allowed.
        servers: URLs of Medplum servers.
        secrets: names of Secrets with credentials.
        service_accounts: names of service accounts other than the agent's own.
        priority_classes: names of priority classes.
        node_ports: whether agents may bind ports of their node.
    """

    image_repositories: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    priority_classes: tuple[str, ...] = ()
    node_ports: bool = True


@dataclass(frozen=True, slots=True)
class Config:
    """The operator's settings that a pass uses.

    Attributes:
        image_repository: the agent's image repository if the spec names none.
        nodes_watched: whether the operator watches nodes, and so knows which are cordoned.
        eviction_taints: keys of further taints that announce evictions; `prefix/*` for all keys with a prefix.
        gate_image: the image with the gate, which is the operator's own; None if it is unknown.
        namespaces: the watched namespaces; empty means all.
        limits: what MedplumAgents may use.
    """

    image_repository: str | None = None
    nodes_watched: bool = True
    eviction_taints: tuple[str, ...] = ()
    gate_image: str | None = None
    namespaces: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
