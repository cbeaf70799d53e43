"""The LIST of everything: again soon after the start, because what went before the watches began is told by nobody."""

from __future__ import annotations

import asyncio
from typing import Any

from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.model import Key
from medplum_agent_operator.resync import Resync
from tests.builders import NAMESPACE, pod


class Pods:
    """An API server that has a pod at first and none after it; it counts the LISTs of pods."""

    def __init__(self) -> None:
        self.lists = 0

    async def list(self, kind: str, namespace: str | None, *, selector: str = "") -> tuple[list[dict[str, Any]], str]:
        """Everything but pods is empty."""
        del namespace, selector
        if kind != "Pod":
            return [], "100"
        self.lists += 1
        raw = pod(name="old")
        raw["metadata"]["resourceVersion"] = "7"
        return ([raw] if self.lists == 1 else []), "100"


async def test_a_pod_that_went_before_the_watches_began_is_forgotten_soon() -> None:
    """No event tells of it; the LIST soon after the start does, and its agent is looked at again."""
    api, cache, looked_at = Pods(), Cache(), list[Key]()
    news = asyncio.Event()

    def look_at(key: Key) -> None:
        looked_at.append(key)
        news.set()

    resync = Resync(api, cache, look_at, namespaces=())
    await resync.once()
    assert [(NAMESPACE, "old")] == cache.names("Pod")
    news.clear()
    soon = asyncio.create_task(resync.forever(every_seconds=1000, soon_seconds=(0.0,)))
    async with asyncio.timeout(5):
        await news.wait()
    soon.cancel()
    assert 2 == api.lists
    assert 2 == len(looked_at)
    assert [] == cache.names("Pod")
