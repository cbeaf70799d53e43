"""Every write of every scenario as the moment of the operator's death: each ends well."""

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
    """The write numbers to play in each mode."""
    modes = [mode for mode in Mode if ALL or mode is Mode.KILLED or name in MOST_TELLING]
    numbers = range(1, writes + 1)
    return [(mode, numbers if ALL or (name, mode) in EVERY else numbers[::3]) for mode in modes]


@pytest.mark.parametrize("hashed", ["4", "55b68dd", "6949559fd4"])
@pytest.mark.parametrize("workload", ["front-desk", "front-desk-gate"])
def test_generated_names_are_not_a_difference(workload: str, hashed: str) -> None:
    """The hash in the name of a ReplicaSet has one to ten characters."""
    named = [f"{workload}-{hashed}-", f"{workload}-{hashed}-gl9lz"]
    assert [f"{workload}-RS-", f"{workload}-RS-"] == [without_replica_sets(name) for name in named]


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_write_may_be_the_last(clinics: Clinics, name: str, known: dict[str, Learned]) -> None:
    """The operator is killed at it, or its answer is lost, or it arrives after a successor's writes: the same end, one history entry, nothing done twice.

    Undisturbed runs come first. They write the same objects in the same order and end in the same state, so writes can be counted and ends
    compared. One test covers all modes of a scenario, so that it learns this only once. Every run reaches as many writes as there are besides
    status and Events. The number of status and Event writes depends on timing, so a run may not reach the last number.
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
    """The API server authenticates it as its ServiceAccount, not as the administrator whose certificate the proxy knows."""
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


async def test_a_late_first_write_changes_nothing(clinics: Clinics) -> None:
    """The Deployment of 5.1.14, sent by an operator that died, arrives after its successor has rolled out 5.1.15: it is refused."""
    async with clinics.clinic() as clinic:
        dying = Delaying(5)
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
