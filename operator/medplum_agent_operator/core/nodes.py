"""A node, as far as decisions need it: whether it takes new pods. Built by `model` from the cache; read by `drain`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster.

    Attributes:
        cordoned: whether it is marked as taking no new pods, as `kubectl drain` does first.
    """

    name: str
    cordoned: bool = False

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """Read a node, whole or slim."""
        return cls(name=raw["metadata"]["name"], cordoned=bool((raw.get("spec") or {}).get("unschedulable")))
