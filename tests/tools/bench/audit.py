"""The audit log as values: which client sent which request, and when. Used by `phases`; it measures nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from tests.support.operator_process import NAMESPACE, SERVICE_ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.support.cluster import Cluster

OPERATOR: Final = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
BENCH_AGENT: Final = "medplum-agent-bench"
READS: Final = frozenset({"get", "list", "watch"})


@dataclass(frozen=True, slots=True)
class Call:
    """One request that the API server answered.

    Attributes:
        received: when the API server had read the request's head.
        answered: when its answer was complete; of a watch, when it began.
    """

    user: str
    user_agent: str
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    received: datetime
    answered: datetime

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Call:
        """Read one audit event."""
        about = event.get("objectRef") or {}
        return cls(
            user=event["user"]["username"],
            user_agent=event.get("userAgent", ""),
            verb=f"dry run of {event['verb']}" if "dryRun=All" in event.get("requestURI", "") else event["verb"],
            resource=about.get("resource", ""),
            subresource=about.get("subresource", ""),
            namespace=about.get("namespace", ""),
            name=about.get("name", ""),
            code=event.get("responseStatus", {}).get("code", 0),
            received=datetime.fromisoformat(event["requestReceivedTimestamp"]),
            answered=datetime.fromisoformat(event["stageTimestamp"]),
        )

    @property
    def by_operator(self) -> bool:
        """Whether the operator sent it, through Kopf or its own client."""
        return self.user == OPERATOR

    @property
    def by_bench(self) -> bool:
        """Whether the bench's client sent it."""
        return self.user_agent == BENCH_AGENT

    @property
    def by_deployment_controller(self) -> bool:
        """Whether the Deployment controller sent it, under any user of kube-controller-manager."""
        return self.user_agent.startswith("kube-controller-manager/") and "deployment-controller" in self.user_agent

    @property
    def writes(self) -> bool:
        """Whether it is a write, even a refused one."""
        return self.verb not in READS and not self.verb.startswith("dry run of ")

    @property
    def accepted(self) -> bool:
        """Whether the API server accepted it."""
        return 200 <= self.code < 300

    @property
    def what(self) -> str:
        """Verb and resource, such as `patch medplumagents/status`."""
        return f"{self.verb} {'/'.join(part for part in (self.resource, self.subresource) if part)}"

    def is_about(self, agent: str) -> bool:
        """Whether its object is an agent, one of its children, or an Event about it."""
        if self.resource in {"events", "jobs"}:
            return self.name.startswith((f"{agent}.", f"{agent}-fetch-"))
        return self.name in {agent, f"{agent}-moves-by-handoff"} or self.name.startswith(f"{agent}-r")


def calls(cluster: Cluster, since: datetime) -> list[Call]:
    """Return every call received since then, in the order of receipt."""
    return sorted(
        (
            Call.of(event)
            for event in cluster.audit_events(since)
            # A watch is logged twice: when it begins and when it ends.
            if event["stage"] == ("ResponseStarted" if event["verb"] == "watch" else "ResponseComplete")
        ),
        key=lambda call: call.received,
    )


def count(asked: Iterable[Call]) -> dict[str, int]:
    """Return the number of calls of each kind, the most frequent first."""
    return dict(Counter(call.what for call in asked).most_common())
