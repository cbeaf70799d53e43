"""Results as tables on the terminal, as Markdown for docs/internals/benchmarks.md, and as handoff.json.

Called by `__main__`; decides nothing.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.tools.bench.figures import Bar
    from tests.tools.bench.machine import Machine
    from tests.tools.handoffs.figures import Figures, Handoffs
    from tests.tools.handoffs.run import Results

Sheet: TypeAlias = "tuple[str, list[str], list[list[str]]]"
"""Title, column heads, rows."""
Seen: TypeAlias = "tuple[Machine, dict[str, str]]"
"""The machine, and the versions of all programs."""
NAME: Final = "handoff.json"
SUMMARY: Final = "handoff.md"
TITLE: Final = "What the operator promises"


def write(results: Results, folder: Path) -> Path:
    """Write handoff.json, and handoff.md: the part of docs/internals/benchmarks.md that a run makes. Returns the former's path."""
    path = folder / NAME
    path.write_text(json.dumps(document(results), indent=2) + "\n", encoding="utf-8")
    (folder / SUMMARY).write_text(summary(results), encoding="utf-8")
    return path


def document(results: Results) -> dict[str, Any]:
    """Return all results, with the ratios that `asdict` leaves out."""
    figures = asdict(results.figures)
    for name, found in (
        ("downgrades", results.figures.downgrades),
        ("downgrades_absent", results.figures.downgrades_absent),
    ):
        figures[name]["ratio_of_medians"] = round(found.ratio, 3)
    return {**asdict(results), "figures": figures}


def summary(results: Results) -> str:
    """The bars and the main figures in Markdown."""
    heads, rows = _bar_rows(results)
    parts = [
        f"{results.date}. {_machine(results)}",
        markdown(heads, rows),
        markdown(*_row_table(results.figures)),
        markdown(*_gap_table(results.figures)),
        _prose(results.figures),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in results.versions.items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def publish(name: str, figures: Any, promised: Sequence[Bar], tables: Sequence[Sheet], seen: Seen, folder: Path) -> int:
    """Write name.json and name.md and print the tables, of a bench with one table of bars. Returns its exit code: 1 for a miss."""
    folder.mkdir(parents=True, exist_ok=True)
    here, versions = seen
    date = datetime.now(UTC).isoformat(timespec="seconds")
    found = {
        "date": date,
        "machine": asdict(here),
        "versions": versions,
        "figures": asdict(figures),
        "bars": [asdict(bar) for bar in promised],
    }
    (folder / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = "\n\n".join([f"{date}.", *(markdown(heads, rows) for _, heads, rows in tables)]) + "\n"
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    console = Console(width=None if sys.stdout.isatty() else 130)
    for each in tables:
        console.print(table(*each))
    return 0 if all(bar.kept for bar in promised) else 1


def bar_table(title: str, promised: Sequence[Bar]) -> Sheet:
    """Return each target with whether the run met it, misses in bold."""
    rows = [[bar.promise, bar.bar, bar.measured, "yes" if bar.kept else "**no**"] for bar in promised]
    return title, ["promise", "bar", "measured", "kept"], rows


def show(results: Results, console: Console) -> None:
    """Print every figure, then the targets."""
    console.print(f"\n{results.date}. {_machine(results)}")
    console.print(table("Under traffic", *_row_table(results.figures)))
    console.print(table("The gap of a forced downgrade, 5.1.15 to 4.2.3", *_gap_table(results.figures)))
    console.print(_prose(results.figures))
    heads, rows = _bar_rows(results)
    marked = [[*row[:-1], "[green]kept[/]" if row[-1] == "yes" else "[bold red]missed[/]"] for row in rows]
    console.print(table(TITLE, heads, marked))


def _bar_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    _, heads, rows = bar_table(TITLE, results.bars)
    return heads, rows


def _row_table(figures: Figures) -> tuple[list[str], list[list[str]]]:
    original, enhanced, drains = figures.original, figures.enhanced, figures.drains
    heads = [
        "",
        f"{len(original.handoffs)} handoffs, original mode",
        f"{len(enhanced.handoffs)} handoffs, enhanced mode",
        f"{len(drains.handoffs)} node drains",
    ]
    columns = [_row_cells(each) for each in (original, enhanced, drains)]
    return heads, [[name, *(column[name] for column in columns)] for name in columns[0]]


def _row_cells(found: Handoffs) -> dict[str, str]:
    pauses = [each.longest_pause for each in found.handoffs]
    overlaps = [each.overlap for each in found.handoffs]
    return {
        "messages sent, a second": f"{found.sent:,}, {found.acknowledged_per_second:g}",
        "acknowledged but lost": f"{found.lost:,} ({found.lost / len(found.handoffs):.1f} each)",
        "never acknowledged": f"{found.unacknowledged:,}",
        "connections refused": f"{found.refused:,}",
        "sent again and arrived twice": f"{found.repeated:,} ({found.repeated / len(found.handoffs):.1f} each)",
        "most breaks of one long-lived connection in a handoff": f"{found.most_breaks}",
        "longest pause: median, longest": f"{_ms(median(pauses))}, {_ms(max(pauses))}",
        "longest stall of the generator itself": _ms(found.generator_stall),
        "both connected: median, longest": f"{median(overlaps):.2f} s, {max(overlaps):.2f} s",
        "pushes: requested, arrived twice, lost": f"{found.pushes:,}, {found.pushes_repeated:,}, {found.pushes_lost:,}",
    }


def _gap_table(figures: Figures) -> tuple[list[str], list[list[str]]]:
    heads = ["image", "operator: median (shortest, longest)", "bare Deployment, Recreate", "ratio of medians", "lost"]
    rows = [
        [
            f"{each.image}, {len(each.ours)} each",
            _spread(each.ours),
            _spread(each.bare),
            f"{each.ratio:.2f}",
            str(each.lost),
        ]
        for each in (figures.downgrades, figures.downgrades_absent)
    ]
    return heads, rows


def _prose(figures: Figures) -> str:
    start, gaps, absent = figures.operator.seconds, figures.downgrades, figures.downgrades_absent
    layers = " + ".join(f"{size:g}" for size in figures.operator.layers_mb)
    return (
        f"Gaps are exact to {_ms(gaps.resolution)}, the time between two messages; the generators stalled for "
        f"{_ms(max(gaps.generator_stall, absent.generator_stall))} at most. "
        f"The operator's pod: {median(start):.1f} s from the creation of its container until it was ready "
        f"(longest of {len(start)}: {max(start):.1f} s). Its image adds {layers} MB to its base. "
        f"Agent processes that the container runtime reported: {figures.agents_seen}; overlaps with one before "
        f"4.2.4: {len(figures.violations)}."
    )


def _machine(results: Results) -> str:
    here = results.machine
    return (
        f"{here.cores} cores ({here.processor}), {here.memory_gib:g} GiB, {here.kernel}; "
        f"other programs used {here.busy_with_others:.0%} of the cores before the start."
    )


def _spread(gaps: Sequence[float]) -> str:
    return f"{median(gaps):.2f} s ({min(gaps):.2f}, {max(gaps):.2f})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table for the terminal."""
    made = Table(*heads, title=title)
    for row in rows:
        made.add_row(*row)
    return made


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
