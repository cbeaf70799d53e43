"""What a pass asks of the world: the API server, what the watches have seen of it, and what gates told.

Implemented by `adapters.kube`, `cache` and `adapters.gates`, and by the tests' doubles; used by `observe`, `reconcile` and `report`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from medplum_agent_operator.core.observed.gate_reports import Traffic
from medplum_agent_operator.core.observed.identity import Claim, Identity
from medplum_agent_operator.core.observed.model import Key

Object = Mapping[str, Any]


class Cluster(Protocol):
    """What a pass asks of the API server."""

    async def get(self, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        """Read one object; of a node, the namespace is None."""

    async def list(self, kind: str, namespace: str | None, *, selector: str = "") -> tuple[list[dict[str, Any]], str]:
        """Read all objects of a kind."""

    async def apply(self, body: Object, *, resource_version: str | None) -> dict[str, Any]:
        """Server-side apply, unless the object has changed since."""

    async def merge_patch(
        self, kind: str, namespace: str, name: str, patch: Object, *, subresource: str = ""
    ) -> dict[str, Any]:
        """JSON merge patch."""

    async def create(self, body: Object) -> dict[str, Any]:
        """Create an object."""


class Seen(Protocol):
    """What the watches have seen."""

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object."""

    def labelled(self, kind: str, namespace: str, key: str, value: str) -> list[Object]:
        """Objects with a label."""

    def claims(self, identity: Identity) -> tuple[Claim, ...]:
        """Who claims an identity, and who runs with it."""

    def put(self, kind: str, raw: Object) -> bool:
        """Keep what a write was answered with, so that the next pass does not see the state before it."""


class Gates(Protocol):
    """What the gates told when they were last asked."""

    def traffic(self, key: Key) -> Traffic | None:
        """Of an agent; None where they were not asked."""
