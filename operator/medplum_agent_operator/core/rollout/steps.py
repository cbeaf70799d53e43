"""The inputs of one pass, and its next step: values that `plan` turns into a `Plan`.

Made by `plan`, `rollback` and `upkeep`. Pure.
"""

from dataclasses import dataclass, field
from datetime import datetime

from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.observed.scope import Config
from medplum_agent_operator.core.policy.verdict import Allowed, Refused, Verdict
from medplum_agent_operator.core.report.progress import Progress
from medplum_agent_operator.core.rollout.actions import Apply


@dataclass(frozen=True, slots=True)
class Pass:
    """The inputs of one pass."""

    observed: Observed = field(repr=False)
    verdict: Verdict
    config: Config
    now: datetime

    @property
    def spec(self) -> MedplumAgentSpec:
        """The spec in force.

        Raises:
            ValueError: no spec is in force; such a pass decides nothing.
        """
        if self.verdict.spec is None:
            raise ValueError("no spec is in force")
        return self.verdict.spec

    @property
    def allowed(self) -> Allowed | None:
        """The verdict, if the user's spec is in force."""
        return self.verdict if isinstance(self.verdict, Allowed) else None

    @property
    def refused(self) -> Refused | None:
        """The verdict, if the user's spec is not in force."""
        return self.verdict if isinstance(self.verdict, Refused) else None


@dataclass(frozen=True, slots=True)
class Step:
    """What a pass does next.

    Attributes:
        progress: how far the rollout is after the step.
        record: the rollout that the step belongs to.
        actions: the writes, in this order; at most one is disruptive.
        begins: whether the disruptive action begins that rollout.
        revision: the revision that the actions put in force; None if they put none in force.
    """

    progress: Progress
    record: RolloutRecord
    actions: tuple[Apply, ...] = ()
    begins: bool = False
    revision: str | None = None
