"""The two ways to replace an agent's pod, and everything that differs between them.

Every wing reads `Mechanics` instead of comparing a `Strategy` by name, so that a third strategy would be one entry here.
`policy.strategy` chooses between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Phase, Strategy


@dataclass(frozen=True, slots=True)
class Mechanics:
    """How an agent's pod is replaced.

    Attributes:
        strategy: its name in the API.
        stops_first: whether the old agent stops before the new one starts; if not, both run side by side for a while.
        phase: the MedplumAgent's phase during such a rollout.
        reason: the reason that conditions and Events give during such a rollout.
        name: in words.
        how: completes "5.1.15 replaced 5.1.14 …".
        deployment_strategy: `spec.strategy` of the Deployment.
    """

    strategy: Strategy
    stops_first: bool
    phase: Phase
    reason: Reason
    name: str
    how: str
    deployment_strategy: Mapping[str, Any] = field(repr=False)


ROLLING_HANDOFF: Final = Mechanics(
    Strategy.ROLLING_HANDOFF,
    stops_first=False,
    phase=Phase.HANDING_OFF,
    reason=Reason.HANDING_OFF,
    name="rolling handoff",
    how="in a rolling handoff",
    # Always explicit: server-side apply cannot switch a strategy whose parameters were defaulted to Recreate
    # (https://github.com/kubernetes/kubernetes/issues/24198).
    deployment_strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
)
RECREATE: Final = Mechanics(
    Strategy.RECREATE,
    stops_first=True,
    phase=Phase.RECREATING,
    reason=Reason.RECREATING,
    name="recreate",
    how="by recreate",
    deployment_strategy={"type": "Recreate"},
)
_BY_STRATEGY: Final[Mapping[Strategy, Mechanics]] = {each.strategy: each for each in (ROLLING_HANDOFF, RECREATE)}
_BY_DEPLOYMENT_TYPE: Final[Mapping[Any, Mechanics]] = {
    each.deployment_strategy["type"]: each for each in (ROLLING_HANDOFF, RECREATE)
}


def mechanics_of(strategy: Strategy) -> Mechanics:
    """The mechanics of a strategy.

    >>> mechanics_of(Strategy.RECREATE).stops_first
    True
    """
    return _BY_STRATEGY[strategy]


def mechanics_of_deployment(spec: Mapping[str, Any]) -> Mechanics:
    """The mechanics of a live Deployment's `spec`; an unknown type counts as a rolling update, Kubernetes' default."""
    return _BY_DEPLOYMENT_TYPE.get((spec.get("strategy") or {}).get("type"), ROLLING_HANDOFF)
