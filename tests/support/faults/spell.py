"""A spell of faults: an Interceptor that lets calls fail for some seconds after each step of the user.

Made by `kinds`. What goes wrong with a call depends only on the call and on a seeded random generator.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from tests.support.crash_points.modes import Counting
from tests.support.http_proxy import Answer, Call, Cut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.http_proxy import HttpProxy

    Strike = Callable[["Spell", Call], Awaitable[Answer | None]]
    Spoil = Callable[["Spell", Call, Answer], Awaitable[Answer]]
    Disturb = Callable[[HttpProxy, "Spell"], Awaitable[None]]


class Spell(Counting):
    """Counts every call. While the spell is active, some calls are struck."""

    def __init__(self, *, seed: str, share: float, strike: Strike | None, spoil: Spoil | None) -> None:
        super().__init__()
        self._random = Random(seed)  # noqa: S311 - reproducible choices, no secret
        self._share = share
        self._strike = strike
        self._spoil = spoil
        self._to_spoil: set[int] = set()
        self.active = False
        self.active_seconds = 0.0
        self.struck_calls = 0
        """The number of calls and watches that a fault struck."""
        self.calls: Counter[str] = Counter()
        """The number of calls: watch, list, write or read."""
        self.calls_while_active = 0
        self.lists: dict[str, Answer] = {}
        """The first answer to each LIST."""

    @property
    def random(self) -> Random:
        """The seeded generator."""
        return self._random

    async def before(self, call: Call) -> Answer | None:
        """Strike a call instead of passing it to the API server, or let it through."""
        await super().before(call)
        purpose = "watch" if call.watches else "list" if call.lists else "write" if call.writes else "read"
        self.calls[purpose] += 1
        if not self.active:
            return None
        self.calls_while_active += 1
        if self._random.random() >= self._share:
            return None
        self._to_spoil.add(id(call))
        return None if self._strike is None else await self._strike(self, call)

    async def after(self, call: Call, answer: Answer) -> Answer:
        """Spoil an answer, or let it through."""
        if call.lists:
            self.lists.setdefault(f"{call.path}?{sorted(call.query.items())}", answer)
        if id(call) not in self._to_spoil:
            return answer
        self._to_spoil.discard(id(call))
        return answer if self._spoil is None else await self._spoil(self, call, answer)

    async def run(self, proxy: HttpProxy, seconds: float, disturb: Disturb | None) -> None:
        """Be active for this long."""
        began = time.monotonic()
        self.active = True
        proxy.silence_watches(silent=False)
        try:
            while time.monotonic() < began + seconds:
                if disturb is not None:
                    await disturb(proxy, self)
                await asyncio.sleep(min(1.5, max(0.0, began + seconds - time.monotonic())))
        finally:
            self.active = False
            self.active_seconds += time.monotonic() - began
            proxy.silence_watches(silent=False)


def hit(spell: Spell) -> None:
    """Count a struck call."""
    spell.struck_calls += 1


__all__ = ["Answer", "Call", "Cut", "Spell", "hit"]
