"""The processes of one cluster: those whose program is in the cluster's own folder.

A pid alone is never trusted, as it may belong to another process by now; kwokctl starts each component by a link in
`<workdir>/bin`, so the command line shows it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

GRACE_SECONDS: Final = 10.0
PROC: Final = Path("/proc")


def recorded(workdir: Path) -> dict[str, int]:
    """Return the pid of each component that kwokctl has started there, by its name."""
    pids: dict[str, int] = {}
    for file in (workdir / "pids").glob("*.pid"):
        text = file.read_text(encoding="utf-8").strip()
        if text.isdigit():  # it is empty for a moment while it is written
            pids[file.stem] = int(text)
    return pids


def running(workdir: Path) -> dict[int, str]:
    """Return the command line of each live process of the cluster in that folder, by pid."""
    return {pid: command for pid, command in _all_commands().items() if command.startswith(f"{workdir}/bin/")}


def below(folder: Path) -> dict[int, str]:
    """Return the command line of each live process whose program stands anywhere below that folder, by pid."""
    return {pid: command for pid, command in _all_commands().items() if command.startswith(f"{folder}/")}


def end_all(workdir: Path) -> None:
    """Kill all processes there with SIGKILL, and return when they have ended: there is no state to save."""
    _end(lambda: running(workdir))


def end_below(folder: Path) -> None:
    """The same for all programs below a folder."""
    _end(lambda: below(folder))


def _end(find: Callable[[], dict[int, str]]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while left := find():
        if time.monotonic() > deadline:
            raise TimeoutError(f"did not end within {GRACE_SECONDS:.0f} s: {left}")
        end(*left)


def end(*pids: int) -> None:
    """Kill processes, and return once all of each has ended.

    A process that ends loses its command line first and its sockets last, thread by thread: who takes its port, or its place,
    must not go by what `running` finds.
    """
    before = {} if hasattr(os, "pidfd_open") else _all_commands()
    with ExitStack() as stack:
        handles = [handle for pid in pids if (handle := _killed(pid)) is not None]
        for handle in handles:
            stack.callback(os.close, handle)
        deadline = time.monotonic() + GRACE_SECONDS
        for handle in handles:
            if not select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"not all of {pids} ended within {GRACE_SECONDS:.0f} s")
    if not hasattr(os, "pidfd_open"):  # macOS
        while any(pid in before and _all_commands().get(pid) == before[pid] for pid in pids):
            time.sleep(0.02)


def _killed(pid: int) -> int | None:
    """Kill a process. Return a pidfd to wait on; None if the process is gone, or if the system has no pidfd (macOS)."""
    try:
        handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        return None
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return handle


def end_group(leader: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a group, if it still runs, and every process in that group."""
    deadline = time.monotonic() + GRACE_SECONDS
    while _kill_group(leader.pid) or leader.poll() is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the group of {leader.args!r} did not end within {GRACE_SECONDS:.0f} s")
        leader.poll()
        time.sleep(0.01)


def _kill_group(group: int) -> bool:
    """Kill the group; return whether it existed."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS refuses where all have ended and one waits to be noticed
        return False
    return True


def _all_commands() -> dict[int, str]:
    if not (PROC / "self").exists():  # macOS
        listing = subprocess.run(["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True)
        rows = (line.strip().split(maxsplit=1) for line in listing.stdout.splitlines())
        return {int(row[0]): row[1] for row in rows if len(row) == 2}
    commands: dict[int, str] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                # Empty for a process that has ended and waits for its parent to notice.
                commands[int(entry.name)] = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return commands
