"""The cgroup folders of one run: the kubelet needs its root cgroup, and does not remove it.

Both layouts are served, one hierarchy for each controller (v1) and the unified one (v2).
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
GRACE_SECONDS: Final = 10.0


def create(name: str) -> None:
    """Create the folder in every hierarchy."""
    if _unified():
        folder = ROOT / name
        folder.mkdir()
        controllers = (ROOT / "cgroup.controllers").read_text(encoding="ascii").split()
        (folder / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in controllers), encoding="ascii")
        return
    for hierarchy in _hierarchies():
        folder = hierarchy / name
        folder.mkdir()
        # A new cpuset has no CPUs, and accepts no process until it has some.
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (folder / file).exists():
                (folder / file).write_text((hierarchy / file).read_text(encoding="ascii"), encoding="ascii")


def remove(name: str) -> None:
    """Kill all processes in the folder and remove it from every hierarchy, if it exists."""
    deadline = time.monotonic() + GRACE_SECONDS
    for hierarchy in [ROOT] if _unified() else _hierarchies():
        top = hierarchy / name
        while top.is_dir():
            # Deepest first: a cgroup goes only when it is empty.
            for folder, _, _ in os.walk(top, topdown=False):
                _empty(Path(folder))
            if not top.is_dir():
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"the cgroup {top} cannot be removed")
            time.sleep(0.05)


def _empty(folder: Path) -> None:
    try:
        for pid in (folder / "cgroup.procs").read_text(encoding="ascii").split():
            os.kill(int(pid), signal.SIGKILL)
        folder.rmdir()
    except (FileNotFoundError, ProcessLookupError):
        return  # gone this moment
    except OSError:
        return  # still in use: the caller comes again, and says so when time is up


def _unified() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def _hierarchies() -> list[Path]:
    return [folder for folder in ROOT.iterdir() if (folder / "cgroup.procs").exists() and not folder.is_symlink()]
