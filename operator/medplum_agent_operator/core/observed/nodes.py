"""A node, as far as decisions need it: whether it takes new pods, and is heard of. Built by `model` from the cache; read by `drain`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster.

    Attributes:
        cordoned: whether it is marked as taking no new pods, as `kubectl drain` does first.
        lost_since: since when its kubelet is not heard of: nobody knows what runs on it; None while it is.
    """

    name: str
    cordoned: bool = False
    lost_since: datetime | None = None

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """Read a node, whole or slim."""
        conditions = (raw.get("status") or {}).get("conditions") or ()
        ready: Mapping[str, Any] = next((c for c in conditions if c.get("type") == "Ready"), {})
        since = ready.get("lastTransitionTime") if ready.get("status") == "Unknown" else None
        return cls(
            name=raw["metadata"]["name"],
            cordoned=bool((raw.get("spec") or {}).get("unschedulable")),
            lost_since=datetime.fromisoformat(since) if since else None,
        )
