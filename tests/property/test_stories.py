"""Whole stories on the simulated cluster: it asserts I1 and I2 at every turn, and these tests what must come out in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings

from medplum_agent_operator.api.status import Outcome
from medplum_agent_operator.core.approval import kept
from medplum_agent_operator.core.status import LONGEST_HISTORY
from tests.property.stories import Step, beginning, stories

if TYPE_CHECKING:
    from datetime import datetime

    from tests.simulated_cluster import SimulatedCluster

MAY_BECOME = {(Outcome.FAILED, Outcome.COMPLETED)}
"""The one way in which an outcome may change: a rollout that missed its deadline comes right after all."""


def tell(story: list[Step]) -> SimulatedCluster:
    """Let a story happen; after each step ask that history has lost and changed nothing."""
    cluster = beginning()
    for step in story:
        before = outcomes(cluster)
        step.happen(cluster)
        after = outcomes(cluster)
        lost = [started for started in before if started not in after]
        assert not lost or len(after) == LONGEST_HISTORY, f"history lost {lost}"
        changed = {(before[one], after[one]) for one in before if one in after and before[one] != after[one]}
        assert changed <= MAY_BECOME, f"history was rewritten: {changed}"
    return cluster


def outcomes(cluster: SimulatedCluster) -> dict[datetime | None, Outcome | None]:
    """The outcome of each rollout in history; one entry a rollout."""
    history = cluster.status.history
    found = {entry.started_at: entry.outcome for entry in history}
    assert len(found) == len(history), "one rollout stands in history twice"
    return found


@settings(max_examples=250, deadline=None)
@given(stories)
def test_every_story_comes_to_rest_and_loses_nothing(story: list[Step]) -> None:
    """When people stop and pods get ready, the operator does too: no action, no write; every rollout and every used approval is on the books."""
    cluster = tell(story)
    cluster.never_ready.clear()
    cluster.settle()
    writes = list(cluster.writes)
    plan = cluster.reconcile()
    assert () == plan.actions
    assert writes == cluster.writes

    status = cluster.status
    known = set(outcomes(cluster)) | ({status.rollout.started_at} if status.rollout else set())
    assert set(cluster.rollouts[-LONGEST_HISTORY:]) <= known
    assert {kept(text) for text in cluster._used} <= set(status.spent_approvals)


@settings(max_examples=100, deadline=None)
@given(stories)
def test_a_plan_is_a_function_of_what_is_observed(story: list[Step]) -> None:
    """Same cluster, same moment, same plan and status: nothing is remembered outside the cluster, nothing is drawn by lot."""
    cluster = tell(story)
    twin = tell(story)
    assert cluster.plan() == twin.plan()
    assert cluster.plan() == cluster.plan()
    assert cluster.status == twin.status
