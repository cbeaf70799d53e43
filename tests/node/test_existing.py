"""Tests and demo on a cluster that was started separately, like a user's own cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.laboratory.test_demo import STORY, in_order, said, started
from tests.support.cluster.images import image
from tests.support.cluster.local import EXISTING
from tests.support.cluster.toolchain import ensure_tools
from tests.support.real_nodes.clinic import IMAGES

SCENARIO = "tests/node/test_changes.py::test_a_handoff_loses_and_refuses_nothing"


@pytest.mark.timeout(500)
@pytest.mark.usefixtures("real_nodes")
def test_demo_and_suite_run_on_a_cluster_that_they_did_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With E2E_KUBECONFIG and the images on the nodes, the demo plays every chapter and leaves nothing; then a scenario passes."""
    archives = [argument for name in IMAGES for argument in ("--image", str(image(name).archive))]
    command = [sys.executable, "-m", "tests.support.cluster", "--nodes", "2", *archives]
    with (tmp_path / "cluster.log").open("w", encoding="utf-8") as log:
        cluster = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert cluster.stdout
        line = cluster.stdout.readline().strip()
        assert line.startswith("export KUBECONFIG="), (tmp_path / "cluster.log").read_text(encoding="utf-8")
        kubeconfig = line.removeprefix("export KUBECONFIG=")
        before = Path(kubeconfig).read_bytes()
        kubectl = str(ensure_tools(["kubectl"])["kubectl"])
        monkeypatch.setenv("PATH", os.pathsep.join([str(Path(kubectl).parent), os.environ["PATH"]]))
        with started("tests.tools.demo", folder=tmp_path, existing=kubeconfig) as demo:
            code = demo.wait(240)
        story = said(tmp_path)
        assert code == 0, story
        in_order(story, ("The cluster is the one that E2E_KUBECONFIG names", *STORY))
        assert "every one arrived: lost 0" in story
        left = subprocess.run(
            [kubectl, "--kubeconfig", kubeconfig, "get", "namespaces,crds", "-o", "name"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert [] == [name for name in left.split() if "medplum" in name or name.endswith("/clinic")]
        assert before == Path(kubeconfig).read_bytes()

        suite = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", SCENARIO, "-p", "no:cacheprovider"],
            env=os.environ | {EXISTING: kubeconfig},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "1 passed" in suite.stdout, suite.stdout[-5000:]
        assert cluster.poll() is None
    finally:
        cluster.send_signal(signal.SIGINT)
        cluster.communicate(timeout=60)
