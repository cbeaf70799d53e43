"""A finding: something that a pass has to say. The value that a condition, an Event, a log line and a metric share."""

from dataclasses import dataclass
from enum import StrEnum

from medplum_agent_operator.api.reasons import Reason


class Severity(StrEnum):
    """How a finding is told: the two types that Kubernetes Events know."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, how bad it is, and a message of whole sentences."""

    reason: Reason
    severity: Severity
    message: str
