"""How local clusters come and go: side by side, named when they fail, and never leaving anything behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster import ClusterStartError, local_cluster, processes
from tests.support.cluster.kwok import CLUSTERS
from tests.support.cluster.local import EXISTING, _remove_abandoned

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(120),
    pytest.mark.skipif(EXISTING in os.environ, reason=f"{EXISTING} names a cluster that the tests did not start"),
]


@contextmanager
def visitor() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run `python -m tests.support.cluster` as a person would; yield its process and the cluster's folder."""
    command = [sys.executable, "-m", "tests.support.cluster"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("export KUBECONFIG="), process.communicate()[1]
        yield process, Path(line.strip().removeprefix("export KUBECONFIG=")).parent
    finally:
        process.terminate()
        process.communicate(timeout=20)


def running_in(folder: Path) -> dict[int, str]:
    """Return the processes of the cluster in that folder."""
    found: dict[int, str] = {}
    for workdir in (folder / CLUSTERS).glob("*"):
        found |= processes.running(workdir)
    return found


def test_two_started_at_once_never_meet_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two simultaneous starts share nothing, and Ctrl-C and SIGTERM each remove one without a trace."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    commands: dict[int, str] = {}
    with visitor() as (one, one_folder), visitor() as (two, two_folder):
        assert one_folder != two_folder
        for folder in (one_folder, two_folder):
            assert len(running_in(folder)) == 5
            commands |= running_in(folder)
        one.send_signal(signal.SIGINT)
        two.send_signal(signal.SIGTERM)
        assert (0, 0) == (one.wait(20), two.wait(20))
    assert [] == list(tmp_path.iterdir())
    assert not commands.items() & processes._all_commands().items()


def test_a_failed_start_names_the_component_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a component ends during the start, the error names it and shows its last words, within seconds."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    flags = {"kube-scheduler": {"no-such-flag": "1"}}
    with pytest.raises(ClusterStartError, match="unknown flag: --no-such-flag") as failure, local_cluster(flags=flags):
        pytest.fail("this cluster cannot have come up")
    assert ("kube-scheduler", True) == (failure.value.component, len(failure.value.log) <= 30)
    assert [] == list(tmp_path.iterdir())
    assert not [command for command in processes._all_commands().values() if str(tmp_path) in command]


def test_what_a_killed_run_left_is_removed_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL leaves a cluster running; the next start ends it, and never touches one whose owner lives."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with visitor() as (process, folder):
        _remove_abandoned()
        assert len(running_in(folder)) == 5
        process.kill()
        process.wait(20)
    commands = running_in(folder)
    assert len(commands) == 5
    _remove_abandoned()
    assert [] == list(tmp_path.iterdir())
    assert not commands.items() & processes._all_commands().items()


LISTENER = """
import socket, threading, time
server = socket.create_server(("127.0.0.1", 0))
for _ in range(200):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
held = bytearray(200_000_000)
print(server.getsockname()[1], flush=True)
time.sleep(60)
"""


def test_of_what_was_killed_the_port_is_free() -> None:
    """Of a large process with many threads the command line is gone long before its sockets are; an API server was started too early so."""
    with subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout
        port = int(listener.stdout.readline())
        processes.end(listener.pid)
        with socket.create_server(("127.0.0.1", port)) as successor:
            assert port == successor.getsockname()[1]
