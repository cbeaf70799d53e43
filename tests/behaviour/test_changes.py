"""Every row of "Which change is made how", against a real API server, Deployment controller and scheduler."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.world import FORCE, SEEN_LATE, agent_manifest, child

if TYPE_CHECKING:
    from tests.support.world import World


def strategy(world: World) -> str:
    """The live strategy of the Deployment."""
    kind: str = world.deployment()["spec"]["strategy"]["type"]
    return kind


def last_rollout(world: World) -> tuple[Any, ...]:
    """The newest history entry, in short."""
    entry = world.status()["history"][0]
    return entry.get("from"), entry["to"], entry["strategy"], entry["outcome"]


@pytest.mark.parametrize(("version", "kind"), [("5.1.14", "RollingUpdate"), ("4.2.3", "Recreate")])
def test_first_version_is_installed_without_approval(world: World, version: str, kind: str) -> None:
    """No version → any version: installed, with the strategy that this version supports next."""
    status = world.install(version)
    assert (version, version) == (status["activeVersion"], status["lastGoodVersion"])
    assert kind == strategy(world)
    assert ["True", "False", "False", "True", "False"] == [
        world.condition(kind)["status"] for kind in ("Ready", "Reconciling", "Stalled", "Available", "ApprovalRequired")
    ]


def test_upgrade_between_new_agents_is_a_rolling_handoff(world: World) -> None:
    """5.1.14 → 5.1.15: the new pod starts beside the old one, and an agent is available all the time."""
    world.install()
    since = world.condition("Available")["lastTransitionTime"]
    world.set_version("5.1.15")
    assert "RollingHandoff" == world.wait_for_phase("HandingOff")["strategy"]
    status = world.wait_for_phase("Running", "5.1.15")
    assert 2 == world.recorder.most_running["front-desk"]
    assert ("5.1.14", "5.1.15", "RollingHandoff", "Completed") == last_rollout(world)
    assert 0 == status["history"][0]["gapSeconds"]
    (gap,) = world.gaps()
    assert -gap - SEEN_LATE <= status["history"][0]["overlapSeconds"] <= -gap + 1 + SEEN_LATE
    assert since == world.condition("Available")["lastTransitionTime"]


def test_upgrade_from_an_old_agent_stops_it_first_and_ends_ready_for_handoffs(world: World) -> None:
    """4.2.3 → 5.1.15: recreate; afterwards the Deployment's strategy is rolling again."""
    world.install("4.2.3")
    world.set_version("5.1.15")
    world.wait_for_phase("Running", "5.1.15")
    assert ("4.2.3", "5.1.15", "Recreate", "Completed") == last_rollout(world)
    assert 1 == world.recorder.most_running["front-desk"]
    world.wait(lambda: strategy(world) == "RollingUpdate", "strategy ready for the next handoff")


@pytest.mark.parametrize(
    ("version", "strategy_taken", "running_at_once"), [("5.1.14", "RollingHandoff", 2), ("4.2.3", "Recreate", 1)]
)
def test_other_change_of_the_template_needs_no_approval(
    world: World, version: str, strategy_taken: str, running_at_once: int
) -> None:
    """Same version, another template: a handoff from 4.2.4 on, a recreate before."""
    world.install(version)
    world.patch({"logging": {"channelLevel": "ERROR"}})
    world.wait(lambda: len(world.status()["history"]) == 2, "second rollout in history")
    assert (version, version, strategy_taken, "Completed") == last_rollout(world)
    assert running_at_once == world.recorder.most_running["front-desk"]


def test_downgrade_to_a_new_agent_needs_approval_and_is_a_handoff(world: World) -> None:
    """5.1.15 → 5.1.14 with policy Always: refused, then approved, then a handoff."""
    world.install("5.1.15")
    world.set_version("5.1.14")
    assert "5.1.15" == world.wait_for_phase("AwaitingApproval")["activeVersion"]
    world.approve("5.1.14 CHG-7")
    world.wait_for_phase("Running", "5.1.14")
    assert ("5.1.15", "5.1.14", "RollingHandoff", "Completed") == last_rollout(world)


def test_policy_below_zero_downtime_lets_small_downgrades_through(world: World) -> None:
    """5.1.15 → 5.1.14 begins at once; 4.2.3 still waits for an approval."""
    world.install("5.1.15", downgradePolicy={"approval": "BelowZeroDowntime"})
    world.set_version("5.1.14")
    world.wait_for_phase("Running", "5.1.14")
    world.set_version("4.2.3")
    assert "5.1.14" == world.wait_for_phase("AwaitingApproval")["activeVersion"]


