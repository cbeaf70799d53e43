"""A finding: one thing that a pass reports. Condition, Event, log line and metric share it.

Used by every wing. A finding is a value: creating one has no effect.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from medplum_agent_operator.api.reasons import Reason

NEW_LINE: Final = "\n"


class Severity(StrEnum):
    """The two types of Kubernetes Events."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class Message:
    """What happened and what to do, in lines for people (docs/style.md).

    >>> print(Message("No agent pod is ready.", impact="Devices cannot connect.", fix="None needed; Kubernetes restarts it."))
    No agent pod is ready.
    Impact: Devices cannot connect.
    Fix: None needed; Kubernetes restarts it.

    Attributes:
        summary: what happened, in at most about 120 characters. Events and conditions carry this line alone.
        rollout: the rollout in question, if `summary` is about something else.
        cause: why it happened: a quotation from Kubernetes or from the agent.
        impact: what stops working for devices, or that nothing does.
        before_you_approve: what a cluster admin should consider.
        fix: what to do, or that nothing is needed.
        command: a command that can be copied whole; always the last line.
    """

    summary: str
    rollout: str = ""
    cause: str = ""
    impact: str = ""
    before_you_approve: str = ""
    fix: str = ""
    command: str = ""

    def __str__(self) -> str:
        labelled = (
            ("Rollout", self.rollout),
            ("Cause", self.cause),
            ("Impact", self.impact),
            ("Before you approve", self.before_you_approve),
            ("Fix", self.fix),
            ("Command", self.command),
        )
        lines = (f"{label}:{'' if text.startswith(NEW_LINE) else ' '}{text}" for label, text in labelled if text)
        return NEW_LINE.join((self.summary, *lines))


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault or a piece of news, how severe it is, and the message about it."""

    reason: Reason
    severity: Severity
    message: Message


def warning(reason: Reason, message: Message) -> Finding:
    """A finding that needs attention."""
    return Finding(reason, Severity.WARNING, message)


def news(reason: Reason, message: Message) -> Finding:
    """A finding that only informs."""
    return Finding(reason, Severity.NORMAL, message)
