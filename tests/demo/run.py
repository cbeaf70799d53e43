"""From nothing to the end of the story: cluster, operator, chapters, and whatever happens, nothing left behind.

Called by `__main__` and by the tests. It answers with an exit code and lets Ctrl-C through.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

from tests.cluster import ClusterStartError, KubectlError, local_cluster
from tests.cluster.toolchain import ToolchainError
from tests.demo.stage import Stage, StepFailedError
from tests.demo.story import CHAPTERS
from tests.operator_process import install, running_operator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.demo.story import Chapter
    from tests.demo.terminal import Terminal

HONESTLY = (
    "API server, controller-manager, scheduler and etcd are the real ones, built from their sources, and the operator runs with "
    "the rights of its own ServiceAccount. The pods are simulated by kwok: they start, get ready and end as real ones do, but "
    "run no program. Real pods come with a later release."
)


def tell(terminal: Terminal, chapters: Sequence[Chapter] = CHAPTERS) -> int:
    """Tell the story on a cluster of its own; return 0, or 1 after showing the reason why a step did not happen."""
    terminal.say(HONESTLY, style="dim", pictured=True)
    began = time.monotonic()
    try:
        terminal.say("Starting a cluster and the operator …", style="dim")
        with local_cluster() as cluster:
            log = cluster.folder / "operator.log"
            install(cluster)
            with running_operator(cluster, log, "--log-format", "console") as operator:
                stage = Stage(cluster, operator, terminal)
                terminal.say(
                    f"The cluster and the operator are up, after {time.monotonic() - began:.0f} s.", style="dim"
                )
                if not _told(stage, chapters):
                    return 1
    except (ClusterStartError, ToolchainError, KubectlError, TimeoutError, subprocess.TimeoutExpired) as error:
        terminal.failed(str(error), log="")
        return 1
    terminal.say(f"\nThat was all, in {time.monotonic() - began:.0f} s. Nothing is left of it.", style="bold")
    return 0


def _told(stage: Stage, chapters: Sequence[Chapter]) -> bool:
    with contextlib.chdir(stage.cluster.folder):
        for chapter in chapters:
            stage.terminal.pictured = chapter.pictured
            stage.terminal.heading(chapter.title, chapter.why)
            try:
                chapter.tell(stage)
            except (StepFailedError, KubectlError, TimeoutError, subprocess.TimeoutExpired) as error:
                stage.terminal.failed(f"{error}{_obituary(stage)}", stage.log_tail())
                return False
    return True


def _obituary(stage: Stage) -> str:
    code = stage.operator.process.poll()
    return "" if code is None else f" (The operator has ended, with exit code {code}.)"
