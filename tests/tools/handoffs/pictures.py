"""Three short runs for the picture: a handoff, a refused downgrade, a forced downgrade. The bench calls `panels`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from tests.support.traffic.picture import Life, Panel
from tests.tools.handoffs.row import SHAPES
from tests.tools.handoffs.times import PodTimes, watched

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tests.support.real_nodes.clinic import Clinic

BEFORE_SECONDS: Final = 3.0
AFTER_SECONDS: Final = 12.0


class OpenClinic(Protocol):
    """Opens a clinic."""

    def __call__(self) -> AbstractContextManager[Clinic]:
        """A clinic in a namespace of its own, its server running."""


def panels(open_clinic: OpenClinic) -> tuple[Panel, ...]:
    """Run all three. Each panel's subtitle has the figures of its run."""

    def handoff(clinic: Clinic) -> None:
        clinic.change("5.1.15")

    def refused(clinic: Clinic) -> None:
        clinic.set_version("4.2.3")
        clinic.wait_for_phase("AwaitingApproval")

    def forced(clinic: Clinic) -> None:
        clinic.approve("4.2.3 the picture")
        clinic.set_version("4.2.3")
        clinic.completed("4.2.3")

    runs: tuple[tuple[str, str, str, Callable[[Clinic], None]], ...] = (
        ("Rolling handoff, 5.1.14 to 5.1.15", "5.1.14", "spec.version: 5.1.15", handoff),
        ("Refused downgrade, 5.1.15 to 4.2.3", "5.1.15", "spec.version: 4.2.3", refused),
        ("Forced downgrade, 5.1.15 to 4.2.3", "5.1.15", "spec.version: 4.2.3, approved", forced),
    )
    return tuple(_panel(open_clinic, *run) for run in runs)


def _panel(open_clinic: OpenClinic, title: str, version: str, mark: str, change: Callable[[Clinic], None]) -> Panel:
    with open_clinic() as clinic, watched(clinic) as times:
        clinic.install(version)
        with clinic.traffic(shapes=SHAPES) as traffic:
            time.sleep(BEFORE_SECONDS + 1)
            traffic.mark(mark)
            begun = time.monotonic()
            change(clinic)
            time.sleep(max(1.0, AFTER_SECONDS - (time.monotonic() - begun)))
        at = traffic.report["marks"][0]["at"]
        return Panel(
            title=title,
            subtitle=summary(traffic.report),
            series=traffic.series,
            lives=tuple(_lives(clinic, times)),
            window=(at - BEFORE_SECONDS, at + AFTER_SECONDS),
        )


def summary(report: dict[str, Any]) -> str:
    """Summarize a run in one line."""
    overall, push = report["overall"], report["shapes"]["push"]
    return (
        f"{overall['sent']:,} messages: {overall['lost']} lost, {overall['refused'] + push['refused']} refused, "
        f"{overall['repeated']} sent again and arrived twice; longest pause {_seconds(overall['longest_pause_seconds'])}; "
        f"{push['repeated']} of {push['sent']} pushes arrived twice"
    )


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _lives(clinic: Clinic, times: PodTimes) -> list[Life]:
    lives, connections = clinic.lives, clinic.connections()

    def connected(number: int) -> tuple[tuple[float, float | None], ...]:
        """Return the connections made after the start of this agent and before the next."""
        begin, *after = [life.started.timestamp() for life in lives[number : number + 2]]
        return tuple(
            (each["connectedAt"], each["disconnectedAt"])
            for each in connections
            if begin <= each["connectedAt"] and not (after and after[0] <= each["connectedAt"])
        )

    return [
        Life(
            name=life.version,
            started=life.started.timestamp(),
            ready=times.ready.get(life.pod),
            terminating=times.terminating.get(life.pod),
            ended=None if life.ended is None else life.ended.timestamp(),
            connected=connected(number),
        )
        for number, life in enumerate(lives)
    ]
