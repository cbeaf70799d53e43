"""Forced downgrades by the operator and a bare Deployment, in turn, with the gaps that traffic saw. Called by the bench.

Each of the two has a generator of its own that opens a new connection for every message, at a steady rate, even if earlier
messages failed. The gap is that generator's longest pause between the mark before the change and the one after it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from medplum_agent_operator.api.annotations import FETCH_LABEL
from tests.support.real_nodes.clinic import AGENT, REPOSITORY
from tests.tools.handoffs.bare import AGENT_ID, NAME, BareDeployment
from tests.tools.handoffs.figures import Downgrades

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.real_nodes.clinic import Clinic, TrafficRun

HIGH: Final = "5.1.15"
LOW: Final = "4.2.3"
RATE: Final = 40
"""Messages a second to each of the two. More would take CPU from the starting agents."""
SHAPES: Final = ("--reconnecting", str(RATE), "--long-lived", "0", "--slow", "0")
APART_SECONDS: Final = 2.0


def downgrade(clinic: Clinic, times: int, *, image_absent: bool, done: Callable[[], None]) -> Downgrades:
    """Downgrade both to 4.2.3 and upgrade again, `times` times. The clinic must be open and have no agent."""
    bare = BareDeployment(clinic)
    clinic.install(HIGH)
    bare.install(HIGH)
    names = [f"down {number}" for number in range(times)]
    with (
        clinic.traffic(shapes=SHAPES) as ours,
        clinic.traffic(shapes=SHAPES, service=NAME, agent_id=AGENT_ID) as theirs,
    ):

        def change_ours(name: str) -> None:
            clinic.change(LOW, approval=f"{LOW} {name}")

        def change_theirs(_: str) -> None:
            bare.change(LOW)

        both: list[tuple[TrafficRun, Callable[[str], None]]] = [(ours, change_ours), (theirs, change_theirs)]
        for number, name in enumerate(names):
            for traffic, change in both if number % 2 == 0 else reversed(both):
                if image_absent:
                    _forget_image(clinic)
                time.sleep(APART_SECONDS)
                traffic.mark(name)
                change(name)
                time.sleep(APART_SECONDS)
                traffic.mark("after")
            clinic.change(HIGH)
            bare.change(HIGH)
            done()
    reports = [ours.report, theirs.report]
    return Downgrades(
        image="absent" if image_absent else "on the node",
        ours=_gaps(ours.report, names),
        bare=_gaps(theirs.report, names),
        resolution=1 / RATE,
        generator_stall=max(report["generator"]["longest_stall_seconds"] for report in reports),
        lost=sum(report["overall"]["lost"] for report in reports),
    )


def _gaps(report: dict[str, Any], names: list[str]) -> tuple[float, ...]:
    pauses = {stage["name"]: stage["overall"]["longest_pause_seconds"] for stage in report["stages"]}
    return tuple(round(pauses[name], 3) for name in names)


def _forget_image(clinic: Clinic) -> None:
    """Remove the image from the node, and the finished Job, which for two minutes proves to the operator that the image is there."""
    clinic.kubectl("delete", "jobs", "--selector", f"{FETCH_LABEL}={AGENT}", "--cascade=foreground", "--timeout=60s")
    for machine in clinic.cluster.machines:
        machine.remove_image(f"{REPOSITORY}:{LOW}")
