"""Anonymous namespaces, held by one process each: when the process ends, they are gone, and all that was in them.

A node's holder is PID 1 of a PID namespace, so its end also ends every process of the node, containers included, and its
mount namespace takes every mount along. The holder's program is a link in the cluster's folder, which is how a sweep
after a killed run recognises it (tests/support/cluster/processes.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.cluster.errors import ClusterStartError

if TYPE_CHECKING:
    from collections.abc import Sequence

INIT: Final = Path(__file__).with_name("init.py")
START_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Namespaces:
    """A set of namespaces and the process that holds them."""

    holder: subprocess.Popen[bytes]
    pid: int
    """Of the process in them, as seen from outside."""
    kinds: tuple[str, ...]

    def command(self, *command: str) -> list[str]:
        """Return the command line that runs a command inside."""
        return ["nsenter", f"--target={self.pid}", *(f"--{kind}" for kind in self.kinds), "--", *command]

    def run(self, *command: str) -> str:
        """Run a command inside and return its output; raise RuntimeError with the output if it fails."""
        return _run(self.command(*command))

    def end(self) -> None:
        """Kill the holder, and with a PID namespace every process inside; return when all have ended."""
        for pid in (self.pid, self.holder.pid):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        self.holder.wait()
        deadline = time.monotonic() + START_SECONDS
        while Path(f"/proc/{self.pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)


def hold(kinds: Sequence[str], *, bin_folder: Path, arguments: Sequence[str] = ()) -> Namespaces:
    """Make namespaces of these kinds (`net`, `mount`, `pid`); with `pid`, init.py with these arguments is PID 1 in them."""
    unshare = link_program(bin_folder, "unshare")
    command = [str(unshare), "--kill-child", "--fork", *(f"--{kind}" for kind in kinds)]
    if "pid" in kinds:
        command += ["--mount-proc"]
    with (bin_folder.parent / "namespaces.log").open("ab") as log:
        holder = subprocess.Popen(
            [*command, sys.executable, "-I", str(INIT), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    with holder.stdout or open(os.devnull, "rb") as said:  # noqa: PTH123 - a Popen's pipe is Optional for the type checker
        ready = said.readline()
    if not ready:
        holder.kill()
        holder.wait()
        raise ClusterStartError("unshare", f"could not make the namespaces {', '.join(kinds)}", _words(bin_folder))
    child = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text(encoding="ascii").split()[0]
    return Namespaces(holder, int(child), tuple(kinds))


def link_program(bin_folder: Path, name: str, target: Path | None = None) -> Path:
    """Link a program (by default the one on PATH) into a folder of the cluster's own, and return the link."""
    found = target or shutil.which(name)
    if found is None:
        raise ClusterStartError(name, "is not on PATH", [])
    bin_folder.mkdir(parents=True, exist_ok=True)
    link = bin_folder / name
    if not link.is_symlink():
        link.symlink_to(found)
    return link


def _words(bin_folder: Path) -> list[str]:
    return (bin_folder.parent / "namespaces.log").read_text(encoding="utf-8", errors="replace").splitlines()


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def run_on_host(*command: str) -> str:
    """Run a command on the machine itself; raise RuntimeError with its output if it fails."""
    return _run(list(command))
