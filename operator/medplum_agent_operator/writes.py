"""Carries out the plan of a pass. Called by `reconcile`; it decides nothing.

A revision that a pass created and then did not put in force, because the API server refused the next write, is deleted again: nothing ever
used it. After a conflict it stays: a proxy may have sent a write twice.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress

from medplum_agent_operator.core.observed.foreign_fields import without_foreign_ownership
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.core.plan import Plan
from medplum_agent_operator.core.rollout.actions import Apply
from medplum_agent_operator.errors import ClusterError, ConflictError, OperatorError, RefusedError
from medplum_agent_operator.kinds import DEPLOYMENT, REVISION
from medplum_agent_operator.ports import Cluster, Object, Seen
from medplum_agent_operator.telemetry import log


class StoppedError(OperatorError):
    """The API server refuses an action, or what a rollback of it would write: the rest of the plan is not done.

    Attributes:
        action: the action.
        fault: the API server's words.
        rehearsed: kind and name of the object of the rollback; None if the action itself is refused.
    """

    def __init__(self, action: Apply, fault: str, rehearsed: str | None = None) -> None:
        super().__init__(fault)
        self.action = action
        self.fault = fault
        self.rehearsed = rehearsed


class Writer:
    """Writes what plans ask for."""

    def __init__(self, cluster: Cluster, seen: Seen, *, on_write: Callable[[Key, Apply], None]) -> None:
        """`on_write`: called after each write."""
        self._cluster = cluster
        self._seen = seen
        self._on_write = on_write

    async def carry_out(self, key: Key, plan: Plan) -> None:
        """Delete outdated revisions, then carry out the actions in order.

        Raises:
            StoppedError: when the API server refuses an action; the rest is not done.
            ConflictError: when an object has changed since the decision.
            ClusterError: when a request failed otherwise.
        """
        # First, so that a change which is tried again and again has no more than these.
        await self._delete(key, ({"metadata": {"name": one.name, "uid": one.uid}} for one in plan.outdated))
        unused: list[Object] = []
        for action in plan.actions:
            created = False
            try:
                await _rehearse(self._cluster, action)
                if action.immutable:
                    answer, created = await _create_once(self._cluster, action)
                else:
                    answer = await write(self._cluster, key, action)
            except (StoppedError, RefusedError) as fault:
                await self._delete(key, unused)
                if isinstance(fault, RefusedError):
                    raise StoppedError(action, str(fault)) from fault
                raise
            self._on_write(key, action)
            self._seen.put(action.kind, answer)
            if action.name == plan.revision and created:
                unused = [answer]
            elif action.kind == DEPLOYMENT and action.name == key.name:
                unused = []
            log.info(
                "applied %s (%s)",
                action.kind,
                action.difference,
                extra={"agent": str(key), "reason": str(plan.reason), "disruptive": action.disruptive},
            )

    async def _delete(self, key: Key, revisions: Iterable[Object]) -> None:
        """Delete revisions that nothing needs. If that fails they stay, and count as unused or are deleted later."""
        for raw in revisions:
            name, uid = raw["metadata"]["name"], raw["metadata"].get("uid", "")
            try:
                await self._cluster.delete(REVISION, key.namespace, name, uid=uid)
            except ClusterError as fault:
                log.warning("revision %s is not deleted: %s", name, fault, extra={"agent": str(key)})


async def write(cluster: Cluster, key: Key, action: Apply) -> Object:
    """Write one object. Returns it as the API server stored it.

    Raises:
        RefusedError: when the API server refuses it.
        ConflictError: when the object has changed since the decision.
        ClusterError: when the request failed otherwise.
    """
    version = None if action.live is None else action.live["metadata"]["resourceVersion"]
    if action.live is not None:
        version = await _take_over(cluster, key, action, action.live)
    try:
        return await cluster.apply(action.body, resource_version=version)
    except RefusedError as fault:
        if not _keeps_rolling_parameters(action.body, fault):
            raise
        # A merge patch removes them first; it does not touch the pod template.
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


async def _rehearse(cluster: Cluster, action: Apply) -> None:
    """Ask the API server whether it would accept what a rollback of this action would write.

    Raises:
        StoppedError: when it would refuse that.
        ClusterError: when the request failed otherwise.
    """
    for body in action.rehearsal:
        try:
            if body["kind"] == REVISION:
                await cluster.create(body, dry_run=True)
            else:
                await cluster.apply(body, resource_version=body["metadata"]["resourceVersion"], dry_run=True)
        except RefusedError as fault:
            if _keeps_rolling_parameters(body, fault):
                continue  # the write itself frees them first
            raise StoppedError(action, str(fault), f"{body['kind']} {body['metadata']['name']}") from fault


def _keeps_rolling_parameters(body: Object, fault: RefusedError) -> bool:
    """Whether another field manager owns a parameter of the rolling strategy, which server-side apply cannot remove (kubernetes/kubernetes#24198)."""
    strategy = (body.get("spec") or {}).get("strategy") or {}
    return strategy.get("type") == "Recreate" and "rollingUpdate" in str(fault)


async def _create_once(cluster: Cluster, action: Apply) -> tuple[Object, bool]:
    """Create an immutable object. Returns it, and whether this call created it: a pass before may have, and ended before its next write.

    Raises:
        ConflictError: when another object has its name.
    """
    try:
        return await cluster.create(action.body), True
    except ConflictError as fault:
        if fault.reason != "AlreadyExists":
            raise
        metadata = action.body["metadata"]
        found = await cluster.get(action.kind, metadata["namespace"], metadata["name"])
        if found is None or found.get("data") != action.body["data"] or not _same_owner(found, action.body):
            raise
        return found, False


def _same_owner(one: Object, other: Object) -> bool:
    owners = [{owner.get("uid") for owner in raw["metadata"].get("ownerReferences") or ()} for raw in (one, other)]
    return owners[0] == owners[1]
