"""Which MedplumAgent a pass is about, and with which settings of the operator. Read by every wing and by the shell. Pure."""

from dataclasses import dataclass
from typing import NamedTuple


class Key(NamedTuple):
    """Namespace and name of a MedplumAgent."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Config:
    """The operator's settings that a pass uses.

    Attributes:
        image_repository: the agent's image repository if the spec names none.
        nodes_watched: whether the operator watches nodes, and so knows which are cordoned.
        eviction_taints: keys of further taints that announce evictions; `prefix/*` for all keys with a prefix.
        gate_image: the image with the gate, which is the operator's own; None if it is unknown.
        namespaces: the watched namespaces; empty means all.
    """

    image_repository: str | None = None
    nodes_watched: bool = True
    eviction_taints: tuple[str, ...] = ()
    gate_image: str | None = None
    namespaces: tuple[str, ...] = ()
