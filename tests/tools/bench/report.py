"""Results as tables on the terminal, as Markdown for docs/internals/benchmarks.md, and as results.json.

Called by `__main__`; decides nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from tests.tools.bench.figures import AgentWrites, Figures, Latency, Spread, Writes
    from tests.tools.bench.run import Results

NAME: Final = "results.json"
SUMMARY: Final = "summary.md"


def write(results: Results, folder: Path) -> Path:
    """Write results.json, and summary.md: the part of docs/internals/benchmarks.md that a run makes. Returns the former's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    path.write_text(json.dumps(asdict(results), indent=2) + "\n", encoding="utf-8")
    (folder / SUMMARY).write_text(summary(results), encoding="utf-8")
    return path


def summary(results: Results) -> str:
    """The bars and the main figures in Markdown."""
    figures, burst = results.figures, results.figures.burst
    ours, theirs = figures.idle.change_to_deployment_ms, figures.idle.deployment_to_replicaset_ms
    rows = [
        ("promise", "bar", "measured", "kept"),
        ("---", "---", "---", "---"),
        *((bar.promise, bar.bar, bar.measured, "yes" if bar.kept else "**no**") for bar in results.bars),
    ]
    more = [
        ("figure", "p50", "p90", "max"),
        ("---", "---", "---", "---"),
        ("idle: change → Deployment received, ms", *_marks(ours.received)),
        ("idle: change → Deployment written, ms", *_marks(ours.written)),
        ("idle: Deployment → ReplicaSet received (Deployment controller), ms", *_marks(theirs.received)),
        ("idle: Deployment → ReplicaSet written (Deployment controller), ms", *_marks(theirs.written)),
        ("all at once: change → Deployment written, ms", *_marks(burst.change_to_deployment_ms.written)),
    ]
    process = figures.process
    prose = (
        f"Idle, the operator's p90 is {figures.idle.p90_of_deployment_controller:g} times the Deployment controller's. "
        f"{_per_change(figures)} "
        f"All at once, the last Deployment was written after {burst.seconds_until_last_deployment:.1f} s, and all ran "
        f"after {burst.seconds_until_all_run:.1f} s. A forced downgrade below 4.2.4 took {_writes_text(figures.downgrade.down)}; "
        f"the upgrade back took {_writes_text(figures.downgrade.up)}. Resident memory: {process.start_mib:.0f} MiB at start, "
        f"{process.converged_mib:.0f} MiB with all agents settled, {process.peak_mib:.0f} MiB at its peak. "
        f"CPU while converged: {figures.converged.cpu_seconds:.2f} s in {figures.converged.seconds:.0f} s."
    )
    return "\n".join(
        [
            f"{results.date}, {results.agents} agents. {_machine(results)}",
            "",
            *_lines(rows),
            "",
            *_lines(more),
            "",
            prose,
            "",
            "Versions: " + ", ".join(f"{name} {version}" for name, version in results.versions.items()) + ".",
            "",
        ]
    )


def _machine(results: Results) -> str:
    here = results.machine
    return (
        f"{here.cores} cores ({here.processor}), {here.memory_gib:g} GiB, {here.kernel}; "
        f"other programs used {here.busy_with_others:.0%} of the cores before the start."
    )


def _per_change(figures: Figures) -> str:
    idle = figures.idle
    return (
        f"Until a change settled, the operator used {idle.cpu_ms:.0f} ms of CPU and waited {idle.waited_for_a_core_ms:.0f} ms "
        "for a core."
    )


def _marks(spread: Spread) -> tuple[str, str, str]:
    return f"{spread.p50:.1f}", f"{spread.p90:.1f}", f"{spread.max:.1f}"


def _writes_text(writes: AgentWrites) -> str:
    return f"{writes.deployment} Deployment, {writes.revisions} revision, {writes.status} status and {writes.other} other writes"


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in rows]


