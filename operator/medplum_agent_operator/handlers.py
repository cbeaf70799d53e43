"""Kopf's side: which kinds are watched, and what an event means, which is never more than "look at this agent".

Registered by `__main__` on a registry of its own. Only `on.event` is used: it writes nothing to anybody's object, no
annotation, no finalizer. What happened is forgotten here; the object's key goes on the queue (docs/adr/0002).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import kopf

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import GROUP, KIND, PLURAL, VERSION
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.observed.model import Key

OWN_OBJECTS: Final = f"{names.MANAGED_BY_LABEL}={names.MANAGED_BY}"
"""Selects the operator's own children on the server's side. Pods carry the same label, from their template."""

WATCHED: Final[Mapping[str, tuple[str, str, str]]] = {
    KIND: (GROUP, VERSION, PLURAL),
    "Deployment": ("apps", "v1", "deployments"),
    "Pod": ("", "v1", "pods"),
    "Service": ("", "v1", "services"),
    "PodDisruptionBudget": ("policy", "v1", "poddisruptionbudgets"),
    "ServiceAccount": ("", "v1", "serviceaccounts"),
    "RoleBinding": ("rbac.authorization.k8s.io", "v1", "rolebindings"),
    "Job": ("batch", "v1", "jobs"),
    "Node": ("", "v1", "nodes"),
}
NODE: Final = "Node"
"""The one kind that is not an agent's own and in no namespace; left out where the setting says so."""


def watched(*, nodes: bool) -> list[str]:
    """The kinds that are watched."""
    return [kind for kind in WATCHED if nodes or kind != NODE]


def selector_of(kind: str) -> str:
    """The label selector of a kind's watch and LIST."""
    return "" if kind in {KIND, NODE} else OWN_OBJECTS


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
    """The MedplumAgent that an object is about: itself, or the one that its label names. None for a node."""
    metadata = raw["metadata"]
    labels = metadata.get("labels") or {}
    name = metadata["name"] if kind == KIND else labels.get(names.AGENT_LABEL) or labels.get(names.FETCH_LABEL)
    return Key(metadata["namespace"], name) if name and kind != NODE else None


def keys_of(kind: str, raw: Mapping[str, Any], cache: Cache) -> set[Key]:
    """Every MedplumAgent that an object is about: for a node, those with a pod on it."""
    if kind == NODE:
        found = [key_of("Pod", pod) for pod in cache.on_node(raw["metadata"]["name"])]
    else:
        found = [key_of(kind, raw)]
    return {key for key in found if key is not None}


def rivals(cache: Cache) -> set[Key]:
    """Those who claim an identity with which something has changed: a refusal clears by itself, or comes about."""
    return {Key(*name) for name in cache.take_rivals()}


def unheard(cache: Cache, heard: Collection[str], *, nodes: bool) -> list[str]:
    """The kinds of which there are objects and no watch has told of any."""
    return [kind for kind in watched(nodes=nodes) if kind not in heard and cache.names(kind)]


def register(
    registry: kopf.OperatorRegistry, cache: Cache, add: Callable[[Key], None], *, heard: set[str], nodes: bool = True
) -> None:
    """Watch every kind: an event updates the cache and puts the agent's key on the queue; its kind is added to those `heard` of."""

    def watch(kind: str) -> None:
        def seen(event: kopf.RawEvent, **_: Any) -> None:
            raw: Mapping[str, Any] = event["object"]
            heard.add(kind)
            news = cache.drop(kind, raw) if event["type"] == "DELETED" else cache.put(kind, raw)
            # The echo of our own write is no news: its answer is in the cache already. For those who wait for an identity it may be.
            keys = keys_of(kind, raw, cache) if news else set()
            for key in keys | rivals(cache):
                add(key)

        async def on_event(event: kopf.RawEvent, **kwargs: Any) -> None:
            seen(event, **kwargs)

        kopf.on.event(*WATCHED[kind], id=f"watch-{kind.lower()}", registry=registry)(on_event)

    for kind in watched(nodes=nodes):
        watch(kind)


def configure(
    registry: kopf.OperatorRegistry, settings: kopf.OperatorSettings, *, request_timeout_seconds: float
) -> None:
    """Set Kopf up for watching and nothing else."""
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True  # the CRD's presence is checked at start; no right to list CRDs is needed
    settings.persistence.diffbase_storage = NoDiffs()
    # A worker for each object, kept after its last event: a hundred agents at once have five hundred objects, each with some KiB.
    settings.queueing.idle_timeout = 0.2
    settings.networking.request_timeout = request_timeout_seconds
    settings.networking.connect_timeout = 5.0
    settings.watching.server_timeout = 600
    settings.watching.chunk_size = 25
    settings.process.ultimate_exiting_timeout = 25.0
    for kind, where in WATCHED.items():
        if selector_of(kind):
            settings.watching.label_selectors[where] = selector_of(kind)
    kopf.on.login(registry=registry)(kopf.login_via_client)
