"""Kopf's side: which kinds are watched, and what an event means, which is never more than "look at this agent".

Registered by `__main__` on a registry of its own. Only `on.event` is used: it writes nothing to anybody's object, no
annotation, no finalizer. What happened is forgotten here; the object's key goes on the queue (docs/adr/0002).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import kopf

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import GROUP, KIND, PLURAL, VERSION
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.model import Key

OWN_OBJECTS: Final = f"{names.MANAGED_BY_LABEL}={names.MANAGED_BY}"
"""Selects the operator's own children on the server's side. Pods carry the same label, from their template."""

WATCHED: Final[Mapping[str, tuple[str, str, str]]] = {
    KIND: (GROUP, VERSION, PLURAL),
    "Deployment": ("apps", "v1", "deployments"),
    "Pod": ("", "v1", "pods"),
    "Service": ("", "v1", "services"),
    "PodDisruptionBudget": ("policy", "v1", "poddisruptionbudgets"),
    "ServiceAccount": ("", "v1", "serviceaccounts"),
}


class NoDiffs(kopf.DiffBaseStorage):
    """Kopf compares each object with its last-handled state, for handlers that we do not have: a third of the CPU for nothing."""

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:
        """Nothing is worth comparing."""
        del body, extra_fields
        return kopf.BodyEssence({})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Nothing was handled before."""
        del body
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is remembered."""
        del body, patch, essence


def key_of(kind: str, raw: Mapping[str, Any]) -> Key | None:
    """The MedplumAgent that an object is about: itself, or the one that its label names."""
    metadata = raw["metadata"]
    name = metadata["name"] if kind == KIND else (metadata.get("labels") or {}).get(names.AGENT_LABEL)
    return Key(metadata["namespace"], name) if name else None


def register(registry: kopf.OperatorRegistry, cache: Cache, add: Callable[[Key], None]) -> None:
    """Watch every kind: an event updates the cache and puts the agent's key on the queue."""

    def watch(kind: str) -> None:
        def seen(event: kopf.RawEvent, **_: Any) -> None:
            raw: Mapping[str, Any] = event["object"]
            news = cache.drop(kind, raw) if event["type"] == "DELETED" else cache.put(kind, raw)
            key = key_of(kind, raw)
            # The echo of our own write is no news: its answer is in the cache already.
            if news and key is not None:
                add(key)

        async def on_event(event: kopf.RawEvent, **kwargs: Any) -> None:
            seen(event, **kwargs)

        kopf.on.event(*WATCHED[kind], id=f"watch-{kind.lower()}", registry=registry)(on_event)

    for kind in WATCHED:
        watch(kind)


def configure(
    registry: kopf.OperatorRegistry, settings: kopf.OperatorSettings, *, request_timeout_seconds: float
) -> None:
    """Set Kopf up for watching and nothing else."""
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True  # the CRD's presence is checked at start; no right to list CRDs is needed
    settings.persistence.diffbase_storage = NoDiffs()
    settings.queueing.idle_timeout = 1.0
    settings.networking.request_timeout = request_timeout_seconds
    settings.networking.connect_timeout = 5.0
    settings.watching.server_timeout = 600
    settings.watching.chunk_size = 25
    settings.process.ultimate_exiting_timeout = 25.0
    for kind, where in WATCHED.items():
        if kind != KIND:
            settings.watching.label_selectors[where] = OWN_OBJECTS
    kopf.on.login(registry=registry)(kopf.login_via_client)
