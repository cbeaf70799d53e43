"""How clusters with real nodes come and go: side by side, named when they fail, and never leaving anything behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster import ClusterStartError, processes
from tests.support.cluster.local import _remove_abandoned
from tests.support.cluster.node import cgroups
from tests.support.cluster.node.wire import INTERFACES, interface_of
from tests.support.cluster.real import cluster_with_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cluster.images import Image

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("real_nodes")]


@dataclass
class Traces:
    """What one run has on this machine, by its own names and numbers."""

    folder: Path
    processes: dict[int, str] = field(default_factory=dict)
    namespaces: set[str] = field(default_factory=set)

    def look(self) -> None:
        """Note the processes of the run, those in its containers included, and the namespaces that they are in."""
        own = _namespaces("self")
        self.processes = dict(processes.below(self.folder))
        for pid in self.processes:
            self.namespaces |= _namespaces(pid) - own
        for pid, command in processes._all_commands().items():
            if _namespaces(pid) & self.namespaces:
                self.processes[pid] = command

    def left(self) -> list[str]:
        """Return everything of it that still exists. A namespace has no name: it ends with its last process or mount."""
        found = [f"process {pid} {name}" for pid, name in self.processes.items() if _command(pid) == name]
        found += [f"interface {path.name}" for path in INTERFACES.iterdir() if path.name == interface_of(self.folder)]
        found += [f"cgroup {path}" for path in cgroups.ROOT.glob(f"*/{self.folder.name}")]
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        found += [f"mount {line}" for line in mounts if str(self.folder) in line]
        found += [f"file {path}" for path in ([self.folder] if self.folder.exists() else [])]
        return found


def _namespaces(pid: int | str) -> set[str]:
    found = set()
    for kind in ("net", "mnt", "pid"):
        try:
            found.add(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
        except OSError:
            continue  # it has ended
    return found


def _command(pid: int) -> str | None:
    return processes._all_commands().get(pid)


@contextmanager
def visitor(pause: Image) -> Iterator[tuple[subprocess.Popen[str], Traces]]:
    """Run `python -m tests.support.cluster --nodes 1` as a person would; yield its process and its traces."""
    command = [sys.executable, "-m", "tests.support.cluster", "--nodes", "1", "--image", str(pause.archive)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("export KUBECONFIG="), process.communicate()[1]
        traces = Traces(Path(line.strip().removeprefix("export KUBECONFIG=")).parent)
        traces.look()
        yield process, traces
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_two_at_once_never_meet_and_leave_nothing(
    pause: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs share nothing; Ctrl-C ends one and SIGTERM the other, and neither leaves a trace."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with visitor(pause) as (one, its), visitor(pause) as (two, others):
        assert {"kubelet", "containerd", "kube-proxy", "kube-apiserver"} <= {
            Path(command.split()[0]).name
            for command in its.processes.values()
            if command.split()  # one that is ending has no command line any more
        }
        assert not its.namespaces & others.namespaces
        assert not its.processes.keys() & others.processes.keys()
        assert its.left()
        one.send_signal(signal.SIGINT)
        two.send_signal(signal.SIGTERM)
        assert (0, 0) == (one.wait(30), two.wait(30))
    assert [] == its.left()
    assert [] == others.left()
    assert [] == list(tmp_path.iterdir())


def test_a_failed_start_names_the_program_and_leaves_nothing(
    pause: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a node's program ends during the start, the error names program and node and shows its last words."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("tests.support.cluster.node.settings.kubelet", lambda **_: {"kind": "Nonsense"})
    made: list[str] = []
    create = cgroups.create

    def create_and_note(name: str) -> None:
        made.append(name)
        create(name)

    monkeypatch.setattr("tests.support.cluster.node.cgroups.create", create_and_note)
    with (
        pytest.raises(ClusterStartError, match="kubelet of node-1 ended") as failure,
        cluster_with_nodes(1, images=[pause.archive]),
    ):
        pytest.fail("this cluster cannot have come up")
    assert failure.value.log
    assert [] == list(tmp_path.iterdir())
    assert [] == [command for command in processes._all_commands().values() if str(tmp_path) in command]
    assert len(made) == 2
    assert [] == [path for name in made for path in cgroups.ROOT.glob(f"*/{name}")]


def test_what_a_killed_run_left_is_removed_at_the_next_start(
    pause: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL of the harness leaves nodes running; the next start ends them, and never touches one whose owner lives."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with visitor(pause) as (process, traces):
        _remove_abandoned()
        assert process.poll() is None
        assert any("kubelet" in command for command in traces.processes.values())
        process.kill()
        process.wait(20)
    assert traces.left()
    _remove_abandoned()
    assert [] == traces.left()
    assert [] == list(tmp_path.iterdir())
