"""Every row of the table "Which change is made how": what a change is, who has to agree, and how it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from medplum_agent_operator.api.status import Strategy
from medplum_agent_operator.core.observed.rollout_record import Change
from medplum_agent_operator.core.policy.strategy import choose, classify, needs_approval
from tests.support.builders import agent, observed, pod, spec_of, v
from tests.support.simulated_cluster import SimulatedCluster, changing, installed

if TYPE_CHECKING:
    from medplum_agent_operator.core.policy.strategy import Choice

ALWAYS = {"approval": "Always"}
BELOW = {"approval": "BelowZeroDowntime"}
HOST_PORT = [{"name": "adt", "port": 2575, "hostPort": 2575}]


def asked(cluster: SimulatedCluster, target: str) -> tuple[Change, Choice]:
    """What going to a version means now, and how it would be made."""
    seen = cluster.observe()
    return classify(seen, v(target)), choose(seen, v(target), host_ports=seen.agent.spec.uses_host_ports)


ROWS = [
    # active, target, change, approval by Always, by BelowZeroDowntime, how
    pytest.param(
        "5.1.15",
        "5.1.15",
        Change.NONE,
        False,
        False,
        Strategy.ROLLING_HANDOFF,
        id="same version from 4.2.4 on: handoff",
    ),
    pytest.param(
        "4.2.3", "4.2.3", Change.NONE, False, False, Strategy.RECREATE, id="same version before 4.2.4: recreate"
    ),
    pytest.param(
        "5.1.15", "5.1.15-abc1234", Change.NONE, False, False, Strategy.ROLLING_HANDOFF, id="another build: handoff"
    ),
    pytest.param(
        "5.1.14",
        "5.1.15",
        Change.UPGRADE,
        False,
        False,
        Strategy.ROLLING_HANDOFF,
        id="upgrade, both 4.2.4 or newer: handoff",
    ),
    pytest.param(
        "4.2.4",
        "4.2.5",
        Change.UPGRADE,
        False,
        False,
        Strategy.ROLLING_HANDOFF,
        id="upgrade from exactly 4.2.4: handoff",
    ),
    pytest.param(
        "4.2.3", "4.2.4", Change.UPGRADE, False, False, Strategy.RECREATE, id="upgrade from before 4.2.4: recreate"
    ),
    pytest.param(
        "4.1.12", "4.2.3", Change.UPGRADE, False, False, Strategy.RECREATE, id="upgrade below 4.2.4: recreate"
    ),
    pytest.param(
        "5.1.15",
        "5.1.14",
        Change.DOWNGRADE,
        True,
        False,
        Strategy.ROLLING_HANDOFF,
        id="downgrade to 4.2.4 or newer: handoff",
    ),
    pytest.param(
        "5.1.15",
        "4.2.4-abc1234",
        Change.DOWNGRADE,
        True,
        False,
        Strategy.ROLLING_HANDOFF,
        id="downgrade to a build of 4.2.4: handoff",
    ),
    pytest.param(
        "5.1.15", "4.2.3", Change.DOWNGRADE, True, True, Strategy.RECREATE, id="downgrade below 4.2.4: recreate"
    ),
    pytest.param(
        "4.2.3",
        "4.1.12",
        Change.DOWNGRADE,
        True,
        True,
        Strategy.RECREATE,
        id="downgrade below 4.2.4 on both sides: recreate",
    ),
]


@pytest.mark.parametrize(("active", "target", "change", "always", "below", "how"), ROWS)
def test_each_row_of_the_table(
    active: str, target: str, change: Change, *, always: bool, below: bool, how: Strategy
) -> None:
    """With an agent at rest: what the change is, which policy wants an approval, and by which mechanics it is made."""
    found, choice = asked(installed(active), target)
    assert change is found
    assert always is needs_approval(found, v(target), spec_of(target, downgradePolicy=ALWAYS))
    assert below is needs_approval(found, v(target), spec_of(target, downgradePolicy=BELOW))
    assert how is choice.strategy


@pytest.mark.parametrize("target", ["5.1.15", "4.2.3"])
def test_the_first_agent_is_an_install(target: str) -> None:
    """Where nothing ever ran, any version is an install and needs no approval."""
    change, _ = asked(SimulatedCluster(agent(target)), target)
    assert Change.INSTALL is change
    assert not needs_approval(change, v(target), spec_of(target))


MID_ROLLOUT = [
    # serves, being rolled to (never ready), target, change, how
    pytest.param(
        "5.1.14", "5.1.16", "5.1.16", Change.NONE, Strategy.ROLLING_HANDOFF, id="staying on course is no change"
    ),
    pytest.param("5.1.14", "5.1.16", "5.1.17", Change.UPGRADE, Strategy.ROLLING_HANDOFF, id="further up is an upgrade"),
    pytest.param(
        "5.1.14",
        "5.1.16",
        "5.1.15",
        Change.UPGRADE,
        Strategy.ROLLING_HANDOFF,
        id="less far up is an upgrade: the target never became active",
    ),
    pytest.param(
        "5.1.14",
        "5.1.16",
        "5.1.14",
        Change.ABORT,
        Strategy.ROLLING_HANDOFF,
        id="back to what serves is an abort, never a downgrade",
    ),
    pytest.param(
        "5.1.14",
        "5.1.16",
        "5.1.14-abc1234",
        Change.ABORT,
        Strategy.ROLLING_HANDOFF,
        id="back to a build of what serves is an abort",
    ),
    pytest.param(
        "5.1.14", "5.1.16", "5.1.13", Change.DOWNGRADE, Strategy.ROLLING_HANDOFF, id="below what serves is a downgrade"
    ),
    pytest.param(
        "5.1.14",
        "5.1.16",
        "4.2.3",
        Change.DOWNGRADE,
        Strategy.RECREATE,
        id="far below what serves is a downgrade by recreate",
    ),
    pytest.param(
        "4.2.3", "5.1.15", "4.2.3", Change.ABORT, Strategy.RECREATE, id="back to 4.2.3 is an abort by recreate"
    ),
    pytest.param(
        "4.2.3",
        "5.1.15",
        "5.1.16",
        Change.UPGRADE,
        Strategy.RECREATE,
        id="further up while the 4.2.3 is on its way out: recreate",
    ),
    pytest.param(
        "4.2.3",
        "5.1.15",
        "4.2.2",
        Change.DOWNGRADE,
        Strategy.RECREATE,
        id="below a 4.2.3 that was active is a downgrade",
    ),
]


@pytest.mark.parametrize(("serves", "rolling_to", "target", "change", "how"), MID_ROLLOUT)
def test_retargeting_in_the_middle_of_a_rollout(
    serves: str, rolling_to: str, target: str, change: Change, how: Strategy
) -> None:
    """A change of mind is judged from what became active last, not from what was being rolled out."""
    found, choice = asked(changing(serves, rolling_to), target)
    assert change is found
    assert how is choice.strategy


def test_another_target_of_a_first_installation_that_never_came_up_is_an_upgrade() -> None:
    """Up or down: nothing was ever active, and a Deployment is there already."""
    cluster = SimulatedCluster(agent("5.1.15"))
    cluster.never_ready.add("5.1.15")
    cluster.reconcile()
    cluster.tick()
    assert [Change.UPGRADE, Change.UPGRADE] == [asked(cluster, target)[0] for target in ("5.1.16", "4.2.3")]


def test_a_deployment_that_was_deleted_is_installed_again() -> None:
    """On the version that was active: there is nothing to give up."""
    cluster = installed("5.1.15").delete("Deployment")
    assert Change.INSTALL is asked(cluster, "5.1.15")[0]


def test_an_upgrade_after_a_recreate_whose_old_pod_is_gone_may_hand_over() -> None:
    """Once nothing before 4.2.4 is left, two newer ones may overlap."""
    cluster = changing("4.2.3", "5.1.15", seconds=10)
    assert ["5.1.15"] == cluster.running
    _, choice = asked(cluster, "5.1.16")
    assert Strategy.ROLLING_HANDOFF is choice.strategy


def test_a_forced_downgrade_that_has_begun_is_left_by_recreate() -> None:
    """The live template is before 4.2.4, so a pod of it may start at any moment: stop first."""
    cluster = changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1", seconds=0)
    change, choice = asked(cluster, "5.1.15")
    assert (Change.ABORT, Strategy.RECREATE) == (change, choice.strategy)
    assert "4.2.3" in choice.why


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({"channels": HOST_PORT}, {}, id="the old pod binds a hostPort"),
        pytest.param({}, {"channels": HOST_PORT}, id="the new pod would bind a hostPort"),
        pytest.param({"podTemplate": {"hostNetwork": True}}, {}, id="the old pod is in the node's network"),
        pytest.param({}, {"podTemplate": {"hostNetwork": True}}, id="the new pod would be in the node's network"),
    ],
)
def test_ports_of_a_node_on_either_side_mean_recreate(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Two agents cannot bind one port of a node, so even new versions stop first; the reason says so."""
    cluster = installed("5.1.14", **before)
    seen = cluster.observe()
    choice = choose(seen, v("5.1.15"), host_ports=spec_of(**after).uses_host_ports)
    assert Strategy.RECREATE is choice.strategy
    assert "two agents cannot bind the same ports of a node (hostNetwork or hostPort)" == choice.why


