"""Results for people, as tables on the terminal, and for programs, as results.json. Called by `__main__`; decides nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import Console

    from tests.bench.figures import AgentWrites, Figures, Latency, Spread, Writes
    from tests.bench.run import Results

NAME: Final = "results.json"


def write(results: Results, folder: Path) -> Path:
    """Write results.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    path.write_text(json.dumps(asdict(results), indent=2) + "\n", encoding="utf-8")
    return path


def show(results: Results, console: Console) -> None:
    """Print every figure, then the bars."""
    here, figures = results.machine, results.figures
    console.print(
        f"\n{results.agents} agents on {here.cores} cores ({here.processor}), {here.memory_gib} GiB, {here.kernel}; "
        f"{here.busy_with_others:.0%} of the cores were busy with other programs before the start."
    )
    console.print(", ".join(f"{name} {version}" for name, version in results.versions.items()))
    console.print(_latencies(figures))
    console.print(
        f"Idle, the operator's p90 (written) is {figures.idle.p90_of_deployment_controller:g} times the Deployment controller's. "
        "On a noisy machine the ratio says more than the milliseconds."
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
        "most that one agent took", "Deployment", "status", "Events", "other", "refused", "mean status", "reads each"
    )
    table.title = "The operator's requests for a change"

    def row(name: str, most: AgentWrites, all_of_them: Writes | None = None) -> None:
        means = (
            ("", "")
            if all_of_them is None
            else (f"{all_of_them.mean_status:.2f}", f"{all_of_them.reads_per_change:.1f}")
        )
        numbers = (most.deployment, most.status, most.events, most.other, most.refused)
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
