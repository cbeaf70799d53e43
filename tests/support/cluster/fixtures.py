"""The pytest fixtures of the local cluster. `tests/conftest.py` names this module in `pytest_plugins`."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster.local import EXISTING, local_cluster
from tests.support.cluster.toolchain import ensure_tools
from tests.support.cluster.toolchain.programs import CONTROL_PLANE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.cluster.cluster import Cluster


@pytest.fixture(scope="session")
def needs_cluster() -> None:
    """Bring the marker `cluster`. Every fixture of a cluster is built on this or on `needs_nodes`, and no test has its own."""


@pytest.fixture(scope="session")
def needs_nodes() -> None:
    """Bring the marker `nodes`."""


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, needs_cluster: None) -> Iterator[Cluster]:  # noqa: ARG001 - for the marker
    """One cluster for all tests that request it, or the one that E2E_KUBECONFIG names."""
    if EXISTING not in os.environ:
        # The first build takes minutes, and pytest would hide its progress until the end.
        capture = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            ensure_tools(CONTROL_PLANE)
    with local_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def audited_cluster(cluster: Cluster) -> Cluster:
    """The same, for tests that count calls."""
    if cluster.audit_log is None:
        pytest.skip(f"the audit log of the cluster that {EXISTING} names cannot be read")
    return cluster


@pytest.fixture(scope="session")
def simulated_cluster(cluster: Cluster) -> Cluster:
    """The same, for tests that choose how pods behave."""
    if not cluster.simulated:
        pytest.skip(f"pods are real on the cluster that {EXISTING} names")
    return cluster


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace for one test."""
    with cluster.namespace() as name:
        yield name
