"""Whole stories on the simulated cluster: it asserts I1 and I2 at every turn, and these tests what must come out in the end.

The same stories are told in every run, so that a run means the same for everybody. `STORIES=5000 python -m pytest tests/property`
tells so many new ones instead.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hypothesis import given, settings

from medplum_agent_operator.api.status import Outcome
from medplum_agent_operator.core.policy.approval import stored_form
from medplum_agent_operator.core.status import LONGEST_HISTORY
from tests.support.stories import Step, beginning, first_versions, orderly_stories, stories

if TYPE_CHECKING:
    from datetime import datetime

    from tests.support.simulated_cluster import SimulatedCluster

EXPLORE = int(os.environ.get("STORIES", "0"))
MAY_BECOME = {(Outcome.FAILED, Outcome.COMPLETED)}
"""The one way in which an outcome may change: a rollout that missed its deadline comes right after all."""


def tell(first: str, story: list[Step], *, scheduler_keeps_apart: bool = True) -> SimulatedCluster:
    """Let a story happen; after each step ask that history has lost and changed nothing."""
    cluster = beginning(first)
    cluster.scheduler_keeps_apart = scheduler_keeps_apart
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


@settings(max_examples=EXPLORE or 120, derandomize=not EXPLORE, deadline=None)
@given(first_versions, stories)
def test_every_story_comes_to_rest_and_loses_nothing(first: str, story: list[Step]) -> None:
    """When people stop and pods get ready, the operator does too: no action, no write; every rollout and every used approval is on the books."""
    cluster = tell(first, story)
    cluster.never_pulled.clear()
    cluster.mend().uncordon().find_nodes().settle()
    writes = list(cluster.writes)
    plan = cluster.reconcile()
    assert () == plan.actions
    assert writes == cluster.writes

    status = cluster.status
    known = set(outcomes(cluster)) | ({status.rollout.started_at} if status.rollout else set())
    assert set(cluster.books.rollouts[-LONGEST_HISTORY:]) <= known
    assert {stored_form(text) for text in cluster.books.used} <= set(status.spent_approvals)


@settings(max_examples=EXPLORE or 30, derandomize=not EXPLORE, deadline=None)
@given(first_versions, stories)
def test_a_plan_is_a_function_of_what_is_observed(first: str, story: list[Step]) -> None:
    """Same cluster, same moment, same plan and status: nothing is remembered outside the cluster, nothing is drawn by lot."""
    cluster = tell(first, story)
    twin = tell(first, story)
    assert cluster.plan() == twin.plan()
    assert cluster.plan() == cluster.plan()
    assert cluster.status == twin.status


@settings(max_examples=EXPLORE or 60, derandomize=not EXPLORE, deadline=None)
@given(first_versions, orderly_stories)
def test_rollouts_alone_never_overlap_what_must_not_whoever_schedules(first: str, story: list[Step]) -> None:
    """The anti-affinity is for pods that go by themselves: rollouts keep I1 by their strategy, even on a scheduler without it."""
    tell(first, story, scheduler_keeps_apart=False).settle()
