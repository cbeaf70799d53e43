"""A release that renders pods otherwise replaces none by itself; the agent's own change takes it along."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.status import Phase
from medplum_agent_operator.core.objects import agent_pod
from medplum_agent_operator.core.rollout import template_in_force
from tests.support.simulated_cluster import SimulatedCluster, installed


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> SimulatedCluster:
    """An agent of an earlier release, and this one, which gives its pods a second more to end."""
    found = installed("5.1.14")
    monkeypatch.setattr(agent_pod, "GRACE_AFTER_DRAIN_SECONDS", agent_pod.GRACE_AFTER_DRAIN_SECONDS + 1)
    monkeypatch.setattr(template_in_force, "REVISION", template_in_force.REVISION + 1)
    return found


def grace(cluster: SimulatedCluster) -> int:
    """What the live template gives a pod to end."""
    return int(cluster.deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])


def names_of_pods(cluster: SimulatedCluster) -> list[str]:
    """Of all that are there."""
    return [pod.name for pod in cluster.pods]


def test_a_new_release_replaces_no_pod_and_says_what_waits(cluster: SimulatedCluster) -> None:
    """One write of status, and the command that does not wait."""
    before, lasting = names_of_pods(cluster), grace(cluster)
    writes = list(cluster.writes)
    cluster.edit().settle().reconcile()
    cluster.settle()
    assert (before, lasting) == (names_of_pods(cluster), grace(cluster))
    assert [*writes, "status"] == cluster.writes
    waits = cluster.status.waiting_for_next_change or ""
    assert "the agent's pod (spec.terminationGracePeriodSeconds)" in waits
    assert 'agents.medplum.com/refresh="' in waits
    assert Phase.RUNNING is cluster.status.phase


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(
            {"paused": False, "downgradePolicy": {"approval": "BelowZeroDowntime"}}, id="of the operator's ways"
        ),
        pytest.param({"service": {"type": "NodePort"}}, id="of the Service"),
        pytest.param(
            {"handoff": {"minReadySeconds": 3, "drainSeconds": 2, "progressDeadlineSeconds": 60}}, id="of rollouts"
        ),
    ],
)
def test_a_change_that_replaces_no_pod_takes_nothing_along(cluster: SimulatedCluster, spec: dict[str, Any]) -> None:
    """The spec is another one, the pod that it leads to is not."""
    before = names_of_pods(cluster)
    assert before == names_of_pods(cluster.edit(**spec).settle())


def test_the_agents_own_change_takes_it_along(cluster: SimulatedCluster) -> None:
    """And then nothing waits."""
    lasting = grace(cluster)
    cluster.edit(version="5.1.15").settle()
    assert (lasting + 1, None) == (grace(cluster), cluster.status.waiting_for_next_change)


def test_who_asks_for_it_gets_it_once(cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new text in the annotation; the same text does not ask again at the release after."""
    lasting = grace(cluster)
    cluster.agent["metadata"]["annotations"][names.REFRESH] = "now"
    cluster.edit(paused=False).settle()
    assert lasting + 1 == grace(cluster)
    monkeypatch.setattr(agent_pod, "GRACE_AFTER_DRAIN_SECONDS", agent_pod.GRACE_AFTER_DRAIN_SECONDS + 1)
    assert lasting + 1 == grace(cluster.edit(paused=True).edit(paused=False).settle())


@pytest.mark.parametrize("later", [False, True])
def test_a_refresh_waits_with_what_waits(monkeypatch: pytest.MonkeyPatch, *, later: bool) -> None:
    """An old agent is stopped for it in a maintenance window only, whatever else is asked for; then it is, once."""
    found = installed("4.2.3", maintenanceWindows=[{"schedule": "0 3 * * *", "duration": "1h"}])
    monkeypatch.setattr(agent_pod, "GRACE_AFTER_DRAIN_SECONDS", agent_pod.GRACE_AFTER_DRAIN_SECONDS + 1)
    before, lasting = names_of_pods(found), grace(found)
    if later:
        found.edit(version="5.1.15").settle()
    found.mark(names.REFRESH, "please").settle()
    assert (Phase.AWAITING_WINDOW, before, lasting) == (found.status.phase, names_of_pods(found), grace(found))
    assert not found.record.refresh
    if later:
        found.edit(version="4.2.3").settle()
        assert (Phase.AWAITING_WINDOW, before) == (found.status.phase, names_of_pods(found))
    found.now = found.now.replace(hour=3, minute=1) + timedelta(days=1)
    found.settle()
    assert ("Running", lasting + 1, "please") == (found.status.phase, grace(found), found.record.refresh)


