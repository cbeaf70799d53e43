"""Changes of version, the moments of them, and what somebody may want instead: what `test_changes_of_mind` makes its rows of."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from medplum_agent_operator.api import annotations as names
from tests.support.builders import agent
from tests.support.simulated_cluster import SimulatedCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UP: Final = "5.1.16"
DOWN: Final = "4.1.12"
BETWEEN: Final = "5.0.3"
"""Above, below and in the middle of everything else."""
PATIENT: Final = {"minReadySeconds": 10, "drainSeconds": 3, "progressDeadlineSeconds": 60}
"""A new agent is ready for so long before it is active that an image can be fetched meanwhile."""
CLOSED: Final = [{"schedule": "0 3 29 2 *", "duration": "1m"}]
"""A window that does not open for years."""


@dataclass(frozen=True)
class Change:
    """A change of version that somebody has asked for.

    Attributes:
        name: how it reads in a test's id.
        before: the version that serves.
        after: the version that is asked for.
        ticket: the words of its approval; empty where there is none.
        fails: whether the new agent never opens its ports.
        spec: further fields of the spec.
    """

    name: str
    before: str
    after: str
    ticket: str = ""
    fails: bool = False
    spec: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def versions(self) -> dict[str, str]:
        """Every version that somebody may ask for, by the word for it in the table of ends."""
        return {"before": self.before, "after": self.after, "up": UP, "between": BETWEEN, "down": DOWN}

    def has(self, mind: Mind) -> bool:
        """Whether there is such a change of mind: a version in between only where both sides are far enough apart."""
        return mind is not Mind.BETWEEN or "4.2.3" in {self.before, self.after}


HANDOFF: Final = Change("handoff", "5.1.14", "5.1.15")
UPGRADE: Final = Change("recreate up", "4.2.3", "5.1.15")
FORCED: Final = Change("forced downgrade", "5.1.15", "4.2.3", "CHG-1")
REFUSED: Final = Change("refused downgrade", "5.1.15", "4.2.3")
WAITING_UPGRADE: Final = Change("recreate up before its window", "4.2.3", "5.1.15", spec={"maintenanceWindows": CLOSED})
WAITING_DOWNGRADE: Final = Change(
    "forced downgrade before its window", "5.1.15", "4.2.3", "CHG-1", spec={"maintenanceWindows": CLOSED}
)
FAILED_HANDOFF: Final = Change("failed handoff", "5.1.14", "5.1.15", fails=True)
FAILED_UPGRADE: Final = Change("failed recreate up", "4.2.3", "5.1.15", fails=True)
FAILED_DOWNGRADE: Final = Change("failed forced downgrade", "5.1.15", "4.2.3", "CHG-1", fails=True)
HOLD: Final = {"handoff": {**PATIENT, "onFailure": "Hold"}}
HELD_HANDOFF: Final = Change("held handoff", "5.1.14", "5.1.15", fails=True, spec=HOLD)
HELD_DOWNGRADE: Final = Change("held forced downgrade", "5.1.15", "4.2.3", "CHG-1", fails=True, spec=HOLD)


class Moment(StrEnum):
    """How far a change has got when somebody thinks otherwise."""

    UNSEEN = "not seen yet"
    WAITING = "waits"
    FETCHING = "image is fetched"
    WRITTEN = "written, old one serves"
    STOPPED = "old one stopped, new one not ready"
    READY = "new one ready, not for long enough"
    DRAINS = "new one active, old one drains"
    COMPLETED = "completed"
    WINDOW_CLOSED = "written, window closed since"
    WINDOW_CLOSED_STOPPED = "old one stopped, window closed since"
    GOING_BACK = "is taken back"
    TAKEN_BACK = "was taken back"
    MENDED = "has failed, its cause is mended"


def reach(change: Change, moment: Moment) -> SimulatedCluster:
    """A cluster in which the change has got so far."""
    return copy.deepcopy(_reached(change, moment))


@functools.cache
def _reached(change: Change, moment: Moment) -> SimulatedCluster:
    cluster = SimulatedCluster(agent(change.before, **{"handoff": PATIENT, **change.spec})).settle()
    if change.fails:
        cluster.never_ready.add(change.after)
    if change.ticket:
        approve(cluster, change.after, change.ticket)
    cluster.edit(version=change.after)
    match moment:
        case Moment.UNSEEN:
            return cluster
        case Moment.WAITING | Moment.COMPLETED:
            return cluster.settle()
        case Moment.TAKEN_BACK | Moment.MENDED:
            return cluster.wait_for_deadline().mend()
        case Moment.GOING_BACK:
            _until(cluster, lambda: cluster.applied_version == change.after)
            return _until(cluster, lambda: cluster.applied_version == change.before).mend()
        case Moment.WINDOW_CLOSED | Moment.WINDOW_CLOSED_STOPPED:
            reached = Moment.WRITTEN if moment is Moment.WINDOW_CLOSED else Moment.STOPPED
            _until(cluster, lambda: _is_at(cluster, change, reached)).edit(maintenanceWindows=CLOSED).reconcile()
            return cluster
    return _until(cluster, lambda: _is_at(cluster, change, moment))


def _is_at(cluster: SimulatedCluster, change: Change, moment: Moment) -> bool:
    """Whether its pods show that a change has got so far."""
    old = [pod for pod in cluster.pods if pod.version.text == change.before and pod.running]
    new_is_ready = any(pod.version.text == change.after and pod.ready_since is not None for pod in cluster.pods)
    written = cluster.applied_version == change.after
    match moment:
        case Moment.FETCHING:
            return bool(cluster.fetching)
        case Moment.WRITTEN:
            return written and bool(old)
        case Moment.STOPPED:
            return written and not old and not new_is_ready
        case Moment.READY:
            return new_is_ready
    return new_is_ready and any(pod.told_to_go is not None for pod in old)


def _until(cluster: SimulatedCluster, question: Callable[[], bool]) -> SimulatedCluster:
    for _ in range(200):
        if question():
            return cluster
        cluster.tick()
        cluster.reconcile()
    raise AssertionError(f"not reached: {cluster.status.phase}, {cluster.status.plan}")


def approve(cluster: SimulatedCluster, version: str, ticket: str) -> SimulatedCluster:
    """A cluster admin approves going down to a version."""
    return cluster.annotate(f"{version} {ticket}")


class Mind(StrEnum):
    """What somebody does instead of waiting."""

    UP = "retarget up"
    BETWEEN = "retarget in between"
    DOWN = "retarget down"
    DOWN_APPROVED = "retarget down, approved"
    DOWN_APPROVED_LATE = "retarget down, approved late"
    REVERT = "revert"
    REVERT_APPROVED_LATE = "revert, approved late"
    REVERT_AND_AGAIN = "revert, ask again"
    PAUSE = "pause"
    RESUME = "pause, resume"
    APPROVE = "approve late"
    APPROVE_IN_PAUSE = "pause, approve, resume"
    WITHDRAW = "withdraw the approval"
    WITHDRAW_AND_APPROVE = "withdraw the approval, set it again"
    RETRY = "ask for another try"
    AT_ONCE = "ask for it at once"
    ANEW_AS_BEFORE = "delete, create anew with the version before"
    ANEW_AS_AFTER = "delete, create anew with the version asked for"


def _delete_and_create(cluster: SimulatedCluster, version: str) -> None:
    """The namesake is there before the garbage collector has seen that the first one is gone."""
    first = cluster.agent["metadata"]["uid"]
    cluster.replace_agent(version)
    cluster.reconcile()
    cluster.tick()
    cluster.reconcile()
    cluster.remove_what_belonged_to(first)


MINDS: Final[Mapping[Mind, Callable[[SimulatedCluster, Change], object]]] = {
    Mind.UP: lambda cluster, _: cluster.edit(version=UP),
    Mind.BETWEEN: lambda cluster, _: cluster.edit(version=BETWEEN),
    Mind.DOWN: lambda cluster, _: cluster.edit(version=DOWN),
    Mind.DOWN_APPROVED: lambda cluster, _: approve(cluster, DOWN, "CHG-9").edit(version=DOWN),
    Mind.DOWN_APPROVED_LATE: lambda cluster, _: approve(cluster.edit(version=DOWN).settle(), DOWN, "CHG-9"),
    Mind.REVERT: lambda cluster, change: cluster.edit(version=change.before),
    Mind.REVERT_APPROVED_LATE: lambda cluster, change: approve(
        cluster.edit(version=change.before).settle(), change.before, "CHG-8"
    ),
    Mind.REVERT_AND_AGAIN: lambda cluster, change: (
        cluster.edit(version=change.before).settle().edit(version=change.after)
    ),
    Mind.PAUSE: lambda cluster, _: cluster.edit(paused=True),
    Mind.RESUME: lambda cluster, _: cluster.edit(paused=True).settle().edit(paused=False),
    Mind.APPROVE: lambda cluster, change: approve(cluster, change.after, "CHG-2"),
    Mind.APPROVE_IN_PAUSE: lambda cluster, change: (
        approve(cluster.edit(paused=True).settle(), change.after, "CHG-2").settle().edit(paused=False)
    ),
    Mind.WITHDRAW: lambda cluster, _: cluster.annotate(None),
    Mind.WITHDRAW_AND_APPROVE: lambda cluster, change: approve(
        cluster.annotate(None).settle(), change.after, change.ticket
    ),
    Mind.RETRY: lambda cluster, _: cluster.mark(names.RETRY, "please"),
    Mind.AT_ONCE: lambda cluster, change: cluster.mark(names.NOW, f"{change.after} at once"),
    Mind.ANEW_AS_BEFORE: lambda cluster, change: _delete_and_create(cluster, change.before),
    Mind.ANEW_AS_AFTER: lambda cluster, change: _delete_and_create(cluster, change.after),
}
"""How it is done."""
