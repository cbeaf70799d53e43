"""A fake API server behind the Protocols of `ports`: the objects of the simulated cluster, a log of requests, faults on demand."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.objects.children import name_of
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.errors import ConflictError
from medplum_agent_operator.kinds import REVISION
from medplum_agent_operator.reconcile import Reconciler
from tests.support.builders import CONFIG, NAME, NAMESPACE, Raw

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medplum_agent_operator.core.observed.gate_reports import Traffic
    from tests.support.simulated_cluster import SimulatedCluster

KEY = Key(NAMESPACE, NAME)


class FakeCluster:
    """Answers the requests of a pass from a simulated cluster.

    Attributes:
        requests: every request: verb and kind.
        faults: errors to answer with, by request, in this order.
        patches: bodies of merge patches, by kind.
        events: Events that were created.
        gone: whether the MedplumAgent has been deleted.
    """

    def __init__(self, simulated: SimulatedCluster) -> None:
        self.simulated = simulated
        self.requests: list[str] = []
        self.faults: dict[str, list[Exception]] = {}
        self.patches: list[tuple[str, Mapping[str, Any]]] = []
        self.events: list[Mapping[str, Any]] = []
        self.gone = False

    def _ask(self, request: str) -> None:
        self.requests.append(request)
        if self.faults.get(request):
            raise self.faults[request].pop(0)

    async def get(self, kind: str, namespace: str | None, name: str) -> Raw | None:
        """Read one object."""
        self._ask(f"get {kind}")
        if kind == "Node":
            assert namespace is None
            return next(node for node in copy.deepcopy(self.simulated.nodes) if node["metadata"]["name"] == name)
        if kind == REVISION:
            return copy.deepcopy((self.simulated.revisions | self.simulated.backups).get(name))
        assert (NAMESPACE, name_of(kind, NAME)) == (namespace, name)
        if kind == KIND:
            return None if self.gone else copy.deepcopy(self.simulated.agent)
        return copy.deepcopy(self.simulated.objects.get(kind))

    async def list(self, kind: str, namespace: str | None, *, selector: str = "") -> tuple[list[Raw], str]:
        """Read all agents, or the agent's pods."""
        self._ask(f"list {kind}")
        if kind == KIND:
            assert (None, "") == (namespace, selector)
            return [] if self.gone else [copy.deepcopy(self.simulated.agent)], "1"
        assert ("Pod", NAMESPACE, "agents.medplum.com/agent=lab") == (kind, namespace, selector)
        return [pod.raw() for pod in self.simulated.pods], "1"

    async def apply(self, body: Mapping[str, Any], *, resource_version: str | None, dry_run: bool = False) -> Raw:
        """Apply an object, unless it has changed since `resource_version`."""
        kind = str(body["kind"])
        if dry_run:
            self._ask(f"list: would apply {kind}")
            return dict(body)
        self._ask(f"apply {kind}")
        live = None if kind == "Job" else self.simulated.objects.get(kind)
        if resource_version != (None if live is None else live["metadata"]["resourceVersion"]):
            raise ConflictError(f"{kind} has changed", status=409)
        return copy.deepcopy(self.simulated.apply(body))

    async def merge_patch(
        self, kind: str, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Raw:
        """Send a JSON merge patch of the status or of a child."""
        assert KEY == (namespace, name)
        self._ask(f"patch {kind}{'/' if subresource else ''}{subresource}")
        self.patches.append((kind, patch))
        raw = self.simulated.agent if kind == KIND else self.simulated.objects[kind]
        assert raw["metadata"]["resourceVersion"] == patch["metadata"]["resourceVersion"]
        merged = _merge_patched(raw, {key: value for key, value in patch.items() if key != "metadata"})
        raw.clear()
        raw.update(merged)
        if "managedFields" in patch["metadata"]:
            raw["metadata"]["managedFields"] = patch["metadata"]["managedFields"]
        self.simulated._touch(raw)
        return copy.deepcopy(raw)

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str) -> None:
        """Delete a revision."""
        assert (REVISION, NAMESPACE) == (kind, namespace)
        del uid
        self._ask(f"delete {kind}")
        self.simulated.revisions.pop(name, None)
        self.simulated.count += 1

    async def create(self, body: Mapping[str, Any], *, dry_run: bool = False) -> Raw:
        """Create an Event, a revision or a backup."""
        if dry_run:
            self._ask(f"list: would create {body['kind']}")
            return dict(body)
        self._ask(f"create {body['kind']}")
        if body["kind"] == "ControllerRevision":
            if body["metadata"]["name"] in self.simulated.backups | self.simulated.revisions:
                raise ConflictError("it exists", status=409, reason="AlreadyExists")
            return copy.deepcopy(self.simulated.apply(body))
        self.events.append(body)
        return dict(body)


class FakeGates:
    """The reports of the gates: none until a test sets some."""

    reports: Traffic | None = None

    def traffic(self, key: Key) -> Traffic | None:
        """The reports of the agent's gates."""
        assert key == KEY
        return self.reports


class Stage:
    """A simulated cluster, a fake API server in front of it, the cache of the watches, and the reconciler."""

    def __init__(self, simulated: SimulatedCluster) -> None:
        self.simulated = simulated
        self.cluster = FakeCluster(simulated)
        self.seen = Cache()
        self.gates = FakeGates()
        self.reconciler = Reconciler(
            self.cluster, self.seen, self.gates, config=CONFIG, clock=lambda: simulated.now, identity="operator-1"
        )
        self.watch()

    def watch(self) -> None:
        """Let the watches catch up."""
        self.seen.replace(KIND, None, [copy.deepcopy(self.simulated.agent)], as_of="999999")
        for kind in ("Deployment", "Service", "PodDisruptionBudget", "ServiceAccount"):
            found = [copy.deepcopy(raw) for name, raw in self.simulated.objects.items() if name == kind]
            self.seen.replace(kind, None, found, as_of="999999")
        revisions = [*self.simulated.revisions.values(), *self.simulated.backups.values()]
        self.seen.replace(REVISION, None, copy.deepcopy(revisions), as_of="999999")
        self.seen.replace("Pod", None, [pod.raw() for pod in self.simulated.pods], as_of="999999")
        for kind in ("Job", "Pod"):
            for raw in self.simulated.jobs:
                if raw["kind"] == kind:
                    self.seen.put(kind, raw)
        self.seen.replace("Node", None, copy.deepcopy(self.simulated.nodes), as_of="999999")

    async def one_pass(self) -> float | None:
        """Run one pass on what the watches have seen."""
        return await self.reconciler(KEY)

    @property
    def writes(self) -> list[str]:
        """The requests that write."""
        return [request for request in self.cluster.requests if not request.startswith(("get", "list"))]

    @property
    def reasons(self) -> list[str]:
        """The reasons of the Events that were written."""
        return [event["reason"] for event in self.cluster.events]


def _merge_patched(live: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(live) if isinstance(live, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge_patched(result.get(key), value)
    return result
