"""The agent's PID file: `$TMPDIR/medplum-agent/medplum-agent.pid`. Checked before anything else; a live one ends the start.

No lock, only signal 0. So a file that holds the own PID counts as running (PID 1 after a SIGKILL in a container whose temp
folder outlived it), and an empty or garbage one can never be replaced: it ends every start until somebody deletes it.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

State = Literal["none", "stale", "running", "unreadable"]


class AlreadyRunningError(Exception):
    """The PID file does not let this process start."""


def state_of(content: str | None, is_alive: Callable[[int], bool]) -> State:
    """What a file with this content means; None is no file."""
    if content is None:
        return "none"
    number = re.match(r"\s*[+-]?\d+", content)
    if number is None:
        return "unreadable"
    return "running" if is_alive(int(number[0])) else "stale"


def is_alive(pid: int) -> bool:
    """Check with signal 0, which does nothing; a process of another user counts too."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


class PidFile:
    """The file of this process."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or Path(
            os.environ.get("TMPDIR") or tempfile.gettempdir(), "medplum-agent", "medplum-agent.pid"
        )
        self._is_ours = False

    def claim(self) -> None:
        """Write it, or raise AlreadyRunningError."""
        content = self.path.read_text(encoding="utf-8") if self.path.exists() else None
        match state_of(content, is_alive):
            case "running" | "unreadable" as state:
                raise AlreadyRunningError(state)
            case "stale":
                self.path.unlink()
            case "none":
                self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.path.open("x", encoding="utf-8") as file:
                file.write(str(os.getpid()))
        except FileExistsError as error:
            raise AlreadyRunningError("running") from error
        self._is_ours = True

    def release(self) -> None:
        """Remove it, if it is this process' own. Every way out does so, except SIGKILL."""
        if self._is_ours:
            self._is_ours = False
            self.path.unlink(missing_ok=True)