def test_a_refresh_that_has_been_acted_on_is_not_acted_on_again_where_something_else_waits(
    cluster: SimulatedCluster,
) -> None:
    """What was used stays used while a downgrade is refused."""
    cluster.mark(names.REFRESH, "please").settle()
    cluster.annotate("nothing").edit(version="5.1.13").settle()
    assert (Phase.AWAITING_APPROVAL, "please") == (cluster.status.phase, cluster.record.refresh)


def test_a_refresh_stops_nobody_where_a_change_failed_before_anything_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its image cannot be had: the note of that replaces no pod."""
    found = installed("4.2.3")
    monkeypatch.setattr(agent_pod, "GRACE_AFTER_DRAIN_SECONDS", agent_pod.GRACE_AFTER_DRAIN_SECONDS + 1)
    before = names_of_pods(found.settle())
    found.never_pulled.add("5.1.15")
    found.mark(names.REFRESH, "please").edit(version="5.1.15").settle().tick(61)
    found.settle()
    assert (Phase.FAILED, before) == (found.status.phase, names_of_pods(found))


def test_who_asks_while_nothing_waits_has_not_asked_for_what_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text is noted, and the next release replaces nothing for it."""
    cluster = installed("5.1.14")
    before = names_of_pods(cluster)
    cluster.agent["metadata"]["annotations"][names.REFRESH] = "now"
    cluster.edit(paused=False).settle()
    monkeypatch.setattr(agent_pod, "GRACE_AFTER_DRAIN_SECONDS", agent_pod.GRACE_AFTER_DRAIN_SECONDS + 1)
    cluster.edit(service={"type": "NodePort"}).settle()
    assert ("now", before) == (cluster.record.refresh, names_of_pods(cluster))


def test_what_is_marked_as_required_does_not_wait(cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where leaving a pod as it is would do harm."""
    lasting = grace(cluster)
    monkeypatch.setattr(template_in_force, "REQUIRED_REVISION", template_in_force.REVISION)
    cluster.edit(paused=True).edit(paused=False).settle()
    assert lasting + 1 == grace(cluster)


def test_drift_is_put_back_to_what_was_applied(cluster: SimulatedCluster) -> None:
    """Not to what this release would render."""
    lasting = grace(cluster)
    cluster.deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 99
    cluster.count += 1
    assert lasting == grace(cluster.settle())


def test_giving_up_a_target_leaves_the_pod_of_the_release_before(cluster: SimulatedCluster) -> None:
    """5.1.15 never became active: the pod of 5.1.14, which still runs, stays the same."""
    before = names_of_pods(cluster)
    cluster.never_ready.add("5.1.15")
    cluster.edit(version="5.1.15").settle()
    assert 2 == len(cluster.pods)
    assert before == names_of_pods(cluster.edit(version="5.1.14").settle())


def test_what_was_made_without_a_note_stays_as_it_is(cluster: SimulatedCluster) -> None:
    """A Deployment of a release that noted no template: what stands there is taken for it."""
    before = names_of_pods(cluster)
    cluster.as_before_revisions().settle()
    assert before == names_of_pods(cluster)
    assert cluster.in_force in cluster.revisions
    assert None is cluster.deployment["metadata"]["annotations"].get(f"{names.DOMAIN}/applied-template")
    assert before != names_of_pods(cluster.edit(version="5.1.15").settle())