def test_forced_downgrade_below_zero_downtime_stops_first(world: World) -> None:
    """5.1.15 → 4.2.3: the old pod ends before the new one starts, history names the approval, and one write does it."""
    world.install("5.1.15")
    before = world.deployment()["metadata"]["generation"]
    world.set_version("4.2.3")
    world.wait_for_phase("AwaitingApproval")
    world.approve("4.2.3 CHG-1042")
    world.wait_for_phase("Running", "4.2.3")
    assert 1 == world.recorder.most_running["front-desk"]
    assert ("5.1.15", "4.2.3", "Recreate", "Completed") == last_rollout(world)
    entry = world.status()["history"][0]
    assert {"text": "4.2.3 CHG-1042", "by": "kubectl-annotate"} == entry["approval"]
    (gap,) = world.gaps()
    assert gap > 0
    assert gap == pytest.approx(entry["gapSeconds"], abs=SEEN_LATE)
    assert 0 == entry["overlapSeconds"]
    assert before + 1 == world.deployment()["metadata"]["generation"]
    assert ["4.2.3 CHG-1042"] == world.status()["spentApprovals"]
    budget = world.read("pdb", child("pdb"))["spec"]
    assert (1, None) == (budget.get("maxUnavailable"), budget.get("minAvailable"))


def test_approval_may_come_in_the_same_apply_as_the_version(world: World) -> None:
    """Annotation and version in one `kubectl apply` work in one step."""
    world.install("5.1.15")
    wanted = agent_manifest(version="4.2.3")
    wanted["metadata"]["annotations"] = {FORCE: "4.2.3 GitOps merge request 99"}
    world.apply(wanted)
    world.wait_for_phase("Running", "4.2.3")
    assert [] == world.events("DowngradeNotApproved")
    assert "4.2.3 GitOps merge request 99" == world.status()["history"][0]["approval"]["text"]


def test_abort_of_a_target_that_never_became_active_needs_no_approval(world: World) -> None:
    """5.1.14 → 5.1.15 (never ready) → 5.1.14: no approval, the old pod keeps running, and no agent restarts."""
    world.install()
    [old] = world.pods()
    stuck = {"annotations": {"sim.medplum.com/behaviour": "never-ready"}}
    world.patch({"version": "5.1.15", "podTemplate": stuck})
    world.wait_for_phase("HandingOff")
    world.wait(lambda: len(world.pods()) == 2, "both pods")
    world.patch({"version": "5.1.14", "podTemplate": {"annotations": {"sim.medplum.com/behaviour": "ready"}}})
    world.wait_for_phase("Running", "5.1.14")
    assert [old["metadata"]["uid"]] == [pod["metadata"]["uid"] for pod in world.pods()]
    assert ["Completed", "Aborted", "Completed"] == [entry["outcome"] for entry in world.status()["history"]]


@pytest.mark.parametrize("other", ["5.1.16", "5.1.14-rebuilt", "5.1.15"])
def test_retarget_during_a_rollout_is_compared_with_the_active_version(world: World, other: str) -> None:
    """5.1.13 is active, 5.1.20 is not ready yet: any target above 5.1.13 is an upgrade, even one below 5.1.20."""
    world.install("5.1.13")
    world.patch({"version": "5.1.20", "podTemplate": {"annotations": {"sim.medplum.com/behaviour": "never-ready"}}})
    world.wait_for_phase("HandingOff")
    world.patch({"version": other, "podTemplate": {"annotations": {"sim.medplum.com/behaviour": "ready"}}})
    world.wait_for_phase("Running", other)
    assert ["Completed", "Superseded", "Completed"] == [entry["outcome"] for entry in world.status()["history"]]


def test_retarget_below_the_active_version_is_refused_during_a_rollout(world: World) -> None:
    """5.1.14 is active, 5.1.15 is rolling out: 4.2.3 is a downgrade from 5.1.14, and the current rollout completes."""
    world.install()
    world.set_version("5.1.15")
    world.wait_for_phase("HandingOff")
    world.set_version("4.2.3")
    world.wait_for_phase("AwaitingApproval")
    world.wait(lambda: world.status().get("activeVersion") == "5.1.15", "the rollout under way ends")
    assert "5.1.15" == world.deployment()["spec"]["template"]["metadata"]["labels"]["agents.medplum.com/version"]


