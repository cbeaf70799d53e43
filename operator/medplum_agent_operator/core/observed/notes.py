"""What the operator remembers of what it applied: the content of a revision, and the copies of it for people.

Read back by `revision`, made by `rollout.revisions`. Pure.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from medplum_agent_operator.api.annotations import TEMPLATE_HASH
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.rollout_record import (
    AppliedTemplate,
    LastGood,
    RolloutRecord,
    dump_spec,
    read_spec,
)

LONGEST_COPY: Final = 100_000
"""Characters of a spec up to which the Deployment has a copy of it: all its annotations together may have 256 KiB."""


@dataclass(frozen=True, slots=True)
class Notes:
    """What the operator remembers of what it applied.

    Attributes:
        record: the rollout that led to the agent's template.
        spec: the spec that was applied last.
        template: the agent's pod template as it was rendered.
        gate: that of the gate; None without a gate.
        before: what was active before the template; None if nothing was.
    """

    record: RolloutRecord | None = None
    spec: MedplumAgentSpec | None = None
    template: AppliedTemplate | None = field(default=None, repr=False)
    gate: AppliedTemplate | None = field(default=None, repr=False)
    before: LastGood | None = field(default=None, repr=False)

    def dump(self) -> dict[str, Any]:
        """As JSON: the `data` of a revision."""
        parts = {
            "record": None
            if self.record is None
            else self.record.model_dump(by_alias=True, exclude_none=True, mode="json"),
            "spec": None if self.spec is None else dump_spec(self.spec),
            "template": None if self.template is None else self.template.dump(),
            "gate": None if self.gate is None else self.gate.dump(),
            # After a rollback both are the same, and need their place once.
            "before": None if self.before is None else self.before == self.state or self.before.dump(),
        }
        return {key: part for key, part in parts.items() if part is not None}

    @classmethod
    def read(cls, data: Any) -> Self:
        """Read them from JSON. A part that is invalid, or of another release, counts as absent."""
        raw = data if isinstance(data, Mapping) else {}
        found = cls(
            RolloutRecord.read(json.dumps(raw["record"])) if "record" in raw else None,
            read_spec(raw.get("spec")),
            AppliedTemplate.read(raw.get("template")),
            AppliedTemplate.read(raw.get("gate")),
            LastGood.read(raw.get("before")),
        )
        return replace(found, before=found.state) if raw.get("before") is True else found

    @property
    def state(self) -> LastGood | None:
        """Spec and template; None if one is unknown."""
        return None if self.spec is None or self.template is None else LastGood(self.spec, self.template)


def has_copy(spec: MedplumAgentSpec) -> bool:
    """Whether the Deployment has a copy of the spec for people."""
    return len(copy_of(spec)) <= LONGEST_COPY


def copy_of(spec: MedplumAgentSpec) -> str:
    """The copy of a spec for people: JSON."""
    return spec.model_dump_json(by_alias=True, exclude_none=True, exclude={"paused"})


def template_hash(template: Mapping[str, Any]) -> str | None:
    """The fingerprint in a pod template; None if the annotation is missing."""
    found: str | None = ((template.get("metadata") or {}).get("annotations") or {}).get(TEMPLATE_HASH)
    return found
