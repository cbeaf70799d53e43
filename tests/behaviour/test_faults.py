"""Faults of the API server of every kind, through a proxy, while an agent is changed: each trial ends well."""

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
    """Play a scenario with each of these kinds of fault, some of them concurrently."""
    undisturbed = await learned(clinics, SCENARIOS[name], known)
    lanes = asyncio.Semaphore(LANES)

    async def one(kind: Kind) -> Trial:
        async with lanes:
            return await attempt(clinics, SCENARIOS[name], kind, undisturbed)

    return list(await asyncio.gather(*(one(kind) for kind in kinds)))


@pytest.mark.parametrize("name", ["handoff", "forced downgrade"])
async def test_every_fault_of_the_api_server_ends_well(clinics: Clinics, name: str, known: dict[str, Learned]) -> None:
    """The same end as undisturbed, soon after the fault, with a bounded number of requests, and then no more requests."""
    trials = await attempts(clinics, name, CHOSEN, known)
    assert len(CHOSEN) == len(trials) > 0
    assert [] == [str(trial) for trial in trials if trial.faults]


class Blindfold(Counting):
    """When the Deployment is written, every watch ends with 410 Gone, and LISTs of pods wait until the blindfold is released."""

    def __init__(self) -> None:
        super().__init__()
        self.proxy: HttpProxy | None = None
        self.off = asyncio.Event()
        self.lists_kept_back = 0

    async def before(self, call: Call) -> Answer | None:
        """Begin at the write of the Deployment, or delay a LIST."""
        answer = await super().before(call)
        if self.proxy is not None and call.label == "PATCH deployments front-desk" and not self.struck.is_set():
            self.struck.set()
            await self.proxy.end_watches(EXPIRED)
        elif self.struck.is_set() and call.lists and call.resource == "pods" and not self.off.is_set():
            self.lists_kept_back += 1
            await self.off.wait()
        return answer


async def test_an_old_pod_that_is_deleted_during_a_broken_watch_delays_a_rollout_by_seconds(clinics: Clinics) -> None:
    """Neither the watch that ended nor the new one reports the deletion. The next LIST of all kinds is 300 s away."""
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
