"""The plan, what is counted, and what it is held against: parts of the chaos run that need no node."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.tools.chaos.figures import Figures, Rollouts, bars
from tests.tools.chaos.plan import Kind, draw

GOOD = Figures(
    seed=1,
    minutes=2,
    events={"pause": 1},
    rollouts={"Completed": 3},
    messages={"lost": 0},
    pushes={"lost": 4},
    lives=5,
    old_lives=2,
    together=(),
    unsure=(),
    unapproved=(),
    bugs=0,
    drains_finished=1,
    last="5.1.15",
    converged_seconds=9.0,
)


def entry(start: str, end: str, **more: Any) -> dict[str, Any]:
    """A rollout as in `status.history`."""
    return {"from": start, "to": end, "outcome": "Completed", "startedAt": "2026-11-25T12:00:00Z", **more}


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_is_drawn_of_its_seed(seed: int) -> None:
    """The same seed gives the same plan, in order and within its time; another seed another one."""
    plan = draw(seed, 600)
    assert draw(seed, 600) == plan
    assert draw(seed + 1, 600) != plan
    assert sorted(plan.events) == list(plan.events)
    assert all(0 <= event.at < 600 for event in plan.events)


@pytest.mark.parametrize("seed", range(20))
def test_what_happens_by_the_clock(seed: int) -> None:
    """In ten minutes the operator is killed every 20 s, the API server once a minute, and a drained node is given back."""
    counted = Counter(event.kind for event in draw(seed, 600).events)
    assert 29 == counted[Kind.KILL_OPERATOR] + counted[Kind.DELETE_OPERATOR]
    assert 10 == counted[Kind.API_SERVER]
    assert 8 == counted[Kind.DRAIN] == counted[Kind.UNCORDON]
    turns = [event.kind for event in draw(seed, 600).events if event.kind in {Kind.DRAIN, Kind.UNCORDON}]
    assert [Kind.DRAIN, Kind.UNCORDON] * 8 == turns


def test_everything_happens_in_an_hour() -> None:
    """No kind of event is too rare to be drawn."""
    assert set(Kind) == {event.kind for event in draw(1, 3600).events}


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        pytest.param({}, 0, id="all is well"),
        pytest.param({"messages": {"lost": 1}}, 1, id="a message was lost"),
        pytest.param({"messages": {"lost": None}}, 1, id="unknown what was lost"),
        pytest.param({"together": ("two",)}, 1, id="two agents met"),
        pytest.param({"unsure": ("a container",)}, 1, id="the recorder is not sure"),
        pytest.param({"lives": 0}, 1, id="the recorder saw nothing"),
        pytest.param({"unapproved": ("down",)}, 1, id="an unapproved downgrade"),
        pytest.param({"bugs": 2}, 1, id="a bug in the operator"),
        pytest.param({"converged_seconds": None}, 1, id="it never came right"),
    ],
)
def test_what_is_held_against_the_figures(found: dict[str, Any], missed: int) -> None:
    """Each promise alone; pushes that an ended agent had accepted do not count as lost."""
    assert missed == sum(not bar.kept for bar in bars(replace(GOOD, **found)))


def test_each_rollout_counts_once() -> None:
    """History is read again and again, and forgets what is older than ten rollouts."""
    rollouts = Rollouts()
    one, two = entry("5.1.14", "5.1.15"), entry("5.1.15", "5.1.16", outcome="Failed")
    rollouts.see([one])
    rollouts.see([two, {**one, "gapSeconds": 0}])
    rollouts.see([two])
    assert {"Completed": 1, "Failed": 1} == rollouts.outcomes()


@pytest.mark.parametrize(
    ("found", "count"),
    [
        pytest.param(entry("5.1.15", "4.2.3"), 1, id="not approved"),
        pytest.param(entry("5.1.15", "4.2.3", approval={"text": "4.2.3 CHG-1"}), 0, id="approved"),
        pytest.param(entry("5.1.15", "4.2.3", rolledBackFrom="5.1.15"), 0, id="the way back from a failed change"),
        pytest.param(entry("5.1.15", "4.2.3", outcome="Aborted"), 0, id="given up"),
        pytest.param(entry("4.2.3", "5.1.15"), 0, id="an upgrade"),
    ],
)
def test_unapproved_downgrades(found: dict[str, Any], count: int) -> None:
    """They are found in history."""
    rollouts = Rollouts()
    rollouts.see([found])
    assert count == len(rollouts.unapproved())
