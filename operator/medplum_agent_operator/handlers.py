"""The watches, by Kopf. An event never means more than "reconcile this agent".

Registered by `__main__` on a registry of its own. Only `on.event` is used: it writes no annotation and no finalizer to any object.
A handler puts the object into the cache and the agent's key on the queue, and forgets the event (docs/adr/0002).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import kopf

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.kinds import KINDS, NODE, POD, Kind, watched


class NoDiffs(kopf.DiffBaseStorage):
    """Switches Kopf's diffs off.

    Kopf compares each object with its last-handled state, for handlers that this operator does not have. That takes a third of the CPU.
    """

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:
        """Return nothing to compare."""
        del body, extra_fields
        return kopf.BodyEssence({})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Return no last-handled state."""
        del body
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Store nothing."""
        del body, patch, essence


def key_of(kind: str, raw: Mapping[str, Any]) -> Key | None:
    """The MedplumAgent that an object belongs to: itself, or the one that its label names. None for a node."""
    metadata = raw["metadata"]
    labels = metadata.get("labels") or {}
    name = metadata["name"] if kind == KIND else labels.get(names.AGENT_LABEL) or labels.get(names.FETCH_LABEL)
    return Key(metadata["namespace"], name) if name and kind != NODE else None


def keys_of(kind: str, raw: Mapping[str, Any], cache: Cache) -> set[Key]:
    """Every MedplumAgent that an object affects: for a node, those with a pod on it."""
    if kind == NODE:
        found = [key_of(POD, pod) for pod in cache.on_node(raw["metadata"]["name"])]
    else:
        found = [key_of(kind, raw)]
    return {key for key in found if key is not None}


def rivals(cache: Cache) -> set[Key]:
    """The MedplumAgents that compete for an identity whose claims have changed: a refusal of theirs may end, or begin."""
    return {Key(*name) for name in cache.take_competing_agents()}


def kinds_without_events(cache: Cache, seen: Collection[str], *, nodes: bool) -> list[str]:
    """The kinds that have objects in the cache but whose watch sent no event yet. `seen`: the kinds with events."""
    return [kind.name for kind in watched(nodes=nodes) if kind.name not in seen and cache.names(kind.name)]


def register(
    registry: kopf.OperatorRegistry, cache: Cache, add: Callable[[Key], None], *, seen: set[str], nodes: bool = True
) -> None:
    """Watch every kind. An event updates the cache, puts the agent's key on the queue, and adds its kind to `seen`."""

    def watch(kind: Kind) -> None:
        def handle(event: kopf.RawEvent, **_: Any) -> None:
            raw: Mapping[str, Any] = event["object"]
            seen.add(kind.name)
            changed = cache.drop(kind.name, raw) if event["type"] == "DELETED" else cache.put(kind.name, raw)
            # The cache already has the answer to our own write, so its event changes nothing. Competing agents may still need a pass.
            keys = keys_of(kind.name, raw, cache) if changed else set()
            for key in keys | rivals(cache):
                add(key)

        async def on_event(event: kopf.RawEvent, **kwargs: Any) -> None:
            handle(event, **kwargs)

        kopf.on.event(*kind.resource, id=f"watch-{kind.name.lower()}", registry=registry)(on_event)

    for kind in watched(nodes=nodes):
        watch(kind)


def configure(
    registry: kopf.OperatorRegistry, settings: kopf.OperatorSettings, *, request_timeout_seconds: float
) -> None:
    """Set Kopf up for watching and nothing else."""
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True  # startup checks that the CRD exists; no right to list CRDs is needed
    settings.persistence.diffbase_storage = NoDiffs()
    # Kopf has a worker of some KiB for each object until this long after its last event. A hundred busy agents have five hundred objects.
    settings.queueing.idle_timeout = 0.2
    settings.networking.request_timeout = request_timeout_seconds
    settings.networking.connect_timeout = 5.0
    settings.watching.server_timeout = 600
    settings.watching.chunk_size = 25
    settings.process.ultimate_exiting_timeout = 25.0
    for kind in KINDS.values():
        if kind.watched and kind.selector:
            settings.watching.label_selectors[kind.resource] = kind.selector
    kopf.on.login(registry=registry)(kopf.login_via_client)
