"""It ends well wherever the operator dies: every write of every scenario as the moment of its death."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.support.audit import USER, resource
from tests.support.crash_points.digest import differences, without_replica_sets
from tests.support.crash_points.enumeration import enumerate_points, learned, quiet
from tests.support.crash_points.modes import Counting, Delaying, Mode
from tests.support.crash_points.scenarios import SCENARIOS

if TYPE_CHECKING:
    from tests.support.crash_points.clinic import Clinics
    from tests.support.crash_points.enumeration import Learned

ALL = os.environ.get("CRASH_POINTS") == "all"
"""Every write in every mode. Without it some are left out where `EVERY` does not name the case."""
MOST_TELLING = ("install", "handoff", "forced downgrade")
EVERY = {("handoff", Mode.KILLED), ("forced downgrade", Mode.KILLED)}

pytestmark = pytest.mark.timeout(1800 if ALL else 900)


def cases(name: str, writes: int) -> list[tuple[Mode, range]]:
    """In which modes which writes are played."""
    modes = [mode for mode in Mode if ALL or mode is Mode.KILLED or name in MOST_TELLING]
    numbers = range(1, writes + 1)
    return [(mode, numbers if ALL or (name, mode) in EVERY else numbers[::3]) for mode in modes]


@pytest.mark.parametrize("hashed", ["4", "55b68dd", "6949559fd4"])
@pytest.mark.parametrize("workload", ["front-desk", "front-desk-gate"])
def test_what_controllers_make_up_is_no_difference(workload: str, hashed: str) -> None:
    """The hash in the name of a ReplicaSet has one to ten letters."""
    named = [f"{workload}-{hashed}-", f"{workload}-{hashed}-gl9lz"]
    assert [f"{workload}-RS-", f"{workload}-RS-"] == [without_replica_sets(name) for name in named]


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_write_may_be_the_last(clinics: Clinics, name: str, known: dict[str, Learned]) -> None:
    """Killed at it, its answer lost, or late behind a successor's: the same end, one history entry, nothing done twice.

    First it is played undisturbed: the same objects are written in the same order each time, and the ends are the same, so writes can be
    counted and ends compared. One test for all modes of a scenario, so that this is learned once. As many writes as there are besides
    status and Events are reached in every run; how often those are written depends on how quickly one thing follows another, so that a
    run may have no last one to strike at.
    """
    undisturbed = await learned(clinics, SCENARIOS[name], known)
    assert 1 == len(set(undisturbed.acts))
    (acts,) = set(undisturbed.acts)
    assert len(acts) > 0
    assert [[], []] == [differences(undisturbed.digests[0], other) for other in undisturbed.digests[1:]]
    played = cases(name, len(undisturbed.writes))
    found = [
        (mode, await enumerate_points(clinics, SCENARIOS[name], mode, undisturbed, numbers)) for mode, numbers in played
    ]
    assert [len(numbers) for _, numbers in played] == [len(runs) for _, runs in found]
    assert [] == [f"{mode}, {run}" for mode, runs in found for run in runs if run.faults]
    unreached = [(mode, run) for mode, runs in found for run in runs if not run.reached]
    assert [] == [f"{mode}, {run}" for mode, run in unreached if run.number <= len(acts)]


async def test_behind_the_proxy_an_operator_has_its_own_rights(clinics: Clinics) -> None:
    """The API server takes it for its ServiceAccount, not for the administrator by whose way the proxy knows the API server."""
    if clinics.cluster.audit_log is None:
        pytest.skip("the audit log of a cluster that the tests did not start cannot be read")
    since = datetime.now(UTC)
    async with clinics.clinic() as clinic:
        await clinic.start_operator()
        await clinic.apply("5.1.14")
        await clinic.until(lambda seen: seen.at_rest("5.1.14"), "5.1.14 installed")
        writers = {
            event["user"]["username"]
            for event in clinics.cluster.audit_events(since)
            if event.get("objectRef", {}).get("namespace") == clinic.namespace
            and (event["verb"], resource(event)) == ("patch", "medplumagents/status")
        }
    assert {USER} == writers


async def test_a_first_write_that_comes_late_changes_nothing(clinics: Clinics) -> None:
    """The Deployment of 5.1.14, sent by an operator that died, arrives after its successor has gone on to 5.1.15: it is refused."""
    async with clinics.clinic() as clinic:
        dying = Delaying(4)
        dying.arm()
        await clinic.start_operator(dying)
        await clinic.apply("5.1.14")
        await asyncio.wait_for(dying.struck.wait(), 30)
        assert "PATCH deployments front-desk" == dying.writes[-1]
        clinic.kill()
        successor = Counting()
        await clinic.start_operator(successor)
        await clinic.until(lambda seen: seen.at_rest("5.1.14"), "5.1.14 installed")
        await clinic.patch(version="5.1.15")
        await clinic.until(lambda seen: seen.at_rest("5.1.15"), "5.1.15 serves")
        await quiet(successor)
        dying.release.set()
        await asyncio.sleep(5)
        await clinic.until(lambda seen: seen.at_rest("5.1.15"), "5.1.15 serves still")
        assert [] == clinic.witness.recorder.violations
        assert ["agent 5.1.14", "agent 5.1.15"] == sorted(clinic.witness.pods_ever.values())
