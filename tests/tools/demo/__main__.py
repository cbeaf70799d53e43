"""`make demo`, or `python -m tests.tools.demo [--simulated] [--svg FILE]`: tell the story; exit 0, 1 with the reason, 130 on Ctrl-C.

On a real node, with traffic, where this machine can run one; else on simulated pods, after saying why.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.support.cluster.local import EXISTING
from tests.support.cluster.node import missing
from tests.tools.demo import picture, real
from tests.tools.demo.run import tell
from tests.tools.demo.terminal import Terminal, recording, screen

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Tell the story, and draw it where a picture is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.demo", description="Tell the operator's story on a local cluster."
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="also draw the main chapters as a picture")
    parser.add_argument("--simulated", action="store_true", help="on simulated pods, also where a real node can run")
    options = parser.parse_args(arguments)
    svg: Path | None = options.svg
    if EXISTING in os.environ:
        parser.error(f"the demo needs a cluster of its own: unset {EXISTING}")
    terminal = Terminal(screen(), recording() if svg else None)
    try:
        code = _tell(terminal, simulated=options.simulated)
    except KeyboardInterrupt:
        terminal.say("\nInterrupted; the cluster is gone.", style="bold")
        return INTERRUPTED
    if code == 0 and svg and terminal.picture:
        picture.save(terminal.picture, svg)
        terminal.say(f"Drawn into {svg}.", style="dim")
    return code


def _tell(terminal: Terminal, *, simulated: bool) -> int:
    reason = None if simulated else missing()
    if simulated or reason:
        if reason:
            terminal.say(f"No real node here: {reason}. So the story is shown on simulated pods.", style="bold")
        return tell(terminal)
    code = tell(terminal, about=real.ABOUT, opened=real.real_node)
    if code:
        terminal.say("`.venv/bin/python -m tests.tools.demo --simulated` needs no real node.", style="dim")
    return code


if __name__ == "__main__":
    sys.exit(main())
