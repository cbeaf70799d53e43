"""Publishes the outcome of a pass: the status if it changed, then each finding as an Event and a log line.

Called by `reconcile` at the end of a pass. It decides nothing. A status that cannot be written is an error; an Event that cannot is a log line.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.api.status import MedplumAgentStatus
from medplum_agent_operator.core.objects.events import is_told, occurrence, render_event
from medplum_agent_operator.core.observed.findings import Finding, Severity
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.errors import ClusterError, ConflictError
from medplum_agent_operator.ports import Cluster, Object, Seen
from medplum_agent_operator.telemetry import log


class Publisher:
    """Writes status and Events."""

    def __init__(self, cluster: Cluster, seen: Seen, *, clock: Callable[[], datetime], identity: str) -> None:
        """`identity`: the name of this operator instance in Events."""
        self._cluster = cluster
        self._seen = seen
        self._clock = clock
        self._identity = identity

    async def publish(
        self,
        key: Key,
        raw: Object,
        findings: Sequence[Finding],
        *,
        before: MedplumAgentStatus,
        status: MedplumAgentStatus | None,
    ) -> bool:
        """Write the status, if there is a new one, then the findings that are new.

        The status is bound to the resource version of `raw`; `before` is the status that `raw` has.

        Returns:
            Whether the MedplumAgent was found; if not, nothing was written.

        Raises:
            ClusterError: when the status could not be written. Then no finding is published; the next pass does that.
        """
        if status is not None:
            answer = await self._write_status(key, raw, status)
            if answer is None:
                return False
            self._seen.put(KIND, answer)
        for finding in findings:
            if is_told(finding, before, raw["metadata"].get("generation")):
                continue
            level = log.warning if finding.severity is Severity.WARNING else log.info
            about = {"agent": str(key), "reason": str(finding.reason), "details": str(finding.message)}
            level("%s", finding.message.summary, extra=about)
            await self._write_event(key, raw, finding, status or before)
        return True

    async def _write_status(self, key: Key, raw: Object, status: MedplumAgentStatus) -> dict[str, Any] | None:
        wanted = status.model_dump(by_alias=True, exclude_none=True, mode="json")
        patch = {
            "metadata": {"resourceVersion": raw["metadata"]["resourceVersion"]},
            "status": _overwriting(wanted, raw.get("status") or {}),
        }
        try:
            return await self._cluster.merge_patch(KIND, *key, patch, subresource="status")
        except ClusterError as fault:
            if fault.status == 404:  # noqa: PLR2004 - HTTP's own number: the MedplumAgent was deleted meanwhile
                return None
            raise

    async def _write_event(self, key: Key, raw: Object, finding: Finding, latest: MedplumAgentStatus) -> None:
        now = self._clock()
        which = occurrence(raw, finding, latest, now=now)
        event = render_event(raw, finding, now=now, instance=self._identity, occurrence=which)
        try:
            await self._cluster.create(event)
        except ConflictError:
            return  # written before: the name of an Event is a hash of its content
        except ClusterError as fault:
            log.warning(
                "an Event could not be written: %s", fault, extra={"agent": str(key), "reason": str(finding.reason)}
            )


def _overwriting(wanted: Object, live: Object) -> dict[str, Any]:
    """Build a merge patch that results in exactly `wanted`: all other live fields are set to null.

    >>> _overwriting({"rollout": {"to": "5.1.15"}}, {"rollout": {"from": "5.1.14"}, "phase": "Running"})
    {'rollout': {'from': None, 'to': '5.1.15'}, 'phase': None}
    """
    patch: dict[str, Any] = dict.fromkeys(live)
    for key, value in wanted.items():
        other = live.get(key)
        patch[key] = _overwriting(value, other) if isinstance(value, Mapping) and isinstance(other, Mapping) else value
    return patch
