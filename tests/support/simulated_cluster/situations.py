"""Simulated clusters in the states that most tests start from."""

from __future__ import annotations

from typing import Any, Final

from tests.support.builders import agent
from tests.support.simulated_cluster.cluster import SimulatedCluster

QUICK: Final = {"minReadySeconds": 2, "drainSeconds": 2, "progressDeadlineSeconds": 60}
HOLD: Final = {**QUICK, "onFailure": "Hold"}


def installed(version: str = "5.1.15", **spec: Any) -> SimulatedCluster:
    """A cluster with an installed agent that serves."""
    return SimulatedCluster(agent(version, **{"handoff": QUICK, **spec})).settle()


def changing(
    before: str, after: str, *, approval: str | None = None, seconds: int = 1, **spec: Any
) -> SimulatedCluster:
    """A cluster with a change of version in progress. The new agent never becomes ready."""
    cluster = installed(before, **spec)
    cluster.never_ready.add(after)
    if approval is not None:
        cluster.annotate(approval)
    cluster.edit(version=after).fetched().reconcile()
    for _ in range(seconds):
        cluster.tick()
        cluster.reconcile()
    return cluster
