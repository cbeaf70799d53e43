"""The safety net under the watches: a LIST of everything, at start and from time to time; of what changes wait for, more often.

Started by `__main__`. Watches lose things: a delete that happens while one is broken is never told. The LIST replaces what
the cache holds, and puts every agent on the queue; an agent that is as it should be costs no request.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain, repeat
from typing import Any, Final, Protocol

from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.api.status import UNDER_WAY
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.observed.model import Key
from medplum_agent_operator.errors import ClusterError
from medplum_agent_operator.handlers import NODE, key_of, rivals, selector_of, watched
from medplum_agent_operator.ports import Object
from medplum_agent_operator.telemetry import log

SOON_SECONDS: Final = (2.0, 8.0)
"""After the start: the watches begin within a second, on a busy machine within some."""
CHANGES_SECONDS: Final = 15.0
"""How long a change waits at most for an object that has gone without a word."""
AWAITED: Final = ("Deployment", "Pod", "Job")
"""The kinds that a change waits for: that one goes, as an old pod, or gets on."""

MANY_NAMESPACES: Final = 10
"""From here on one LIST of everything costs less than one of each namespace."""


class Lister(Protocol):
    """What a resync asks of the API server."""

    async def list(self, kind: str, namespace: str | None, *, selector: str = "") -> tuple[list[dict[str, Any]], str]:
        """Read all objects of a kind."""


class Resync:
    """Lists everything and puts every agent on the queue."""

    def __init__(
        self,
        cluster: Lister,
        cache: Cache,
        add: Callable[[Key], None],
        *,
        namespaces: Sequence[str],
        nodes: bool = True,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._add = add
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._kinds = watched(nodes=nodes)

    async def once(self) -> None:
        """List every kind in every watched namespace.

        Raises:
            ClusterError: when one of the LISTs failed; what was read before it counts.
        """
        keys: set[Key] = set()
        for kind in self._kinds:
            for namespace in (None,) if kind == NODE else self._namespaces:
                gone, found = await self._list(kind, namespace)
                keys |= _keys(kind, (*gone, *found))
        self._add_all(keys)

    async def of_changes(self) -> None:
        """List what changes wait for, where one is under way. Where none is, it costs no request.

        Raises:
            ClusterError: when one of the LISTs failed; what was read before it counts.
        """
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
        """Do it `once` from time to time.

        First soon after the start, twice: what is deleted between the first LIST and the beginning of the watches is told by
        nobody, and a pod that seems to end for ever would hold a rollout up.
        """
        pauses = (min(seconds, every_seconds) for seconds in chain(soon_seconds, repeat(every_seconds)))
        await _repeated(self.once, pauses)

    async def of_changes_forever(self, *, every_seconds: float = CHANGES_SECONDS) -> None:
        """Do it `of_changes` from time to time: what a watch loses in the middle of a change delays it by no more than that."""
        await _repeated(self.of_changes, repeat(every_seconds))

    async def _list(
        self, kind: str, namespace: str | None, *, ended: bool = True
    ) -> tuple[list[Object], list[dict[str, Any]]]:
        """Tell the cache what there is of a kind. Returns what is thereby known to have gone, and what there is."""
        found, as_of = await self._cluster.list(kind, namespace, selector=selector_of(kind))
        return self._cache.replace(kind, namespace, found, as_of=as_of, ended=ended), found

    def _under_way(self, namespace: str, name: str) -> bool:
        raw = self._cache.get(KIND, namespace, name) or {}
        return (raw.get("status") or {}).get("phase") in UNDER_WAY

    def _add_all(self, keys: set[Key]) -> None:
        for key in sorted(keys | rivals(self._cache)):
            self._add(key)


def _keys(kind: str, objects: Iterable[Object]) -> set[Key]:
    return {key for raw in objects if (key := key_of(kind, raw)) is not None}


async def _repeated(work: Callable[[], Awaitable[None]], pauses: Iterable[float]) -> None:
    """Do it after each pause. When it fails it is logged and done again after the next one: the watches go on meanwhile."""
    for seconds in pauses:
        await asyncio.sleep(seconds)
        try:
            await work()
        except ClusterError as fault:
            log.warning("resync failed and is tried again: %s", fault)
        except Exception as fault:  # noqa: BLE001 - without it what watches lose would stay lost, and nobody would know
            log.error("resync failed by a bug and is tried again", exc_info=fault)
