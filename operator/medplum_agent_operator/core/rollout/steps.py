"""The values of one pass: its inputs, its next step, and the plan that `plan` makes of them.

Made by `plan`, `rollback` and `upkeep`. Pure.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime

from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Phase
from medplum_agent_operator.core.observed.findings import Finding
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.observed.scope import Config
from medplum_agent_operator.core.policy.verdict import Allowed, Refused, Verdict
from medplum_agent_operator.core.report.progress import Progress
from medplum_agent_operator.core.report.statement import Statement
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
    """

    progress: Progress
    record: RolloutRecord
    actions: tuple[Apply, ...] = ()
    begins: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Statement):
    """What a pass does and says.

    Attributes:
        actions: the writes, in this order; at most one is disruptive.
        requeue_at: when to reconcile again without an event; None if events suffice.
        defer_reporting: whether to report nothing yet, because the report would change within a second.
    """

    actions: tuple[Apply, ...] = ()
    requeue_at: datetime | None = None
    defer_reporting: bool = False

    def stopped_by(self, found: Finding, *, requeue_at: datetime) -> "Plan":
        """The same plan without its actions: this finding prevents them until a person acts, or until the requeue."""
        return replace(
            self,
            phase=Phase.FAILED,
            reason=found.reason,
            message=found.message,
            notices=(),
            findings=(found,),
            actions=(),
            begins=None,
            defer_reporting=False,
            requeue_at=requeue_at,
        )
