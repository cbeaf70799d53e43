"""A node: whether it takes new pods, and whether its kubelet is alive. Built by `model`; read by `policy`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster.

    Attributes:
        cordoned: whether it is cordoned, which is the first step of `kubectl drain`.
        lost_since: since when its kubelet has not reported, so that the state of its pods is unknown; None while it reports.
    """

    name: str
    cordoned: bool = False
    lost_since: datetime | None = None

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """Read a raw node, complete or as the cache trims it."""
        conditions = (raw.get("status") or {}).get("conditions") or ()
        ready: Mapping[str, Any] = next((c for c in conditions if c.get("type") == "Ready"), {})
        since = ready.get("lastTransitionTime") if ready.get("status") == "Unknown" else None
        return cls(
            name=raw["metadata"]["name"],
            cordoned=bool((raw.get("spec") or {}).get("unschedulable")),
            lost_since=datetime.fromisoformat(since) if since else None,
        )
