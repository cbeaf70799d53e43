"""A spell of faults: a Meddler that is ill from each step of the user on for some seconds, and well before and afterwards.

Made by `kinds`; what exactly goes wrong with a call is a function of the call and of a seeded source of chance.
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
    """Counts every call; while it is ill, some are struck."""

    def __init__(self, *, seed: str, share: float, strike: Strike | None, spoil: Spoil | None) -> None:
        super().__init__()
        self._chance = Random(seed)  # noqa: S311 - a plan that can be made again, no secret
        self._share = share
        self._strike = strike
        self._spoil = spoil
        self._doomed: set[int] = set()
        self.ill = False
        self.seconds_ill = 0.0
        self.struck_calls = 0
        """How many calls, or watches, went wrong."""
        self.calls: Counter[str] = Counter()
        """Every call, by what it is for."""
        self.calls_while_ill = 0
        self.lists: dict[str, Answer] = {}
        """The oldest answer to each LIST."""

    @property
    def chance(self) -> Random:
        """The seeded source."""
        return self._chance

    async def before(self, call: Call) -> Answer | None:
        """Strike a call that never gets to the API server, or let it on."""
        await super().before(call)
        purpose = "watch" if call.watches else "list" if call.lists else "write" if call.writes else "read"
        self.calls[purpose] += 1
        if not self.ill:
            return None
        self.calls_while_ill += 1
        if self._chance.random() >= self._share:
            return None
        self._doomed.add(id(call))
        return None if self._strike is None else await self._strike(self, call)

    async def after(self, call: Call, answer: Answer) -> Answer:
        """Spoil an answer on its way, or let it on."""
        if call.lists:
            self.lists.setdefault(f"{call.path}?{sorted(call.query.items())}", answer)
        if id(call) not in self._doomed:
            return answer
        self._doomed.discard(id(call))
        return answer if self._spoil is None else await self._spoil(self, call, answer)

    async def run(self, proxy: HttpProxy, seconds: float, disturb: Disturb | None) -> None:
        """Be ill for that long."""
        began = time.monotonic()
        self.ill = True
        proxy.deafen(deaf=False)
        try:
            while time.monotonic() < began + seconds:
                if disturb is not None:
                    await disturb(proxy, self)
                await asyncio.sleep(min(1.5, max(0.0, began + seconds - time.monotonic())))
        finally:
            self.ill = False
            self.seconds_ill += time.monotonic() - began
            proxy.deafen(deaf=False)


def hit(spell: Spell) -> None:
    """Count a call that goes wrong."""
    spell.struck_calls += 1


__all__ = ["Answer", "Call", "Cut", "Spell", "hit"]