@pytest.mark.parametrize(
    "binding",
    [
        {"channels": [{"name": "adt", "port": 2575, "hostPort": 2575}]},
        {"podTemplate": {"hostNetwork": True, "annotations": {"sim.medplum.com/terminate-after": "700ms"}}},
    ],
    ids=["hostPort", "hostNetwork"],
)
def test_agents_that_bind_ports_of_the_node_never_run_at_the_same_time(world: World, binding: dict[str, Any]) -> None:
    """With hostPort or hostNetwork, 5.1.14 → 5.1.15 also stops first, and the plan says why."""
    world.install(**binding)
    world.set_version("5.1.15")
    status = world.wait_for_phase("Recreating")
    assert "hostNetwork or hostPort" in status["plan"]
    world.wait_for_phase("Running", "5.1.15")
    assert 1 == world.recorder.most_running["front-desk"]


def test_paused_agent_is_left_alone_until_the_pause_ends(world: World) -> None:
    """spec.paused: the operator acts neither on a version change nor on drift; after the pause it acts on both."""
    world.install()
    generation = world.deployment()["metadata"]["generation"]
    world.patch({"paused": True, "version": "5.1.16"})
    world.wait_for_phase("Paused")
    world.kubectl("delete", "service", "front-desk")
    world.set_version("5.1.15")
    world.wait_for_phase("Paused")  # of the newer generation: a pass has run since the Service was deleted
    assert generation == world.deployment()["metadata"]["generation"]
    assert "" == world.kubectl("get", "service", "front-desk", "--ignore-not-found")
    world.patch({"paused": False})
    world.wait_for_phase("Running", "5.1.15")
    assert "service/front-desk" in world.kubectl("get", "service", "front-desk", "-o", "name")


def test_a_recreate_waits_for_a_window_and_a_handoff_does_not(world: World) -> None:
    """A window opens in some hours: an upgrade from 4.2.3 waits for it, drift is repaired meanwhile, and `now` starts it at once."""
    opens = (datetime.now(UTC) + timedelta(hours=3)).hour
    world.install("4.2.3", maintenanceWindows=[{"schedule": f"0 {opens} * * *", "duration": "1h"}])
    [old] = world.pods()
    world.set_version("5.1.14")
    status = world.wait_for_phase("AwaitingWindow", "4.2.3")
    assert f" {opens:02}:00 UTC" in status["plan"]
    assert "AwaitingWindow" == world.condition("Ready")["reason"]
    assert ["False", "False"] == [world.condition(kind)["status"] for kind in ("Reconciling", "Stalled")]
    world.kubectl("delete", "service", "front-desk")
    world.wait(lambda: world.kubectl("get", "service", "front-desk", "--ignore-not-found", "-o", "name"), "the Service")
    assert [old["metadata"]["uid"]] == [pod["metadata"]["uid"] for pod in world.pods()]
    world.kubectl("annotate", "mpa", "front-desk", "agents.medplum.com/now=5.1.14 CHG-1")
    world.wait_for_phase("Running", "5.1.14")
    world.set_version("5.1.15")
    world.wait_for_phase("Running", "5.1.15")


def test_a_change_begins_automatically_when_its_window_opens(world: World) -> None:
    """No event happens in between: the operator requeues the agent for that time."""
    opens = (datetime.now(UTC) + timedelta(seconds=65)).replace(second=0, microsecond=0)
    world.install("4.2.3", maintenanceWindows=[{"schedule": f"{opens.minute} {opens.hour} * * *", "duration": "10m"}])
    world.set_version("5.1.14")
    if datetime.now(UTC) < opens - timedelta(seconds=2):
        world.wait_for_phase("AwaitingWindow", "4.2.3")
    world.wait_for_phase("Running", "5.1.14", seconds=120)
    since = datetime.fromisoformat(world.status()["history"][0]["startedAt"])
    assert opens <= since


def test_an_invalid_window_is_reported(world: World) -> None:
    """A time zone that does not exist: one Warning, and a sentence in the plan."""
    status = world.install(
        maintenanceWindows=[{"schedule": "0 2 * * 0", "duration": "2h", "timeZone": "Europe/Berlim"}]
    )
    assert "'Europe/Berlim' is not a known time zone" in status["plan"]
    world.wait(lambda: world.events("WindowInvalid"), "the Event")
