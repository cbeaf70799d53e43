"""What the operator remembers of a rollout: its record, the template as rendered, and what was active before.

They are parts of a revision (`revision`). `rollout.records` and `rollout.template_in_force` create them. An invalid part counts as
absent; an enum value of a newer release reads as a known one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from medplum_agent_operator.api.base import Moment
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Outcome, Strategy
from medplum_agent_operator.core.observed.mechanics import Mechanics, mechanics_of
from medplum_agent_operator.core.observed.pod_schema import is_pod_template
from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER, GATE_CONTAINER


class Change(StrEnum):
    """What going to a target version means, compared with the active version."""

    NONE = "None"
    """The version is already applied; the template may differ in other ways."""
    INSTALL = "Install"
    """No version was ever active."""
    UPGRADE = "Upgrade"
    """To a newer version, or to another target after a target that never became active."""
    DOWNGRADE = "Downgrade"
    """To an older version than the active one."""
    ABORT = "Abort"
    """Back to the active version, from a target that never became active. Never a downgrade."""
    ROLLBACK = "Rollback"
    """Back to the spec and template that were active before a failed rollout, exactly as they were."""


def _unknown_reads_as(default: StrEnum) -> BeforeValidator:
    """Read a value that this release does not know as `default`, so that the rest of the record still counts."""
    known = set(type(default))
    return BeforeValidator(lambda value: default if isinstance(value, str) and value not in known else value)


class Failure(BaseModel):
    """Why a rollout failed, and what opens its latch. Part of the rollout's record.

    Attributes:
        version: its target version.
        spec: fingerprint of the spec that failed. Another spec opens the latch.
        reason: what went wrong, as a reason.
        message: what went wrong, in sentences.
        fix: what to do about it; empty if an older release recorded the failure.
        retry: the annotation `agents.medplum.com/retry` when it failed. Another value opens the latch.
        approval: the approval annotation when it failed. Another approval opens the latch.
    """

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore"
    )

    version: str
    spec: str
    reason: Annotated[Reason, _unknown_reads_as(Reason.PROGRESS_DEADLINE_EXCEEDED)]
    message: str
    fix: str = ""
    retry: str | None = None
    approval: str | None = None


class RolloutRecord(BaseModel):
    """A rollout's record: how the live pod template came about.

    It is a part of the revision in force. A copy for people is an annotation of the Deployment.

    Attributes:
        change: the kind of change when the rollout began.
        from_version: the version that was active when the rollout began; None for the first.
        to: the version of the template.
        strategy: how the rollout replaces the pod.
        why: why it uses this strategy.
        started_at: when the rollout began. It also identifies the rollout: no two rollouts of one agent begin in the same
            microsecond.
        restart_mark: the annotation that `kubectl rollout restart` had left in the template when the rollout began, or when
            the operator last had proof that the template cannot have been active yet. A different value in the live template
            means a restart since then, without comparing clocks. None if the template had never been restarted.
        revision: the highest revision that the Deployment controller gives the template that the rollout wrote, or that the
            template had when the operator last had proof that it cannot have been active yet. A higher one in the Deployment
            means that somebody asked for new pods since then. None in the record of an older release.
        previous_outcome: how the rollout before this one ended.
        approval: the approval annotation that allowed it; None if no approval was needed.
        approved_by: the field manager that set the approval annotation.
        moved_off: the node that the agent is moved off; None if this is not a move.
        rolled_back_from: the target version of the rollout that failed; None if this is not a rollback.
        failed: the latest failed rollout, which is latched; None if no rollout is latched.
        refresh: the value of the annotation `agents.medplum.com/refresh` that the operator has acted on.
        now: the value of the annotation `agents.medplum.com/now` that has been used.
        recreate_count: how many recreates with a newly rendered template there were so far, including this one; None if
            there were none. Its name in the annotation is `stops`.
        backup: the ControllerRevision with what was active before an approved downgrade; None if no backup was needed.
    """

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore"
    )

    change: Annotated[Change, _unknown_reads_as(Change.NONE)]
    from_version: str | None = Field(default=None, alias="from")
    to: str
    strategy: Strategy
    why: str = ""
    started_at: Moment
    restart_mark: str | None = None
    revision: int | None = Field(default=None, ge=0, le=10**15)
    previous_outcome: Annotated[Outcome, _unknown_reads_as(Outcome.SUPERSEDED)] | None = None
    approval: str | None = None
    approved_by: str | None = None
    moved_off: str | None = None
    rolled_back_from: str | None = None
    failed: Failure | None = None
    refresh: str | None = None
    now: str | None = None
    recreate_count: int | None = Field(default=None, alias="stops", ge=0, le=10**9)
    backup: str | None = None

    @property
    def mechanics(self) -> Mechanics:
        """How the rollout replaces the agent's pod."""
        return mechanics_of(self.strategy)

    def dump(self) -> str:
        """The annotation's value."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """Read an annotation's value; None if it is missing or invalid."""
        try:
            return cls.model_validate_json(text) if text else None
        except ValidationError:
            return None


@dataclass(frozen=True, slots=True)
class AppliedTemplate:
    """A pod template as it was rendered, and the revision of the renderer; 0 if that was not recorded."""

    revision: int
    template: Mapping[str, Any] = field(repr=False)

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return {"revision": self.revision, "template": self.template}

    @classmethod
    def read(cls, raw: Any) -> Self | None:
        """Read it from JSON; None if that is invalid."""
        try:
            template, revision = raw["template"], int(raw["revision"])
            own_names = (AGENT_CONTAINER, GATE_CONTAINER)
            if (
                is_pod_template(template)
                and any(c["name"] in own_names and c["image"] for c in template["spec"]["containers"])
                and "annotations" in template["metadata"]
            ):
                return cls(revision, template)
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
            return None
        return None


@dataclass(frozen=True, slots=True)
class LastGood:
    """What was active before the live template: the spec, and the pod template rendered from it."""

    spec: MedplumAgentSpec
    applied: AppliedTemplate

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return {"spec": dump_spec(self.spec), "applied": self.applied.dump()}

    @classmethod
    def read(cls, raw: Any) -> Self | None:
        """Read it from JSON; None if that is invalid."""
        if not isinstance(raw, Mapping):
            return None
        spec, applied = read_spec(raw.get("spec")), AppliedTemplate.read(raw.get("applied"))
        return None if spec is None or applied is None else cls(spec, applied)


def dump_spec(spec: MedplumAgentSpec) -> dict[str, Any]:
    """A spec as JSON, without `paused`, which does not affect the agent."""
    return spec.model_dump(by_alias=True, exclude_none=True, exclude={"paused"}, mode="json")


def read_spec(raw: Any) -> MedplumAgentSpec | None:
    """Read a spec from JSON; None if that is no valid spec."""
    try:
        return MedplumAgentSpec.model_validate(raw) if isinstance(raw, Mapping) else None
    except (ValidationError, ValueError, RecursionError):
        return None
