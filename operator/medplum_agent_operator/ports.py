"""What a pass needs from outside, as Protocols: the API server, the objects that the watches have seen, and the reports of the gates.

Implemented by `adapters.kube`, `cache` and `adapters.gates`, and by the tests' doubles. Used by `observe`, `reconcile` and `publish`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from medplum_agent_operator.core.observed.gate_reports import Traffic
from medplum_agent_operator.core.observed.identity import Claim, Identity
from medplum_agent_operator.core.observed.scope import Key

Object = Mapping[str, Any]


class Cluster(Protocol):
    """Requests to the API server."""

    async def get(self, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        """Read one object; None if it does not exist. For a node, the namespace is None."""

    async def list(self, kind: str, namespace: str | None, *, selector: str = "") -> tuple[list[dict[str, Any]], str]:
        """Read all objects of a kind. Returns them and the resource version of the LIST."""

    async def apply(self, body: Object, *, resource_version: str | None, dry_run: bool = False) -> dict[str, Any]:
        """Apply an object by server-side apply, unless it has changed since `resource_version`. A dry run stores nothing."""

    async def merge_patch(
        self, kind: str, namespace: str, name: str, patch: Object, *, subresource: str = ""
    ) -> dict[str, Any]:
        """Send a JSON merge patch."""

    async def create(self, body: Object, *, dry_run: bool = False) -> dict[str, Any]:
        """Create an object. A dry run stores nothing."""

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str) -> None:
        """Delete an object, unless another one has its name by now. One that does not exist is no fault."""


class Seen(Protocol):
    """The objects that the watches have seen."""

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object; None if no watch has seen it."""

    def labelled(self, kind: str, namespace: str, key: str, value: str) -> list[Object]:
        """The objects in a namespace that have a label with this value."""

    def claims(self, identity: Identity) -> tuple[Claim, ...]:
        """The MedplumAgents that claim an identity, and those that run with it."""

    def put(self, kind: str, raw: Object) -> bool:
        """Store the answer to a write, so that the next pass does not see the state before it."""


class Gates(Protocol):
    """The latest reports of the gates."""

    def traffic(self, key: Key) -> Traffic | None:
        """The reports of one agent's gates; None if none were asked."""
