"""The requests of the operator, from the audit log of the API server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.operator_process import NAMESPACE, SERVICE_ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from tests.support.world import World

USER = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
READS = {"get", "list", "watch"}


def calls_of_the_operator(world: World, since: datetime) -> Iterator[dict[str, Any]]:
    """The operator's requests in this namespace, and those outside namespaces."""
    for event in world.cluster.audit_events(since):
        where = event.get("objectRef", {}).get("namespace")
        if event["user"]["username"] == USER and where in {None, world.namespace}:
            yield event


def writes_of_the_operator(world: World, since: datetime) -> list[str]:
    """The operator's writes in this namespace, as verb and resource."""
    return [f"{event['verb']} {resource(event)}" for event in calls_of_the_operator(world, since) if is_write(event)]


def is_write(event: dict[str, Any]) -> bool:
    """Whether a request changes anything. A dry run does not."""
    return event["verb"] not in READS and "dryRun=All" not in event["requestURI"]


def resource(event: dict[str, Any]) -> str:
    """The resource of a request, with its subresource."""
    reference = event["objectRef"]
    return "/".join(part for part in (reference["resource"], reference.get("subresource")) if part)
