"""Owned fields that differ from what the operator applied; its records are written anyway."""

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
    """A cluster with an installed agent that serves."""
    cluster = AdmittingCluster(agent(version, **{"handoff": QUICK, **spec}))
    if mirrored:
        cluster.policy = from_a_mirror
    cluster.settle()
    return cluster


def image(cluster: AdmittingCluster) -> str:
    """The image of the agent, as the API server stores it."""
    return str(cluster.deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def pods(cluster: AdmittingCluster) -> list[str]:
    """The names of all pods."""
    return [pod.name for pod in cluster.pods]


def latched(cluster: SimulatedCluster) -> bool:
    """Whether the Deployment has a record of a failure."""
    return cluster.record.failed is not None


def test_a_policy_that_changes_fields_costs_one_write() -> None:
    """One rollout for each change, and rest after it."""
    cluster = installed("5.1.14", mirrored=True)
    assert "mirror.example.org" in image(cluster)
    writes = list(cluster.writes)
    cluster.tick()
    cluster.reconcile()
    assert writes == cluster.writes
    cluster.edit(version="5.1.15").settle()
    assert [("5.1.14", "5.1.15"), (None, "5.1.14")] == [(one.from_version, one.to) for one in cluster.status.history]
    assert "mirror.example.org/medplum-agent:5.1.15" in image(cluster)


def test_after_a_policy_is_removed_a_write_without_rollout_replaces_no_pod() -> None:
    """An agent before 4.2.4 with closed windows: only the agent's next change applies the requested image."""
    cluster = installed("4.2.3", mirrored=True, maintenanceWindows=CLOSED)
    before, kept = pods(cluster), image(cluster)
    cluster.policy = None
    cluster.edit(handoff={**QUICK, "progressDeadlineSeconds": 61}).settle()
    assert 61 == cluster.deployment["spec"]["progressDeadlineSeconds"]
    assert (before, kept) == (pods(cluster), image(cluster))
    cluster.edit(maintenanceWindows=[], version="5.1.15").settle()
    assert (["5.1.15"], "registry.example.org") == (cluster.running, image(cluster).partition("/")[0])


def test_after_a_policy_is_removed_a_latch_replaces_no_pod() -> None:
    """A change that failed before its rollout is recorded, and nothing else happens."""
    cluster = installed("4.2.3", mirrored=True)
    before = pods(cluster)
    cluster.policy = None
    cluster.never_pulled.add("5.1.15")
    cluster.edit(version="5.1.15").settle().tick(61)
    cluster.settle()
    assert (Phase.FAILED, before) == (cluster.status.phase, pods(cluster))


def test_a_change_whose_image_cannot_be_pulled_is_latched() -> None:
    """Its record is written, although the operator owns every field of the Deployment."""
    cluster = installed("5.1.15").annotate("4.2.3 CHG-1")
    cluster.never_pulled.add("4.2.3")
    cluster.edit(version="4.2.3").settle().tick(61)
    assert Phase.FAILED is cluster.settle().status.phase
    assert latched(cluster)


def test_a_restart_by_hand_of_a_template_that_was_never_active_is_rolled_back() -> None:
    """Without that the failed template would stay, and no agent would serve."""
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


def test_reverting_the_spec_clears_the_failure() -> None:
    """Then the same change is tried again."""
    cluster = installed("5.1.14")
    cluster.never_ready.add("5.1.15")
    cluster.edit(version="5.1.15").settle().wait_for_deadline()
    assert latched(cluster)
    cluster.edit(version="5.1.14").settle()
    assert not latched(cluster)
    cluster.never_ready.clear()
    assert ["5.1.15"] == cluster.edit(version="5.1.15").settle().running


def test_a_refresh_without_a_pending_update_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later release replaces no pod because of it."""
    cluster = installed("5.1.15")
    cluster.mark(names.REFRESH, "2026-01").settle()
    assert "2026-01" == cluster.record.refresh
    before = pods(cluster)
    monkeypatch.setattr(agent_pod, "GRACE_AFTER_DRAIN_SECONDS", agent_pod.GRACE_AFTER_DRAIN_SECONDS + 1)
    cluster.edit(paused=False).settle()
    assert before == pods(cluster)
