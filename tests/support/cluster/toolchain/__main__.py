"""Build what is missing and print the folder: `python -m tests.support.cluster.toolchain [program ...]`."""

from __future__ import annotations

import sys

from tests.support.cluster.node import missing
from tests.support.cluster.progress import say
from tests.support.cluster.toolchain import ToolchainError, ensure_tools
from tests.support.cluster.toolchain.programs import CONTROL_PLANE, PROGRAMS


def main(names: list[str]) -> int:
    """Build the named programs; without names, all that this machine can use."""
    unknown = set(names) - {program.name for program in PROGRAMS}
    if unknown:
        say(f"No such program: {', '.join(sorted(unknown))}. Choose from: {', '.join(p.name for p in PROGRAMS)}.")
        return 2
    try:
        tools = ensure_tools(names or (None if missing() is None else CONTROL_PLANE))
    except ToolchainError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted. The next build continues from here.")
        return 130
    sys.stdout.write(f"{tools.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
