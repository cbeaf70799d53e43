"""What the process remembers from one pass to the next: how often in a row an agent's passes have failed.

Used by `reconcile`. It only delays or adds a report, so a restart may forget it.
"""

from typing import Final

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.observed.findings import Finding, warning
from medplum_agent_operator.core.observed.model import Key
from medplum_agent_operator.core.policy import messages
from medplum_agent_operator.errors import ClusterError, ConflictError

FAILURES_TO_REPORT: Final = 3
"""Failed passes in a row before the fault is reported: a single one is ordinary while an API server restarts."""
CONFLICTS_TO_REPORT: Final = 8
"""The same for conflicts, about 20 s with the queue's backoff. A rollout changes its Deployment all the time, so a few in a row are ordinary."""


class Failures:
    """The failed passes of each agent since its last successful one."""

    def __init__(self) -> None:
        self._faults: dict[Key, int] = {}
        self._conflicts: dict[Key, int] = {}

    def count(self, key: Key, fault: ClusterError) -> Finding | None:
        """Count a failed pass. Returns the finding to report; None as long as the fault may be over at the next try."""
        conflict = isinstance(fault, ConflictError)
        counts = self._conflicts if conflict else self._faults
        counts[key] = counts.get(key, 0) + 1
        if counts[key] < (CONFLICTS_TO_REPORT if conflict else FAILURES_TO_REPORT):
            return None
        message = messages.conflict_without_end(str(fault)) if conflict else messages.request_failing(str(fault))
        return warning(Reason.REQUEST_FAILING, message)

    def forget(self, key: Key) -> None:
        """A pass succeeded, or the agent is gone."""
        self._faults.pop(key, None)
        self._conflicts.pop(key, None)
