"""Plays a scenario with faults of the API server, and measures how it ended, how soon, and with how many requests.

Called by `test_faults`, once for each kind of fault and scenario.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Final

from medplum_agent_operator.kinds import watched
from medplum_agent_operator.resync import SOON_SECONDS
from tests.support.crash_points.enumeration import ends_as_learned, quiet
from tests.support.faults.kinds import REQUEST_TIMEOUT_SECONDS
from tests.support.operator_process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.crash_points.clinic import Clinic, Clinics
    from tests.support.crash_points.enumeration import Learned
    from tests.support.crash_points.scenarios import Scenario
    from tests.support.faults.kinds import Kind
    from tests.support.faults.spell import Spell

REPORT: Final = ROOT / "build" / "reliability" / "faults.json"
STORY_SECONDS: Final = 45.0
"""The longest time of a change without faults, on a busy machine."""
QUIET_SECONDS: Final = 10.0
AFTER_START_SECONDS: Final = sum(SOON_SECONDS) + 4
KINDS_WATCHED: Final = len(watched(nodes=True))
PASS_REQUESTS: Final = 8
"""The most requests of a failing pass: it reads agent, Deployment, pods, three children and a node, and writes once."""
EVENTS: Final = 15
"""The events of an agent's pods and Deployment during a change. Each starts a pass, without waiting for the backoff."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of one trial."""

    kind: str
    struck: int
    requests_during_faults: int
    most_requests: int
    seconds_to_end: float
    restarts: int
    faults: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}: " + "; ".join(self.faults or ("as expected",))


def most_requests(undisturbed: int, seconds: float) -> int:
    """The most requests in a spell of this length: those without faults, plus the retries of the queue and of Kopf.

    The queue backs off for 0.2 s, doubling, less up to a half. Kopf waits 1, 1, 2, 3, 5, 8 s before a LIST and a watch of each kind.

    >>> most_requests(20, 6.0)
    260
    """
    passes = len(list(takewhile(lambda after: after < seconds, accumulate(0.1 * 2**n for n in range(20)))))
    watches = len(list(takewhile(lambda after: after < seconds, accumulate((0, 1, 1, 2, 3, 5, 8, 13)))))
    return undisturbed + (passes + 1 + EVENTS) * PASS_REQUESTS + watches * 2 * KINDS_WATCHED


async def attempt(clinics: Clinics, scenario: Scenario, kind: Kind, learned: Learned) -> Trial:
    """Play a scenario once."""
    async with clinics.clinic("faults") as clinic:
        spell = kind.spell()
        flags = (
            f"--request-timeout-seconds={REQUEST_TIMEOUT_SECONDS}",
            f"--resync-seconds={kind.resync_seconds}",
        )
        proxy = await clinic.start_operator(spell, *flags)
        await scenario.begin(clinic)
        await quiet(spell)
        await resynced(clinic)
        spells: list[asyncio.Task[None]] = []

        def begin_spell() -> None:
            for earlier in spells:
                earlier.cancel()
            spells.append(asyncio.create_task(spell.run(proxy, kind.seconds, kind.disturb)))

        clinic.patience_seconds += kind.seconds + kind.longest_pause
        clinic.on_step = begin_spell
        kubelet = asyncio.create_task(_restart(clinic, proxy.kubeconfig, *flags))
        faults: tuple[str, ...] = ()
        try:
            await scenario.act(clinic)
            await asyncio.gather(*spells, return_exceptions=True)
            over = time.monotonic()
            within = kind.longest_pause + STORY_SECONDS
            await clinic.until(scenario.ends, f"{scenario.name} ends well", seconds=within)
            seconds = time.monotonic() - over
            await quiet(spell)
            faults = await ends_as_learned(clinic, scenario, learned, spell)
            # By then the longest pause of the operator is over.
            await asyncio.sleep(max(0.0, over + kind.longest_pause - time.monotonic()))
            faults = (*faults, *await _rests(clinic, spell, kind))
        except AssertionError as late:
            seconds, faults = -1.0, (str(late),)
        finally:
            kubelet.cancel()
            await asyncio.gather(kubelet, *spells, return_exceptions=True)
        restarts = len(clinic.operators) - 1
        most = most_requests(len(learned.writes) * 4, spell.active_seconds)
        faults = (
            *faults,
            *(("no call was struck",) if not spell.struck_calls else ()),
            *(
                (f"{spell.calls_while_active} requests, expected {most} at most",)
                if spell.calls_while_active > most
                else ()
            ),
            *((f"the operator ended {restarts} times",) if restarts and not kind.ends_operator else ()),
        )
        trial = Trial(
            str(kind), spell.struck_calls, spell.calls_while_active, most, round(seconds, 1), restarts, faults
        )
        _report(scenario, trial)
        return trial


async def _restart(clinic: Clinic, kubeconfig: Path, *flags: str) -> None:
    """Restart an operator that exits, as a kubelet does."""
    while True:
        await asyncio.sleep(0.3)
        if clinic.operators[-1].process.poll() is not None:
            try:
                await clinic.start_behind(kubeconfig, *flags)
            except TimeoutError:
                await asyncio.sleep(1)  # it exited at once, as it does if it cannot read


async def resynced(clinic: Clinic) -> None:
    """Wait until the two resyncs soon after an operator's start are over, so that they find nothing new later."""
    operator = clinic.operators[-1]
    await asyncio.sleep(max(0.0, clinic.started[operator.process.pid] + AFTER_START_SECONDS - time.monotonic()))


async def _rests(clinic: Clinic, spell: Spell, kind: Kind) -> tuple[str, ...]:
    """Check that the operator sends no more requests at the end, except frequent resyncs."""
    await resynced(clinic)
    before = dict(spell.calls)
    await asyncio.sleep(QUIET_SECONDS)
    asked = {purpose: count - before.get(purpose, 0) for purpose, count in spell.calls.items()}
    if kind.resync_seconds < QUIET_SECONDS:
        asked.pop("list", None)
        asked.pop("watch", None)
    return tuple(
        f"{count} requests to {purpose} in {QUIET_SECONDS:.0f} quiet s" for purpose, count in asked.items() if count
    )


def _report(scenario: Scenario, trial: Trial) -> None:
    """Print the figures and append them to the report."""
    line: dict[str, object] = {
        "scenario": scenario.name,
        "fault": trial.kind,
        "struck": trial.struck,
        "requests while ill": trial.requests_during_faults,
        "at the most": trial.most_requests,
        "seconds to the end": trial.seconds_to_end,
        "restarts": trial.restarts,
        "ended well": not trial.faults,
    }
    if trial.faults:
        line["why"] = [fault[:300] for fault in trial.faults]
    print(json.dumps(line))  # noqa: T201 - figures are for humans too
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    with REPORT.open("a", encoding="utf-8") as report:
        report.write(json.dumps(line) + "\n")
