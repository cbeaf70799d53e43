"""Run the demo: open a cluster with the operator, play the chapters, and always clean up.

Called by `__main__` and by tests. Returns an exit code; KeyboardInterrupt passes through.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

from tests.support.cluster import ClusterStartError, KubectlError
from tests.support.cluster.images import ImageError
from tests.support.cluster.toolchain import ToolchainError
from tests.tools.demo import simulated
from tests.tools.demo.devices import table
from tests.tools.demo.faults import StepFailedError
from tests.tools.demo.stage import Stage
from tests.tools.demo.story import CHAPTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from tests.tools.demo.story import Chapter
    from tests.tools.demo.terminal import Terminal
    from tests.tools.demo.tier import Tier

FAULTS = (
    ClusterStartError,
    ImageError,
    KubectlError,
    StepFailedError,
    TimeoutError,
    ToolchainError,
    subprocess.TimeoutExpired,
)


def play(
    terminal: Terminal,
    chapters: Sequence[Chapter] = CHAPTERS,
    *,
    about: str = simulated.ABOUT,
    opened: Callable[[], AbstractContextManager[Tier]] = simulated.simulated_pods,
) -> int:
    """Play the chapters on a cluster from `opened`. Return 0, or 1 after showing which step failed and why."""
    terminal.say(about, style="dim", pictured=True)
    began = time.monotonic()
    try:
        terminal.say("Starting the cluster and the operator …", style="dim")
        with opened() as tier:
            stage = Stage(tier, terminal)
            terminal.say(f"The cluster and the operator are ready after {time.monotonic() - began:.0f} s.", style="dim")
            if not _played(stage, chapters):
                return 1
    except FAULTS as error:
        terminal.failed(str(error), log="")
        return 1
    finally:
        terminal.live = None
    if stage.tallies:
        terminal.pictured = True
        terminal.say(f"\nTraffic as the devices saw it\n{table(stage.tallies)}", pictured=True)
    terminal.say(f"\nThe demo took {time.monotonic() - began:.0f} s. Everything that it made is deleted.", style="bold")
    return 0


def _played(stage: Stage, chapters: Sequence[Chapter]) -> bool:
    with contextlib.chdir(stage.cluster.folder):
        for chapter in chapters:
            stage.terminal.pictured = chapter.pictured
            stage.terminal.heading(chapter.title, chapter.why)
            try:
                stage.begin(chapter.title)
                chapter.play(stage)
                stage.show_traffic()
            except FAULTS as error:
                stage.terminal.failed(f"{error}{_operator_fault(stage)}", stage.log_tail())
                return False
    return True


def _operator_fault(stage: Stage) -> str:
    fault = stage.tier.operator_fault()
    return f" (The operator {fault}.)" if fault else ""
