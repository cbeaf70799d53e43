"""Fixtures of the behaviour tests: the operator installed on the local cluster, and a recorder for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.crash_points.clinic import Clinics
from tests.support.operator_process import install
from tests.support.recorder import recording
from tests.support.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.cluster import Cluster
    from tests.support.crash_points.enumeration import Learned


@pytest.fixture(scope="session")
def installed(simulated_cluster: Cluster) -> Cluster:
    """The cluster with the CRD and the operator's rights."""
    install(simulated_cluster)
    return simulated_cluster


@pytest.fixture
def empty_world(installed: Cluster, namespace: str, tmp_path: Path) -> Iterator[World]:
    """A namespace without an operator. The recorder watches it, and its record is judged at the end of the test."""
    with recording(installed, namespace) as recorder:
        world = World(installed, namespace, tmp_path, recorder)
        try:
            yield world
        finally:
            for operator in world.operators:
                if operator.process.poll() is None:
                    operator.kill()
    assert recorder.events or not world.read("mpa")["items"], "the recorder saw nothing"
    assert recorder.violations == []
    assert "a pass failed by a bug" not in world.log, world.log


@pytest.fixture
async def clinics(installed: Cluster, tmp_path: Path) -> AsyncIterator[Clinics]:
    """Namespaces for many operators at once, each behind a proxy."""
    async with Clinics.open(installed, tmp_path) as clinics:
        yield clinics


@pytest.fixture(scope="session")
def known() -> dict[str, Learned]:
    """The undisturbed runs so far, by scenario."""
    return {}


@pytest.fixture
def world(empty_world: World) -> World:
    """A namespace with an operator."""
    empty_world.start_operator()
    return empty_world