@pytest.mark.parametrize(
    ("orphan", "strategy"),
    [
        pytest.param("4.2.3", Strategy.RECREATE, id="an orphan before 4.2.4: stop first"),
        pytest.param("5.1.14", Strategy.ROLLING_HANDOFF, id="an orphan that can hand over: hand over"),
        pytest.param(None, Strategy.RECREATE, id="an orphan of unknown version: stop first"),
    ],
)
def test_pods_without_a_deployment_count(orphan: str | None, strategy: Strategy) -> None:
    """What may still run counts as a side, although no Deployment tells of it."""
    seen = observed(agent("5.1.15"), pods=[pod(orphan)])
    assert strategy is choose(seen, v("5.1.15"), host_ports=False).strategy
    assert Change.INSTALL is classify(seen, v("5.1.15"))


def test_an_orphan_that_has_ended_for_good_does_not_count() -> None:
    """A finished pod runs nothing."""
    seen = observed(agent("5.1.15"), pods=[pod("4.2.3", phase="Failed")])
    assert Strategy.ROLLING_HANDOFF is choose(seen, v("5.1.15"), host_ports=False).strategy


def test_a_terminating_pod_counts_until_it_is_gone() -> None:
    """Its containers may still run."""
    seen = observed(agent("5.1.15"), pods=[pod("4.2.3", terminating=True)])
    assert Strategy.RECREATE is choose(seen, v("5.1.15"), host_ports=False).strategy


