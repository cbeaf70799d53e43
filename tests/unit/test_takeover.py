"""Gap and overlap: from what the passes saw to the two figures."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.status import Rollout, Strategy
from medplum_agent_operator.core.observed.rollout_record import Change, RolloutRecord
from medplum_agent_operator.core.report.downtime_measurement import Measurement, gap_and_overlap, measure, within_second
from tests.support.builders import NOW, Raw, agent, observed, pod

HANDOFF, RECREATE = Strategy.ROLLING_HANDOFF, Strategy.RECREATE
BEGAN = 0.2
Pass = tuple[float, list[Raw]]


def at(seconds: float) -> datetime:
    """So many seconds after noon."""
    return NOW + timedelta(seconds=seconds)


def old(**at_seconds: Any) -> Raw:
    """A pod of the template before."""
    return _pod("5.1.14", "old", **at_seconds)


def new(**at_seconds: Any) -> Raw:
    """A pod of the live template."""
    return _pod("5.1.15", "new", **at_seconds)


def _pod(version: str, template: str, *, name: str | None = None, sleepers: bool = False, **at_seconds: Any) -> Raw:
    """`sleepers`: other containers of it have not ended yet."""
    fields = {key: at(value) if key != "terminating" else value for key, value in at_seconds.items()}
    phase = "Succeeded" if "ended_at" in fields and not sleepers else "Running"
    return pod(version, name=name or template, template_hash=template, phase=phase, **fields)


ROLLED_OUT: Raw = {
    "metadata": {},
    "spec": {"template": {"metadata": {"annotations": {names.TEMPLATE_HASH: "new"}}}},
    "status": {
        "conditions": [{"type": "Progressing", "reason": "NewReplicaSetAvailable"}],
        **dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), 1),
    },
}


@pytest.mark.parametrize("since", [5, 8])
def test_that_the_new_pod_is_not_ready_is_no_end_of_the_old_one(since: float) -> None:
    """The old pod went unseen: then it was gone when the new one was made."""
    record = RolloutRecord(
        change=Change.UPGRADE, from_version="5.1.14", to="5.1.15", strategy=Strategy.RECREATE, started_at=at(BEGAN)
    )
    seen = observed(agent(), deployment=ROLLED_OUT, pods=[new(created=5, unready_since=since)])
    ended = measure(Measurement(), record, seen, begins=False, now=at(9)).old_ended_at
    assert within_second(at(5), seen_at=at(9)) == ended


def told(
    strategy: Strategy, *passes: Pass, begins_with: list[Raw] | None = None, came_from: str | None = "5.1.14"
) -> tuple[float | None, float | None]:
    """The figures after these passes: each its time, and the pods that it sees."""
    record = RolloutRecord(
        change=Change.UPGRADE, from_version=came_from, to="5.1.15", strategy=strategy, started_at=at(BEGAN)
    )
    known = Measurement()
    if begins_with is not None:
        known = measure(known, record, observed(agent(), pods=begins_with), begins=True, now=at(BEGAN))
    for now, pods in passes:
        seen = observed(agent(), deployment=ROLLED_OUT, pods=pods)
        known = measure(known, record, seen, begins=False, now=at(now))
    noted = Rollout(to="5.1.15", old_ended_at=known.old_ended_at, new_ready_at=known.new_ready_at)
    return gap_and_overlap(noted, record, seen)


SERVES = {"ready_since": -100}

RECREATES = [
    pytest.param(
        [
            (0.3, [old(**SERVES, terminating=True)]),
            (5.31, [old(ended_at=5, unready_since=5)]),
            (5.4, [new(created=5, unready_since=5)]),
            (7.843, [new(created=5, ready_since=7)]),
        ],
        (2.53, 0.0),
        id="watched: from the old one's end to the new one's readiness, by the operator's clock; the drain is no gap",
    ),
    pytest.param(
        [(5.31, [old(ended_at=5, unready_since=5)]), (60, [new(created=5, ready_since=7)])],
        (2.69, 0.0),
        id="away when the new one became ready: the end of Kubernetes' second stands for it",
    ),
    pytest.param(
        [(6.9, [old(ended_at=5, unready_since=6)]), (7.84, [new(created=5, ready_since=7)])],
        (1.84, 0.0),
        id="away when the old one ended, and its pod still there: the end of the second of its end",
    ),
    pytest.param(
        [(60, [new(created=5, ready_since=7)])],
        (2.0, 0.0),
        id="away all the time: from the second in which the new pod was made, to the second in which it was ready",
    ),
    pytest.param(
        [(0.3, [old(**SERVES)]), (2.1, [new(created=2, unready_since=2)]), (4.5, [new(created=2, ready_since=4)])],
        (2.4, 0.0),
        id="the old pod was removed by force, so nobody saw it end: from the making of the new one",
    ),
    pytest.param(
        [
            (0.3, [old(**SERVES), old(name="of-the-day-before", ended_at=-3600)]),
            (2.1, [old(name="of-the-day-before", ended_at=-3600), new(created=2, unready_since=2)]),
            (4.5, [old(name="of-the-day-before", ended_at=-3600), new(created=2, ready_since=4)]),
        ],
        (2.4, 0.0),
        id="the same, and a pod of the day before has no say",
    ),
    pytest.param(
        [(4.9, [old(ended_at=5, unready_since=5)]), (6.95, [new(created=5, ready_since=7)])],
        (2.0, 0.0),
        id="the node's clock is ahead of the operator's: its seconds count",
    ),
    pytest.param(
        [(3.4, [old(unready_since=3)]), (5.31, [old(ended_at=5, unready_since=3)]), (7.84, [new(ready_since=7)])],
        (4.44, 0.0),
        id="the old one was no longer ready before it ended: from the loss of its readiness",
    ),
    pytest.param(
        [(5.3, [old(ended_at=5, unready_since=5)]), (7.8, [new(ready_since=7)]), (9, [new(unready_since=8)]), (11, [new(ready_since=10)])],
        (2.5, 0.0),
        id="the new one becomes unready once more: the first time counts",
    ),
    pytest.param(
        [
            (0.3, [old(**SERVES), old(name="of-the-day-before", ended_at=-3600, unready_since=-3600)]),
            (5.3, [old(ended_at=5, unready_since=5), old(name="of-the-day-before", ended_at=-3600, unready_since=-3600)]),
            (7.8, [new(ready_since=7)]),
        ],
        (2.5, 0.0),
        id="a pod that had ended long before tells nothing",
    ),
    pytest.param(
        [(2.4, [old(ended_at=0)]), (7.8, [new(ready_since=7)])],
        (6.8, 0.0),
        id="the old one ended in the second in which the rollout began: that is its end",
    ),
    pytest.param(
        [(0.4, [old(ended_at=0, unready_since=0)]), (0.9, [new(created=0, ready_since=0)])],
        (0.5, 0.0),
        id="all of it happens in the second in which the rollout began",
    ),
    pytest.param(
        [
            (5.31, [old(ended_at=5, unready_since=5)]),
            (7.6, [new(ready_since=6, ended_at=7, sleepers=True)]),
            (9.81, [new(ready_since=9)]),
        ],
        (4.5, 0.0),
        id="the new agent has ended before that is seen in its pod's readiness: it serves when it has started again",
    ),
    pytest.param(
        [(0.5, [new(created=-200, ready_since=-100)]), (5.3, [new(created=3, ready_since=5)])],
        (5.1, 0.0),
        id="what comes back served already, and its pod is replaced before that is noted: its readiness of before tells nothing",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("passes", "expected"), RECREATES)
def test_a_recreate(passes: list[Pass], expected: tuple[float, float]) -> None:
    """The gap is the time in which neither could serve; they never overlap."""
    assert expected == told(RECREATE, *passes, begins_with=[old(**SERVES)])


HANDOFFS = [
    pytest.param(
        [
            (2.4, [old(**SERVES), new(ready_since=2)]),
            (4.0, [old(**SERVES, terminating=True), new(ready_since=2)]),
            (9.3, [old(ended_at=9, unready_since=9), new(ready_since=2)]),
        ],
        (0.0, 7.3),
        id="watched: no gap; the overlap lasts until the old one's end, its drain included",
    ),
    pytest.param(
        [
            (2.4, [old(**SERVES), new(ready_since=2)]),
            (9.3, [old(ended_at=9, unready_since=9, sleepers=True), new(ready_since=2)]),
            (9.4, [old(ended_at=9, unready_since=9), new(ready_since=2)]),
        ],
        (0.0, 7.4),
        id="the old agent has ended before the rest of its pod: told when the rollout is done, without a write in between",
    ),
    pytest.param(
        [(2.4, [old(**SERVES), new(ready_since=2)]), (9.3, [new(ready_since=2)])],
        (None, None),
        id="nobody saw the old one end: nothing is told",
    ),
    pytest.param(
        [
            (3.2, [old(unready_since=3), new(unready_since=1)]),
            (5.6, [old(unready_since=3), new(ready_since=5)]),
            (6.0, [new(ready_since=5)]),
        ],
        (2.4, 0.0),
        id="the old one fails before the new one is ready: a gap, in a handoff too",
    ),
    pytest.param(
        [
            (3.2, [old(unready_since=3)]),
            (4.1, [old(ready_since=4)]),
            (6.5, [old(ready_since=4), new(ready_since=6)]),
            (9.3, [old(ended_at=9, unready_since=9), new(ready_since=6)]),
        ],
        (0.0, 3.3),
        id="the old one is unready for a moment and comes back: it counts until it ends for good",
    ),
    pytest.param(
        [(2.4, [old(unready_since=1), new(ready_since=-100)]), (2.6, [new(ready_since=-100)])],
        (0.0, None),
        id="a target is given up for the pod that served all the time: no gap, and nothing to measure an overlap by",
    ),
    pytest.param(
        [(9.3, [old(ended_at=9, unready_since=9), new(unready_since=8)])],
        (None, None),
        id="the new one fails just then: nothing is told",
    ),
]


@pytest.mark.parametrize(("passes", "expected"), HANDOFFS)
def test_a_handoff(passes: list[Pass], expected: tuple[float | None, float | None]) -> None:
    """The overlap is the time in which both could serve, from the beginning of Kubernetes' second on."""
    assert expected == told(HANDOFF, *passes, begins_with=[old(**SERVES)])


