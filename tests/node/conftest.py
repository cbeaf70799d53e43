"""Fixtures of the tests on real nodes: the cluster, the operator in it, and a clinic that is checked after each test."""

from __future__ import annotations

import os
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.cluster.images import Image, image
from tests.support.cluster.local import EXISTING, local_cluster
from tests.support.cluster.node import missing
from tests.support.cluster.real import cluster_with_nodes
from tests.support.cluster.toolchain import ensure_tools
from tests.support.real_nodes.clinic import IMAGES, REPOSITORY, Clinic
from tests.support.real_nodes.evidence import evidence
from tests.support.real_nodes.lives import LifeRecorder
from tests.support.real_nodes.operator_pod import install_operator
from tests.support.recorder import recording

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from tests.support.cluster import Cluster

REQUIRED: Final = "E2E_REQUIRE_NODES"
"""Set by CI: tests fail, instead of being skipped, on a machine that cannot run real nodes."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the state of the clinic to the report of a failed test."""
    report = yield
    clinic = getattr(item, "funcargs", {}).get("clinic")
    if report.when == "call" and report.failed and clinic is not None:
        report.sections += evidence(clinic)
    return report


def without_nodes(reason: str) -> None:
    """Skip with this reason, or fail if real nodes are required."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{REQUIRED} is set, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def real_nodes(request: pytest.FixtureRequest, needs_nodes: None) -> None:  # noqa: ARG001 - for the marker
    """For tests that start real nodes themselves."""
    if EXISTING in os.environ:
        pytest.skip(f"{EXISTING} names a cluster that the tests did not start")
    reason = missing()
    if reason is not None:
        without_nodes(reason)
    _built(request, ("pause",))


@pytest.fixture(scope="session")
def pause(real_nodes: None) -> Image:  # noqa: ARG001 - its requirement
    """The image that every node needs."""
    return image("pause")


@pytest.fixture(scope="session")
def node_cluster(request: pytest.FixtureRequest, needs_nodes: None) -> Iterator[Cluster]:  # noqa: ARG001 - for the marker
    """Two real nodes with every image, or the cluster that E2E_KUBECONFIG names, whose nodes must have the images."""
    with ExitStack() as stack:
        if EXISTING in os.environ:
            cluster = stack.enter_context(local_cluster())
        else:
            reason = missing()
            if reason is not None:
                without_nodes(reason)
            archives = _built(request, IMAGES)
            cluster = stack.enter_context(cluster_with_nodes(2, images=archives))
        install_operator(cluster, image=image("operator").reference, agent_repository=REPOSITORY)
        yield cluster


def _built(request: pytest.FixtureRequest, names: tuple[str, ...]) -> list[Path]:
    """Build what is missing, and show the progress, which pytest would hide until the end."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        ensure_tools()
        return [image(name).archive for name in names]


@pytest.fixture(scope="session")
def lives(node_cluster: Cluster) -> Iterator[LifeRecorder | None]:
    """The recorder at the container runtime, from the first test to the last; None on an existing cluster."""
    if not node_cluster.machines:
        yield None
        return
    recorder = LifeRecorder(node_cluster.machines)
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.stop()


@pytest.fixture
def clinic(node_cluster: Cluster, lives: LifeRecorder | None, tmp_path: Path) -> Iterator[Clinic]:
    """A namespace under Pod Security *restricted*. Two recorders watch it: the API's, and the container runtime's."""
    with node_cluster.namespace("clinic") as namespace, recording(node_cluster, namespace) as recorder:
        node_cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        clinic = Clinic(node_cluster, namespace, tmp_path, recorder, lives_recorder=lives)
        yield clinic
        clinic.judge()
        agents = clinic.read("mpa")["items"]
    assert recorder.violations == []
    assert recorder.events or not agents, "the recorder saw nothing"
    assert "a pass failed by a bug" not in clinic.log
