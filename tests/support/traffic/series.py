"""A run over time, for the picture: messages acknowledged per 100 ms, and when something went wrong. No I/O."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.support.traffic.ledger import SHAPES, Ledger, Outcome, Shape

if TYPE_CHECKING:
    from tests.support.traffic.report import Timeline

BIN_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Series:
    """Seconds count from the start of the run; `started_epoch` is that moment on the wall clock."""

    run: str
    started_epoch: float
    seconds: float
    bin_seconds: float
    acknowledged: dict[str, list[int]]
    """For each shape, how many acknowledgements came in each bin. Pushes: arrivals at the device."""
    refused: list[float]
    reset: list[float]
    closed: list[float]
    timeouts: list[float]
    repeated: list[float]
    """When a message arrived once more (by the server's clock where it says so)."""
    lost: list[float]
    """When a message that never arrived was acknowledged (for a push: asked for)."""
    marks: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """For `json.dump`."""
        return asdict(self)


def build(ledger: Ledger, timeline: Timeline, *, run: str, arrivals_known: bool) -> Series:
    """Sort everything into bins."""
    bins = math.ceil((timeline.ended - timeline.started) / BIN_SECONDS)
    acknowledged = {shape: [0] * bins for shape in SHAPES}
    lost = []
    for number, at in enumerate(ledger.acknowledged_at):
        shape = SHAPES[ledger.shapes[number]]
        if not math.isnan(at):
            acknowledged[shape][min(bins - 1, int((at - timeline.started) / BIN_SECONDS))] += 1
        if ledger.arrivals[number]:
            continue
        if shape is Shape.PUSH and ledger.sends[number]:
            lost.append(timeline.second(ledger.offered_at[number]))
        elif shape is not Shape.PUSH and arrivals_known and not math.isnan(at):
            lost.append(timeline.second(at))

    def moments(outcome: Outcome) -> list[float]:
        return [timeline.second(f.at) for f in ledger.failures if f.outcome is outcome]

    return Series(
        run=run,
        started_epoch=round(timeline.started + timeline.anchor, 4),
        seconds=timeline.second(timeline.ended),
        bin_seconds=BIN_SECONDS,
        acknowledged={shape.value: counts for shape, counts in acknowledged.items() if any(counts)},
        refused=moments(Outcome.REFUSED),
        reset=moments(Outcome.RESET),
        closed=moments(Outcome.CLOSED),
        timeouts=moments(Outcome.TIMEOUT),
        repeated=sorted(timeline.second(at) for at, _ in ledger.repeats),
        lost=sorted(lost),
        marks=[{"name": name, "at": timeline.second(at)} for name, at in timeline.marks],
    )
