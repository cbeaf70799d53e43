"""Changes of mind, at every moment of a rollout: each has a defined end.

A row is a change of version, a moment of it, and what somebody does then. The end is read from `ENDS`, by how far the change has got; the
simulated cluster asserts I1 and I2 at every turn on the way. docs/how-to/change-your-mind.md says the same in words.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Outcome, Phase
from tests.support.minds import (
    DOWN,
    FAILED_DOWNGRADE,
    FAILED_HANDOFF,
    FAILED_UPGRADE,
    FORCED,
    HANDOFF,
    HELD_DOWNGRADE,
    HELD_HANDOFF,
    MINDS,
    REFUSED,
    UPGRADE,
    WAITING_DOWNGRADE,
    WAITING_UPGRADE,
    Change,
    Mind,
    Moment,
    reach,
)

if TYPE_CHECKING:
    from tests.support.simulated_cluster import SimulatedCluster


@dataclass(frozen=True)
class End:
    """What comes of it.

    Attributes:
        phase: what the agent is in.
        runs: which version runs, by its word in `Change.versions`.
        rollouts: what history tells after the installation, oldest first: from, to, outcome, and the ticket of the approval if it is
            not the one of the change itself.
        taken_off: whether the approval is not there any more, so that none counts as used.
        anew: whether history is that of another MedplumAgent.
    """

    phase: Phase
    runs: str
    rollouts: tuple[str, ...] = ()
    taken_off: bool = False
    anew: bool = False


Ends = dict[Mind, End]


def running(runs: str, *rollouts: str, taken_off: bool = False) -> End:
    """All is as the spec says."""
    return End(Phase.RUNNING, runs, rollouts, taken_off=taken_off)


def refused(runs: str, *rollouts: str, taken_off: bool = False) -> End:
    """The spec asks for a downgrade that nobody approved, or not any more."""
    return End(Phase.AWAITING_APPROVAL, runs, rollouts, taken_off=taken_off)


def waits(runs: str, *rollouts: str) -> End:
    """For a window."""
    return End(Phase.AWAITING_WINDOW, runs, rollouts)


def paused(runs: str, *rollouts: str) -> End:
    """Nothing more is begun."""
    return End(Phase.PAUSED, runs, rollouts)


def latched(runs: str, *rollouts: str, taken_off: bool = False) -> End:
    """What failed is not tried again by itself."""
    return End(Phase.FAILED, runs, rollouts, taken_off=taken_off)


ANEW: Final[Ends] = {
    Mind.ANEW_AS_BEFORE: End(Phase.RUNNING, "before", anew=True),
    Mind.ANEW_AS_AFTER: End(Phase.RUNNING, "after", anew=True),
}
"""Another MedplumAgent: an installation, whatever was there before."""

ASKED: Final[Ends] = ANEW | {
    Mind.UP: running("up", "before>up Completed"),
    Mind.BETWEEN: running("between", "before>between Completed"),
    Mind.DOWN: refused("before"),
    Mind.DOWN_APPROVED: running("down", "before>down Completed CHG-9"),
    Mind.DOWN_APPROVED_LATE: running("down", "before>down Completed CHG-9"),
    Mind.REVERT: running("before"),
    Mind.REVERT_AND_AGAIN: running("after", "before>after Completed"),
    Mind.PAUSE: paused("before"),
    Mind.RESUME: running("after", "before>after Completed"),
}
"""Nothing was done yet: it never was."""

APPROVED: Final[Ends] = ASKED | {
    Mind.BETWEEN: refused("before"),
    Mind.APPROVE: running("after", "before>after Completed CHG-2"),
    Mind.APPROVE_IN_PAUSE: running("after", "before>after Completed CHG-2"),
    Mind.WITHDRAW: refused("before", taken_off=True),
    Mind.WITHDRAW_AND_APPROVE: running("after", "before>after Completed"),
}
"""Nothing was done yet, and an approval waits to be used."""

GIVEN_UP: Final = ("before>after Aborted", "before>before Completed")

BEGUN: Final[Ends] = ANEW | {
    Mind.UP: running("up", "before>after Superseded", "before>up Completed"),
    Mind.BETWEEN: running("between", "before>after Superseded", "before>between Completed"),
    Mind.DOWN: refused("after", "before>after Completed"),
    Mind.DOWN_APPROVED: running("down", "before>after Superseded", "before>down Completed CHG-9"),
    Mind.DOWN_APPROVED_LATE: running("down", "before>after Completed", "after>down Completed CHG-9"),
    Mind.REVERT: running("before", *GIVEN_UP),
    Mind.REVERT_AND_AGAIN: running("after", *GIVEN_UP, "before>after Completed"),
    Mind.PAUSE: paused("after", "before>after Completed"),
    Mind.RESUME: running("after", "before>after Completed"),
}
"""The Deployment is written, and the new agent is not active: what is not refused begins from the old one."""

USED: Final[Ends] = {
    Mind.BETWEEN: running("between", "before>after Completed", "after>between Completed"),
    Mind.REVERT_AND_AGAIN: refused("before", *GIVEN_UP),
    Mind.APPROVE: running("after", "before>after Completed"),
    Mind.APPROVE_IN_PAUSE: running("after", "before>after Completed"),
    Mind.WITHDRAW: running("after", "before>after Completed", taken_off=True),
    Mind.WITHDRAW_AND_APPROVE: running("after", "before>after Completed", taken_off=True),
}
"""Once the downgrade has begun its approval was used, and what becomes of the annotation changes nothing. A version in between is refused only
until the downgrade is done: from there it is an upgrade."""

ACTIVE: Final[Ends] = ANEW | {
    Mind.UP: running("up", "before>after Completed", "after>up Completed"),
    Mind.BETWEEN: refused("after", "before>after Completed"),
    Mind.DOWN: refused("after", "before>after Completed"),
    Mind.DOWN_APPROVED: running("down", "before>after Completed", "after>down Completed CHG-9"),
    Mind.DOWN_APPROVED_LATE: running("down", "before>after Completed", "after>down Completed CHG-9"),
    Mind.REVERT: refused("after", "before>after Completed"),
    Mind.REVERT_APPROVED_LATE: running("before", "before>after Completed", "after>before Completed CHG-8"),
    Mind.REVERT_AND_AGAIN: running("after", "before>after Completed"),
    Mind.PAUSE: paused("after", "before>after Completed"),
    Mind.RESUME: running("after", "before>after Completed"),
}
"""The new agent was active: what is wanted now goes from there."""

SERVES_ALONE: Final[Ends] = ACTIVE | {
    Mind.UP: running("up", "before>after Superseded", "after>up Completed"),
    Mind.DOWN_APPROVED: running("down", "before>after Superseded", "after>down Completed CHG-9"),
}
"""The new agent is newer and alone serves, though not for long enough: nobody goes down from it without an approval."""

ACTIVE_BELOW: Final[Ends] = ACTIVE | {
    Mind.BETWEEN: running("between", "before>after Completed", "after>between Completed"),
    Mind.REVERT: running("before", "before>after Completed", "after>before Completed"),
    Mind.REVERT_APPROVED_LATE: running("before", "before>after Completed", "after>before Completed"),
    Mind.REVERT_AND_AGAIN: refused("before", "before>after Completed", "after>before Completed"),
}
"""After a downgrade the way back is an upgrade, and an approval of it is not used."""

AWAITS_APPROVAL: Final[Ends] = ASKED | {
    Mind.BETWEEN: refused("before"),
    Mind.REVERT_AND_AGAIN: refused("before"),
    Mind.RESUME: refused("before"),
    Mind.APPROVE: running("after", "before>after Completed CHG-2"),
    Mind.APPROVE_IN_PAUSE: running("after", "before>after Completed CHG-2"),
}

AWAITS_WINDOW: Final[Ends] = ASKED | {
    Mind.UP: waits("before"),
    Mind.BETWEEN: waits("before"),
    Mind.DOWN_APPROVED: waits("before"),
    Mind.DOWN_APPROVED_LATE: waits("before"),
    Mind.REVERT_AND_AGAIN: waits("before"),
    Mind.RESUME: waits("before"),
    Mind.AT_ONCE: running("after", "before>after Completed"),
}
"""Whatever stops the agent first waits; an approval is not used meanwhile."""

APPROVED_AWAITS_WINDOW: Final[Ends] = AWAITS_WINDOW | {
    Mind.UP: running("up", "before>up Completed"),
    Mind.BETWEEN: refused("before"),
    Mind.APPROVE: waits("before"),
    Mind.APPROVE_IN_PAUSE: waits("before"),
    Mind.WITHDRAW: refused("before", taken_off=True),
    Mind.WITHDRAW_AND_APPROVE: waits("before"),
}
"""The same from a newer agent: a handoff to one still newer needs no window."""

FAILED: Final = ("before>after Failed", "before>before Completed")

TAKEN_BACK: Final[Ends] = ANEW | {
    Mind.UP: running("up", *FAILED, "before>up Completed"),
    Mind.BETWEEN: running("between", *FAILED, "before>between Completed"),
    Mind.DOWN: refused("before", *FAILED),
    Mind.DOWN_APPROVED: running("down", *FAILED, "before>down Completed CHG-9"),
    Mind.DOWN_APPROVED_LATE: running("down", *FAILED, "before>down Completed CHG-9"),
    Mind.REVERT: running("before", *FAILED),
    Mind.REVERT_AND_AGAIN: running("after", *FAILED, "before>after Completed"),
    Mind.PAUSE: paused("before", *FAILED),
    Mind.RESUME: latched("before", *FAILED),
    Mind.RETRY: running("after", *FAILED, "before>after Completed"),
}
"""What was active serves again."""

APPROVED_TAKEN_BACK: Final[Ends] = TAKEN_BACK | {
    Mind.BETWEEN: refused("before", *FAILED),
    Mind.APPROVE: running("after", *FAILED, "before>after Completed CHG-2"),
    Mind.APPROVE_IN_PAUSE: running("after", *FAILED, "before>after Completed CHG-2"),
    Mind.WITHDRAW: latched("before", *FAILED, taken_off=True),
    Mind.WITHDRAW_AND_APPROVE: latched("before", *FAILED, taken_off=True),
    Mind.REVERT_AND_AGAIN: refused("before", *FAILED),
    Mind.RETRY: refused("before", *FAILED),
}
"""The approval was spent by the try that failed: another try needs another one."""

LEFT: Final = ("before>after Failed", "before>before Superseded")

GOES_BACK: Final[Ends] = TAKEN_BACK | {
    Mind.UP: running("up", *LEFT, "before>up Completed"),
    Mind.BETWEEN: running("between", *LEFT, "before>between Completed"),
    Mind.DOWN_APPROVED: running("down", *LEFT, "before>down Completed CHG-9"),
    Mind.RETRY: running("after", *LEFT, "before>after Completed"),
}
"""The same, but what is not refused does not wait for the end of the way back."""

APPROVED_GOES_BACK: Final[Ends] = APPROVED_TAKEN_BACK | {
    Mind.UP: running("up", *LEFT, "before>up Completed"),
    Mind.DOWN_APPROVED: running("down", *LEFT, "before>down Completed CHG-9"),
    Mind.APPROVE: running("after", *LEFT, "before>after Completed CHG-2"),
}

HELD: Final[Ends] = BEGUN | {
    Mind.UP: running("up", "before>after Failed", "before>up Completed"),
    Mind.DOWN_APPROVED: running("down", "before>after Failed", "before>down Completed CHG-9"),
    Mind.REVERT: running("before", *FAILED),
    Mind.REVERT_AND_AGAIN: running("after", *FAILED, "before>after Completed"),
}
"""Nothing was taken back: it is as if it were still under way, and comes right by itself."""

WINDOW_CLOSED: Final[Ends] = BEGUN | {
    Mind.DOWN_APPROVED: waits("after", "before>after Completed"),
    Mind.DOWN_APPROVED_LATE: waits("after", "before>after Completed"),
    Mind.REVERT_AND_AGAIN: waits("before", *GIVEN_UP),
}
"""What has begun goes on, and what would stop an agent waits for the next window; the way back to what was active does not."""

DOWNGRADE_WINDOW_CLOSED: Final[Ends] = (
    WINDOW_CLOSED
    | USED
    | {
        Mind.UP: waits("after", "before>after Completed"),
        Mind.BETWEEN: waits("after", "before>after Completed"),
    }
)

ROWS: Final[list[tuple[Change, list[Moment], Ends]]] = [
    (HANDOFF, [Moment.UNSEEN], ASKED),
    (HANDOFF, [Moment.WRITTEN, Moment.READY], BEGUN),
    (HANDOFF, [Moment.DRAINS, Moment.COMPLETED], ACTIVE),
    (UPGRADE, [Moment.UNSEEN, Moment.FETCHING], ASKED),
    (UPGRADE, [Moment.WRITTEN, Moment.STOPPED], BEGUN),
    (UPGRADE, [Moment.READY], SERVES_ALONE),
    (UPGRADE, [Moment.COMPLETED], ACTIVE),
    (UPGRADE, [Moment.WINDOW_CLOSED, Moment.WINDOW_CLOSED_STOPPED], WINDOW_CLOSED),
    (FORCED, [Moment.UNSEEN, Moment.FETCHING], APPROVED),
    (FORCED, [Moment.WRITTEN, Moment.STOPPED, Moment.READY], BEGUN | USED),
    (FORCED, [Moment.COMPLETED], USED | ACTIVE_BELOW),
    (FORCED, [Moment.WINDOW_CLOSED, Moment.WINDOW_CLOSED_STOPPED], DOWNGRADE_WINDOW_CLOSED),
    (REFUSED, [Moment.UNSEEN, Moment.WAITING], AWAITS_APPROVAL),
    (WAITING_UPGRADE, [Moment.UNSEEN, Moment.WAITING], AWAITS_WINDOW),
    (WAITING_DOWNGRADE, [Moment.UNSEEN, Moment.WAITING], APPROVED_AWAITS_WINDOW),
    (FAILED_HANDOFF, [Moment.TAKEN_BACK], TAKEN_BACK),
    (FAILED_UPGRADE, [Moment.GOING_BACK], GOES_BACK),
    (FAILED_UPGRADE, [Moment.TAKEN_BACK], TAKEN_BACK),
    (FAILED_DOWNGRADE, [Moment.GOING_BACK], APPROVED_GOES_BACK),
    (FAILED_DOWNGRADE, [Moment.TAKEN_BACK], APPROVED_TAKEN_BACK),
    (HELD_HANDOFF, [Moment.MENDED], HELD),
    (HELD_DOWNGRADE, [Moment.MENDED], HELD | USED | {Mind.REVERT_AND_AGAIN: refused("before", *FAILED)}),
]
REACHED: Final = [
    pytest.param(change, moment, id=f"{change.name}, {moment}") for change, moments, _ in ROWS for moment in moments
]
ENDS: Final = [
    pytest.param(change, moment, mind, end, id=f"{change.name}, {moment}: {mind}")
    for change, moments, ends in ROWS
    for moment in moments
    for mind, end in ends.items()
    if change.has(mind)
]


def told(end: End, change: Change) -> list[tuple[str | None, str, Outcome, str | None]]:
    """History as the end has it, oldest first, with the texts of approvals."""
    versions = change.versions
    found: list[tuple[str | None, str, Outcome, str | None]] = [
        (None, versions[end.runs] if end.anew else change.before, Outcome.COMPLETED, None)
    ]
    for rollout in end.rollouts:
        way, outcome, *tickets = rollout.split()
        source, target = (versions[side] for side in way.split(">"))
        if way == "before>after" and change.ticket:
            tickets = tickets or [change.ticket]
        found.append((source, target, Outcome(outcome), f"{target} {tickets[0]}" if tickets else None))
    return found


def history(cluster: SimulatedCluster) -> list[tuple[str | None, str, Outcome | None, str | None]]:
    """From, to, outcome and approval, oldest first."""
    return [
        (one.from_version, one.to, one.outcome, one.approval.text if one.approval else None)
        for one in reversed(cluster.status.history)
    ]


def pods_of(version: str, cluster: SimulatedCluster) -> list[str]:
    """The pods that run a version and were not told to go."""
    return [pod.name for pod in cluster.pods if pod.version.text == version and pod.told_to_go is None]


def stays(change: Change, moment: Moment, end: End) -> bool:
    """Whether the old pod, which was not stopped by then, is to serve in the end."""
    kept = {Moment.UNSEEN, Moment.WAITING, Moment.FETCHING, Moment.TAKEN_BACK}
    if change in {HANDOFF, HELD_HANDOFF}:
        kept |= {Moment.WRITTEN, Moment.READY, Moment.MENDED}
    return moment in kept and end.runs == "before" and not end.anew


@pytest.mark.parametrize(("change", "moment", "mind", "end"), ENDS)
def test_a_change_of_mind_has_a_defined_end(change: Change, moment: Moment, mind: Mind, end: End) -> None:
    """Phase, version, history and spent approvals; no needless pod; then all is at rest, and the spec as people wrote it."""
    cluster = reach(change, moment)
    old = pods_of(change.before, cluster)
    MINDS[mind](cluster, change)
    spec = dict(cluster.agent["spec"])
    status = cluster.settle().status
    wanted, version = told(end, change), change.versions[end.runs]
    assert wanted == history(cluster)
    assert (end.phase, [version]) == (status.phase, cluster.running)
    assert (version, spec["version"]) == (status.active_version, status.target_version)
    spent = [] if end.taken_off else [approval for *_, approval in wanted if approval is not None]
    assert spent == list(status.spent_approvals)
    assert not stays(change, moment, end) or old == pods_of(change.before, cluster)
    assert (len(wanted), None) == (len(cluster.books.rollouts), status.rollout)
    writes = list(cluster.writes)
    assert ((), writes) == (cluster.reconcile().actions, cluster.writes)
    assert spec == cluster.agent["spec"]


@pytest.mark.parametrize(("change", "moment"), REACHED)
def test_deleted_at_any_moment_nothing_is_left(change: Change, moment: Moment) -> None:
    """Everything that was made has an owner: no pod, no Job, no backup stays."""
    cluster = reach(change, moment)
    assert cluster.left
    assert [] == cluster.collect_garbage().left


@pytest.mark.parametrize(("change", "moment"), REACHED)
def test_a_namesake_takes_over_nothing(change: Change, moment: Moment) -> None:
    """While the Deployment of the first one exists, the second waits and names it; it writes to no object of the first one."""
    cluster = reach(change, moment)
    cluster.replace_agent(change.after)
    before = copy.deepcopy(cluster.objects)
    cluster.reconcile()
    assert before == cluster.objects
    assert (Phase.INSTALLING, ()) == (cluster.status.phase, cluster.status.history)
    assert "of a deleted MedplumAgent lab" in (cluster.status.plan or "")


def test_a_namesake_of_an_older_version_waits_until_the_pods_of_the_first_one_have_ended() -> None:
    """Nobody is asked to approve what is no downgrade once they are gone."""
    cluster = reach(FORCED, Moment.STOPPED)
    MINDS[Mind.ANEW_AS_BEFORE](cluster, REFUSED)
    cluster.settle().told.clear()
    MINDS[Mind.ANEW_AS_AFTER](cluster, REFUSED)
    told = cluster.settle().told
    assert Reason.DOWNGRADE_NOT_APPROVED not in {found.reason for found in told}
    (sentence,) = {found.message.summary for found in told if "before the older 4.2.3 starts" in str(found.message)}
    assert "(5.1.15) of a deleted MedplumAgent lab to end" in sentence
    assert (Phase.RUNNING, ["4.2.3"]) == (cluster.status.phase, cluster.running)


def test_words_that_were_not_used_approve_the_next_downgrade() -> None:
    """A second approval in the middle of a downgrade lies there until it is taken off."""
    cluster = reach(FORCED, Moment.STOPPED)
    MINDS[Mind.APPROVE](cluster, FORCED)
    cluster.settle().edit(version="5.1.15").settle().edit(version="4.2.3").settle()
    assert (Phase.RUNNING, ["4.2.3"]) == (cluster.status.phase, cluster.running)
    assert ("4.2.3 CHG-1", "4.2.3 CHG-2") == cluster.status.spent_approvals


def test_what_becomes_active_while_the_next_image_is_fetched_is_completed() -> None:
    """The next change goes from there, and the approval counts all the same."""
    cluster = reach(HANDOFF, Moment.READY)
    cluster.never_pulled.add(DOWN)
    MINDS[Mind.DOWN_APPROVED](cluster, HANDOFF)
    assert (Phase.RECREATING, ["5.1.15"]) == (cluster.settle().status.phase, cluster.running)
    cluster.never_pulled.clear()
    assert Phase.RUNNING is cluster.settle().status.phase
    assert [("5.1.14", "5.1.15", Outcome.COMPLETED, None), ("5.1.15", DOWN, Outcome.COMPLETED, f"{DOWN} CHG-9")] == (
        history(cluster)[1:]
    )


def test_a_change_that_fails_in_a_pause_is_taken_back_after_it() -> None:
    """Hands off means that too; the old agent of a handoff serves all the while."""
    cluster = reach(HANDOFF, Moment.WRITTEN)
    cluster.never_ready.add("5.1.15")
    MINDS[Mind.PAUSE](cluster, HANDOFF)
    cluster.wait_for_deadline()
    assert (Phase.PAUSED, ["5.1.14", "5.1.15"]) == (cluster.status.phase, cluster.running)
    cluster.edit(paused=False).settle()
    assert (Phase.FAILED, ["5.1.14"]) == (cluster.status.phase, cluster.running)
    assert [Outcome.COMPLETED, Outcome.FAILED, Outcome.COMPLETED] == [outcome for _, _, outcome, _ in history(cluster)]
