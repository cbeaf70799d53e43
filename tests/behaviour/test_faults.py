"""It ends well whatever the API server does meanwhile: faults of every kind, through a proxy, while an agent is changed."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from tests.behaviour.crash_points.enumeration import LANES, learned
from tests.behaviour.crash_points.scenarios import SCENARIOS
from tests.behaviour.faults.kinds import KINDS, REFUSED_SECONDS
from tests.behaviour.faults.trial import Trial, attempt

if TYPE_CHECKING:
    from tests.behaviour.crash_points.clinic import Clinics
    from tests.behaviour.crash_points.enumeration import Learned
    from tests.behaviour.faults.kinds import Kind

ALL = os.environ.get("CRASH_POINTS") == "all"
"""Every kind. Without it those are left out after which an operator pauses for a minute or more, and all but one seed."""
CHOSEN = [kind for kind in KINDS if ALL or (kind.longest_pause < REFUSED_SECONDS and kind.seed == "1")]
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
