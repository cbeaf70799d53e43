"""Anything that people, pods, nodes, time and dying operators may do to one agent, in any order: the invariants hold after each step.

The simulated cluster asserts I1 and I2 at every turn and I3 at every rollback (`tests/support/simulated_cluster`). The same stories are told in
every run; `STEPS=1000000 python -m pytest --timeout 0 tests/property/test_machine.py` makes up new ones for about so many steps, and prints how
many there were.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from medplum_agent_operator.api.status import Outcome, Phase
from medplum_agent_operator.core.policy.approval import stored_form
from medplum_agent_operator.core.status import LONGEST_HISTORY
from tests.support.simulated_cluster import SimulatedCluster
from tests.support.simulated_cluster.admission import AdmittingCluster
from tests.support.stories import VERSIONS, Step, beginning, first_versions, orderly_steps, policies, steps

if TYPE_CHECKING:
    from datetime import datetime

STEPS = int(os.environ.get("STEPS", "0"))
"""How many new steps to explore; 0: the ones of every run."""
STEPS_IN_A_STORY = 50
STORIES_OF_EVERY_RUN = 640
"""About 20,000 steps."""
STORIES_UNDER_POLICIES = 80
TAKEN_IN_A_STORY = 31
"""How many of a story's steps are taken on average: hypothesis ends many before."""
SEEDS = 4
"""In so many parts, which can run side by side."""
AT_REST = {Phase.RUNNING, Phase.AWAITING_APPROVAL, Phase.AWAITING_WINDOW, Phase.FAILED, Phase.PAUSED}


class Agent(RuleBasedStateMachine):
    """One MedplumAgent in a simulated cluster.

    Attributes:
        taken: steps in all stories of this process.
    """

    taken = 0
    kind: ClassVar[type[SimulatedCluster]] = SimulatedCluster

    @initialize(version=first_versions)
    def begin(self, version: str) -> None:
        """The first agent serves."""
        self.cluster = beginning(version, self.kind)
        self.before: dict[datetime | None, Outcome | None] = {}

    @rule(step=orderly_steps)
    def people_and_the_operator(self, step: Step) -> None:
        """Edits, approvals, annotations; passes, deaths; rollouts that fail."""
        self.happens(step)

    @rule(step=steps)
    def pods_nodes_and_objects(self, step: Step) -> None:
        """Evictions, cordons, lost nodes, deleted objects."""
        self.happens(step)

    @rule(version=st.sampled_from(VERSIONS))
    def deleted_and_made_anew(self, version: str) -> None:
        """Another MedplumAgent under the same name; everything of the first goes by garbage collection first."""
        if self.cluster.lost:
            return  # what runs there would be the first one's, and garbage collection waits for it
        self.cluster.collect_garbage()
        self.cluster.replace_agent(version)
        self.before = {}

    def happens(self, step: Step) -> None:
        """One step; history is neither lost nor rewritten by it."""
        Agent.taken += 1
        step.happen(self.cluster)

    @invariant()
    def history_is_neither_lost_nor_rewritten(self) -> None:
        """One entry a rollout; only a failure that comes right may change."""
        if not hasattr(self, "cluster"):
            return
        history = self.cluster.status.history
        after = {entry.started_at: entry.outcome for entry in history}
        assert len(after) == len(history), "one rollout stands in history twice"
        lost = [started for started in self.before if started not in after]
        assert not lost or len(after) == LONGEST_HISTORY, f"history lost {lost}"
        changed = {(self.before[one], after[one]) for one in self.before if one in after}
        assert all(old is new or (old, new) == (Outcome.FAILED, Outcome.COMPLETED) for old, new in changed)
        self.before = after

    def teardown(self) -> None:
        """When people stop and everything can run, all comes to rest: no action, no write, nothing forgotten."""
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        cluster.never_pulled.clear()
        cluster.mend().uncordon().find_nodes().edit(maintenanceWindows=[]).settle(seconds=400)
        writes = list(cluster.writes)
        assert () == cluster.reconcile().actions
        assert writes == cluster.writes
        assert cluster.status.phase in AT_REST
        assert {stored_form(text) for text in cluster.books.used} <= set(cluster.status.spent_approvals)
        if cluster.agent["spec"].get("paused"):
            return
        assert 1 == len(cluster.running), f"{cluster.running} run in the end"


class AgentUnderPolicies(Agent):
    """The same in a cluster with field managers, where admission policies come and go."""

    kind = AdmittingCluster

    @rule(step=policies)
    def policies_come_and_go(self, step: Step) -> None:
        """They label, or add a variable."""
        self.happens(step)


def test_under_policies_that_come_and_go_the_invariants_hold_and_it_comes_to_rest() -> None:
    """The same, with fewer stories: this cluster is slower."""
    stories = STEPS // TAKEN_IN_A_STORY + 1 if STEPS else STORIES_UNDER_POLICIES
    chosen = settings(max_examples=stories, stateful_step_count=STEPS_IN_A_STORY, database=None, deadline=None)
    before = Agent.taken
    run_state_machine_as_test(AgentUnderPolicies if STEPS else seed(0)(AgentUnderPolicies), settings=chosen)
    assert Agent.taken > before


@pytest.mark.parametrize("number", [0, *(pytest.param(later, marks=pytest.mark.slow) for later in range(1, SEEDS))])
def test_whatever_happens_the_invariants_hold_and_it_comes_to_rest(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """I1, I2, I3 and the books after each step; convergence at the end of each story."""
    before = Agent.taken
    stories = STEPS // TAKEN_IN_A_STORY // SEEDS + 1 if STEPS else STORIES_OF_EVERY_RUN // SEEDS
    chosen = settings(max_examples=stories, stateful_step_count=STEPS_IN_A_STORY, database=None, deadline=None)
    run_state_machine_as_test(Agent if STEPS else seed(number)(Agent), settings=chosen)
    if STEPS:
        with capsys.disabled():
            sys.stdout.write(f"\n{Agent.taken - before} steps in {stories} stories\n")
    assert Agent.taken > before
