"""`python -m tests.tools.chaos`, `make chaos`: inject faults, show, write results.json. Exits with 0 if every promise is kept, else 1."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.support.cluster import ClusterStartError, KubectlError
from tests.support.cluster.images import ImageError
from tests.support.cluster.local import EXISTING
from tests.support.cluster.node import missing
from tests.support.cluster.progress import say
from tests.support.cluster.toolchain import ToolchainError
from tests.support.real_nodes.nodes import archives, nodes_with_operator
from tests.tools.bench import machine
from tests.tools.chaos import report
from tests.tools.chaos.figures import bars
from tests.tools.chaos.plan import Plan, draw
from tests.tools.chaos.run import Run, run

OUT: Final = Path("build") / "chaos"
WIDTH: Final = 150
"""Columns of the tables in a log or a file."""


def main(arguments: list[str]) -> int:
    """Run the chaos; return the exit code."""
    options = _options(arguments)
    if EXISTING in os.environ:
        say(f"Chaos kills parts of the cluster, so it starts its own: unset {EXISTING}.")
        return 1
    if (reason := missing()) is not None:
        say(f"Chaos needs real nodes, and this machine cannot run them: {reason}.")
        return 1
    plan = draw(options.seed, options.minutes * 60)
    say(
        f"Chaos for {options.minutes:g} minutes; the same again: python -m tests.tools.chaos --minutes {options.minutes:g} --seed {plan.seed}"
    )
    try:
        found, place = _run(plan)
    except KeyboardInterrupt:
        say("\nInterrupted. The cluster is deleted; there are no results.")
        return 130
    except (ClusterStartError, KubectlError, ToolchainError, ImageError, TimeoutError, AssertionError) as error:
        say(f"The run with seed {plan.seed} failed: {error}")
        return 1
    path = report.write(found, place, options.output)
    report.show(found, Console(width=None if sys.stdout.isatty() else WIDTH))
    say(f"Written to {path}; the traffic over time and the operators' log are beside it.")
    return 0 if all(bar.kept for bar in bars(found.figures)) else 1


def _run(plan: Plan) -> tuple[Run, report.Place]:
    archives()  # what has to be built is not the machine's usual load
    here = machine.look_at_machine()
    with nodes_with_operator() as (cluster, lives):
        found = run(cluster, lives, plan)
        return found, report.Place(datetime.now(UTC).isoformat(timespec="seconds"), here, machine.versions(cluster))


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.chaos",
        description="Random faults for an agent behind a gate, under HL7 traffic, on real nodes: "
        "nothing may be lost, two agents may never meet where they must not, and in the end it has to run as it should.",
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (%(default)s)")
    parser.add_argument(
        "--seed",
        type=int,
        default=secrets.randbelow(1_000_000),
        help="the same seed gives the same plan (default: random)",
    )
    parser.add_argument("--output", type=Path, default=OUT, help="folder for results.json (%(default)s)")
    given = parser.parse_args(arguments)
    if given.minutes < 1:
        parser.error("--minutes must be at least 1")
    return given


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
