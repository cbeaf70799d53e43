"""What the operator notes on the Deployment, in the same write as the template: how it came about, as what it was rendered, what was before.

Read back by `workload`; made by `records` and `template`. A note that somebody broke reads as absent, a word of a newer release as a known one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Outcome, Strategy
from medplum_agent_operator.core.observed.mechanics import Mechanics, mechanics_of
from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER, GATE_CONTAINER


class Change(StrEnum):
    """What going to a version means, seen from the version that became active last."""

    NONE = "None"
    """The version is the applied one; the template may differ in other ways."""
    INSTALL = "Install"
    """No version was ever active."""
    UPGRADE = "Upgrade"
    """To a newer version, or to another target after one that never became active."""
    DOWNGRADE = "Downgrade"
    """To an older version than the one that became active last."""
    ABORT = "Abort"
    """Back to the version that became active last, from a target that never did: never a downgrade."""
    ROLLBACK = "Rollback"
    """Back to what was active before a change that failed, exactly as it was."""


def _or(otherwise: StrEnum) -> BeforeValidator:
    """A word that another release of the operator wrote and this one does not know reads as `otherwise`: the rest of a note still counts."""
    known = set(type(otherwise))
    return BeforeValidator(lambda word: otherwise if isinstance(word, str) and word not in known else word)


class Failure(BaseModel):
    """Why a change was given up, and what opens its latch. Kept in the rollout's record.

    Attributes:
        version: the version that it was to lead to.
        spec: fingerprint of the spec that failed: another spec is another try.
        reason: what went wrong, in one word.
        message: what went wrong, in whole sentences.
        retry: the annotation `agents.medplum.com/retry` when it failed: another text is another try.
        approval: the approval when it failed: another approval is another try.
    """

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore"
    )

    version: str
    spec: str
    reason: Annotated[Reason, _or(Reason.PROGRESS_DEADLINE_EXCEEDED)]
    message: str
    retry: str | None = None
    approval: str | None = None


class RolloutRecord(BaseModel):
    """How the pod template came to be what it is: kept on the Deployment, written in the same request as the template.

    Attributes:
        change: what it was when it began.
        from_version: the version that was active when it began; None for the first.
        to: the version of the template.
        strategy: how it is made.
        why: why in that way.
        started_at: when it began. Also its name: no two rollouts of one agent begin in the same microsecond.
        restart_mark: what `kubectl rollout restart` had left in the template by then, or when it was last seen that the template cannot have
            been active yet; another mark now tells of a restart since, whatever clocks say. None where there was none.
        previous_outcome: how the rollout before this one had ended by then.
        approval: the annotation that let it go ahead; None where none was needed.
        approved_by: the field manager that had set the annotation.
        moved_off: the cordoned node that the agent is moved off; None where this is no move.
        rolled_back_from: the version whose change had failed; None where this is no rollback.
        failed: the change that failed last and is not tried again by itself; None where there is none.
        refresh: the annotation `agents.medplum.com/refresh` that has been acted on.
        now: the annotation `agents.medplum.com/now` that has been used up.
        stops: how many changes have stopped the agent first so far, this one included; None where none has.
        backup: the ControllerRevision with what was active before an approved downgrade; None where none was made.
    """

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore"
    )

    change: Annotated[Change, _or(Change.NONE)]
    from_version: str | None = Field(default=None, alias="from")
    to: str
    strategy: Strategy
    why: str = ""
    started_at: AwareDatetime
    restart_mark: str | None = None
    previous_outcome: Annotated[Outcome, _or(Outcome.SUPERSEDED)] | None = None
    approval: str | None = None
    approved_by: str | None = None
    moved_off: str | None = None
    rolled_back_from: str | None = None
    failed: Failure | None = None
    refresh: str | None = None
    now: str | None = None
    stops: int | None = None
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
        """The record that an annotation holds; None where there is none or somebody broke it."""
        try:
            return cls.model_validate_json(text) if text else None
        except ValidationError:
            return None


@dataclass(frozen=True, slots=True)
class AppliedTemplate:
    """A pod template as it was rendered, and by which revision of the renderer."""

    revision: int
    template: Mapping[str, Any] = field(repr=False)

    def dump(self) -> str:
        """The annotation's value."""
        return json.dumps({"revision": self.revision, "template": self.template}, separators=(",", ":"))

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """What an annotation holds; None where there is none or somebody broke it."""
        try:
            raw = json.loads(text or "null")
            template = raw["template"]
            ours = (AGENT_CONTAINER, GATE_CONTAINER)
            images = [one["image"] for one in template["spec"]["containers"] if one["name"] in ours]
            if images and isinstance(template["metadata"]["annotations"], dict):
                return cls(int(raw["revision"]), template)
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
            return None
        return None


@dataclass(frozen=True, slots=True)
class LastGood:
    """What was active before the live template: the spec, and the pod template rendered from it."""

    spec: MedplumAgentSpec
    applied: AppliedTemplate

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """What an annotation holds; None where there is none or somebody broke it."""
        try:
            raw = json.loads(text or "null")
            applied = AppliedTemplate.read(json.dumps(raw["applied"]))
            return None if applied is None else cls(MedplumAgentSpec.model_validate(raw["spec"]), applied)
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
            return None