@pytest.mark.parametrize(
    "begins_with",
    [
        pytest.param([], id="there is no pod"),
        pytest.param([old(unready_since=-3600)], id="the old one has been out of order for an hour"),
    ],
)
def test_where_nothing_serves_at_its_beginning_the_gap_counts_from_there(begins_with: list[Raw]) -> None:
    """What was before is not the rollout's."""
    passes = [(0.9, begins_with), (1.5, [new(created=1)]), (4.7, [new(created=1, ready_since=4)])]
    assert (4.5, 0.0) == told(RECREATE, *passes, begins_with=begins_with)


def test_a_first_installation_takes_over_from_nobody() -> None:
    """Neither gap nor overlap."""
    assert (None, None) == told(HANDOFF, (3.0, [new(created=0, ready_since=2)]), begins_with=[], came_from=None)


@pytest.mark.parametrize(
    ("seen_at", "expected"),
    [
        pytest.param(5.25, 5.25, id="within the second: our clock"),
        pytest.param(4.9, 5.0, id="before it: its beginning"),
        pytest.param(6.0, 6.0, id="at its end: its end"),
        pytest.param(99.0, 6.0, id="long after: its end"),
    ],
)
def test_a_moment_is_our_clock_within_the_second_that_kubernetes_tells(seen_at: float, expected: float) -> None:
    """Whatever our clock says, the moment stays in that second."""
    assert at(expected) == within_second(at(5), seen_at=at(seen_at))
