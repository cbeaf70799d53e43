"""The watches, by Kopf. An event never means more than "reconcile this agent".

Registered by `__main__` on a registry of its own. Only `on.event` is used: it writes no annotation and no finalizer to any object.
A handler puts the object into the cache and the agent's key on the queue, and forgets the event (docs/adr/0002).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final

import kopf

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.kinds import KINDS, NODE, POD, Kind, watched
from medplum_agent_operator.telemetry import log

LOGIN_PAUSES_SECONDS: Final = (1.0, 2.0, 5.0, 10.0)
"""Pauses before credentials are read again; the last one repeats."""
LOGIN_SECONDS: Final = 60.0
"""Credentials that were accepted for longer than this are read again without a pause."""


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


class Login:
    """Reads the credentials of Kopf's watches, at the start and after each 401.

    A 401 is no proof that they are wrong: an API server whose token authenticator is away says it too. Kopf refuses credentials that it had
    before a 401, and ends. So each login has a priority of its own, which makes it another one; with a single login it has no other effect.
    """

    def __init__(
        self,
        read: Callable[..., kopf.ConnectionInfo | None] = kopf.login_via_client,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._read = read
        self._sleep = sleep
        self._logins = 0
        self._quick = 0
        self._last: float | None = None

    async def __call__(self, **kwargs: Any) -> kopf.ConnectionInfo | None:
        """Read the credentials, after a pause if the last ones were accepted for less than a minute."""
        now = asyncio.get_running_loop().time()
        self._quick = self._quick + 1 if self._last is not None and now - self._last < LOGIN_SECONDS else 0
        while True:
            if self._quick:
                pause = LOGIN_PAUSES_SECONDS[min(self._quick, len(LOGIN_PAUSES_SECONDS)) - 1]
                log.warning(
                    "the API server does not accept the credentials of the watches; reading them again in %.0f s", pause
                )
                await self._sleep(pause)
            try:
                found = await asyncio.to_thread(self._read, **kwargs)
            except kopf.LoginError as fault:
                log.warning("the credentials of the watches cannot be read: %s", fault)
                self._quick += 1
            else:
                break
        self._logins += 1
        self._last = asyncio.get_running_loop().time()
        return None if found is None else replace(found, priority=self._logins)


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
    return [kind.name for kind in watched(nodes=nodes) if kind.name not in seen and _selects(kind, cache)]


def _selects(kind: Kind, cache: Cache) -> bool:
    """Whether the cache has an object that the watch of its kind selects. It has others too: a policy may rewrite the label that we applied."""
    key, _, value = kind.selector.partition("=")
    if not key:
        return bool(cache.names(kind.name))
    labels = ((raw["metadata"].get("labels") or {}).get(key) for raw in cache.with_label(kind.name, key))
    return any(not value or label == value for label in labels)


def register(
    registry: kopf.OperatorRegistry, cache: Cache, add: Callable[[Key], None], *, seen: set[str], nodes: bool = True
) -> None:
    """Watch every kind. An event updates the cache, puts the agent's key on the queue, and adds its kind to `seen`."""

    def watch(kind: Kind) -> None:
        def handle(event: kopf.RawEvent, **_: Any) -> None:
            raw: Mapping[str, Any] = event["object"]
            seen.add(kind.name)
            if event["type"] is None:  # from the LIST with which Kopf begins a watch
                cache.doubt_if_older(kind.name, raw)
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
    login = Login()

    async def on_login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return await login(**kwargs)

    kopf.on.login(registry=registry)(on_login)
