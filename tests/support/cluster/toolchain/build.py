"""Get the programs of the local cluster, built once from pinned sources and kept in one cache folder.

The harness calls `ensure_tools` before every start: where all is built already this costs milliseconds. Programs in
KUBEBUILDER_ASSETS (the folder that setup-envtest fills) are taken as they are instead of being built.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cluster.locks import exclusive
from tests.support.cluster.progress import Steps, say
from tests.support.cluster.toolchain.errors import ToolchainError
from tests.support.cluster.toolchain.golang import choose_go, go_environment, install_go
from tests.support.cluster.toolchain.programs import HERE, PROGRAMS, Program, cache_key, link_flags

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from tests.support.cluster.toolchain.golang import Go

LOG_LINES = 30
_UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.ENOENT}


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the programs are."""

    folder: Path
    """The cache folder of this build; a program of KUBEBUILDER_ASSETS is not in it."""
    programs: Mapping[str, Path]

    def __getitem__(self, name: str) -> Path:
        return self.programs[name]


def cache_folder() -> Path:
    """Return the one folder outside the checkout that this project writes to."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "medplum-agent-operator"


@contextmanager
def cache_faults() -> Iterator[None]:
    """Turn a cache folder that cannot be used (read-only, full, another user's) into a ToolchainError that says so."""
    try:
        yield
    except OSError as error:
        folder = cache_folder()
        at = Path(os.fsdecode(error.filename)) if error.filename is not None else folder
        if error.errno not in _UNUSABLE or not (at.is_relative_to(folder) or folder.is_relative_to(at)):
            raise
        raise ToolchainError(
            f"The cache folder {folder} cannot be used: {error.strerror} ({at}). Set XDG_CACHE_HOME to a folder that can be written."
        ) from error


@cache_faults()
def ensure_tools(names: Collection[str] | None = None) -> Tools:
    """Return the named programs, all of them by default, after building those that are missing."""
    wanted = [program for program in PROGRAMS if names is None or program.name in names]
    given = _given_programs()
    go = choose_go()
    folder = cache_folder() / "tools" / cache_key(go.version)
    tools = Tools(folder, {p.name: given.get(p.name, folder / p.name) for p in wanted})
    if not _missing(wanted, tools):
        return tools
    lock = cache_folder() / "tools" / "build.lock"
    with exclusive(lock, while_waiting="Another process is building the cluster's programs; waiting for it …"):
        missing = _missing(wanted, tools)  # the other process may have built them
        if missing:
            scratch = cache_folder() / "go"
            _build(missing, go=go, scratch=scratch, folder=folder)
            if not _missing(PROGRAMS, Tools(folder, {p.name: folder / p.name for p in PROGRAMS})):
                # Sources and Go's own caches hold about 4 GB, and only another set of pins would look at them again.
                shutil.rmtree(scratch, ignore_errors=True)
    return tools


def _given_programs() -> dict[str, Path]:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        return {}
    folder = Path(assets).resolve()
    return {program.name: folder / program.name for program in PROGRAMS if os.access(folder / program.name, os.X_OK)}


def _missing(wanted: Collection[Program], tools: Tools) -> list[Program]:
    return [program for program in wanted if not tools[program.name].is_file()]


def _build(programs: list[Program], *, go: Go, scratch: Path, folder: Path) -> None:
    """Build into the scratch folder and move each finished program into place, so that an interrupted build resumes."""
    total = sum(each.seconds for each in programs)
    say(f"Building {len(programs)} cluster programs, once: about {total / 60:.0f} min on two cores, into {folder}")
    compiler = install_go(go, scratch)
    environment = go_environment(go, scratch)
    folder.mkdir(parents=True, exist_ok=True)
    steps = Steps({each.name: each.seconds for each in programs})
    for each in programs:
        steps.begin(each.name)
        output = folder / f".{each.name}.partial"
        command = [str(compiler), "build", "-ldflags", link_flags(each.module), "-o", str(output), each.package]
        _run(command, cwd=HERE / each.module, environment=environment, log=scratch / f"{each.name}.log", steps=steps)
        output.rename(folder / each.name)
        steps.end()


def _run(command: list[str], *, cwd: Path, environment: dict[str, str], log: Path, steps: Steps) -> None:
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            while True:
                try:
                    code = process.wait(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    steps.tick()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        raise ToolchainError("\n".join((f"`{' '.join(command)}` failed in {cwd}:", *lines)))
