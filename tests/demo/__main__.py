"""`make demo`, or `python -m tests.demo [--svg FILE]`: tell the story; exit 0, 1 with the reason, or 130 on Ctrl-C."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.cluster.local import EXISTING
from tests.demo import picture
from tests.demo.run import tell
from tests.demo.terminal import Terminal, recording, screen

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Tell the story, and draw it where a picture is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.demo", description="Tell the operator's story on a local cluster."
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="also draw the main chapters as a picture")
    svg: Path | None = parser.parse_args(arguments).svg
    if EXISTING in os.environ:
        parser.error(f"the demo needs a cluster of its own, with simulated pods: unset {EXISTING}")
    terminal = Terminal(screen(), recording() if svg else None)
    try:
        code = tell(terminal)
    except KeyboardInterrupt:
        terminal.say("\nInterrupted; the cluster is gone.", style="bold")
        return INTERRUPTED
    if code == 0 and svg and terminal.picture:
        picture.save(terminal.picture, svg)
        terminal.say(f"Drawn into {svg}.", style="dim")
    return code


if __name__ == "__main__":
    sys.exit(main())
