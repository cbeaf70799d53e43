"""Fields that are ours and are otherwise than we applied them; and that what we note is written all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.status import Phase
from medplum_agent_operator.core.objects import agent_pod
from tests.support.builders import agent
from tests.support.simulated_cluster.admission import AdmittingCluster, from_a_mirror
from tests.support.simulated_cluster.situations import QUICK

if TYPE_CHECKING:
    import pytest

    from tests.support.simulated_cluster import SimulatedCluster

CLOSED = [{"schedule": "0 3 29 2 *", "duration": "1m"}]


def installed(version: str, *, mirrored: bool = False, **spec: Any) -> AdmittingCluster:
    """A cluster in which the agent was installed and serves."""
    cluster = AdmittingCluster(agent(version, **{"handoff": QUICK, **spec}))
    if mirrored:
        cluster.policy = from_a_mirror
    cluster.settle()
    return cluster


def image(cluster: AdmittingCluster) -> str:
    """Of the agent, as the API server keeps it."""
    return str(cluster.deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def pods(cluster: AdmittingCluster) -> list[str]:
    """The names of all that are there."""
    return [pod.name for pod in cluster.pods]


def latched(cluster: SimulatedCluster) -> bool:
    """Whether a failure is noted on the Deployment."""
    return cluster.record.failed is not None


def test_what_a_policy_writes_otherwise_costs_one_write() -> None:
    """A rollout for each change, and rest after it."""
    cluster = installed("5.1.14", mirrored=True)
    assert "mirror.example.org" in image(cluster)
    writes = list(cluster.writes)
    cluster.tick()
    cluster.reconcile()
    assert writes == cluster.writes
    cluster.edit(version="5.1.15").settle()
    assert [("5.1.14", "5.1.15"), (None, "5.1.14")] == [(one.from_version, one.to) for one in cluster.status.history]
    assert "mirror.example.org/medplum-agent:5.1.15" in image(cluster)


def test_a_policy_that_has_gone_replaces_no_pod_by_a_write_that_begins_nothing() -> None:
    """An agent before 4.2.4 whose windows are closed: the next own change brings the image as it is asked for, and nothing before."""
    cluster = installed("4.2.3", mirrored=True, maintenanceWindows=CLOSED)
    before, kept = pods(cluster), image(cluster)
    cluster.policy = None
    cluster.edit(handoff={**QUICK, "progressDeadlineSeconds": 61}).settle()
    assert 61 == cluster.deployment["spec"]["progressDeadlineSeconds"]
    assert (before, kept) == (pods(cluster), image(cluster))
    cluster.edit(maintenanceWindows=[], version="5.1.15").settle()
    assert (["5.1.15"], "registry.example.org") == (cluster.running, image(cluster).partition("/")[0])


def test_a_latch_under_a_policy_that_has_gone_replaces_no_pod() -> None:
    """A change that failed before anything was done is noted, and that is all."""
    cluster = installed("4.2.3", mirrored=True)
    before = pods(cluster)
    cluster.policy = None
    cluster.never_pulled.add("5.1.15")
    cluster.edit(version="5.1.15").settle().tick(61)
    cluster.settle()
    assert (Phase.FAILED, before) == (cluster.status.phase, pods(cluster))


def test_a_change_whose_image_does_not_come_is_latched() -> None:
    """The note of it is written, although every field of the Deployment is ours."""
    cluster = installed("5.1.15").annotate("4.2.3 CHG-1")
    cluster.never_pulled.add("4.2.3")
    cluster.edit(version="4.2.3").settle().tick(61)
    assert Phase.FAILED is cluster.settle().status.phase
    assert latched(cluster)


def test_a_restart_by_hand_is_taken_over_while_the_old_pod_shows_that_nothing_was_active() -> None:
    """Else what failed would be held, with nobody serving."""
    cluster = installed("4.2.3")
    cluster.never_ready.add("5.1.15")
    cluster.edit(version="5.1.15").fetched().reconcile()
    cluster.tick()
    cluster.restart_pods()
    cluster.reconcile()
    for _ in range(100):
        cluster.tick()
        cluster.reconcile()
    assert (["4.2.3"], "5.1.15") == (cluster.running, cluster.record.rolled_back_from)


def test_going_back_in_the_spec_forgets_the_failure() -> None:
    """Then the same change is tried anew."""
    cluster = installed("5.1.14")
    cluster.never_ready.add("5.1.15")
    cluster.edit(version="5.1.15").settle().wait_for_deadline()
    assert latched(cluster)
    cluster.edit(version="5.1.14").settle()
    assert not latched(cluster)
    cluster.never_ready.clear()
    assert ["5.1.15"] == cluster.edit(version="5.1.15").settle().running


def test_a_refresh_that_was_asked_for_while_nothing_waited_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that comes later replaces no pod by it."""
    cluster = installed("5.1.15")
    cluster.mark(names.REFRESH, "2026-01").settle()
    assert "2026-01" == cluster.record.refresh
    before = pods(cluster)
    monkeypatch.setattr(agent_pod, "GRACE_AFTER_DRAIN_SECONDS", agent_pod.GRACE_AFTER_DRAIN_SECONDS + 1)
    cluster.edit(paused=False).settle()
    assert before == pods(cluster)
