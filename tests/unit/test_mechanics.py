"""The mechanics of each strategy, and how a live Deployment leads back to them."""

from __future__ import annotations

from typing import Any

import pytest

from medplum_agent_operator.api.status import Strategy
from medplum_agent_operator.core.observed.mechanics import ROLLING_HANDOFF, mechanics_of, mechanics_of_deployment


@pytest.mark.parametrize("strategy", Strategy)
def test_every_strategy_has_mechanics(strategy: Strategy) -> None:
    """Under its own name."""
    assert strategy is mechanics_of(strategy).strategy


@pytest.mark.parametrize("strategy", Strategy)
def test_the_deployment_strategy_leads_back_to_the_mechanics(strategy: Strategy) -> None:
    """The operator reads what it wrote."""
    mechanics = mechanics_of(strategy)
    assert mechanics is mechanics_of_deployment({"strategy": mechanics.deployment_strategy})


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"strategy": {"type": "BlueGreen"}}, id="an unknown type"),
        pytest.param({"strategy": {}}, id="no type"),
        pytest.param({"strategy": None}, id="an empty strategy"),
        pytest.param({}, id="no strategy"),
    ],
)
def test_any_other_deployment_counts_as_rolling(spec: dict[str, Any]) -> None:
    """Kubernetes' default is a rolling update."""
    assert ROLLING_HANDOFF is mechanics_of_deployment(spec)


def test_only_recreate_stops_the_old_agent_first() -> None:
    """A rolling handoff never has fewer than one pod."""
    assert [Strategy.RECREATE] == [strategy for strategy in Strategy if mechanics_of(strategy).stops_first]
    assert {"maxSurge": 1, "maxUnavailable": 0} == ROLLING_HANDOFF.deployment_strategy["rollingUpdate"]
