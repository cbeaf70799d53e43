"""`python -m tests.tools.bench`: measure, show, write results.json. Exits with 0 if every target is met, else 1."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.support.cluster import ClusterStartError
from tests.support.cluster.local import EXISTING
from tests.support.cluster.progress import say
from tests.support.cluster.toolchain import ToolchainError
from tests.tools.bench import report
from tests.tools.bench.run import Options, run

WIDTH: Final = 120
"""Columns of the tables in a log or a file."""


def main(arguments: list[str]) -> int:
    """Run the bench; return the exit code."""
    options = _options(arguments)
    if EXISTING in os.environ:
        say(f"The bench starts its own cluster to read the audit log: unset {EXISTING}.")
        return 1
    try:
        results = run(options)
    except KeyboardInterrupt:
        say("\nInterrupted. The cluster is deleted; there are no results.")
        return 130
    except (ClusterStartError, ToolchainError, TimeoutError, LookupError) as error:
        say(f"The run failed: {error}\nThe operator's log is in {options.out}.")
        return 1
    path = report.write(results, options.out)
    report.show(results, Console(width=None if sys.stdout.isatty() else WIDTH))
    say(f"Written to {path}.")
    return 0 if all(bar.kept for bar in results.bars) else 1


def _options(arguments: list[str]) -> Options:
    defaults = Options()
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.bench", description="Measure the operator: latency, writes, memory and CPU."
    )
    parser.add_argument("--agents", type=int, default=defaults.agents, help="MedplumAgents, 2 to 1000 (%(default)s)")
    parser.add_argument(
        "--changes", type=int, default=defaults.changes, help="version changes, one at a time (%(default)s)"
    )
    parser.add_argument(
        "--spacing", type=float, default=defaults.spacing, help="seconds between two changes (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=defaults.seconds, help="seconds to watch the converged fleet (%(default)s)"
    )
    parser.add_argument("--gates", action="store_true", help="a gate with two pods for each agent")
    parser.add_argument("--out", type=Path, default=defaults.out, help="folder for results.json (%(default)s)")
    given = parser.parse_args(arguments)
    if not 2 <= given.agents <= 1000:
        parser.error("--agents must be from 2 to 1000")
    if not 1 <= given.changes < given.agents:
        parser.error("--changes must be at least 1 and less than --agents")
    if given.seconds <= 0 or given.spacing <= 0:
        parser.error("--seconds and --spacing must be more than 0")
    return Options(**vars(given))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
