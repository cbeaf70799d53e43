"""`python -m tests.tools.handoffs`: measure, show, write handoff.json and the picture. Exits with 0 if every target is met, else 1."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.support.cluster import ClusterStartError, KubectlError
from tests.support.cluster.images import ImageError
from tests.support.cluster.local import EXISTING
from tests.support.cluster.node import missing
from tests.support.cluster.progress import say
from tests.support.cluster.toolchain import ToolchainError
from tests.support.traffic.picture import draw
from tests.tools.handoffs import report
from tests.tools.handoffs.run import Options, run

WIDTH: Final = 130
"""Columns of the tables in a log or a file."""
PANELS: Final = "handoff-panels.json"
"""The data of the picture, for `python -m tests.support.traffic.picture`."""
PICTURES: Final = ("handoff.svg", "handoff.png")


def main(arguments: list[str]) -> int:
    """Run the bench; return the exit code."""
    options = _options(arguments)
    if EXISTING in os.environ:
        say(f"The bench starts its own nodes to listen to their container runtime: unset {EXISTING}.")
        return 1
    reason = missing()
    if reason is not None:
        say(f"The bench needs real nodes, and this machine cannot run them: {reason}.")
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        results, panels = run(options)
    except KeyboardInterrupt:
        say("\nInterrupted. The cluster is deleted; there are no results.")
        return 130
    except (ClusterStartError, KubectlError, ToolchainError, ImageError, TimeoutError, AssertionError) as error:
        say(f"The run failed: {error}")
        return 1
    path = report.write(results, options.output)
    described = json.dumps([asdict(panel) for panel in panels]) + "\n"
    (options.output / PANELS).write_text(described, encoding="utf-8")
    draw(panels, *(options.output / name for name in PICTURES))
    report.show(results, Console(width=None if sys.stdout.isatty() else WIDTH))
    say(f"Written to {path}; the picture is beside it: {', '.join(PICTURES)}.")
    return 0 if all(bar.kept for bar in results.bars) else 1


def _options(arguments: list[str]) -> Options:
    defaults = Options()
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.handoffs",
        description="Measure, on real nodes, what devices notice during rollouts.",
    )
    add = parser.add_argument
    add("--handoffs", type=int, default=defaults.handoffs, help="handoffs in a row, original mode (%(default)s)")
    add("--enhanced", type=int, default=defaults.enhanced, help="handoffs in a row, enhanced mode (%(default)s)")
    add(
        "--downgrades",
        type=int,
        default=defaults.downgrades,
        help="forced downgrades, in turn with a bare Deployment; then again without the image on the node (%(default)s)",
    )
    add("--drains", type=int, default=defaults.drains, help="drains of the agent's node (%(default)s)")
    add("--output", type=Path, default=defaults.output, help="folder for handoff.json and picture (%(default)s)")
    given = parser.parse_args(arguments)
    if min(given.handoffs, given.enhanced, given.downgrades, given.drains) < 1:
        parser.error("each figure needs at least one")
    return Options(**vars(given))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
