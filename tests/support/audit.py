"""What the operator asked of the API server, from the server's own audit log."""

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
    """Its calls in this namespace, or in none."""
    for event in world.cluster.audit_events(since):
        where = event.get("objectRef", {}).get("namespace")
        if event["user"]["username"] == USER and where in {None, world.namespace}:
            yield event


def writes_of_the_operator(world: World, since: datetime) -> list[str]:
    """Its writes in this namespace: verb and resource each."""
    return [
        f"{event['verb']} {resource(event)}"
        for event in calls_of_the_operator(world, since)
        if event["verb"] not in READS
    ]


def resource(event: dict[str, Any]) -> str:
    """The resource of a call, with its subresource."""
    reference = event["objectRef"]
    return "/".join(part for part in (reference["resource"], reference.get("subresource")) if part)
