"""Learns the writes of a scenario, then plays it once for each write and checks how each run ends.

Called by `test_crash_points`. Runs are concurrent, each in its own namespace.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.support.crash_points.digest import differences, digest
from tests.support.crash_points.modes import Counting, Delaying, Killing, Mode, Swallowing
from tests.support.operator_process import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.crash_points.clinic import Clinic, Clinics
    from tests.support.crash_points.scenarios import Scenario

LANES: Final = 6
"""The number of concurrent runs. Most of a run is waiting."""
LEARNING_RUNS: Final = 3
TRIES: Final = 4
"""A run with fewer writes than the number to strike at is repeated this often."""
QUIET_SECONDS: Final = 1.2
"""After this long without a write, no more writes come. A pass that defers its status does so for 1 s."""
CONVERGES_SECONDS: Final = 60.0
REPORT: Final = ROOT / "build" / "reliability" / "crash-points.json"


@dataclass(frozen=True, slots=True)
class Learned:
    """The results of undisturbed runs.

    Attributes:
        writes: the writes of the run that had the most. The number of status writes depends on timing.
        acts: the writes of each run besides status, Events and ControllerRevisions.
        digests: the end of each run.
    """

    writes: tuple[str, ...]
    acts: tuple[tuple[str, ...], ...]
    digests: tuple[dict[str, Any], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one disturbed run."""

    number: int
    write: str
    reached: bool
    faults: tuple[str, ...]

    @property
    def ended_well(self) -> bool:
        """Whether it was disturbed and ended correctly."""
        return self.reached and not self.faults

    def __str__(self) -> str:
        return f"write {self.number} ({self.write}): " + "; ".join(self.faults or ("as expected",))


async def learn(clinics: Clinics, scenario: Scenario) -> Learned:
    """Play the scenario several times undisturbed."""
    runs = await asyncio.gather(*(_undisturbed(clinics, scenario) for _ in range(LEARNING_RUNS)))
    writes = sorted((writes for writes, _ in runs), key=len)
    return Learned(writes[-1], tuple(map(_acts, writes)), tuple(found for _, found in runs))


async def learned(clinics: Clinics, scenario: Scenario, known: dict[str, Learned]) -> Learned:
    """The undisturbed runs of a scenario, played once per session."""
    if scenario.name not in known:
        known[scenario.name] = await learn(clinics, scenario)
    return known[scenario.name]


def _acts(writes: Sequence[str]) -> tuple[str, ...]:
    """The writes besides status, Events and revisions. A write that was repeated after a conflict counts once; its revision is another one."""
    acts = [
        write for write in writes if not any(word in write for word in ("/status", " events", " controllerrevisions"))
    ]
    return tuple(write for write, _ in itertools.groupby(acts))


async def _undisturbed(clinics: Clinics, scenario: Scenario) -> tuple[tuple[str, ...], dict[str, Any]]:
    async with clinics.clinic() as clinic:
        counting = Counting()
        await _play(clinic, scenario, counting)
        found = await digest(clinic)
        faults = _faults(clinic, scenario, found)
        if faults:
            raise AssertionError(f"{scenario.name}, undisturbed: {faults}")
        return tuple(counting.writes), found


async def enumerate_points(
    clinics: Clinics, scenario: Scenario, mode: Mode, learned: Learned, numbers: Sequence[int]
) -> list[Run]:
    """Play the scenario once for each of these write numbers; the first is 1."""
    began = time.monotonic()
    lanes = asyncio.Semaphore(LANES)

    async def one(number: int) -> Run:
        async with lanes:
            for _ in range(TRIES):
                run = await _disturbed(clinics, scenario, mode, learned, number)
                if run.reached or run.faults:
                    break
            return run

    runs = list(await asyncio.gather(*(one(number) for number in numbers)))
    _report(scenario, mode, learned, runs, time.monotonic() - began)
    return runs


