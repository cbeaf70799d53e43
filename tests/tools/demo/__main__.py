"""`make demo`, or `python -m tests.tools.demo [--simulated] [--svg FILE]`. Exits with 0, 1 after a failed step, 130 on Ctrl-C.

The demo runs on the cluster that E2E_KUBECONFIG names. Without it, the demo starts its own cluster: with a real node and HL7
traffic if this machine can run one, else with simulated pods, after saying why.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from tests.support.cluster.local import EXISTING
from tests.support.cluster.node import missing
from tests.tools.demo import existing, picture, real
from tests.tools.demo.run import play
from tests.tools.demo.terminal import Terminal, recording, screen

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run the demo, and draw it if a picture is requested."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.demo",
        description="Show the operator at work: install, handoff, refused and approved downgrade, gate, deletion.",
        epilog=f"With {EXISTING}=FILE in the environment, the demo uses that cluster and builds nothing.",
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="also draw the main chapters as a picture")
    parser.add_argument("--simulated", action="store_true", help="use simulated pods even if a real node can run here")
    options = parser.parse_args(arguments)
    svg: Path | None = options.svg
    if options.simulated and EXISTING in os.environ:
        parser.error(f"--simulated starts a cluster of its own: unset {EXISTING}")
    terminal = Terminal(screen(), recording() if svg else None)
    try:
        code = _play(terminal, simulated=options.simulated)
    except KeyboardInterrupt:
        what = "what the demo made" if EXISTING in os.environ else "the cluster"
        terminal.say(f"\nInterrupted; {what} is gone.", style="bold")
        return INTERRUPTED
    if code == 0 and svg and terminal.picture:
        picture.save(terminal.picture, svg)
        terminal.say(f"Picture written to {svg}.", style="dim")
    return code


def _play(terminal: Terminal, *, simulated: bool) -> int:
    if EXISTING in os.environ:
        return play(terminal, about=existing.ABOUT, opened=partial(existing.existing_cluster, terminal))
    reason = None if simulated else missing()
    if simulated or reason:
        if reason:
            terminal.say(f"No real node on this machine: {reason}. The demo uses simulated pods.", style="bold")
        return play(terminal)
    code = play(terminal, about=real.ABOUT, opened=real.real_node)
    if code:
        terminal.say("`.venv/bin/python -m tests.tools.demo --simulated` needs no real node.", style="dim")
    return code


if __name__ == "__main__":
    sys.exit(main())
