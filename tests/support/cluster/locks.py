"""Advisory file locks, for the toolchain, the ports and the sweep of abandoned clusters.

The kernel drops such a lock when its holder ends, however it ends, so a lock never has to be cleaned up.
"""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from tests.support.cluster.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def try_lock(path: Path) -> IO[str] | None:
    """Lock this file and return it open; None where another process holds it. Closing it unlocks."""
    file = path.open("r+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def make_lockable(path: Path) -> Path:
    """Make the file and its folders where they are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@contextmanager
def exclusive(path: Path, *, while_waiting: str) -> Iterator[None]:
    """Hold the lock for the block; where another process holds it, say so once and wait for its end."""
    file = try_lock(make_lockable(path))
    if file is None:
        say(while_waiting)
        file = path.open("r+", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_EX)
    with file:
        yield
