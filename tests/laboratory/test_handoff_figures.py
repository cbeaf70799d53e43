"""That the bench of handoffs counts rightly and is able to say no. No cluster: reports are made up here."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.tools.bench.machine import Machine
from tests.tools.handoffs import behind_gate, going_back, report
from tests.tools.handoffs.figures import Downgrades, Figures, Handoffs, OperatorStart, bars, overlaps
from tests.tools.handoffs.run import Results
from tests.tools.handoffs.times import GivenUp, PodTimes

if TYPE_CHECKING:
    from pathlib import Path


def counted(**other: float) -> dict[str, Any]:
    """The generator's figures of an interval in which nothing went wrong."""
    good = {
        "sent": 1000,
        "acknowledged": 1000,
        "acknowledged_per_second": 190.0,
        "longest_pause_seconds": 0.05,
        "most_breaks_on_one_connection": 1,
    }
    nothing = ("lost", "unacknowledged", "refused", "unreachable", "timeouts", "repeated")
    return {**dict.fromkeys(nothing, 0), **good, **other}


def traffic_report(*stages: dict[str, Any]) -> dict[str, Any]:
    """A report with a stage for each handoff; the whole is like the last of them."""
    named = [
        {"name": f"handoff {number}", "overall": stage, "push": counted(sent=10, repeated=8)}
        for number, stage in enumerate(stages)
    ]
    return {
        "stages": [{"name": "start", "overall": counted(), "push": counted()}, *named],
        "overall": stages[-1],
        "shapes": {"push": counted(sent=20, repeated=16)},
        "generator": {"longest_stall_seconds": 0.02},
    }


def handoffs(*stages: dict[str, Any], overlap: float = 4.5) -> Handoffs:
    """Handoffs in a row."""
    names = [f"handoff {number}" for number in range(len(stages))]
    return Handoffs.of(traffic_report(*stages), names, [overlap] * len(stages))


def figures() -> Figures:
    """Those of a run that kept every promise."""
    row = handoffs(counted(), counted())
    there = Downgrades(
        "on the node", ours=(3.0, 3.2, 9.0), bare=(3.1, 3.0), resolution=0.025, generator_stall=0.01, lost=0
    )
    return Figures(
        original=row,
        enhanced=handoffs(counted(lost=7)),
        drains=row,
        downgrades=there,
        downgrades_absent=replace(there, image="absent", bare=(6.0,)),
        operator=OperatorStart((2.5, 2.7), (60.0,)),
        agents_seen=20,
        violations=(),
    )


def test_each_handoff_is_counted_from_its_mark() -> None:
    """A stage of the report becomes the figures of its handoff; a connection without a route counts as refused."""
    first, second = handoffs(counted(), counted(unreachable=1, refused=2, longest_pause_seconds=0.4)).handoffs
    assert ("handoff 0", 0, 0.05) == (first.name, first.refused, first.longest_pause)
    assert ("handoff 1", 3, 0.4) == (second.name, second.refused, second.longest_pause)
    assert (10, 8) == (second.pushes, second.pushes_repeated)


def test_an_overlap_lasts_from_the_new_connection_to_the_end_of_the_old_one() -> None:
    """Three agents after each other make two overlaps; one that came too late makes a negative one, which is a gap."""
    seen: list[dict[str, Any]] = [
        {"connectedAt": 0.0, "disconnectedAt": 14.0},
        {"connectedAt": 10.0, "disconnectedAt": 20.0},
        {"connectedAt": 21.0, "disconnectedAt": None},
    ]
    assert [4.0, -1.0] == overlaps(seen)