def show(results: Results, console: Console) -> None:
    """Print every figure, then the targets."""
    figures = results.figures
    console.print(f"\n{results.agents} agents. {_machine(results)}")
    console.print(", ".join(f"{name} {version}" for name, version in results.versions.items()))
    console.print(_latencies(figures))
    console.print(
        f"Idle, the operator's p90 (written) is {figures.idle.p90_of_deployment_controller:g} times the Deployment controller's. "
        f"{_per_change(figures)} On a busy machine, trust the ratio more than the milliseconds."
    )
    console.print(_writes(figures))
    console.print(_quiet(figures))
    console.print(_other(figures))
    console.print(_bars(results))


def _latencies(figures: Figures) -> Table:
    table = Table("latency, ms", "samples", "p50", "p90", "p99", "max", title="From write to write, by the audit log")
    for name, latency in (
        ("idle: MedplumAgent → Deployment", figures.idle.change_to_deployment_ms),
        ("idle: Deployment → ReplicaSet (Deployment controller)", figures.idle.deployment_to_replicaset_ms),
        ("all at once: MedplumAgent → Deployment", figures.burst.change_to_deployment_ms),
    ):
        _add_latency(table, name, latency)
    return table


def _add_latency(table: Table, name: str, latency: Latency) -> None:
    def row(what: str, spread: Spread) -> None:
        numbers = (spread.p50, spread.p90, spread.p99, spread.max)
        table.add_row(f"{name}, {what}", str(spread.samples), *(f"{number:.1f}" for number in numbers))

    row("received", latency.received)
    row("written", latency.written)


def _writes(figures: Figures) -> Table:
    table = Table(
        "most that one agent took",
        "Deployment",
        "revisions",
        "status",
        "Events",
        "other",
        "refused",
        "mean status",
        "reads each",
    )
    table.title = "The operator's requests for a change"

    def row(name: str, most: AgentWrites, all_of_them: Writes | None = None) -> None:
        means = (
            ("", "")
            if all_of_them is None
            else (f"{all_of_them.mean_status:.2f}", f"{all_of_them.reads_per_change:.1f}")
        )
        numbers = (most.deployment, most.revisions, most.status, most.events, most.other, most.refused)
        table.add_row(name, *(str(number) for number in numbers), *means)

    row("install", figures.install.writes.most, figures.install.writes)
    row("version change, one at a time", figures.idle.writes.most, figures.idle.writes)
    row("version change, all at once", figures.burst.writes.most, figures.burst.writes)
    row("forced downgrade below 4.2.4", figures.downgrade.down)
    row("upgrade back from there", figures.downgrade.up)
    return table


def _quiet(figures: Figures) -> Table:
    table = Table("converged", "seconds", "writes", "reads", "CPU s", title="With nothing to do")
    for name, quiet in (("idle", figures.converged), ("over a restart", figures.restart)):
        table.add_row(
            name, f"{quiet.seconds:.0f}", _counts(quiet.writes), _counts(quiet.reads), f"{quiet.cpu_seconds:.2f}"
        )
    return table


def _counts(counted: Mapping[str, int]) -> str:
    return "\n".join(f"{number} {what}" for what, number in counted.items()) or "0"


def _other(figures: Figures) -> Table:
    process, burst = figures.process, figures.burst
    table = Table("figure", "value", title="Process and throughput")
    rows = {
        "resident memory at start, MiB": process.start_mib,
        "with all agents converged, MiB": process.converged_mib,
        "after the burst, MiB": process.end_mib,
        "peak, MiB": process.peak_mib,
        "peak of the restarted one, MiB": process.restarted_peak_mib,
        "install: all run after, s": figures.install.seconds_until_all_run,
        "all at once: changes a second": burst.changes_per_second,
        "all at once: last Deployment after, s": burst.seconds_until_last_deployment,
        "all at once: all run after, s": burst.seconds_until_all_run,
    } | {f"CPU, {phase}, s": seconds for phase, seconds in process.cpu_seconds.items()}
    for name, value in rows.items():
        table.add_row(name, f"{value:.2f}")
    return table


def _bars(results: Results) -> Table:
    table = Table("promise", "bar", "measured", "", title="What the operator promises")
    for bar in results.bars:
        table.add_row(bar.promise, bar.bar, bar.measured, "[green]kept[/]" if bar.kept else "[bold red]missed[/]")
    return table
