"""Clusters in the situations that most tests begin with."""

from __future__ import annotations

from typing import Any, Final

from tests.support.builders import agent
from tests.support.simulated_cluster.cluster import SimulatedCluster

QUICK: Final = {"minReadySeconds": 2, "drainSeconds": 2, "progressDeadlineSeconds": 60}
HOLD: Final = {**QUICK, "onFailure": "Hold"}


def installed(version: str = "5.1.15", **spec: Any) -> SimulatedCluster:
    """A cluster in which the agent was installed and serves."""
    return SimulatedCluster(agent(version, **{"handoff": QUICK, **spec})).settle()


def changing(
    before: str, after: str, *, approval: str | None = None, seconds: int = 1, **spec: Any
) -> SimulatedCluster:
    """A cluster in which a change of version has begun and is not done; the new agent never gets ready."""
    cluster = installed(before, **spec)
    cluster.never_ready.add(after)
    if approval is not None:
        cluster.annotate(approval)
    cluster.edit(version=after).fetched().reconcile()
    for _ in range(seconds):
        cluster.tick()
        cluster.reconcile()
    return cluster
