"""A fake API server with several MedplumAgents in several namespaces, each request a turn of the loop: for passes that meet."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.observed.scope import Config, Key
from medplum_agent_operator.reconcile import Reconciler
from tests.support.builders import NOW, REPOSITORY, SERVER, Raw, agent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medplum_agent_operator.core.observed.gate_reports import Traffic
    from medplum_agent_operator.core.observed.identity import Name

ELSEWHERE = "https://other.example.org/"


def named(namespace: str, name: str, *, created: int = 0, url: str | None = None, **spec: Any) -> Raw:
    """A MedplumAgent of the builders' identity; `created`: seconds after noon; `url`: another server."""
    raw = agent(server={**SERVER, **({"baseUrl": url} if url else {})}, **spec)
    raw["metadata"] |= {
        "namespace": namespace,
        "name": name,
        "uid": f"{namespace}-{name}",
        "creationTimestamp": f"2026-09-01T12:00:{created:02}Z",
    }
    return raw


class SeveralAgents:
    """The API server, what the watches have seen of it, and the reconciler.

    Attributes:
        objects: what is there, by kind, namespace and name.
        requests: every request: verb, kind, and whose.
        lose_answers_of: kinds whose next write is made but not answered.
        now: the clock.
        held: a request that is to wait, the sign that it has come, and the one that lets it go on.
    """

    def __init__(self, *agents: Raw, namespaces: Sequence[str] = (), seen: bool = True) -> None:
        """`seen`: whether the watches have told of the agents."""
        self.objects: dict[tuple[str, str, str], Raw] = {}
        self.requests: list[str] = []
        self.lose_answers_of: set[str] = set()
        self.held: tuple[str, asyncio.Event, asyncio.Event] | None = None
        self.cache = Cache()
        self._count = 0
        self.now = NOW
        config = Config(image_repository=REPOSITORY, namespaces=tuple(namespaces))
        self.reconciler = Reconciler(
            self, self.cache, self, config=config, clock=lambda: self.now, identity="operator-1"
        )
        for raw in agents:
            self.store(raw, seen=seen)

    # What people and controllers do.

    def store(self, raw: Raw, *, seen: bool = True) -> None:
        """Create or change an object."""
        self._count += 1
        raw["metadata"]["resourceVersion"] = str(self._count)
        self.objects[raw["kind"], raw["metadata"]["namespace"], raw["metadata"]["name"]] = raw
        if seen:
            self.cache.put(raw["kind"], copy.deepcopy(raw))

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object."""
        self.cache.drop(kind, self.objects.pop((kind, namespace, name)))

    def edit(self, namespace: str, name: str, *, url: str, seen: bool = True) -> None:
        """Change an agent's server."""
        raw = copy.deepcopy(self.objects[KIND, namespace, name])
        raw["spec"]["server"] = {**raw["spec"]["server"], "baseUrl": url}
        raw["metadata"]["generation"] += 1
        self.store(raw, seen=seen)

    async def passes(self, *names: Name) -> None:
        """A pass for each, all at the same time."""
        await asyncio.gather(*(self.reconciler(Key(*name)) for name in names))

    async def turns(self, count: int = 100) -> None:
        """Let everybody else get on as far as they can."""
        for _ in range(count):
            await asyncio.sleep(0)

    # What is to be seen.

    @property
    def deployments(self) -> list[Name]:
        """Who has a Deployment."""
        return [(namespace, name) for kind, namespace, name in self.objects if kind == "Deployment"]

    def status(self, namespace: str, name: str) -> dict[str, Any]:
        """What the operator has reported."""
        found: dict[str, Any] = self.objects[KIND, namespace, name].get("status", {})
        return found

    # The ports.

    def traffic(self, key: Key) -> Traffic | None:
        """No gates."""
        del key
        return None

    async def _turn(self, request: str) -> None:
        self.requests.append(request)
        await asyncio.sleep(0)
        if self.held is not None and self.held[0] == request:
            self.held[1].set()
            await self.held[2].wait()

    async def get(self, kind: str, namespace: str | None, name: str) -> Raw | None:
        """Read one object."""
        await self._turn(f"get {kind} {namespace}/{name}")
        return copy.deepcopy(self.objects.get((kind, namespace or "", name)))

    async def list(self, kind: str, namespace: str | None, *, selector: str = "") -> tuple[list[Raw], str]:
        """Read all objects of a kind, with a label."""
        await self._turn(f"list {kind} {namespace or ''}/{selector.partition('=')[2]}")
        found = [
            copy.deepcopy(raw)
            for (what, where, _), raw in self.objects.items()
            if what == kind and namespace in {None, where}
        ]
        label, _, value = selector.partition("=")
        return [raw for raw in found if not label or raw["metadata"]["labels"].get(label) == value], str(self._count)

    async def apply(self, body: Mapping[str, Any], *, resource_version: str | None, dry_run: bool = False) -> Raw:
        """Server-side apply, near enough."""
        assert not dry_run
        kind, metadata = body["kind"], body["metadata"]
        await self._turn(f"apply {kind} {metadata['namespace']}/{metadata['name']}")
        known = self.objects.get((kind, metadata["namespace"], metadata["name"]))
        assert resource_version == (None if known is None else known["metadata"]["resourceVersion"])
        raw: Raw = copy.deepcopy({"status": {}, **(known or {}), **body})
        raw["metadata"]["uid"] = f"{kind}-{metadata['namespace']}-{metadata['name']}"
        self.store(raw, seen=False)
        if kind in self.lose_answers_of:
            self.lose_answers_of.discard(kind)
            raise TimeoutError
        return copy.deepcopy(raw)

    async def merge_patch(
        self, kind: str, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Raw:
        """Write a status."""
        await self._turn(f"patch {kind}/{subresource} {namespace}/{name}")
        raw = copy.deepcopy(self.objects[kind, namespace, name])
        raw["status"] = {key: value for key, value in patch["status"].items() if value is not None}
        self.store(raw, seen=False)
        return copy.deepcopy(raw)

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str) -> None:
        """Delete a revision."""
        del uid
        await self._turn(f"delete {kind} {namespace}/{name}")
        self.objects.pop((kind, namespace, name), None)

    async def create(self, body: Mapping[str, Any], *, dry_run: bool = False) -> Raw:
        """Create an Event or a revision."""
        if dry_run:
            return dict(body)
        if body["kind"] == "ControllerRevision":
            raw: Raw = copy.deepcopy(dict(body))
            raw["metadata"]["uid"] = raw["metadata"]["name"]
            self.store(raw, seen=False)
            return copy.deepcopy(raw)
        await self._turn(f"create {body['kind']} {body['involvedObject']['name']}")
        return dict(body)
