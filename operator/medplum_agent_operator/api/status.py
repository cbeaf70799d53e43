"""`status` of a MedplumAgent: what the operator reports.

Written by `core.status`, read back by `parse_status`. Must never fail on a status that another program or release wrote.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from medplum_agent_operator.api.base import ApiModel, Moment
from medplum_agent_operator.api.rollout import GateFigures, HistoryApproval, HistoryEntry, Outcome, Rollout, Strategy

__all__ = [
    "UNDER_WAY",
    "ChannelStatus",
    "Condition",
    "ConditionStatus",
    "GateFigures",
    "HistoryApproval",
    "HistoryEntry",
    "MedplumAgentStatus",
    "Outcome",
    "Phase",
    "Rollout",
    "Strategy",
    "parse_status",
]


class Phase(StrEnum):
    """Current phase of the agent, in one word."""

    INSTALLING = "Installing"
    RUNNING = "Running"
    HANDING_OFF = "HandingOff"
    RECREATING = "Recreating"
    AWAITING_APPROVAL = "AwaitingApproval"
    AWAITING_WINDOW = "AwaitingWindow"
    ROLLING_BACK = "RollingBack"
    FAILED = "Failed"
    PAUSED = "Paused"


UNDER_WAY: Final = frozenset({Phase.INSTALLING, Phase.HANDING_OFF, Phase.RECREATING, Phase.ROLLING_BACK})
"""The phases in which a rollout is in progress."""


class ConditionStatus(StrEnum):
    """Whether a condition is true."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """A condition, exactly as metav1.Condition defines it."""

    type: str = Field(
        description="Ready, Reconciling, Stalled, Available, ApprovalRequired or Forwarding.", max_length=316
    )
    status: ConditionStatus = Field(description="Whether the condition is true: True, False or Unknown.")
    reason: str = Field(
        description="Reason for the status: one CamelCase word that automation can rely on.",
        min_length=1,
        max_length=1024,
    )
    message: str = Field(
        description="Explanation for humans, in one line. status.plan has the details.", max_length=32_768
    )
    last_transition_time: Moment = Field(description="Time when the status last changed.")
    observed_generation: int | None = Field(
        default=None,
        description="Generation of the spec that this condition describes. If it is older than metadata.generation, the operator has not yet processed "
        "the latest edit.",
        ge=0,
    )


class ChannelStatus(ApiModel):
    """What gates report about a channel."""

    name: str = Field(description="Name of the channel.")
    connected_devices: int = Field(default=0, ge=0, description="Number of device connections.")
    last_message_at: Moment | None = Field(
        default=None,
        description="Time of the last answer to a message; absent if no message was answered, and for channels without HL7.",
    )
    observed_at: Moment | None = Field(
        default=None,
        description="Time of these figures. The operator updates them every five minutes; the gates' metrics have more detail.",
    )


class MedplumAgentStatus(ApiModel):
    """The observed state of the agent, as the operator reports it."""

    observed_generation: int | None = Field(
        default=None,
        description="Generation of the spec that this status describes. If it is older than metadata.generation, the operator has not yet processed the "
        "latest edit. -1 until an operator has seen the object.",
    )
    phase: Phase | None = Field(
        default=None,
        description="Current phase of the agent: Installing, Running, HandingOff, Recreating, AwaitingApproval, AwaitingWindow, RollingBack, Failed or "
        "Paused. For humans; automation should use conditions.",
    )
    active_version: str | None = Field(
        default=None,
        description="Version that the agent's pods run; absent in the gap of a change that stops the old agent first. It may differ from spec.version while a "
        "change is not approved, is in progress or has failed.",
    )
    target_version: str | None = Field(default=None, description="Version that spec.version asks for.")
    last_good_version: str | None = Field(
        default=None,
        description="Version that became active last. A change to a version older than this one is a downgrade.",
    )
    strategy: Strategy | None = Field(
        default=None,
        description="Strategy of the current or latest rollout: RollingHandoff (the new agent starts beside the old one) or Recreate (the old agent stops "
        "first).",
    )
    plan: str | None = Field(
        default=None,
        description="What happens and what to do, for humans: read this first. The first line says what happened; conditions and Events carry only this "
        "line. Labelled lines follow where they apply: 'Impact:', 'Cause:' (quotes Kubernetes or the agent), 'Before you approve:', 'Fix:' and "
        "'Command:'. The command is always the last line and can be copied whole.",
    )
    waiting_for_next_change: str | None = Field(
        default=None,
        description="What this operator release renders differently in the pods of the agent or its gate. The running pods stay as they are until the next "
        "rollout that replaces them, or until the annotation agents.medplum.com/refresh gets a new text. Absent if nothing differs.",
    )
    conditions: Annotated[
        tuple[Condition, ...],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ] = Field(
        default=(),
        description="Ready (the target version serves and nothing is left to do), Reconciling (a change is in progress), Stalled (no progress without human "
        "action), Available (some version of the agent serves: the one to alert on), ApprovalRequired (a downgrade waits for a cluster admin) and, with a "
        "gate, Forwarding (the agent answers the messages that gates forward).",
    )
    channels: Annotated[
        tuple[ChannelStatus, ...],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
    ] = Field(
        default=(),
        description="With a gate: what it reports about each channel. The operator updates it every five minutes.",
    )
    rollout: Rollout | None = Field(
        default=None, description="The rollout in progress; absent if no rollout is in progress."
    )
    history: Annotated[tuple[HistoryEntry, ...], Field(json_schema_extra={"maxItems": 10})] = Field(
        default=(), description="The last ten rollouts that ended, the latest first."
    )
    revision: Annotated[str, Field(json_schema_extra={"maxLength": 253})] | None = Field(
        default=None,
        description="Name of the ControllerRevision in force: the spec and the pod templates that the operator applied last. The operator believes no older "
        "one, even if the Deployment's annotation agents.medplum.com/revision names one.",
    )
    spent_approvals: Annotated[
        tuple[Annotated[str, Field(json_schema_extra={"maxLength": 300})], ...],
        Field(json_schema_extra={"maxItems": 50}),
    ] = Field(
        default=(),
        description="The last 50 used values of the annotation agents.medplum.com/force-downgrade. A used value never approves again, also after the "
        "annotation was removed.",
    )
    spent_fingerprints: Annotated[
        tuple[Annotated[str, Field(json_schema_extra={"maxLength": 16})], ...],
        Field(json_schema_extra={"maxItems": 1000}),
    ] = Field(
        default=(),
        description="Fingerprints of the used values before those in spentApprovals. They never approve again either.",
    )


def parse_status(raw: object) -> MedplumAgentStatus:
    """Parse a status leniently: the smallest part that does not fit the model reads as absent.

    Called in every pass. A valid status, which is the normal case, is validated once.

    >>> parse_status({"phase": "Dreaming", "activeVersion": "5.1.15", "history": [{"to": "5.1.15"}, 7]}).active_version
    '5.1.15'
    """
    remaining = raw if isinstance(raw, Mapping) else {}
    while True:
        try:
            return MedplumAgentStatus.model_validate(remaining)
        except ValidationError as fault:
            first = fault.errors(include_url=False, include_context=False, include_input=False)[0]
            # An object that lacks a required field is removed as a whole.
            path = first["loc"][:-1] if first["type"] == "missing" else first["loc"]
            remaining = _without(remaining, path)


def _without(value: Any, path: Sequence[int | str]) -> Any:
    """Copy a tree of maps and lists without the part at `path`.

    >>> _without({"history": [{"to": 7}, {"to": "5.1.15"}]}, ("history", 0, "to"))
    {'history': [{}, {'to': '5.1.15'}]}
    """
    step, *rest = path
    if isinstance(value, Mapping):
        return {
            key: _without(part, rest) if key == step else part for key, part in value.items() if rest or key != step
        }
    return [
        _without(part, rest) if index == step else part for index, part in enumerate(value) if rest or index != step
    ]
