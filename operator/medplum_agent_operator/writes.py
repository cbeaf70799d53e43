"""Carries out one action of a pass. Called by `reconcile`; it decides nothing."""

from contextlib import suppress
from typing import Any

from medplum_agent_operator.core.observed.foreign_fields import without_foreign_ownership
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.core.rollout.actions import Apply
from medplum_agent_operator.errors import ConflictError, RefusedError
from medplum_agent_operator.ports import Cluster, Object


async def write(cluster: Cluster, key: Key, action: Apply) -> Object:
    """Write one object. Returns it as the API server stored it.

    Raises:
        RefusedError: when the API server refuses it.
        ConflictError: when the object has changed since the decision.
        ClusterError: when the request failed otherwise.
    """
    if action.immutable:
        return await _create_once(cluster, action)
    version = None if action.live is None else action.live["metadata"]["resourceVersion"]
    if action.live is not None:
        version = await _take_over(cluster, key, action, action.live)
    try:
        return await cluster.apply(action.body, resource_version=version)
    except RefusedError as fault:
        strategy = (action.body.get("spec") or {}).get("strategy") or {}
        if strategy.get("type") != "Recreate" or "rollingUpdate" not in str(fault):
            raise
        # Another field manager owns a parameter of the rolling strategy, which server-side apply cannot remove
        # (kubernetes/kubernetes#24198). A merge patch removes it first; it does not touch the pod template.
        freed = {
            "spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}},
            "metadata": {"resourceVersion": version},
        }
        answer = await cluster.merge_patch(action.kind, *key, freed)
        return await cluster.apply(action.body, resource_version=answer["metadata"]["resourceVersion"])


async def _take_over(cluster: Cluster, key: Key, action: Apply, live: Object) -> str:
    """Take the ownership of fields that the write is to remove, which changes no field. Returns the resource version to write to.

    If the API server refuses that, the write leaves these fields, and status says so.
    """
    version: str = live["metadata"]["resourceVersion"]
    fields = without_foreign_ownership(action.body, live)
    if fields is None:
        return version
    patch = {"metadata": {"managedFields": fields, "resourceVersion": version}}
    with suppress(RefusedError):
        answer = await cluster.merge_patch(action.kind, key.namespace, action.name, patch)
        version = answer["metadata"]["resourceVersion"]
    return version


async def _create_once(cluster: Cluster, action: Apply) -> dict[str, Any]:
    try:
        return await cluster.create(action.body)
    except ConflictError as fault:
        if fault.reason != "AlreadyExists":
            raise
        return dict(action.body)  # written by an earlier pass that ended before its next write
