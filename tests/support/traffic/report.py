"""The report of a run, as a value, as JSON, and as a table for people. `generator` builds it when the traffic stops."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tests.support.traffic import figures
from tests.support.traffic.ledger import DEVICE_SHAPES, SHAPES, Ledger, Outcome, Shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.traffic.figures import Figures

MOST_NAMED: Final = 100
"""Control ids of lost, repeated and unacknowledged messages that the report names, of each kind."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """When a run began and ended, on the ledger's clock, and what was marked. `anchor` added gives the wall clock."""

    started: float
    ended: float
    anchor: float
    marks: tuple[tuple[str, float], ...] = ()

    def second(self, at: float) -> float:
        """Seconds of the run."""
        return round(at - self.started, 4)


@dataclass(frozen=True, slots=True)
class Stage:
    """The part of a run between two marks."""

    name: str
    start: float
    seconds: float
    overall: Figures
    push: Figures


@dataclass(frozen=True, slots=True)
class Generator:
    """How well the generator itself did: its own delays are part of every figure."""

    longest_stall_seconds: float
    """The longest time for which its loop did not run. Pauses and latencies may be too long by as much."""
    cpu_seconds: float
    held_back: int
    """Messages of the reconnecting shape that were not begun, because too many waited already."""
    strays: int
    """Answers on a connection whose device did not send the message."""
    foreign_arrivals: int
    """Messages at the server that are not of this run."""
    server_failures: int
    """Questions to the server's record that failed. The next one asks for the same again."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a run has to say. Seconds count from its start."""

    run: str
    target: str
    started_at: str
    started_epoch: float
    seconds: float
    overall: Figures
    """All that goes to the agent; pushes are not in it."""
    shapes: dict[str, Figures]
    stages: list[Stage]
    marks: list[dict[str, Any]]
    lost: list[str]
    repeated: dict[str, int]
    unacknowledged: list[str]
    timeouts: list[dict[str, Any]]
    """What was given up by devices as nothing came: where, when it began and when it was given up."""
    generator: Generator

    def as_json(self) -> dict[str, Any]:
        """For `json.dump`."""
        return asdict(self)


def build(
    ledger: Ledger, timeline: Timeline, generator: Generator, *, run: str, target: str, arrivals_known: bool
) -> Report:
    """Count everything once."""

    def counted(shapes: Sequence[Shape], interval: tuple[float, float] = figures.ALWAYS) -> Figures:
        # A push arrives here, at the listening device: that is always known.
        return figures.count(
            ledger,
            shapes,
            started=timeline.started,
            ended=timeline.ended,
            interval=interval,
            arrivals_known=arrivals_known or tuple(shapes) == (Shape.PUSH,),
        )

    cuts = figures.stages(timeline.marks, timeline.started, timeline.ended)
    numbers = range(len(ledger.identifiers))
    push = SHAPES.index(Shape.PUSH)
    lost = [
        n
        for n in numbers
        if ledger.arrivals[n] == 0
        and (ledger.sends[n] if ledger.shapes[n] == push else arrivals_known and ledger.acknowledged(n))
    ]
    unacknowledged = [n for n in numbers if ledger.shapes[n] != push and not ledger.acknowledged(n)]
    repeated = {ledger.identifiers[n]: ledger.arrivals[n] for n in numbers if ledger.arrivals[n] > 1}
    wall = timeline.started + timeline.anchor
    return Report(
        run=run,
        target=target,
        started_at=datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds"),
        started_epoch=round(wall, 4),
        seconds=timeline.second(timeline.ended),
        overall=counted(DEVICE_SHAPES),
        shapes={shape.value: counted((shape,)) for shape in SHAPES if SHAPES.index(shape) in ledger.shapes},
        stages=[
            Stage(
                name,
                timeline.second(start),
                round(end - start, 4),
                counted(DEVICE_SHAPES, (start, end)),
                counted((Shape.PUSH,), (start, end)),
            )
            for name, start, end in cuts
        ],
        marks=[{"name": name, "at": timeline.second(at)} for name, at in timeline.marks],
        lost=[ledger.identifiers[n] for n in lost[:MOST_NAMED]],
        repeated=dict(list(repeated.items())[:MOST_NAMED]),
        unacknowledged=[ledger.identifiers[n] for n in unacknowledged[:MOST_NAMED]],
        timeouts=[
            {
                "shape": f.shape.value,
                "connection": f.connection,
                "from": timeline.second(f.counts_at),
                "to": timeline.second(f.at),
            }
            for f in ledger.failures
            if f.outcome is Outcome.TIMEOUT and f.shape is not Shape.PUSH
        ][:MOST_NAMED],
        generator=generator,
    )


_COLUMNS: Final = (
    "sent",
    "acknowledged",
    "arrived",
    "lost",
    "repeated",
    "unacknowledged",
    "refused",
    "reset",
    "closed",
    "timeouts",
)


def as_text(report: Report) -> str:
    """The table that the command line prints."""
    rows = [*report.shapes.items(), ("all to the agent", report.overall)]
    heads = ["", *(name if name != "unacknowledged" else "unacked" for name in _COLUMNS), "longest pause", "p50", "p99"]
    table = [heads]
    for name, row in rows:
        cells = [_cell(getattr(row, column)) for column in _COLUMNS]
        waits = [_ms(row.acknowledged_after_p50_seconds), _ms(row.acknowledged_after_p99_seconds)]
        table.append([name, *cells, _ms(row.longest_pause_seconds), *waits])
    widths = [max(len(line[column]) for line in table) for column in range(len(heads))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    overall = report.overall
    lines += [
        "",
        (
            f"{report.seconds:.1f} s to {report.target}, {overall.acknowledged_per_second:.1f} acknowledged a second; "
            f"run {report.run}, started {report.started_at}."
        ),
        (
            f"Most breaks on one long-lived connection: {overall.most_breaks_on_one_connection}, "
            f"of them resets at most {overall.most_resets_on_one_connection}. "
            f"The generator itself stood still for {_ms(report.generator.longest_stall_seconds)} at most."
        ),
    ]
    if overall.lost is None:
        lines.append("Without --server it is unknown what arrived: no figures for lost and repeated.")
    if report.lost:
        lines.append(f"Lost: {', '.join(report.lost)}")
    return "\n".join(lines)


def _cell(value: int | None) -> str:
    return "?" if value is None else str(value)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"
