"""The toolchain with a fake `go`: what is built when, by which process, and the message of a failed build."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster.progress import Steps
from tests.support.cluster.toolchain import ToolchainError, ensure_tools
from tests.support.cluster.toolchain.golang import choose_go
from tests.support.cluster.toolchain.programs import PROGRAMS, needed_go, pinned_version

PRETENDER = """#!/bin/sh
if [ "$1" = env ]; then echo go1.99.0; exit; fi
while [ $# -gt 1 ]; do [ "$1" = -o ] && output=$2; shift; done
echo "$1" >> "$BUILT"
[ "$1" = "$BROKEN" ] && { echo "$1: cannot find module"; exit 1; }
sleep "${BUILD_SECONDS:-0}"
echo "built from $1" > "$output"
"""


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the fake on PATH and the cache into the test's folder; return the file that lists what is built."""
    (tmp_path / "bin").mkdir()
    go = tmp_path / "bin" / "go"
    go.write_text(PRETENDER, encoding="utf-8")
    go.chmod(0o755)
    built = tmp_path / "built"
    built.touch()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILT", str(built))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return built


def test_each_program_is_built_once_for_two_processes_at_once(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process waits, says so, and finds everything built."""
    monkeypatch.setenv("BUILD_SECONDS", "0.2")
    command = [sys.executable, "-m", "tests.support.cluster.toolchain", *(program.name for program in PROGRAMS)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert sorted(program.package for program in PROGRAMS) == sorted(built.read_text(encoding="utf-8").split())
    folders = {Path(output.strip()) for output, _ in outputs}
    assert len(folders) == 1
    assert {program.name for program in PROGRAMS} == {file.name for file in folders.pop().iterdir()}
    assert [False, True] == sorted("waiting for it" in errors for _, errors in outputs)


def test_go_s_caches_go_when_all_is_built(built: Path) -> None:
    """Gigabytes of sources and objects stay only until everything is built."""
    scratch = built.parent / "cache" / "medplum-agent-operator" / "go"
    ensure_tools(["etcd"])
    assert scratch.is_dir()
    ensure_tools()
    assert not scratch.exists()


def test_programs_of_kubebuilder_assets_are_not_built(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What setup-envtest has fetched is used as it is; only the rest is built."""
    assets = tmp_path / "assets"
    assets.mkdir()
    for name in ("etcd", "kube-apiserver", "kubectl"):
        (assets / name).touch(mode=0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    tools = ensure_tools()
    assert (assets / "etcd", tools.folder / "kwok") == (tools["etcd"], tools["kwok"])
    assert len(PROGRAMS) - 3 == len(built.read_text(encoding="utf-8").split())


def test_a_failed_build_shows_what_go_said(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error ends with the last output of the build; finished programs stay for the next attempt."""
    broken = next(program for program in PROGRAMS if program.name == "kube-scheduler")
    monkeypatch.setenv("BROKEN", broken.package)
    with pytest.raises(ToolchainError, match=re.escape(f"{broken.package}: cannot find module")):
        ensure_tools()
    monkeypatch.delenv("BROKEN")
    built.write_text("", encoding="utf-8")
    ensure_tools()
    assert "kube-apiserver" not in built.read_text(encoding="utf-8")


@pytest.mark.parametrize("version", ["go1.20.1", ""])
def test_without_a_recent_go_the_pinned_wheel_is_chosen(
    built: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """An old Go on PATH, or none, gives way to the one that requirements-go.txt pins, which is recent enough."""
    go = built.parent / "bin" / "go"
    if version:
        go.write_text(f"#!/bin/sh\necho {version}\n", encoding="utf-8")
    else:
        go.unlink()
    monkeypatch.setenv("PATH", str(go.parent))
    chosen = choose_go()
    assert chosen.program is None
    assert tuple(int(part) for part in chosen.version.removeprefix("go").split(".")) >= needed_go()


@pytest.mark.parametrize("module", sorted({program.module for program in PROGRAMS}))
def test_each_module_pins_a_release(module: str) -> None:
    """Every project is pinned to a release, not to a commit."""
    assert re.fullmatch(r"v\d+\.\d+\.\d+", pinned_version(module))


def test_what_is_left_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that took twice the estimated time for one step is expected to do so for the rest."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    steps = Steps({"one": 100, "two": 50, "three": 25})
    steps.begin("one")
    now = 40.0
    assert 135 == steps.left()
    now = 200.0
    steps.end()
    steps.begin("two")
    assert 150 == steps.left()
    now = 1000.0
    assert 50 == steps.left()
