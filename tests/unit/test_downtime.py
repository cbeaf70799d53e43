"""A change that costs downtime waits for a maintenance window; every other change does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Outcome, Phase
from medplum_agent_operator.core.observed.findings import Severity
from medplum_agent_operator.core.observed.rollout_record import Change
from medplum_agent_operator.core.policy.downtime import is_bound
from medplum_agent_operator.core.policy.verdict import Allowed, decide
from tests.support.builders import CONFIG, NOW, agent
from tests.support.simulated_cluster import SimulatedCluster, installed
from tests.support.simulated_cluster.situations import HOLD, QUICK

if TYPE_CHECKING:
    from datetime import datetime

OPENS = (NOW + timedelta(hours=2)).replace(minute=0, second=0, microsecond=0)
"""The test's window: it opens within two hours of the story's beginning, for an hour, once a day."""
WINDOW: dict[str, Any] = {"schedule": f"0 {OPENS.hour} * * *", "duration": "1h"}
HOST_PORT = [{"name": "adt", "port": 2575, "hostPort": 2575}]


def waiting(before: str = "4.2.3", after: str = "5.1.15", **spec: Any) -> SimulatedCluster:
    """A change that stops first, asked for while no window is open; all is at rest."""
    cluster = installed(before, maintenanceWindows=[WINDOW], **spec)
    return cluster.edit(version=after).settle()


def until(cluster: SimulatedCluster, moment: datetime) -> SimulatedCluster:
    """Time goes by, and all comes to rest."""
    cluster.tick((moment - cluster.now).total_seconds())
    return cluster.settle()


def applied_level(cluster: SimulatedCluster) -> str:
    """What was applied last, of the setting that these tests change."""
    spec = cluster.observe().applied_spec
    return "" if spec is None else str(spec.logging.level)


def now(cluster: SimulatedCluster, text: str) -> SimulatedCluster:
    """Somebody asks for a change at once."""
    cluster.agent["metadata"]["annotations"][names.NOW] = text
    cluster._touch(cluster.agent)
    return cluster.settle()


@pytest.mark.parametrize(
    ("before", "after", "spec"),
    [
        pytest.param("4.2.3", "5.1.15", {}, id="up from below 4.2.4"),
        pytest.param("4.1.12", "4.2.3", {}, id="below 4.2.4"),
        pytest.param("5.1.14", "5.1.15", {"channels": HOST_PORT}, id="on a port of the node"),
    ],
)
def test_what_stops_first_waits_for_a_window(before: str, after: str, spec: dict[str, Any]) -> None:
    """Nothing is changed; the phase is AwaitingWindow and the message has the next opening. Then the change is made automatically."""
    cluster = waiting(before, after, **spec)
    assert (Phase.AWAITING_WINDOW, before, [before]) == (
        cluster.status.phase,
        cluster.status.active_version,
        cluster.running,
    )
    assert ("False", "AwaitingWindow") == cluster.condition("Ready")
    assert ("True", "Serving") == cluster.condition("Available")
    assert ["False", "False"] == [cluster.condition(kind)[0] for kind in ("Reconciling", "Stalled")]
    plan = cluster.status.plan or ""
    assert f"waits for the window on {OPENS:%A %Y-%m-%d %H:%M} UTC" in plan
    assert f'agents.medplum.com/now="{after} ' in plan
    assert OPENS == cluster.plans[-1].requeue_at
    assert "Recreate" == cluster.status.strategy
    until(cluster, OPENS)
    assert (Phase.RUNNING, [after]) == (cluster.status.phase, cluster.running)


def test_while_it_waits_nothing_is_written() -> None:
    """And a restarted operator has nothing to write either."""
    cluster = waiting()
    writes = list(cluster.writes)
    cluster.tick(600)
    cluster.settle().reconcile()
    assert writes == cluster.writes


def test_the_opening_is_told_in_the_windows_own_time() -> None:
    """Local and UTC."""
    window = {"schedule": "30 4 * * *", "duration": "1h", "timeZone": "Europe/Berlin"}
    cluster = installed("4.2.3", maintenanceWindows=[window]).edit(version="5.1.15").settle()
    assert " 04:30 CE" in (cluster.status.plan or "")
    assert "approved" not in (cluster.status.plan or ""), "an upgrade needs nobody"
    assert "(Europe/Berlin), 0" in (cluster.status.plan or "")


def test_a_handoff_does_not_wait() -> None:
    """It costs no downtime."""
    cluster = installed("5.1.14", maintenanceWindows=[WINDOW]).edit(version="5.1.15").settle()
    assert ["5.1.15"] == cluster.running


def test_a_first_installation_does_not_wait() -> None:
    """There is nothing to take away."""
    assert ["4.2.3"] == installed("4.2.3", maintenanceWindows=[WINDOW]).running


def test_approval_and_window_are_separate_questions() -> None:
    """Refused until approved; approved it waits, unspent; withdrawn it is refused again; in the window it is made, and spent."""
    cluster = waiting("5.1.15", "4.2.3")
    assert Phase.AWAITING_APPROVAL is cluster.status.phase
    cluster.annotate("4.2.3 CHG-1").settle()
    assert (Phase.AWAITING_WINDOW, ()) == (cluster.status.phase, cluster.status.spent_approvals)
    assert 'approved by "4.2.3 CHG-1"' in (cluster.status.plan or "")
    cluster.annotate(None).settle()
    assert Phase.AWAITING_APPROVAL is cluster.status.phase
    until(cluster.annotate("4.2.3 CHG-2"), OPENS)
    assert (["4.2.3"], ("4.2.3 CHG-2",)) == (cluster.running, cluster.status.spent_approvals)


def test_at_once_when_somebody_says_so_about_exactly_this_target() -> None:
    """Another version does not do, and each text counts once."""
    cluster = now(waiting(), "5.1.14 please")
    assert Phase.AWAITING_WINDOW is cluster.status.phase
    assert ["5.1.15"] == now(cluster, "5.1.15 please, for CHG-1042").running
    cluster.edit(channels=HOST_PORT).settle()
    assert Phase.AWAITING_WINDOW is cluster.status.phase
    assert "hostPort" not in str(cluster.deployment["spec"])
    now(cluster, "5.1.15 again")
    assert "hostPort" in str(cluster.deployment["spec"])


def test_what_has_begun_in_a_window_is_finished() -> None:
    """Also where the window is shorter than the drain."""
    long_drain = {**QUICK, "drainSeconds": 90}
    cluster = installed("4.2.3", handoff=long_drain, maintenanceWindows=[{**WINDOW, "duration": "1m"}])
    cluster.edit(version="5.1.15").settle(seconds=300)
    cluster.tick((OPENS - cluster.now).total_seconds())
    cluster.settle(seconds=400)
    assert (["5.1.15"], True) == (cluster.running, cluster.now > OPENS + timedelta(minutes=1))


def test_a_rollback_does_not_wait() -> None:
    """Begun in the window, failed after it: what was active comes back at once."""
    cluster = installed("4.2.3", maintenanceWindows=[{**WINDOW, "duration": "1m"}])
    cluster.never_ready.add("5.1.15")
    until(cluster.edit(version="5.1.15").settle(), OPENS)
    assert Phase.RECREATING is cluster.status.phase
    until(cluster, OPENS + timedelta(seconds=70))
    assert (["4.2.3"], Phase.FAILED) == (cluster.running, cluster.status.phase)
    assert [Outcome.COMPLETED, Outcome.FAILED] == [entry.outcome for entry in cluster.status.history][:2]


def test_giving_up_does_not_wait() -> None:
    """A target that never became active is left at once."""
    cluster = now(waiting("5.1.15", "4.2.3").annotate("4.2.3 CHG-1"), "")
    cluster.never_ready.add("4.2.3")
    now(cluster, "4.2.3 please")
    assert ["4.2.3"] == cluster.running
    assert ["5.1.15"] == cluster.edit(version="5.1.15").settle().running


def test_what_waits_is_not_what_is_put_back() -> None:
    """Meanwhile a pod that was changed by hand goes back to what was applied, and one that dies comes back on it."""
    cluster = waiting()
    cluster.deployment["spec"]["template"]["metadata"]["labels"]["by"] = "hand"
    cluster.deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 99
    cluster.count += 1
    cluster.settle()
    assert 99 != cluster.deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert ["4.2.3"] == cluster.evict().settle().running
    assert Phase.AWAITING_WINDOW is cluster.status.phase


def test_a_retarget_in_the_middle_of_a_handoff_waits_and_the_handoff_goes_on() -> None:
    """5.1.14 hands over to 5.1.15 while an approved way down waits."""
    cluster = installed("5.1.14", maintenanceWindows=[WINDOW]).edit(version="5.1.15")
    cluster.reconcile()
    cluster.tick()
    cluster.annotate("4.2.3 CHG-1").edit(version="4.2.3").settle()
    assert (["5.1.15"], Phase.AWAITING_WINDOW) == (cluster.running, cluster.status.phase)
    assert ["4.2.3"] == until(cluster, OPENS).running


def test_a_window_that_cannot_be_read_is_told_and_lets_nothing_through() -> None:
    """An unknown time zone is a Warning at once, and a change waits until it is fixed, or for another window."""
    faulty = {**WINDOW, "timeZone": "Europe/Berlim"}
    cluster = installed("4.2.3", maintenanceWindows=[faulty])
    assert "'Europe/Berlim' is not a known time zone" in (cluster.status.plan or "")
    assert Reason.WINDOW_INVALID in {finding.reason for finding in cluster.told}
    assert Phase.RUNNING is cluster.status.phase
    until(cluster.edit(version="5.1.15").settle(), OPENS)
    assert (Phase.AWAITING_WINDOW, ["4.2.3"]) == (cluster.status.phase, cluster.running)
    assert "none ever opens" in (cluster.status.plan or "")
    assert ["5.1.15"] == cluster.edit(maintenanceWindows=[faulty, WINDOW]).settle().running


def test_what_binds_a_change_to_windows() -> None:
    """Each question by itself, asked of a change that waits: any other answer lets it go."""
    cluster = waiting()
    seen, at = cluster.observe(), cluster.now
    allowed = decide(seen, CONFIG)
    assert isinstance(allowed, Allowed)
    other: dict[str, Any] = {"metadata": {}}
    assert is_bound(seen, allowed, other, now=at)
    without = allowed.spec.model_copy(update={"maintenance_windows": ()})
    assert not is_bound(seen, replace(allowed, spec=without), other, now=at)
    assert not is_bound(replace(seen, deployment=None), allowed, other, now=at)
    assert not is_bound(seen, replace(allowed, change=Change.ABORT), other, now=at)
    live = seen.deployment
    assert live is not None
    assert live.applied_template is not None
    assert not is_bound(seen, allowed, live.applied_template.template, now=at)
    cluster.as_before_revisions()
    assert is_bound(cluster.observe(), allowed, other, now=at), "an older release made it"


def test_where_nothing_was_ever_active_nothing_waits() -> None:
    """The first agent never gets ready: another one takes nothing away."""
    cluster = SimulatedCluster(agent("4.2.3", handoff=HOLD, maintenanceWindows=[WINDOW]))
    cluster.never_ready.add("4.2.3")
    cluster.settle()
    assert ["5.1.15"] == cluster.edit(version="5.1.15").settle().running


@pytest.mark.parametrize(("before", "waits"), [("4.2.3", False), ("5.1.14", True)])
def test_where_what_was_tried_has_failed_it_counts_whether_anybody_serves(before: str, *, waits: bool) -> None:
    """Held after its deadline: stopped first, nobody serves, and the next try need not wait; handed over, the old agent would be stopped."""
    cluster = installed(before, handoff=HOLD, maintenanceWindows=[{**WINDOW, "duration": "2h"}])
    cluster.never_ready.add("5.1.15")
    now(cluster.edit(version="5.1.15"), "5.1.15 now").wait_for_deadline()
    assert "Failed" == cluster.status.phase
    cluster.edit(version="5.1.16", channels=HOST_PORT).settle()
    assert (waits, waits) == (cluster.status.phase == "AwaitingWindow", "5.1.16" not in cluster.running)


def test_what_never_starts_by_itself_is_mended_at_once() -> None:
    """At rest, and its container keeps ending, for as long as a rollout may take: nothing is won by waiting. A crash is not that, nor is a moment without readiness."""
    cluster = installed("4.2.3", maintenanceWindows=[WINDOW])
    (pod,) = cluster.pods
    pod.ready_since, pod.unready_since = None, cluster.now
    cluster.count += 1
    cluster.edit(logging={"level": "ERROR"}).reconcile()
    assert Phase.AWAITING_WINDOW is cluster.status.phase
    cluster.troubles["4.2.3"] = ("CrashLoopBackOff", "back-off restarting failed container")
    for _ in range(3):
        cluster.tick()
        cluster.reconcile()
    assert (Phase.AWAITING_WINDOW, "INFO") == (cluster.status.phase, applied_level(cluster))
    cluster.now = pod.unready_since + timedelta(seconds=QUICK["progressDeadlineSeconds"], microseconds=-2)
    levels = []
    for _ in range(2):  # a pass takes a microsecond
        cluster.reconcile()
        levels.append(applied_level(cluster))
    assert ["INFO", "ERROR"] == levels


def test_what_somebody_changed_by_hand_is_put_back_at_once() -> None:
    """Nobody planned that. It stops the agent, as any change does before 4.2.4."""
    cluster = installed("4.2.3", maintenanceWindows=[WINDOW])
    before = [pod.name for pod in cluster.pods]
    cluster.deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 99
    cluster._touch(cluster.deployment)
    cluster.settle()
    assert 99 != cluster.deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert (Phase.RUNNING, 1) == (cluster.status.phase, len(cluster.running))
    assert before != [pod.name for pod in cluster.pods]
    assert Reason.AWAITING_WINDOW not in {found.reason for found in cluster.told}


def test_what_waits_is_told_quietly_and_what_waits_for_ever_is_not() -> None:
    """A window to come is in order; one that never opens is a fault."""
    assert {Severity.NORMAL} == {found.severity for found in waiting().told if found.reason is Reason.AWAITING_WINDOW}
    never = {**WINDOW, "timeZone": "Europe/Berlim"}
    cluster = installed("4.2.3", maintenanceWindows=[never]).edit(version="5.1.15").settle()
    assert {Severity.WARNING} == {found.severity for found in cluster.told if found.reason is Reason.AWAITING_WINDOW}


def test_while_one_change_waits_the_one_that_is_under_way_is_looked_at_in_time() -> None:
    """Its deadline comes before the window."""
    cluster = installed("5.1.14", maintenanceWindows=[WINDOW]).edit(version="5.1.15")
    cluster.reconcile()
    cluster.tick()
    cluster.annotate("4.2.3 CHG-1").edit(version="4.2.3")
    looks = cluster.plan().requeue_at
    assert looks is not None
    assert looks < cluster.now + timedelta(seconds=70) < OPENS


def test_windows_taken_out_of_the_spec_hold_nothing_any_more() -> None:
    """Who may edit the spec may do so."""
    assert ["5.1.15"] == waiting().edit(maintenanceWindows=[]).settle().running