async def _disturbed(clinics: Clinics, scenario: Scenario, mode: Mode, learned: Learned, number: int) -> Run:
    async with clinics.clinic() as clinic:
        interceptor = _interceptor(mode, number, clinic)
        faults: tuple[str, ...] = ()
        try:
            await _play(clinic, scenario, interceptor)
        except AssertionError as late:
            faults = (str(late),)
        else:
            if isinstance(interceptor, Delaying):
                interceptor.release.set()
            faults = await ends_as_learned(clinic, scenario, learned, interceptor)
        write = interceptor.writes[number - 1] if len(interceptor.writes) >= number else "none"
        return Run(number, write, interceptor.struck.is_set(), faults)


def _interceptor(mode: Mode, number: int, clinic: Clinic) -> Counting:
    match mode:
        case Mode.KILLED:
            return Killing(number, clinic.kill)
        case Mode.UNANSWERED:
            return Swallowing(number)
        case Mode.LATE:
            return Delaying(number)


async def _play(clinic: Clinic, scenario: Scenario, interceptor: Counting) -> None:
    """Play a scenario. When a write is struck, a second operator starts, unless the first survives."""
    await clinic.start_operator(interceptor)
    await scenario.begin(clinic)
    await quiet(interceptor)
    interceptor.arm()

    async def follow() -> None:
        await interceptor.struck.wait()
        if not isinstance(interceptor, Swallowing):
            await clinic.start_operator()

    follower = asyncio.create_task(follow())
    try:
        await scenario.act(clinic)
        await clinic.until(scenario.ends, f"{scenario.name} ends well")
        await quiet(interceptor)  # the write to strike at may be one of the last
        if interceptor.struck.is_set():
            await follower
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)


async def quiet(interceptor: Counting) -> None:
    """Wait until the operator stops writing."""
    while interceptor.quiet_seconds() < QUIET_SECONDS:  # noqa: ASYNC110 - every write restarts the time
        await asyncio.sleep(0.1)


async def ends_as_learned(
    clinic: Clinic, scenario: Scenario, learned: Learned, interceptor: Counting
) -> tuple[str, ...]:
    """Wait for the state at the end of the undisturbed runs, and check that it stays. Returns the faults."""
    deadline = time.monotonic() + CONVERGES_SECONDS
    while True:
        found = await digest(clinic)
        if found == learned.digests[0]:
            await asyncio.sleep(QUIET_SECONDS)
            found = await digest(clinic)
            await quiet(interceptor)
            if found == learned.digests[0]:
                break
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.3)
    return (*differences(learned.digests[0], found), *_faults(clinic, scenario, found))


def _faults(clinic: Clinic, scenario: Scenario, found: dict[str, Any]) -> list[str]:
    """The faults of a run, independent of the undisturbed runs."""
    seen = clinic.witness
    faults = list(seen.recorder.violations)
    if scenario.serves_throughout and seen.left_nobody:
        faults.append(f"no agent served after {', '.join(seen.left_nobody)}")
    status = found["status"][0] if found["status"] else {}
    history = tuple(entry["outcome"] for entry in status.get("history", ()))
    if history != scenario.history:
        faults.append(f"history is {history}, expected {scenario.history}")
    approvals = [entry["approval"]["text"] for entry in status.get("history", ()) if "approval" in entry]
    if approvals != status.get("spentApprovals", []):
        faults.append(f"spent {status.get('spentApprovals')}, used {approvals}")
    if "a pass failed by a bug" in clinic.log:
        faults.append(f"a bug: {clinic.log[-3000:]}")
    return faults


def _report(scenario: Scenario, mode: Mode, learned: Learned, runs: Sequence[Run], seconds: float) -> None:
    """Print the figures and append them to the report."""
    line = {
        "scenario": scenario.name,
        "mode": str(mode),
        "writes": len(learned.writes),
        "points": len(runs),
        "reached": sum(run.reached for run in runs),
        "ended well": sum(run.ended_well for run in runs),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(line))  # noqa: T201 - figures are for humans too
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    with REPORT.open("a", encoding="utf-8") as report:
        report.write(json.dumps(line) + "\n")
