"""Counts a ledger: for all, for a shape, or for a stage of the run. `report` asks; docs/internals/traffic.md says what each means."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.support.traffic.ledger import DEVICE_SHAPES, SHAPES, Failure, Ledger, Outcome, Shape
from tests.support.traffic.pauses import NONE, Pause

if TYPE_CHECKING:
    from collections.abc import Sequence

ALWAYS = (-math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of the messages that were offered in an interval, and of the connections in it."""

    offered: int
    """Messages that a device had to send."""
    sent: int
    """Those that were written to a connection at least once."""
    sends: int
    """How often messages were written, repetitions included."""
    acknowledged: int
    """Those with a positive answer, AA or CA."""
    acknowledged_on_receipt_only: int
    """Those with CA and never AA."""
    rejected: int
    """Negative acknowledgements. The message is sent again."""
    arrived: int | None
    """Those that the server got. None without --server."""
    lost: int | None
    """Acknowledged, and never arrived. For pushes: taken by the server, and never arrived at the device."""
    repeated: int | None
    """Those that arrived more than once."""
    extra_arrivals: int | None
    """Arrivals beyond the first."""
    unacknowledged: int
    """Given up at the end without any acknowledgement."""
    unacknowledged_arrived: int | None
    """Those of them that had arrived all the same."""
    refused: int
    """Connections refused."""
    unreachable: int
    """Connections that no route led to."""
    reset: int
    """Connections broken by RST."""
    closed: int
    """Connections closed by the other side."""
    closed_in_hand: int
    """Those of them on which an acknowledgement was awaited."""
    timeouts: int
    """Acknowledgements, or connections, that did not come in time."""
    most_resets_on_one_connection: int
    most_breaks_on_one_connection: int
    """Resets and closes together: for the connection that had most."""
    longest_pause_seconds: float
    longest_pause_at: float | None
    """When it began, in seconds of the run."""
    acknowledged_after_p50_seconds: float | None
    """From the moment when the device had the message until its first positive answer, repetitions included."""
    acknowledged_after_p99_seconds: float | None
    acknowledged_after_max_seconds: float | None
    acknowledged_per_second: float


def count(
    ledger: Ledger,
    shapes: Sequence[Shape],
    *,
    started: float,
    ended: float,
    interval: tuple[float, float] = ALWAYS,
    arrivals_known: bool = True,
) -> Figures:
    """Count the messages offered in [start, end), and the failures (time-outs by their beginning) and pauses in it. Times are the ledger's."""
    start, end = interval
    wanted = {SHAPES.index(shape) for shape in shapes}
    chosen = [
        number
        for number, (shape, at) in enumerate(zip(ledger.shapes, ledger.offered_at, strict=True))
        if shape in wanted and start <= at < end
    ]
    acknowledged = [n for n in chosen if ledger.acknowledged(n)]
    unacknowledged = [n for n in chosen if not ledger.acknowledged(n)]
    promised = [n for n in chosen if ledger.sends[n]] if list(shapes) == [Shape.PUSH] else acknowledged
    failures = [f for f in ledger.failures if f.shape in shapes and start <= f.counts_at < end]
    outcomes = Counter(f.outcome for f in failures)
    waits = sorted(ledger.acknowledged_at[n] - ledger.offered_at[n] for n in acknowledged)
    pause = _longest_pause(ledger, shapes, interval, ended)
    seconds = min(end, ended) - max(start, started)
    known = arrivals_known
    return Figures(
        offered=len(chosen),
        sent=sum(1 for n in chosen if ledger.sends[n]),
        sends=sum(ledger.sends[n] for n in chosen),
        acknowledged=len(acknowledged),
        acknowledged_on_receipt_only=sum(1 for n in acknowledged if math.isnan(ledger.application_at[n])),
        rejected=sum(1 for at, n in ledger.rejections if ledger.shapes[n] in wanted and start <= at < end),
        arrived=sum(1 for n in chosen if ledger.arrivals[n]) if known else None,
        lost=sum(1 for n in promised if not ledger.arrivals[n]) if known else None,
        repeated=sum(1 for n in chosen if ledger.arrivals[n] > 1) if known else None,
        extra_arrivals=sum(max(0, ledger.arrivals[n] - 1) for n in chosen) if known else None,
        unacknowledged=len(unacknowledged),
        unacknowledged_arrived=sum(1 for n in unacknowledged if ledger.arrivals[n]) if known else None,
        refused=outcomes[Outcome.REFUSED],
        unreachable=outcomes[Outcome.UNREACHABLE],
        reset=outcomes[Outcome.RESET],
        closed=outcomes[Outcome.CLOSED],
        closed_in_hand=sum(1 for f in failures if f.outcome is Outcome.CLOSED and f.in_hand),
        timeouts=outcomes[Outcome.TIMEOUT],
        most_resets_on_one_connection=_most(failures, {Outcome.RESET}),
        most_breaks_on_one_connection=_most(failures, {Outcome.RESET, Outcome.CLOSED}),
        longest_pause_seconds=pause.seconds,
        longest_pause_at=pause.start - started if pause is not NONE else None,
        acknowledged_after_p50_seconds=percentile(waits, 50),
        acknowledged_after_p99_seconds=percentile(waits, 99),
        acknowledged_after_max_seconds=waits[-1] if waits else None,
        acknowledged_per_second=len(acknowledged) / seconds if seconds > 0 else 0.0,
    )


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """By nearest rank.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 50), percentile([1.0, 2.0, 3.0, 4.0], 99), percentile([], 50)
    (2.0, 4.0, None)
    """
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else None


def stages(marks: Sequence[tuple[str, float]], started: float, ended: float) -> list[tuple[str, float, float]]:
    """Cut a run at its marks: each stage is named after the mark that begins it.

    >>> stages([("patch applied", 3.0)], 1.0, 9.0)
    [('start', 1.0, 3.0), ('patch applied', 3.0, 9.0)]
    """
    cuts = [("start", started), *marks, ("end", ended)]
    return [(name, begin, end) for (name, begin), (_, end) in pairwise(cuts)]


def _most(failures: Sequence[Failure], outcomes: set[Outcome]) -> int:
    kept = (f for f in failures if f.outcome in outcomes and f.shape in {Shape.LONG_LIVED, Shape.SLOW})
    return max(Counter((f.shape, f.connection) for f in kept).values(), default=0)


def _longest_pause(ledger: Ledger, shapes: Sequence[Shape], interval: tuple[float, float], ended: float) -> Pause:
    if tuple(shapes) == DEVICE_SHAPES:
        pauses = ledger.overall
    else:
        (shape,) = shapes
        pauses = ledger.pauses[shape]
    return pauses.longest(ended) if interval == ALWAYS else pauses.longest_touching(*interval)
