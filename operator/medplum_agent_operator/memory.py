"""What the process remembers from one pass to the next: how often an agent's passes fail in a row, and how often a field was repaired.

Used by `reconcile`. It only delays a write or adds a report, so a restart may forget it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.annotations import MANAGED_BY
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.observed.drift import fingerprint, writers
from medplum_agent_operator.core.observed.findings import Finding, Message, warning
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.core.plan import Plan, without_actions
from medplum_agent_operator.core.policy import write_messages
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.rollout.actions import Apply
from medplum_agent_operator.errors import ClusterError, ConflictError
from medplum_agent_operator.kinds import JOB

FAILURES_TO_REPORT: Final = 3
"""Failed passes in a row before the fault is reported: a single one is ordinary while an API server restarts."""
CONFLICTS_TO_REPORT: Final = 8
"""The same for conflicts, about 20 s with the queue's backoff. A rollout changes its Deployment all the time, so a few in a row are ordinary."""
WRITES_AT_ONCE: Final = 4
"""How often the same object is applied for the same field before the operator pauses: once as a change, then as repairs."""
FIRST_PAUSE: Final = timedelta(seconds=5)
LONGEST_PAUSE: Final = timedelta(minutes=5)
FORGOTTEN_AFTER: Final = timedelta(minutes=30)
_RECORD_NAMES: Final = (names.ROLLOUT, names.REVISION)
_RECORDS: Final = {f"metadata.annotations.{name}" for name in _RECORD_NAMES}


def repeated(fault: ClusterError, available: Availability) -> Finding:
    """The finding about passes that end with this fault again and again."""
    conflict = isinstance(fault, ConflictError)
    say = write_messages.conflict_without_end if conflict else write_messages.request_failing
    return warning(Reason.REQUEST_FAILING, say(str(fault), available))


class Failures:
    """The failed passes of each agent since its last successful one."""

    def __init__(self) -> None:
        self._faults: dict[Key, int] = {}
        self._conflicts: dict[Key, int] = {}

    def count(self, key: Key, fault: ClusterError) -> bool:
        """Count a failed pass. Returns whether to report it; not as long as the fault may be over at the next try."""
        conflict = isinstance(fault, ConflictError)
        counts = self._conflicts if conflict else self._faults
        counts[key] = counts.get(key, 0) + 1
        return counts[key] >= (CONFLICTS_TO_REPORT if conflict else FAILURES_TO_REPORT)

    def forget(self, key: Key) -> None:
        """A pass succeeded, or the agent is gone."""
        self._faults.pop(key, None)
        self._conflicts.pop(key, None)


@dataclass(frozen=True, slots=True)
class _Repair:
    """The writes of one object for the sake of one field.

    Attributes:
        content: fingerprint of what was applied; other content starts the count again.
        count: how often it was applied.
        last: when it was applied last.
        message: who changes the field again and again.
        reported: whether its Warning has been published.
    """

    content: str
    count: int
    last: datetime
    message: Message
    reported: bool = False

    @property
    def contested(self) -> bool:
        """Whether another program changes the field again and again."""
        return self.count >= WRITES_AT_ONCE

    @property
    def due(self) -> datetime:
        """When the field may be repaired again."""
        if not self.contested:
            return self.last
        pause: timedelta = FIRST_PAUSE * 2 ** min(self.count - WRITES_AT_ONCE, 10)
        return self.last + min(pause, LONGEST_PAUSE)


_Field = tuple[str, str, str]
"""Kind and name of an object, and the path of a field."""


