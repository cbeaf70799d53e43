"""A node: whether it takes new pods, and which taints keep them away, and whether its kubelet is alive.

Built by `model`; read by `policy`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

HARD_EFFECTS: Final = frozenset({"NoSchedule", "NoExecute"})
"""Effects of taints that keep pods away. `PreferNoSchedule` does not."""


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint that keeps pods away, or ends them, unless they tolerate it."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster.

    Attributes:
        cordoned: whether it is cordoned, which is the first step of `kubectl drain`.
        taints: its taints that keep pods away.
        lost_since: since when its kubelet has not reported, so that the state of its pods is unknown; None while it reports.
    """

    name: str
    cordoned: bool = False
    taints: tuple[Taint, ...] = ()
    lost_since: datetime | None = None

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """Read a raw node, complete or as the cache trims it."""
        spec = raw.get("spec") or {}
        conditions = (raw.get("status") or {}).get("conditions") or ()
        ready: Mapping[str, Any] = next((c for c in conditions if c.get("type") == "Ready"), {})
        since = ready.get("lastTransitionTime") if ready.get("status") == "Unknown" else None
        return cls(
            name=raw["metadata"]["name"],
            cordoned=bool(spec.get("unschedulable")),
            taints=tuple(
                Taint(taint.get("key", ""), taint.get("value", ""), taint["effect"])
                for taint in spec.get("taints") or ()
                if taint.get("effect") in HARD_EFFECTS
            ),
            lost_since=datetime.fromisoformat(since) if since else None,
        )
