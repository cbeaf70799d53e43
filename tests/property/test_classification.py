"""Every pair of versions: what may never happen between them, whatever they are."""

from __future__ import annotations

import copy
from functools import cache
from itertools import product
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medplum_agent_operator.api.status import Phase
from medplum_agent_operator.core.observed.drift import first_difference
from medplum_agent_operator.core.observed.rollout_record import Change
from medplum_agent_operator.core.policy.strategy import choose, classify
from tests.support.builders import v
from tests.support.simulated_cluster import SimulatedCluster, installed

POOL: Final = (
    "3.2.26",
    "4.1.12",
    "4.2.3",
    "4.2.3-abc1234",
    "4.2.4",
    "4.2.4-abc1234",
    "4.2.40",
    "5.0.0",
    "5.1.14",
    "5.1.15",
)
POLICIES: Final = ("Always", "BelowZeroDowntime")
generated = st.tuples(st.integers(3, 5), st.integers(1, 3), st.integers(2, 45), st.sampled_from(["", "-abc1234"])).map(
    lambda parts: "{}.{}.{}{}".format(*parts)
)


@cache
def _installed(version: str) -> SimulatedCluster:
    return installed(version)


def between(active: str, target: str, policy: str) -> SimulatedCluster:
    """A cluster where one version serves and another is asked for."""
    return copy.deepcopy(_installed(active)).edit(version=target, downgradePolicy={"approval": policy})


def check(active: str, target: str, policy: str) -> None:
    """Ask of one pair all that must never happen."""
    cluster = between(active, target, policy)
    plan, seen = cluster.plan(), cluster.observe()
    disruptive = [action for action in plan.actions if action.disruptive]
    downgrade = v(target) < v(active)
    needs = downgrade and (policy == "Always" or not v(target).hands_over)

    assert (Change.DOWNGRADE is classify(seen, v(target))) is downgrade
    assert needs is (plan.phase is Phase.AWAITING_APPROVAL)
    assert len(disruptive) <= 1
    if needs:
        assert () == plan.actions
        live = copy.deepcopy(cluster.deployment)
        live["spec"]["replicas"] = 7
        cluster.objects["Deployment"]["spec"]["replicas"] = 7
        (repair,) = cluster.plan().actions
        assert "spec.replicas" == first_difference(repair.body, live)
        live["spec"]["replicas"] = 1
        assert first_difference(repair.body, live) is None, (
            "while refused, nothing else would be applied than what is live"
        )
    choice = choose(seen, v(target), host_ports=False)
    assert (v(active).hands_over and v(target).hands_over) is (choice.strategy == "RollingHandoff")
    if disruptive:
        kind = disruptive[0].body["spec"]["strategy"]["type"]
        assert (choice.strategy == "RollingHandoff") is (kind == "RollingUpdate")


@pytest.mark.parametrize("active", POOL)
def test_every_pair_of_a_pool_under_both_policies(active: str) -> None:
    """No unapproved downgrade, no handoff with a side before 4.2.4, and refused means that the live Deployment stays to the letter."""
    for target, policy in product(POOL, POLICIES):
        check(active, target, policy)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(generated, generated, st.sampled_from(POLICIES))
def test_any_pair(active: str, target: str, policy: str) -> None:
    """The same for generated versions around the threshold."""
    check(active, target, policy)


@pytest.mark.parametrize("active", POOL)
def test_approved_or_not_every_pair_ends_well(active: str) -> None:
    """With the right approval every change is made, I1 and I2 being asserted by the cluster at every turn; without it, none below."""
    for target in POOL:
        cluster = between(active, target, "Always").settle()
        expected = active if v(target) < v(active) else target
        assert [expected] == cluster.running
        cluster.annotate(f"{target} CHG-1").settle()
        assert [target] == cluster.running
        assert Phase.RUNNING is cluster.status.phase
