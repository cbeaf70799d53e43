"""The same tests on a cluster that was started separately, as a user's own cluster would be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster.images import image
from tests.support.cluster.local import EXISTING
from tests.support.real_nodes.clinic import IMAGES

if TYPE_CHECKING:
    from pathlib import Path

SCENARIO = "tests/node/test_changes.py::test_a_handoff_loses_and_refuses_nothing"


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("real_nodes")
def test_the_suite_runs_on_a_cluster_that_somebody_else_started(tmp_path: Path) -> None:
    """With E2E_KUBECONFIG, and the images on its nodes, a scenario passes there; nothing of the cluster is started or stopped."""
    archives = [argument for name in IMAGES for argument in ("--image", str(image(name).archive))]
    command = [sys.executable, "-m", "tests.support.cluster", "--nodes", "2", *archives]
    with (tmp_path / "cluster.log").open("w", encoding="utf-8") as log:
        cluster = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert cluster.stdout
        line = cluster.stdout.readline().strip()
        assert line.startswith("export KUBECONFIG="), (tmp_path / "cluster.log").read_text(encoding="utf-8")
        suite = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", SCENARIO, "-p", "no:cacheprovider"],
            env=os.environ | {EXISTING: line.removeprefix("export KUBECONFIG=")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "1 passed" in suite.stdout, suite.stdout[-5000:]
        assert cluster.poll() is None
    finally:
        cluster.send_signal(signal.SIGINT)
        cluster.communicate(timeout=60)