def test_a_live_template_whose_version_cannot_be_told_means_recreate() -> None:
    """Unknown is taken for the less safe case."""
    cluster = installed("5.1.14")
    template = cluster.deployment["spec"]["template"]
    template["metadata"]["labels"].clear()
    template["spec"]["containers"][0]["image"] = "agent:stable"
    seen = observed(cluster.agent, deployment=cluster.deployment)
    choice = choose(seen, v("5.1.15"), host_ports=False)
    assert Strategy.RECREATE is choice.strategy
    assert "the version of the Deployment cannot be read" in choice.why


def test_an_image_that_was_set_back_by_hand_counts_as_what_it_is() -> None:
    """`kubectl set image` leaves the label as it was; the tag is what runs, so the way back up is a recreate."""
    cluster = installed("5.1.15")
    cluster.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "agent:4.2.3"
    change, choice = asked(cluster, "5.1.15")
    assert (Change.NONE, Strategy.RECREATE) == (change, choice.strategy)


def test_a_version_that_serves_is_gone_down_from_although_nobody_noted_that_it_became_active() -> None:
    """5.1.16 became active while the operator was away, then somebody asked for new pods: 5.1.15 is a downgrade all the same."""
    cluster = installed("5.1.14").edit(version="5.1.16")
    cluster.reconcile()
    cluster.settle(operator=False).restart_pods()
    assert ["5.1.16"] == cluster.running
    change, _ = asked(cluster, "5.1.15")
    assert Change.DOWNGRADE is change


def test_what_may_have_served_before_its_pods_were_restarted_by_hand_is_gone_down_from() -> None:
    """It became active while the operator was away, and its new pod is not up yet: the Deployment's conditions tell nothing of that."""
    cluster = installed("4.2.3").edit(version="5.1.15")
    cluster.until(lambda: cluster.applied_version == "5.1.15")
    cluster.settle(operator=False).restart_pods().tick()
    assert () == cluster.observe().serving_pods
    change, _ = asked(cluster, "4.2.3")
    assert Change.DOWNGRADE is change


def test_restarted_by_hand_a_handoff_is_aborted_freely_while_the_old_agent_serves() -> None:
    """Had 5.1.15 been active, 5.1.14 would have been stopped."""
    cluster = installed("5.1.14").edit(version="5.1.15")
    cluster.never_ready.add("5.1.15")
    cluster.settle()
    cluster.restart_pods().tick()
    change, _ = asked(cluster, "5.1.14")
    assert Change.ABORT is change


def test_an_approved_downgrade_that_is_not_done_approves_no_other() -> None:
    """Its pod is ready, but has not been so for long enough: what was active last is still what one goes down from."""
    cluster = installed("4.2.4").annotate("4.1.12 CHG-1").edit(version="4.1.12")
    cluster.until(lambda: bool(cluster.observe().serving_pods) and "4.1.12" in cluster.running)
    change, _ = asked(cluster, "4.2.3")
    assert Change.DOWNGRADE is change
