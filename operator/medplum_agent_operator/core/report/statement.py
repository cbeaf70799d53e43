"""What a pass says, as a value: `status` projects it, Events and log lines come from it.

Made by `plan`. A `Plan` is a statement with the actions that make it true.
"""

from dataclasses import dataclass, replace
from typing import Self

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Phase, Strategy
from medplum_agent_operator.core.observed.findings import Finding, Message
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a pass says.

    Attributes:
        phase: the agent's phase once the actions are done.
        reason: why; the conditions' reason.
        message: the same for people. Conditions carry its first line.
        notices: further messages that stand below it in `status.plan`.
        findings: what deserves an Event when it is new.
        begins: the rollout that the disruptive action begins; None without such an action.
        strategy: of the rollout under way, or the latest; for a refused change that may still begin, of that change; None for a
            first installation.
        refusal: why the user's spec is not in force; None if it is.
        revision: the revision that is in force once the actions are done; None if they put none in force.
        pending_update: what this operator release renders differently and applies with the next rollout; empty if nothing.
    """

    phase: Phase
    reason: Reason
    message: Message
    notices: tuple[Message, ...] = ()
    findings: tuple[Finding, ...] = ()
    begins: RolloutRecord | None = None
    strategy: Strategy | None = None
    refusal: Finding | None = None
    revision: str | None = None
    pending_update: str = ""

    @property
    def text(self) -> str:
        """The whole text for people: `status.plan`. Notices replace "no impact, no fix needed" of an agent that serves."""
        message = self.message
        if self.reason is Reason.SERVING and self.notices:
            message = replace(message, impact="", fix="")
        return "\n\n".join(map(str, (message, *self.notices)))

    def stopped_by(self, found: Finding) -> Self:
        """The statement when this finding prevents what is left to do, until a person acts."""
        stopped = replace(self, phase=Phase.FAILED, reason=found.reason, message=found.message)
        return replace(stopped, notices=(), findings=(found,), begins=None)
