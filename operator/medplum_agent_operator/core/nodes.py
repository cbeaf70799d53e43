"""A node, as far as decisions need it: whether it takes new pods. Built by `reconcile` from the cache; read by `drain` and `prepull`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster.

    Attributes:
        cordoned: whether it is marked as taking no new pods, as `kubectl drain` does first.
        ready: whether its kubelet reports that it is well.
    """

    name: str
    cordoned: bool = False
    ready: bool = True

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """Read a node, whole or slim. What is not said counts as ready: a node that is gone is not read at all."""
        spec, status = raw.get("spec") or {}, raw.get("status") or {}
        ready: Mapping[str, Any] = next((c for c in status.get("conditions") or () if c.get("type") == "Ready"), {})
        return cls(
            name=raw["metadata"]["name"],
            cordoned=bool(spec.get("unschedulable")),
            ready=ready.get("status", "True") == "True",
        )
