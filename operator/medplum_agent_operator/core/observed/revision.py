"""The operator's memory: revisions, and which of them is in force (docs/adr/0032).

A revision is an immutable ControllerRevision of the MedplumAgent. `rollout.revisions` makes them; `model` asks `Memory.of` what counts.
The built-in roles `edit` and `admin` may read ControllerRevisions and not write them, so nothing here comes from an annotation that a
user could have forged, except the name of a revision. An older name than the one in `status` is never believed. Pure.
"""

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.status import MedplumAgentStatus
from medplum_agent_operator.core.observed.notes import Notes, has_copy, template_hash
from medplum_agent_operator.core.observed.rollout_record import Change, RolloutRecord, read_spec
from medplum_agent_operator.core.observed.version import AgentVersion

KIND: Final = "ControllerRevision"
_NUMBER: Final = re.compile(r"-r(?P<number>\d{1,15})-[0-9a-f]{10}$", re.ASCII)

Raw = Mapping[str, Any]


def packed(data: Any) -> bytes:
    """The `data` of a revision as the cache keeps it: a few KiB. An agent has up to ten revisions."""
    return zlib.compress(json.dumps(data, separators=(",", ":")).encode())


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision in the cluster.

    Attributes:
        name: the ControllerRevision's name.
        number: its number; a revision has a higher one than all before it.
        uid: the ControllerRevision's uid.
        data: its content, as JSON or packed.
    """

    name: str
    number: int
    uid: str = ""
    data: Any = field(default=None, repr=False)

    @classmethod
    def read(cls, raw: Raw) -> Self | None:
        """Read a ControllerRevision; None if it is none of these, such as a backup."""
        metadata, number = raw["metadata"], number_of(raw["metadata"]["name"])
        if number is None:
            return None
        return cls(metadata["name"], number, metadata.get("uid", ""), raw.get("data"))

    @property
    def notes(self) -> Notes:
        """What it says."""
        return Notes.read(json.loads(zlib.decompress(self.data)) if isinstance(self.data, bytes) else self.data)


def number_of(name: str | None) -> int | None:
    """The number in a revision's name; None if it is no such name.

    >>> number_of("lab-r12-0123456789")
    12
    """
    found = _NUMBER.search(name or "")
    return None if found is None else int(found["number"])


@dataclass(frozen=True, slots=True)
class Memory:
    """What the operator believes.

    Attributes:
        notes: what it remembers.
        revision: the revision in force; None without a Deployment, and right after an upgrade from a release without revisions.
        revisions: all revisions of the agent, the newest first.
        highest: the highest number that a revision has or had.
        altered: what somebody has changed of it: annotations of the Deployment, or a revision that is gone; empty if nothing.
    """

    notes: Notes = field(default_factory=Notes)
    revision: Revision | None = None
    revisions: tuple[Revision, ...] = ()
    highest: int = 0
    altered: tuple[str, ...] = ()

    @property
    def has_unused(self) -> bool:
        """Whether there are revisions after the one in force, which a crash has left."""
        mine = self.revision
        return mine is not None and any(r.number >= mine.number and r.name != mine.name for r in self.revisions)

    @classmethod
    def of(
        cls,
        agent: Raw,
        status: MedplumAgentStatus,
        *,
        deployment: Raw | None,
        revisions: Iterable[Raw] = (),
    ) -> Self:
        """Find the revision in force.

        Args:
            agent: the raw MedplumAgent.
            status: its status, which only the operator writes.
            deployment: its live Deployment.
            revisions: ControllerRevisions with its label; those of other owners do not count.
        """
        uid = agent["metadata"].get("uid")
        owned = [raw for raw in revisions if _is_controlled_by(raw, uid)]
        known = sorted((r for r in map(Revision.read, owned) if r is not None), key=lambda r: r.number, reverse=True)
        highest = max([r.number for r in known] + [number_of(status.revision) or 0])
        if deployment is None:
            return cls(revisions=tuple(known), highest=highest)
        confirmed = next((r for r in known if r.name == status.revision), None)
        in_force = _in_force(known, confirmed, deployment, oldest=number_of(status.revision) or 0)
        lost = (f"revision {status.revision}",) if status.revision and in_force is None else ()
        if in_force is None or _older_release_went_on(in_force, deployment, status):
            notes = _of_an_older_release(deployment, status)
            return cls(notes, None, tuple(known), highest, lost)
        notes = in_force.notes
        return cls(notes, in_force, tuple(known), highest, _altered(deployment, in_force, notes))


def _is_controlled_by(raw: Raw, uid: str | None) -> bool:
    owners = raw["metadata"].get("ownerReferences") or ()
    return any(owner.get("controller") and owner.get("uid") == uid for owner in owners)


def _annotations(deployment: Raw) -> Mapping[str, str]:
    return deployment["metadata"].get("annotations") or {}


def _in_force(
    known: Iterable[Revision], confirmed: Revision | None, deployment: Raw, *, oldest: int
) -> Revision | None:
    """The revision that the Deployment names, unless `status` confirms a later one.

    If the Deployment names none, status may have missed a revision: then a later one counts whose template is the live one.
    """
    name = _annotations(deployment).get(names.REVISION)
    named = next((one for one in known if one.name == name and one.number >= oldest), None)
    found = [one for one in (confirmed, named) if one is not None]
    if named is None:
        later = (one for one in known if one.number > oldest and _has_template(one, deployment))
        found += [one for one in (next(later, None),) if one is not None]
    return max(found, key=lambda one: one.number, default=None)


def _has_template(revision: Revision, deployment: Raw) -> bool:
    template = revision.notes.template
    live = template_hash(deployment["spec"]["template"])
    return template is not None and live is not None and template_hash(template.template) == live


def _older_release_went_on(in_force: Revision, deployment: Raw, status: MedplumAgentStatus) -> bool:
    """Whether a release without revisions has made a rollout since: it drops the revision's name, and `status` shows a later start."""
    if _annotations(deployment).get(names.REVISION):
        return False
    record = in_force.notes.record
    return record is not None and any(at > record.started_at for at in _starts(status))


