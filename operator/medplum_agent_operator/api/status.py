"""`status` of a MedplumAgent: what the operator reports. Written by `core.status`, read back leniently by `parse_status`."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from medplum_agent_operator.api.base import ApiModel


class Phase(StrEnum):
    """What the agent is in, in one word."""

    INSTALLING = "Installing"
    RUNNING = "Running"
    HANDING_OFF = "HandingOff"
    RECREATING = "Recreating"
    AWAITING_APPROVAL = "AwaitingApproval"
    AWAITING_WINDOW = "AwaitingWindow"
    ROLLING_BACK = "RollingBack"
    FAILED = "Failed"
    PAUSED = "Paused"


class Strategy(StrEnum):
    """How a rollout is made."""

    ROLLING_HANDOFF = "RollingHandoff"
    RECREATE = "Recreate"


class Outcome(StrEnum):
    """How a rollout ended."""

    COMPLETED = "Completed"
    FAILED = "Failed"
    ABORTED = "Aborted"
    SUPERSEDED = "Superseded"


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """Exactly metav1.Condition."""

    type: str = Field(description="Ready, Reconciling, Stalled, Available or ApprovalRequired.", max_length=316)
    status: ConditionStatus = Field(description="Whether it holds: True, False or Unknown.")
    reason: str = Field(description="Why, in one CamelCase word.", min_length=1, max_length=1024)
    message: str = Field(description="Why, in whole sentences.", max_length=32_768)
    last_transition_time: datetime = Field(description="Since when the status is what it is.")
    observed_generation: int | None = Field(default=None, description="Generation of the spec that it tells of.", ge=0)


class Rollout(ApiModel):
    """A rollout under way."""

    from_version: str | None = Field(
        default=None, alias="from", description="Version that was active when it began; absent for the first."
    )
    to: str = Field(description="Version that it leads to.")
    strategy: Strategy | None = Field(default=None, description="How it is made.")
    started_at: datetime | None = Field(default=None, description="When it began.")
    deadline: datetime | None = Field(
        default=None,
        description="When it counts as failed unless it makes progress (spec.handoff.progressDeadlineSeconds).",
    )
    gap_seconds: float | None = Field(
        default=None, description="Seconds so far without a ready agent, as the operator saw it."
    )
    overlap_seconds: float | None = Field(
        default=None,
        description="Seconds for which the new agent was ready while the old one still ran; Kubernetes keeps whole seconds.",
    )
    unavailable_since: datetime | None = Field(
        default=None, description="Since when no agent is ready, as the operator saw it."
    )
    approval: str | None = Field(default=None, description="The approval that let it go ahead.")


class HistoryApproval(ApiModel):
    """Who approved a downgrade, and with what words."""

    text: str = Field(description="The annotation's value.")
    by: str | None = Field(
        default=None, description="The field manager that set it, such as kubectl-annotate: the tool, not the person."
    )


class HistoryEntry(ApiModel):
    """A rollout that ended."""

    from_version: str | None = Field(default=None, alias="from", description="Version before; absent for the first.")
    to: str = Field(description="Version that it led to, or was to lead to.")
    strategy: Strategy | None = Field(default=None, description="How it was made.")
    outcome: Outcome | None = Field(
        default=None,
        description="Completed; Failed: it missed its deadline; Aborted: given up for the version before; Superseded: given up for another target.",
    )
    started_at: datetime | None = Field(default=None, description="When it began.")
    completed_at: datetime | None = Field(default=None, description="When it ended.")
    gap_seconds: float | None = Field(
        default=None, description="Seconds without a ready agent, as the operator saw it."
    )
    overlap_seconds: float | None = Field(
        default=None,
        description="Seconds for which the new agent was ready while the old one still ran; Kubernetes keeps whole seconds.",
    )
    approval: HistoryApproval | None = Field(default=None, description="For a downgrade, who approved it.")
    backup: str | None = Field(
        default=None, description="Name of the backup made before it. Not yet acted on in this release."
    )


class MedplumAgentStatus(ApiModel):
    """What the operator reports."""

    observed_generation: int | None = Field(
        default=None, description="Generation of the spec that this status tells of."
    )
    phase: Phase | None = Field(default=None, description="What the agent is in, in one word.")
    active_version: str | None = Field(
        default=None,
        description="Version that the agent's pods run; absent in the gap of a change that stops the old agent first.",
    )
    target_version: str | None = Field(default=None, description="Version that spec.version asks for.")
    last_good_version: str | None = Field(default=None, description="Version that became active last.")
    strategy: Strategy | None = Field(default=None, description="How the rollout under way, or the latest, is made.")
    plan: str | None = Field(
        default=None, description="What will happen, why, what is missing, and the exact command, in whole sentences."
    )
    conditions: Annotated[
        tuple[Condition, ...],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ] = Field(default=(), description="Ready, Reconciling, Stalled, Available and ApprovalRequired.")
    rollout: Rollout | None = Field(default=None, description="The rollout under way.")
    history: tuple[HistoryEntry, ...] = Field(
        default=(), description="Rollouts that ended, the latest first.", max_length=10
    )
    spent_approvals: tuple[Annotated[str, Field(max_length=300)], ...] = Field(
        default=(),
        description="Approvals that have been used and count no more, until the annotation is taken off.",
        max_length=50,
    )


def parse_status(raw: Mapping[str, Any]) -> MedplumAgentStatus:
    """Read a status back, whatever somebody made of it: a field or list item that does not fit reads as absent.

    >>> parse_status({"phase": "Dreaming", "activeVersion": "5.1.15", "history": [{"to": "5.1.15"}, 7]}).active_version
    '5.1.15'
    """
    kept: dict[str, Any] = {}
    for name, field in MedplumAgentStatus.model_fields.items():
        alias = field.alias or name
        if alias not in raw:
            continue
        value = raw[alias]
        adapter: TypeAdapter[Any] = TypeAdapter(field.annotation)
        if isinstance(value, list):
            value = [item for item in value if _fits(adapter, [item])]
        if _fits(adapter, value):
            kept[alias] = value
    return MedplumAgentStatus.model_validate(kept)


def _fits(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True
