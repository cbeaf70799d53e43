"""Real nodes with the operator installed, and a recorder at their container runtime: for the demo, the chaos and the benches."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.cluster.images import image
from tests.support.cluster.real import cluster_with_nodes
from tests.support.real_nodes.clinic import IMAGES, REPOSITORY
from tests.support.real_nodes.lives import LifeRecorder
from tests.support.real_nodes.operator_pod import install_operator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.cluster import Cluster


def archives() -> list[Path]:
    """Return the archives of a clinic's images. Builds those that the cache lacks, which takes minutes."""
    return [image(name).archive for name in IMAGES]


@contextmanager
def nodes_with_operator(nodes: int = 2, *, layer_seconds: float = 0.0) -> Iterator[tuple[Cluster, LifeRecorder]]:
    """Run nodes for the block, as `cluster_with_nodes` does, with a ready operator and a listening recorder."""
    with cluster_with_nodes(nodes, images=archives(), layer_seconds=layer_seconds) as cluster:
        install_operator(cluster, image=image("operator").reference, agent_repository=REPOSITORY)
        lives = LifeRecorder(cluster.machines)
        lives.start()
        try:
            yield cluster, lives
        finally:
            lives.stop()
