"""It ends well whatever the API server does meanwhile: faults of every kind, through a proxy, while an agent is changed."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.crash_points.enumeration import LANES, learned
from tests.support.crash_points.modes import Counting
from tests.support.crash_points.scenarios import SCENARIOS
from tests.support.faults.kinds import EXPIRED, KINDS, REFUSED_SECONDS
from tests.support.faults.trial import Trial, attempt, resynced

if TYPE_CHECKING:
    from tests.support.crash_points.clinic import Clinics
    from tests.support.crash_points.enumeration import Learned
    from tests.support.faults.kinds import Kind
    from tests.support.http_proxy import Answer, Call, HttpProxy

ALL = os.environ.get("CRASH_POINTS") == "all"
"""Every kind. Without it those are left out that last, or after which an operator pauses, for a minute or more, and all but one seed."""
CHOSEN = [
    kind for kind in KINDS if ALL or (max(kind.longest_pause, kind.seconds) < REFUSED_SECONDS and kind.seed == "1")
]
pytestmark = pytest.mark.timeout(900)


async def attempts(clinics: Clinics, name: str, kinds: list[Kind], known: dict[str, Learned]) -> list[Trial]:
    """Play a scenario under each of these kinds, some of them side by side."""
    undisturbed = await learned(clinics, SCENARIOS[name], known)
    lanes = asyncio.Semaphore(LANES)

    async def one(kind: Kind) -> Trial:
        async with lanes:
            return await attempt(clinics, SCENARIOS[name], kind, undisturbed)

    return list(await asyncio.gather(*(one(kind) for kind in kinds)))


@pytest.mark.parametrize("name", ["handoff", "forced downgrade"])
async def test_it_ends_well_whatever_the_api_server_does(
    clinics: Clinics, name: str, known: dict[str, Learned]
) -> None:
    """The same end as undisturbed, soon after the fault is over, with a bounded number of requests, and then none at all."""
    trials = await attempts(clinics, name, CHOSEN, known)
    assert len(CHOSEN) == len(trials) > 0
    assert [] == [str(trial) for trial in trials if trial.faults]


class Blindfold(Counting):
    """At the write of the Deployment every watch ends with 410 Gone, and no LIST of pods is answered until it is taken off."""

    def __init__(self) -> None:
        super().__init__()
        self.proxy: HttpProxy | None = None
        self.off = asyncio.Event()
        self.lists_kept_back = 0

    async def before(self, call: Call) -> Answer | None:
        """Put it on, or keep a LIST back."""
        answer = await super().before(call)
        if self.proxy is not None and call.label == "PATCH deployments front-desk" and not self.struck.is_set():
            self.struck.set()
            await self.proxy.end_watches(EXPIRED)
        elif self.struck.is_set() and call.lists and call.resource == "pods" and not self.off.is_set():
            self.lists_kept_back += 1
            await self.off.wait()
        return answer


async def test_an_old_pod_that_goes_while_a_watch_is_broken_delays_a_change_by_seconds(clinics: Clinics) -> None:
    """Nobody tells that it was deleted: not the watch that ended, nor the one that begins. The LIST of everything is 300 s away."""
    async with clinics.clinic("faults") as clinic:
        blindfold = Blindfold()
        proxy = await clinic.start_operator(blindfold)
        await clinic.apply("5.1.15")
        await clinic.until(lambda seen: seen.at_rest("5.1.15"), "5.1.15 installed")
        await resynced(clinic)
        (old,) = clinic.witness.pods
        blindfold.proxy = proxy
        await clinic.approve("4.2.3 CHG-1042")
        await clinic.patch(version="4.2.3")
        await asyncio.wait_for(blindfold.struck.wait(), 60)
        await clinic.until(
            lambda seen: old["metadata"]["uid"] not in {pod["metadata"]["uid"] for pod in seen.pods}, "the old pod goes"
        )
        blindfold.off.set()
        await clinic.until(lambda seen: seen.at_rest("4.2.3"), "4.2.3 serves, and status says so")
        assert blindfold.lists_kept_back > 0
        assert [] == clinic.witness.recorder.violations
