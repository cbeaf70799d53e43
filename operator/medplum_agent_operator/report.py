"""What a pass tells: the status, where it differs, then what is new, as Events and as log lines.

Called by `reconcile` at the end of a pass. It decides nothing; a status that could not be written is an error, an Event is not.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.api.status import MedplumAgentStatus
from medplum_agent_operator.core.objects.events import render_event
from medplum_agent_operator.core.observed.findings import Finding, Severity
from medplum_agent_operator.core.observed.model import Key
from medplum_agent_operator.errors import ClusterError, ConflictError
from medplum_agent_operator.ports import Cluster, Object, Seen
from medplum_agent_operator.telemetry import log


class Reporter:
    """Tells of passes."""

    def __init__(self, cluster: Cluster, seen: Seen, *, clock: Callable[[], datetime], identity: str) -> None:
        self._cluster = cluster
        self._seen = seen
        self._clock = clock
        self._identity = identity

    async def report(
        self, key: Key, raw: Object, findings: Sequence[Finding], *, status: MedplumAgentStatus | None
    ) -> None:
        """Write a new status if there is one, bound to the version of the object that it was made for; then tell the findings.

        Raises:
            ClusterError: when the status could not be written; nothing is told then, and the next pass does it.
        """
        if status is not None:
            answer = await self._write_status(key, raw, status)
            if answer is None:
                return
            self._seen.put(KIND, answer)
        for finding in findings:
            level = log.warning if finding.severity is Severity.WARNING else log.info
            level("%s", finding.message.summary, extra={"agent": str(key), "reason": str(finding.reason)})
            await self._record(key, raw, finding)

    async def _write_status(self, key: Key, raw: Object, status: MedplumAgentStatus) -> dict[str, Any] | None:
        wanted = status.model_dump(by_alias=True, exclude_none=True, mode="json")
        patch = {
            "metadata": {"resourceVersion": raw["metadata"]["resourceVersion"]},
            "status": _overwriting(wanted, raw.get("status") or {}),
        }
        try:
            return await self._cluster.merge_patch(KIND, *key, patch, subresource="status")
        except ClusterError as fault:
            if fault.status == 404:  # noqa: PLR2004 - HTTP's own number: deleted meanwhile
                return None
            raise

    async def _record(self, key: Key, raw: Object, finding: Finding) -> None:
        event = render_event(raw, finding, now=self._clock(), instance=self._identity)
        try:
            await self._cluster.create(event)
        except ConflictError:
            return  # told before: the name is made of what is said
        except ClusterError as fault:
            log.warning(
                "an Event could not be written: %s", fault, extra={"agent": str(key), "reason": str(finding.reason)}
            )


def _overwriting(wanted: Object, live: Object) -> dict[str, Any]:
    """A merge patch that leaves exactly `wanted`: what else is live is set to null.

    >>> _overwriting({"rollout": {"to": "5.1.15"}}, {"rollout": {"from": "5.1.14"}, "phase": "Running"})
    {'rollout': {'from': None, 'to': '5.1.15'}, 'phase': None}
    """
    patch: dict[str, Any] = dict.fromkeys(live)
    for key, value in wanted.items():
        other = live.get(key)
        patch[key] = _overwriting(value, other) if isinstance(value, Mapping) and isinstance(other, Mapping) else value
    return patch
