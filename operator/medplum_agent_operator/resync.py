"""The safety net under the watches: a LIST of everything, at start and from time to time.

Started by `__main__`. Watches lose things: a delete that happens while one is broken is never told. The LIST replaces what
the cache holds, and puts every agent on the queue; an agent that is as it should be costs no request.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import Any, Final, Protocol

from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.model import Key
from medplum_agent_operator.errors import ClusterError
from medplum_agent_operator.handlers import NODE, key_of, rivals, selector_of, watched
from medplum_agent_operator.telemetry import log

SOON_SECONDS: Final = (2.0, 8.0)
"""After the start: the watches begin within a second, on a busy machine within some."""


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
                found, as_of = await self._cluster.list(kind, namespace, selector=selector_of(kind))
                gone = self._cache.replace(kind, namespace, found, as_of=as_of)
                keys.update(key for raw in (*gone, *found) if (key := key_of(kind, raw)) is not None)
        for key in sorted(keys | rivals(self._cache)):
            self._add(key)

    async def forever(self, *, every_seconds: float, soon_seconds: Sequence[float] = SOON_SECONDS) -> None:
        """Do it from time to time. A failed one is logged and tried at the next turn: the watches go on meanwhile.

        First soon after the start, twice: what is deleted between the first LIST and the beginning of the watches is told by
        nobody, and a pod that seems to end for ever would hold a rollout up.
        """
        for seconds in chain(soon_seconds, repeat(every_seconds)):
            await asyncio.sleep(min(seconds, every_seconds))
            try:
                await self.once()
            except ClusterError as fault:
                log.warning("resync failed and is tried again: %s", fault)
