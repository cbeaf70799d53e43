"""Simulated clusters in the states that most tests start from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from medplum_agent_operator.api.annotations import REVISION
from tests.support.builders import agent
from tests.support.simulated_cluster.cluster import SimulatedCluster

if TYPE_CHECKING:
    from medplum_agent_operator.core.plan import Plan
    from medplum_agent_operator.core.rollout.actions import Apply

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


def kinds_of(plan: Plan) -> list[str]:
    """The kinds that a plan writes, in its order, without the revision that comes before them."""
    return [action.kind for action in plan.actions if not is_revision(action)]


def is_revision(action: Apply) -> bool:
    """Whether an action creates a revision; a backup is none."""
    return REVISION in action.body["metadata"]["labels"]
