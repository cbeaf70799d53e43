"""Results as tables on the terminal, as a row of docs/internals/reliability.md, and as results.json.

Called by `__main__`; decides nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from tests.tools.chaos.figures import bars
from tests.tools.handoffs.report import markdown, table

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from tests.tools.bench.machine import Machine
    from tests.tools.chaos.figures import Figures
    from tests.tools.chaos.run import Run

NAME: Final = "results.json"
SUMMARY: Final = "results.md"
SERIES: Final = "series.json"
LOG: Final = "operator.log"

Rows = tuple[list[str], list[list[str]]]


@dataclass(frozen=True, slots=True)
class Place:
    """When the run was, and on which machine."""

    date: str
    machine: Machine
    versions: dict[str, str]


def write(run: Run, place: Place, folder: Path) -> Path:
    """Write results.json, results.md, the traffic over time and the operators' log; returns the first one's path."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        **asdict(place),
        "figures": asdict(run.figures),
        "bars": [asdict(bar) for bar in bars(run.figures)],
        "journal": run.journal,
        "lives": run.lives,
    }
    (folder / NAME).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    parts = [
        f"{place.date}.",
        markdown(*_row(run.figures)),
        markdown(*_events(run.figures)),
        markdown(*_bars(run.figures)),
    ]
    (folder / SUMMARY).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    (folder / SERIES).write_text(json.dumps(run.series) + "\n", encoding="utf-8")
    (folder / LOG).write_text(run.operator, encoding="utf-8")
    return folder / NAME


def show(run: Run, console: Console) -> None:
    """Print every figure, then the promises."""
    console.print(run.traffic, highlight=False, markup=False)
    for line in (*run.figures.together, *run.figures.unsure, *run.figures.unapproved):
        console.print(line, markup=False)
    console.print(table("What happened", *_events(run.figures)))
    console.print(table(f"Chaos, seed {run.figures.seed}", *_row(run.figures)))
    console.print(table("Promises that hold during any fault", *_bars(run.figures)))


def _row(figures: Figures) -> Rows:
    """Return the row of docs/internals/reliability.md."""
    messages = figures.messages
    failed = sum(messages[name] for name in ("refused", "unreachable", "reset", "closed", "timeouts"))
    return (
        [
            *("minutes, seed", "events", "agent lives, before 4.2.4", "sent", "acknowledged", "lost", "repeated"),
            *("connections refused or broken", "longest pause", "two agents at once", "Running at the end"),
        ],
        [
            [
                f"{figures.minutes:g}, {figures.seed}",
                f"{sum(figures.events.values()):,}",
                f"{figures.lives}, {figures.old_lives}",
                *(f"{messages[name]:,}" for name in ("sent", "acknowledged", "lost", "repeated")),
                f"{failed:,}",
                f"{messages['longest_pause_seconds']:.1f} s",
                str(len(figures.together)),
                "**no**" if figures.converged_seconds is None else f"after {figures.converged_seconds:.0f} s",
            ]
        ],
    )


def _events(figures: Figures) -> Rows:
    return (
        ["event", "count"],
        [
            *([what, str(count)] for what, count in figures.events.items()),
            ["drains that finished", str(figures.drains_finished)],
            *([f"rollouts: {how}", str(count)] for how, count in figures.rollouts.items()),
        ],
    )


def _bars(figures: Figures) -> Rows:
    rows = [[bar.promise, bar.bar, bar.measured, "yes" if bar.kept else "**no**"] for bar in bars(figures)]
    return ["promise", "bar", "measured", "kept"], rows
