"""The safety net under the watches: regular LISTs of all kinds, and more frequent LISTs of the kinds that rollouts wait for.

Started by `__main__`. Watches lose events: while a watch is broken, nothing reports a deletion. A LIST replaces
the objects in the cache and puts every agent on the queue. An agent without drift then costs no request.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain, repeat
from typing import Any, Final, Protocol

from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.api.status import UNDER_WAY
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.observed.resource_version import number
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.errors import ClusterError
from medplum_agent_operator.handlers import key_of, rivals
from medplum_agent_operator.kinds import AWAITED, Kind, watched
from medplum_agent_operator.ports import Object
from medplum_agent_operator.telemetry import log

SOON_SECONDS: Final = (2.0, 8.0)
"""Pauses before the first two resyncs. Watches begin within a second of the start, or within a few on a busy machine."""
ROLLOUT_SECONDS: Final = 15.0
"""How long a rollout waits at most for an object whose deletion a watch missed."""
RESTORED_AFTER_SECONDS: Final = 30.0
"""LISTs that are older than the cache for longer than this come from a restored cluster, not from an API server that lags behind."""
MANY_NAMESPACES: Final = 10
"""With more namespaces than this, one LIST of all namespaces costs less than one of each."""


class Lister(Protocol):
    """The one request of a resync."""

    async def list(self, kind: str, namespace: str | None, *, selector: str = "") -> tuple[list[dict[str, Any]], str]:
        """Read all objects of a kind."""


class Resync:
    """Lists objects and puts their agents on the queue."""

    def __init__(
        self,
        cluster: Lister,
        cache: Cache,
        add: Callable[[Key], None],
        *,
        namespaces: Sequence[str],
        nodes: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._add = add
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._kinds = watched(nodes=nodes)
        self._clock = clock
        self._back_since: dict[tuple[str, str | None], float] = {}
        """By kind and namespace: since when its LISTs are older than the cache."""

    async def once(self) -> None:
        """List every kind in every watched namespace.

        Raises:
            ClusterError: when a LIST failed; the cache has the objects that were read before.
        """
        keys: set[Key] = set()
        for kind in self._kinds:
            for namespace in self._namespaces if kind.namespaced else (None,):
                gone, found = await self._list(kind, namespace)
                keys |= _keys(kind, (*gone, *found))
        self._add_all(keys)

    async def of_rollouts(self) -> None:
        """List the kinds that rollouts wait for, in the namespaces of rollouts. Without a rollout, this sends no request.

        Raises:
            ClusterError: when a LIST failed; the cache has the objects that were read before.
        """
        if self._back_since or self._cache.take_doubt():
            await self.once()
        keys = {Key(*name) for name in self._cache.names(KIND) if self._under_way(*name)}
        places: Sequence[str | None] = sorted({key.namespace for key in keys})
        if len(places) > MANY_NAMESPACES and None in self._namespaces:
            places = (None,)
        for namespace in places:
            for kind in AWAITED:
                gone, _ = await self._list(kind, namespace, ended=False)
                keys |= _keys(kind, gone)
        self._add_all(keys)

    async def forever(self, *, every_seconds: float, soon_seconds: Sequence[float] = SOON_SECONDS) -> None:
        """Run `once` at intervals.

        The first two runs come soon after the start. No watch reports an object that was deleted between the first LIST and the beginning
        of the watches, and a pod that seems to terminate forever would block a rollout.
        """
        pauses = (min(seconds, every_seconds) for seconds in chain(soon_seconds, repeat(every_seconds)))
        await _repeat(self.once, pauses)

    async def of_rollouts_forever(self, *, every_seconds: float = ROLLOUT_SECONDS) -> None:
        """Run `of_rollouts` at intervals: an event that a watch lost delays a rollout by no more than that."""
        await _repeat(self.of_rollouts, repeat(every_seconds))

    async def _list(
        self, kind: Kind, namespace: str | None, *, ended: bool = True
    ) -> tuple[list[Object], list[dict[str, Any]]]:
        """Replace a kind in the cache by a LIST. Returns the objects that no longer exist, and those that do."""
        known = self._cache.newest(kind.name, namespace)
        found, as_of = await self._cluster.list(kind.name, namespace, selector=kind.selector)
        restored = self._was_restored(kind.name, namespace, back=0 < number(as_of) < known)
        gone = self._cache.replace(kind.name, namespace, found, as_of=as_of, ended=ended, restored=restored)
        return gone, found

    def _was_restored(self, kind: str, namespace: str | None, *, back: bool) -> bool:
        """Whether the cluster was restored from a backup: all LISTs of a kind have been older than the cache for a while.

        A single one may come from an API server that lags behind.
        """
        if not back:
            self._back_since.pop((kind, namespace), None)
            return False
        now = self._clock()
        since = self._back_since.setdefault((kind, namespace), now)
        if now - since < RESTORED_AFTER_SECONDS:
            log.warning("a LIST of %s is older than what the watches have reported, listing again", kind)
            return False
        del self._back_since[kind, namespace]
        log.error(
            "resource versions of %s went back, as after a restore of etcd: the LIST replaces what was known", kind
        )
        return True

    def _under_way(self, namespace: str, name: str) -> bool:
        raw = self._cache.get(KIND, namespace, name) or {}
        return (raw.get("status") or {}).get("phase") in UNDER_WAY

    def _add_all(self, keys: set[Key]) -> None:
        for key in sorted(keys | rivals(self._cache)):
            self._add(key)


def _keys(kind: Kind, objects: Iterable[Object]) -> set[Key]:
    return {key for raw in objects if (key := key_of(kind.name, raw)) is not None}


async def _repeat(work: Callable[[], Awaitable[None]], pauses: Iterable[float]) -> None:
    """Run the work after each pause. A failure is logged, and the next run comes after the next pause; the watches are unaffected."""
    for seconds in pauses:
        await asyncio.sleep(seconds)
        try:
            await work()
        except ClusterError as fault:
            log.warning("resync failed, trying again: %s", fault)
        except Exception as fault:  # noqa: BLE001 - if the resync ended here, lost events would stay lost unnoticed
            log.error("resync failed because of a bug, trying again", exc_info=fault)