class Repairs:
    """The latest writes of each agent, by field. A field over which another program fights with the operator is repaired after growing pauses."""

    def __init__(self) -> None:
        self._done: dict[Key, dict[_Field, _Repair]] = {}

    def done(self, key: Key, action: Apply, *, now: datetime) -> None:
        """Remember a write. Where the operator itself wants something else than before, the counts of the object start again."""
        if action.immutable or action.kind == JOB or action.difference in _RECORDS:
            return
        field, content, count = _field(action), _content(action), 1
        done = {
            other: repair
            for other, repair in self._done.get(key, {}).items()
            if other[:2] != field[:2] or repair.content == content
        }
        before = done.get(field)
        if before is not None and now - before.last < FORGOTTEN_AFTER:
            count = before.count + 1
        reported = before is not None and before.reported and count > 1
        done[field] = _Repair(content, count, now, _message(action), reported=reported)
        self._done[key] = done

    def pausing(self, key: Key, plan: Plan, *, now: datetime) -> Plan:
        """The plan without the repairs whose pause has not ended, and with a notice about each contested field."""
        done = self._done.get(key, {})
        for field in [field for field, repair in done.items() if now - repair.last >= FORGOTTEN_AFTER]:
            del done[field]
        contested = [repair for repair in done.values() if repair.contested]
        if not contested:
            return plan
        dues = [_due(done, action) for action in plan.actions]
        for action, due in zip(plan.actions, dues, strict=True):
            if action.disruptive and due is not None and due > now:
                found = warning(Reason.FIELD_CONTESTED, done[_field(action)].message)
                return without_actions(plan.stopped_by(found), requeue_at=due)
        now_due = tuple(a for a, due in zip(plan.actions, dues, strict=True) if due is None or due <= now)
        if not any(map(_names_revision, now_due)):  # a revision comes with the write that names it
            now_due = tuple(a for a in now_due if a.name != plan.revision)
            plan = replace(plan, revision=None, outdated=())
        later = [due for due in (*dues, plan.requeue_at) if due is not None and due > now]
        findings = plan.findings if len(now_due) == len(plan.actions) else _without_repairs(plan.findings)
        return replace(
            plan,
            actions=now_due,
            notices=(*plan.notices, *(repair.message for repair in contested)),
            findings=(*findings, *(_warning(repair) for repair in contested if not repair.reported)),
            requeue_at=min(later, default=plan.requeue_at),
        )

    def reported(self, key: Key, findings: Sequence[Finding]) -> None:
        """Remember that these findings have been published."""
        done = self._done.get(key, {})
        for field, repair in done.items():
            if repair.contested and _warning(repair) in findings:
                done[field] = replace(repair, reported=True)

    def forget(self, key: Key) -> None:
        """The agent is gone."""
        self._done.pop(key, None)


def _names_revision(action: Apply) -> bool:
    return names.REVISION in action.body["metadata"].get("annotations", {})


def _field(action: Apply) -> _Field:
    return action.kind, action.name, action.difference


def _content(action: Apply) -> str:
    """A fingerprint of what is applied, without the operator's records: a new rollout has a new one."""
    metadata = action.body["metadata"]
    annotations = {key: value for key, value in metadata.get("annotations", {}).items() if key not in _RECORD_NAMES}
    return fingerprint({**action.body, "metadata": {**metadata, "annotations": annotations}})


def _due(done: Mapping[_Field, _Repair], action: Apply) -> datetime | None:
    """When an action may be carried out; None if at once."""
    repair = done.get(_field(action))
    if repair is None or repair.content != _content(action) or _too_many_agents(action):
        return None
    return repair.due


def _too_many_agents(action: Apply) -> bool:
    """Whether an action removes agents that somebody added. The server sends each message to every agent of an identity, so this never waits."""
    return action.difference == "spec.replicas" and ((action.live or {}).get("spec") or {}).get("replicas", 0) > 1


def _message(action: Apply) -> Message:
    """Who changes the field. An owner of the field with our own name is another operator, if the value is not ours."""
    owners = [] if action.live is None else writers(action.body, action.live, action.difference)
    others = [name for name in owners if name != MANAGED_BY] or owners
    return write_messages.field_contested(
        action.kind,
        action.name,
        action.difference,
        ", ".join(others),
        at_once=_too_many_agents(action),
        stops_first=action.body["spec"]["strategy"]["type"] == "Recreate" if action.disruptive else None,
    )


def _warning(repair: _Repair) -> Finding:
    return warning(Reason.FIELD_CONTESTED, repair.message)


def _without_repairs(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings without the news about repairs, of which some are not done."""
    return tuple(one for one in findings if one.reason not in {Reason.DRIFT_REPAIRED, Reason.SPEC_APPLIED})
