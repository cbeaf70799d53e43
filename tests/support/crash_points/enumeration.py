"""Learns the writes of a scenario, then plays it again for each of them; says of each run whether it ended as it should.

Called by `test_crash_points`. Runs go side by side, each in a namespace of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.support.crash_points.digest import differences, digest
from tests.support.crash_points.modes import Counting, Holding, Killing, Mode, Swallowing
from tests.support.operator_process import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.crash_points.clinic import Clinic, Clinics
    from tests.support.crash_points.scenarios import Scenario

LANES: Final = 6
"""How many runs go side by side: most of a run is waiting."""
LEARNING_RUNS: Final = 3
TRIES: Final = 4
"""A run that had fewer writes than the number to strike at is played again."""
QUIET_SECONDS: Final = 1.2
"""Nothing is written for that long: then nothing more comes. The silence of a pass that waits with its word is 1 s."""
CONVERGES_SECONDS: Final = 60.0
REPORT: Final = ROOT / "build" / "reliability" / "crash-points.json"


@dataclass(frozen=True, slots=True)
class Learned:
    """Some undisturbed runs.

    Attributes:
        writes: of the run that had most of them. How often status is written depends on how quickly one thing follows another.
        acts: of each run, what it wrote besides status and Events.
        digests: how each ended.
    """

    writes: tuple[str, ...]
    acts: tuple[tuple[str, ...], ...]
    digests: tuple[dict[str, Any], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Run:
    """A disturbed one."""

    number: int
    write: str
    reached: bool
    faults: tuple[str, ...]

    @property
    def ended_well(self) -> bool:
        """Whether it was disturbed, and ended as it should."""
        return self.reached and not self.faults

    def __str__(self) -> str:
        return f"write {self.number} ({self.write}): " + "; ".join(self.faults or ("as it should",))


async def learn(clinics: Clinics, scenario: Scenario) -> Learned:
    """Play the scenario undisturbed, some times."""
    runs = await asyncio.gather(*(_undisturbed(clinics, scenario) for _ in range(LEARNING_RUNS)))
    writes = sorted((writes for writes, _ in runs), key=len)
    return Learned(writes[-1], tuple(map(_acts, writes)), tuple(found for _, found in runs))


async def learned(clinics: Clinics, scenario: Scenario, known: dict[str, Learned]) -> Learned:
    """The undisturbed runs of a scenario, played once a session."""
    if scenario.name not in known:
        known[scenario.name] = await learn(clinics, scenario)
    return known[scenario.name]


def _acts(writes: Sequence[str]) -> tuple[str, ...]:
    """What is written besides reports; once where a write was refused as others had been quicker, and tried again."""
    acts = [write for write in writes if "/status" not in write and write != "POST events"]
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
    """Play it once for each of these writes (the first is 1)."""
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
        meddler = _meddler(mode, number, clinic)
        faults: tuple[str, ...] = ()
        try:
            await _play(clinic, scenario, meddler)
        except AssertionError as late:
            faults = (str(late),)
        else:
            if isinstance(meddler, Holding):
                meddler.release.set()
            faults = await ends_as_learned(clinic, scenario, learned, meddler)
        write = meddler.writes[number - 1] if len(meddler.writes) >= number else "none"
        return Run(number, write, meddler.struck.is_set(), faults)


def _meddler(mode: Mode, number: int, clinic: Clinic) -> Counting:
    match mode:
        case Mode.KILLED:
            return Killing(number, clinic.kill)
        case Mode.UNANSWERED:
            return Swallowing(number)
        case Mode.LATE:
            return Holding(number)


async def _play(clinic: Clinic, scenario: Scenario, meddler: Counting) -> None:
    """The whole story; a second operator comes when the first is struck, unless it lives through it."""
    await clinic.start_operator(meddler)
    await scenario.begin(clinic)
    await quiet(meddler)
    meddler.arm()

    async def follow() -> None:
        await meddler.struck.wait()
        if not isinstance(meddler, Swallowing):
            await clinic.start_operator()

    follower = asyncio.create_task(follow())
    try:
        await scenario.act(clinic)
        await clinic.until(scenario.ends, f"{scenario.name} ends well")
        await quiet(meddler)  # the last writes of all may be the ones that are waited for
        if meddler.struck.is_set():
            await follower
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)


async def quiet(meddler: Counting) -> None:
    """Wait until nothing is written any more."""
    while meddler.quiet_seconds() < QUIET_SECONDS:  # noqa: ASYNC110 - every write begins the time anew
        await asyncio.sleep(0.1)


async def ends_as_learned(clinic: Clinic, scenario: Scenario, learned: Learned, meddler: Counting) -> tuple[str, ...]:
    """Wait for the state that the undisturbed runs ended in, and see that it stays. Returns what is wrong."""
    deadline = time.monotonic() + CONVERGES_SECONDS
    while True:
        found = await digest(clinic)
        if found == learned.digests[0]:
            await asyncio.sleep(QUIET_SECONDS)
            found = await digest(clinic)
            await quiet(meddler)
            if found == learned.digests[0]:
                break
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.3)
    return (*differences(learned.digests[0], found), *_faults(clinic, scenario, found))


def _faults(clinic: Clinic, scenario: Scenario, found: dict[str, Any]) -> list[str]:
    """What is wrong with a run, whatever an undisturbed one looks like."""
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
    """Print and keep the figures."""
    line = {
        "scenario": scenario.name,
        "mode": str(mode),
        "writes": len(learned.writes),
        "points": len(runs),
        "reached": sum(run.reached for run in runs),
        "ended well": sum(run.ended_well for run in runs),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(line))  # noqa: T201 - figures are for people too
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    with REPORT.open("a", encoding="utf-8") as report:
        report.write(json.dumps(line) + "\n")
