"""MLLP and DICOM programs of other people: installs them by their locks into the cache folder, and runs them as processes.

The programs are in `tests/gate/peers`, one file for each library; `conversation.cjs` there describes their two roles.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.node.conftest import REQUIRED
from tests.support.cluster.toolchain import cache_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PEERS: Final = Path(__file__).parents[2] / "gate" / "peers"
INSTALL_SECONDS: Final = 240
RUN_SECONDS: Final = 60.0


def unavailable(reason: str) -> None:
    """Skip with this reason, or fail in CI, which installs everything."""
    if os.environ.get(REQUIRED):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def node_modules() -> Path:
    """Install the npm packages by their lock file, and return their folder."""
    if not (shutil.which("node") and shutil.which("npm")):
        unavailable("HL7 clients and servers on Node.js need node and npm")
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    return _installed(["package-lock.json", "package.json"], command) / "node_modules"


def wheels() -> Path:
    """Install the Python packages by their lock file, and return their folder."""
    if importlib.util.find_spec("pip"):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    elif uv := shutil.which("uv"):
        pip = [uv, "pip"]
    else:
        unavailable("HL7 and DICOM peers in Python need pip or uv")
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--target", "."]
    return _installed(["requirements.txt"], [*pip, "install", *options, "--requirement", "requirements.txt"])


def jars() -> Path:
    """Install the Java libraries by their versions, and return their folder. Only `make gate-peers-java` needs them."""
    if not (shutil.which("java") and shutil.which("mvn")):
        unavailable("HAPI needs a JDK from 17 on, and Maven")
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.0:copy-dependencies"
    return _installed(["pom.xml"], ["mvn", "--batch-mode", "--quiet", goal, "-DoutputDirectory=jars"]) / "jars"


def _installed(locks: list[str], command: list[str]) -> Path:
    """Return the folder in the cache that a command fills, next to copies of these files. Their content is its name."""
    content = b"".join((PEERS / lock).read_bytes() for lock in locks)
    folder = cache_folder() / "peers" / hashlib.sha256(content).hexdigest()[:16]
    if not (folder / "done").exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        partial.mkdir(parents=True)
        for lock in locks:
            shutil.copy(PEERS / lock, partial)
        installed = subprocess.run(
            command, cwd=partial, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
        assert 0 == installed.returncode, installed.stderr
        (partial / "done").touch()
        with contextlib.suppress(OSError):  # another process was faster
            partial.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
    return folder


@dataclass
class Running:
    """A server of somebody else in a process."""

    process: asyncio.subprocess.Process
    port: int
    lines: list[str] = field(default_factory=list)
    """What it printed about the messages that arrived."""

    async def read(self) -> None:
        """Collect its lines."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().strip())

    async def quiet(self) -> list[str]:
        """Return its lines since the last call, when no more of them come for a moment."""
        before = -1
        while len(self.lines) != before:
            before = len(self.lines)
            await asyncio.sleep(0.3)
        lines, self.lines = self.lines, []
        return lines


async def start(command: list[str], **environment: str) -> asyncio.subprocess.Process:
    """Start a program."""
    return await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


@asynccontextmanager
async def serving(command: list[str], **environment: str) -> AsyncIterator[Running]:
    """Run a server that prints its port first."""
    process = await start(command, **environment)
    assert process.stdout is not None
    reading = None
    try:
        first = (await asyncio.wait_for(process.stdout.readline(), RUN_SECONDS)).decode()
        assert first.strip().isdigit(), first
        running = Running(process, int(first))
        reading = asyncio.create_task(running.read())
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if reading is not None:
            await reading


async def said_by(command: list[str], **environment: str) -> list[str]:
    """Run a client to its end and return what it printed."""
    process = await start(command, **environment)
    try:
        said, _ = await asyncio.wait_for(process.communicate(), RUN_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert 0 == process.returncode, said.decode()
    return said.decode().splitlines()