def _starts(status: MedplumAgentStatus) -> list[datetime]:
    found = [entry.started_at for entry in status.history]
    if status.rollout is not None:
        found.append(status.rollout.started_at)
    return [at for at in found if at is not None]


def _altered(deployment: Raw, revision: Revision, notes: Notes) -> tuple[str, ...]:
    """The annotations of the Deployment that do not say what the revision in force says."""
    found = _annotations(deployment)
    spec_copy = read_spec(_json(found.get(names.APPLIED_SPEC)))
    unlike = {
        names.REVISION: found.get(names.REVISION) != revision.name,
        names.ROLLOUT: notes.record is not None and RolloutRecord.read(found.get(names.ROLLOUT)) != notes.record,
        names.APPLIED_SPEC: notes.spec is not None and spec_copy != notes.spec and has_copy(notes.spec),
    }
    return tuple(f"annotation {name}" for name, differs in unlike.items() if differs)


def _json(text: str | None) -> Any:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def _of_an_older_release(deployment: Raw, status: MedplumAgentStatus) -> Notes:
    """What the annotations of a release without revisions say, as far as the live template and `status` confirm it.

    Templates in them are not believed: what runs is the live template. What was active before is not believed either: nothing proves it.
    """
    found, live = _annotations(deployment), deployment["spec"]["template"]
    labels = (live.get("metadata") or {}).get("labels") or {}
    version = AgentVersion.read(labels.get(names.VERSION_LABEL))
    if version is None:
        return Notes()
    spec, record = read_spec(_json(found.get(names.APPLIED_SPEC))), RolloutRecord.read(found.get(names.ROLLOUT))
    record = _confirmed(record, status, version)
    applied = version.text if record is None else record.to
    return Notes(record, spec if spec is not None and spec.version == applied else None)


def _confirmed(record: RolloutRecord | None, status: MedplumAgentStatus, live: AgentVersion) -> RolloutRecord | None:
    """The record of the latest rollout, as far as `status` confirms it. `live`: the version of the live template.

    Right after a rollout began, `status` may know only the one before: then the record counts if it leads from the active version to a newer one,
    which runs. Otherwise what `status` says counts: a record that somebody changed must not hide which version was active.
    """
    latest = status.rollout or next(iter(status.history), None)
    if latest is None or latest.started_at is None:
        return record if record is not None and record.to == live.text else None
    if record is not None and (record.started_at, record.to) == (latest.started_at, latest.to):
        return record.model_copy(update={"from_version": latest.from_version})
    if record is not None and record.started_at > latest.started_at and record.to == live.text:
        active = AgentVersion.read(status.last_good_version)
        if active is not None and record.from_version == active.text and not live < active:
            return record
    if latest.strategy is None:
        return None
    return RolloutRecord(
        change=Change.NONE,
        from_version=latest.from_version,
        to=latest.to,
        strategy=latest.strategy,
        started_at=latest.started_at,
    )
