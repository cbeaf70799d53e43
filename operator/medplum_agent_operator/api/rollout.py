"""Rollouts in `status`: the one in progress and the history of those that ended.

Read by `status`, which contains both. Every field but the target is optional, because an older or newer operator may have
written the entry.
"""

from enum import StrEnum

from pydantic import AwareDatetime, Field

from medplum_agent_operator.api.base import ApiModel


class Strategy(StrEnum):
    """How the operator replaces the agent's pod."""

    ROLLING_HANDOFF = "RollingHandoff"
    RECREATE = "Recreate"


class Outcome(StrEnum):
    """How a rollout ended."""

    COMPLETED = "Completed"
    FAILED = "Failed"
    ABORTED = "Aborted"
    SUPERSEDED = "Superseded"


class Rollout(ApiModel):
    """A rollout in progress."""

    from_version: str | None = Field(
        default=None,
        alias="from",
        description="Version that was active when the rollout began; absent for the first installation.",
    )
    to: str = Field(description="Version that the rollout leads to.")
    strategy: Strategy | None = Field(
        default=None,
        description="RollingHandoff: the new agent starts beside the old one. Recreate: the old agent stops first.",
    )
    started_at: AwareDatetime | None = Field(default=None, description="Time when the rollout began.")
    deadline: AwareDatetime | None = Field(
        default=None,
        description="Time when the rollout fails if the new agent is not active (spec.handoff.progressDeadlineSeconds).",
    )
    old_ended_at: AwareDatetime | None = Field(
        default=None,
        description="Last moment when the old agent could serve: its pod was ready and its container had not ended. Absent while it can still serve.",
    )
    new_ready_at: AwareDatetime | None = Field(
        default=None,
        description="First moment when the new agent could serve, if that was after the end of the old one.",
    )
    approval: str | None = Field(
        default=None, description="The approval of this rollout; absent if it needed no approval."
    )
    approved_by: str | None = Field(
        default=None, description="Field manager that set the approval annotation, as the API server recorded it."
    )
    moved_off: str | None = Field(
        default=None,
        description="The node that the agent moves off, before a node drain; absent for other rollouts.",
    )
    rolled_back_from: str | None = Field(
        default=None,
        description="The version whose rollout failed, if this rollout is its rollback; absent for other rollouts.",
    )
    backup: str | None = Field(
        default=None,
        description="Name of the ControllerRevision with the state that was active before an approved downgrade; absent if there is no such backup.",
    )


class HistoryApproval(ApiModel):
    """The approval of a downgrade."""

    text: str = Field(description="Value of the approval annotation.")
    by: str | None = Field(
        default=None,
        description="The field manager that set the annotation, such as kubectl-annotate: the tool, not the person.",
    )


class GateFigures(ApiModel):
    """What devices behind a gate noticed of a rollout."""

    connections_moved: int = Field(
        default=0, ge=0, description="Device connections that the gate moved to the new agent."
    )
    messages_held: int = Field(
        default=0, ge=0, description="Messages that a gate held until the new agent accepted connections."
    )
    messages_repeated: int = Field(
        default=0,
        ge=0,
        description="Messages that the old agent had not answered when it ended, and that the gate sent to the new agent: they may have arrived twice.",
    )


class HistoryEntry(ApiModel):
    """A rollout that ended."""

    from_version: str | None = Field(
        default=None,
        alias="from",
        description="Version that was active before; absent for the first installation.",
    )
    to: str = Field(description="Version that the rollout led to, or should have led to.")
    strategy: Strategy | None = Field(
        default=None,
        description="RollingHandoff: the new agent started beside the old one. Recreate: the old agent stopped first.",
    )
    outcome: Outcome | None = Field(
        default=None,
        description="Completed. Failed: the new agent did not become active. Aborted: the operator returned to the active version before the target "
        "became active. Superseded: another target replaced this one.",
    )
    started_at: AwareDatetime | None = Field(default=None, description="Time when the rollout began.")
    completed_at: AwareDatetime | None = Field(default=None, description="Time when the rollout ended.")
    gap_seconds: float | None = Field(
        default=None,
        description="Seconds between the last moment when the old agent could serve and the first moment when the new one could; 0 if they overlapped. "
        "Accurate to some hundredths of a second while the operator watched, and to one second at each end if it was away. Absent if unknown. Behind a "
        "gate that devices used: the longest time that a message waited.",
    )
    overlap_seconds: float | None = Field(
        default=None,
        description="Seconds when both agents could serve, counted from the beginning of the second in which the new agent became ready: up to one second "
        "too long, never too short. Absent if unknown.",
    )
    approval: HistoryApproval | None = Field(
        default=None, description="The approval of this rollout, if it was an approved downgrade."
    )
    moved_off: str | None = Field(
        default=None,
        description="The node that the agent was moved off, before a node drain; absent for other rollouts.",
    )
    rolled_back_from: str | None = Field(
        default=None,
        description="The version whose rollout failed, if this rollout was its rollback; absent for other rollouts.",
    )
    gate: GateFigures | None = Field(
        default=None,
        description="What devices noticed, as the gates report some seconds later; absent if the spec asks for no gate or no gate could be reached.",
    )
    backup: str | None = Field(
        default=None,
        description="Name of the ControllerRevision with the state that was active before an approved downgrade; absent if there is no such backup.",
    )