def test_a_good_run_keeps_every_promise() -> None:
    """Loss in enhanced mode is shown but is no target: no operator can prevent it."""
    assert [] == [bar for bar in bars(figures()) if not bar.kept]


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ({"original": handoffs(counted(lost=1))}, "lost, 1 handoffs"),
        ({"original": handoffs(counted(refused=1))}, "refused, 1 handoffs"),
        ({"original": handoffs(counted(longest_pause_seconds=0.3))}, "longest pause"),
        ({"original": handoffs(counted(most_breaks_on_one_connection=2))}, "breaks of one long-lived connection"),
        ({"enhanced": handoffs(counted(), overlap=5.1)}, "both agents connected"),
        ({"drains": handoffs(counted(refused=1))}, "refused in node drains"),
        ({"drains": handoffs(counted(lost=2))}, "lost, 1 node drains"),
        ({"violations": ("two at once",)}, "two agents at once"),
        ({"operator": OperatorStart((2.0, 5.5), ())}, "operator"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_bad_figure_misses_its_promise_and_no_other(change: dict[str, Any], promise: str) -> None:
    """Each bar is able to say no."""
    missed = [bar.promise for bar in bars(replace(figures(), **change)) if not bar.kept]
    assert 1 == len(missed)
    assert missed[0].startswith(promise)


def test_gaps_are_compared_by_their_medians() -> None:
    """One slow downgrade does not decide; a median that is 1.2 times the other does."""
    there = figures().downgrades
    assert 3.2 / 3.05 == pytest.approx(there.ratio)
    slow = replace(figures(), downgrades=replace(there, ours=(3.7, 3.7)))
    assert ["1.21 times"] == [bar.measured for bar in bars(slow) if not bar.kept]


def test_results_are_written_for_people_and_programs(tmp_path: Path) -> None:
    """handoff.json holds each handoff and the ratios; handoff.md has the table of the bars, misses in bold."""
    bad = replace(figures(), violations=("two at once",))
    here = Machine(cores=2, processor="a processor", memory_gib=8.0, kernel="Linux 6", busy_with_others=0.1)
    path = report.write(Results("2026-01-01", here, {"etcd": "v3"}, bad, bars(bad)), tmp_path)
    found = json.loads(path.read_text())
    assert 2 == len(found["figures"]["original"]["handoffs"])
    assert 0.533 == found["figures"]["downgrades_absent"]["ratio_of_medians"]
    assert "| 0 | 1 | **no** |" in (tmp_path / report.SUMMARY).read_text()


def behind_a_gate() -> behind_gate.Figures:
    """Those of a run that kept every promise."""
    row = handoffs(counted(most_breaks_on_one_connection=0))
    change = behind_gate.Recreate("down 0", longest_pause=2.5, gap=2.4, noticed=0)
    return behind_gate.Figures(row, row, (change, change), dict.fromkeys(behind_gate.NOTICED, 0), 20, ())


def test_a_good_run_behind_a_gate_keeps_every_promise() -> None:
    """And is shown in three tables."""
    promised = behind_gate.bars(behind_a_gate())
    assert [] == [bar for bar in promised if not bar.kept]
    assert [13, 2, 1] == [len(rows) for _, _, rows in behind_gate.summary(behind_a_gate(), promised)]


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (
            {"original": handoffs(counted(most_breaks_on_one_connection=0, repeated=1))},
            "repeated, 1 handoffs, original",
        ),
        ({"enhanced": handoffs(counted(most_breaks_on_one_connection=0, lost=1))}, "lost, 1 handoffs, enhanced"),
        ({"enhanced": handoffs(counted(most_breaks_on_one_connection=1))}, "connections broken, 1 handoffs, enhanced"),
        ({"noticed": {"reset": 1}}, "lost, refused, broken, repeated, 2 forced"),
        ({"recreates": (behind_gate.Recreate("down 0", 3.0, 2.0, 0),)}, "longest answer"),
        ({"violations": ("two at once",)}, "two agents at once"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_bad_figure_behind_a_gate_misses_its_promise_and_no_other(change: dict[str, Any], promise: str) -> None:
    """Each bar is able to say no."""
    missed = [bar.promise for bar in behind_gate.bars(replace(behind_a_gate(), **change)) if not bar.kept]
    assert 1 == len(missed)
    assert missed[0].startswith(promise)


def going() -> going_back.Figures:
    """Those of a run that kept every promise."""
    nothing = dict.fromkeys(behind_gate.NOTICED, 0)
    times = {behind_gate.LOW: [2.0, 2.2], behind_gate.HIGH: [3.0, 2.5]}
    return going_back.Figures(times, times, nothing, 2, nothing, restarts=0, agents_seen=9, violations=())


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ({"back": {behind_gate.LOW: [2.0], behind_gate.HIGH: [9.0]}}, "5.1.15 serves again after 4.2.3 failed"),
        ({"back": {behind_gate.LOW: [9.0], behind_gate.HIGH: [2.0]}}, "4.2.3 serves again after 5.1.15 failed"),
        ({"noticed": {"lost": 1}}, "lost, refused, broken, repeated, 4 recreates that failed"),
        ({"handoffs_noticed": {"reset": 1}}, "lost, refused, broken, repeated, 2 handoffs that failed"),
        ({"restarts": 1}, "restarts"),
        ({"violations": ("two at once",)}, "two agents at once"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_bad_figure_of_failed_changes_misses_its_promise_and_no_other(change: dict[str, Any], promise: str) -> None:
    """Each bar is able to say no, and none does where all is well."""
    assert [] == [bar for bar in going_back.bars(going()) if not bar.kept]
    missed = [bar.promise for bar in going_back.bars(replace(going(), **change)) if not bar.kept]
    assert 1 == len(missed)
    assert missed[0].startswith(promise)


def test_a_change_is_timed_by_its_own_pods() -> None:
    """From the old pod's end, or from the certain failure; what was there before and what came later does not count."""
    times = PodTimes(ready={"old": 1.0})
    watch = going_back.Stopwatch(times)
    times.terminating["old"] = 10.0
    times.terminating["failed"] = 11.5
    times.ready["new"] = 14.25
    assert (4.25, 3.25) == (watch.plain(), watch.back(since=11.0))


def test_when_a_deployment_is_given_up_is_the_first_time_that_a_watch_tells_of_it() -> None:
    """Its own, and no other one's."""
    given_up = GivenUp("front-desk")
    over = {"conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]}
    given_up.see({"metadata": {"name": "front-desk"}, "status": {}})
    given_up.see({"metadata": {"name": "front-desk-gate"}, "status": over})
    assert None is given_up.at
    given_up.see({"metadata": {"name": "front-desk"}, "status": over})
    first = given_up.at
    given_up.see({"metadata": {"name": "front-desk"}, "status": over})
    assert None is not first == given_up.at
