"""`status` of a MedplumAgent: what the operator reports. Written by `core.status`, read back leniently by `parse_status`."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, Field, ValidationError

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


UNDER_WAY: Final = frozenset({Phase.INSTALLING, Phase.HANDING_OFF, Phase.RECREATING, Phase.ROLLING_BACK})
"""The phases in which a change is being made."""


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

    type: str = Field(
        description="Ready, Reconciling, Stalled, Available, ApprovalRequired or Forwarding.", max_length=316
    )
    status: ConditionStatus = Field(description="Whether it holds: True, False or Unknown.")
    reason: str = Field(
        description="Why, in one CamelCase word that programs can rely on.", min_length=1, max_length=1024
    )
    message: str = Field(description="Why, in whole sentences.", max_length=32_768)
    last_transition_time: AwareDatetime = Field(description="Since when the status is what it is.")
    observed_generation: int | None = Field(
        default=None,
        description="Generation of the spec that it tells of. Older than metadata.generation: the latest change is not yet looked at.",
        ge=0,
    )


class Rollout(ApiModel):
    """A rollout under way."""

    from_version: str | None = Field(
        default=None,
        alias="from",
        description="Version that was active when it began; absent for the first installation.",
    )
    to: str = Field(description="Version that it leads to.")
    strategy: Strategy | None = Field(
        default=None,
        description="RollingHandoff: the new agent starts beside the old one. Recreate: the old one stops first.",
    )
    started_at: AwareDatetime | None = Field(default=None, description="When it began.")
    deadline: AwareDatetime | None = Field(
        default=None,
        description="When it counts as failed unless the new agent is active (spec.handoff.progressDeadlineSeconds).",
    )
    old_ended_at: AwareDatetime | None = Field(
        default=None,
        description="Last moment in which the old agent could serve: ready, and its container not ended. Absent while it can.",
    )
    new_ready_at: AwareDatetime | None = Field(
        default=None,
        description="First moment in which the new agent could serve, where that was after the old one's end.",
    )
    approval: str | None = Field(
        default=None, description="The approval that let it go ahead; absent where none was needed."
    )
    approved_by: str | None = Field(
        default=None, description="Field manager that had set that annotation, as the API server noted it."
    )
    moved_off: str | None = Field(
        default=None,
        description="The cordoned node that the agent is moved off; absent where this is a change of another kind.",
    )
    rolled_back_from: str | None = Field(
        default=None,
        description="The version whose change had failed, where this one takes it back; absent where it is a change of another kind.",
    )
    backup: str | None = Field(
        default=None,
        description="Name of the ControllerRevision that holds what was active before an approved downgrade; absent where none was made.",
    )


class HistoryApproval(ApiModel):
    """Who approved a downgrade, and with what words."""

    text: str = Field(description="The annotation's value.")
    by: str | None = Field(
        default=None, description="The field manager that set it, such as kubectl-annotate: the tool, not the person."
    )


class GateFigures(ApiModel):
    """What devices behind a gate noticed of a change."""

    connections_moved: int = Field(
        default=0, ge=0, description="Connections of devices that went on with the new agent."
    )
    messages_held: int = Field(
        default=0, ge=0, description="Messages that waited in a gate until the new agent took connections."
    )
    messages_repeated: int = Field(
        default=0,
        ge=0,
        description="Messages that the old agent had not answered when it ended and that the new one was given again: they may have arrived twice.",
    )


class ChannelStatus(ApiModel):
    """What gates tell of a channel."""

    name: str = Field(description="The channel's name.")
    connected_devices: int = Field(default=0, ge=0, description="Connections of devices.")
    last_message_at: AwareDatetime | None = Field(
        default=None,
        description="When a message was last answered; absent where none was, and for channels that carry no HL7.",
    )
    observed_at: AwareDatetime | None = Field(
        default=None,
        description="When this was so. It is looked at anew after five minutes; for more there are the gates' metrics.",
    )


class HistoryEntry(ApiModel):
    """A rollout that ended."""

    from_version: str | None = Field(
        default=None, alias="from", description="Version before; absent for the first installation."
    )
    to: str = Field(description="Version that it led to, or was to lead to.")
    strategy: Strategy | None = Field(
        default=None,
        description="RollingHandoff: the new agent started beside the old one. Recreate: the old one stopped first.",
    )
    outcome: Outcome | None = Field(
        default=None,
        description="Completed; Failed: it missed its deadline; Aborted: given up for the version before; Superseded: given up for another target.",
    )
    started_at: AwareDatetime | None = Field(default=None, description="When it began.")
    completed_at: AwareDatetime | None = Field(default=None, description="When it ended.")
    gap_seconds: float | None = Field(
        default=None,
        description="Seconds between the last moment in which the old agent could serve and the first in which the new one could; 0 where they overlapped. Off by some "
        "hundredths of a second where the operator watched, by up to one second at each end where it was away; absent where it cannot be told. Behind a gate that devices "
        "used: the longest time for which a message waited.",
    )
    overlap_seconds: float | None = Field(
        default=None,
        description="Seconds for which both could serve, from the beginning of the second in which the new agent became ready: up to one second too long, never too short. "
        "Absent where it cannot be told.",
    )
    approval: HistoryApproval | None = Field(
        default=None, description="For an approved downgrade, by what it was approved."
    )
    moved_off: str | None = Field(
        default=None,
        description="The cordoned node that the agent was moved off; absent where this was a change of another kind.",
    )
    rolled_back_from: str | None = Field(
        default=None,
        description="The version whose change had failed, where this one took it back; absent where it was a change of another kind.",
    )
    gate: GateFigures | None = Field(
        default=None,
        description="What devices noticed, as the gates tell some seconds later; absent where no gate is wanted or none could be asked.",
    )
    backup: str | None = Field(
        default=None,
        description="Name of the ControllerRevision that holds what was active before an approved downgrade; absent where none was made.",
    )


class MedplumAgentStatus(ApiModel):
    """What the operator reports."""

    observed_generation: int | None = Field(
        default=None,
        description="Generation of the spec that this status tells of. Older than metadata.generation: the latest change is not yet looked at.",
    )
    phase: Phase | None = Field(
        default=None,
        description="What the agent is in, in one word: Installing, Running, HandingOff, Recreating, AwaitingApproval, AwaitingWindow, RollingBack, "
        "Failed or Paused. For people; programs had better read conditions.",
    )
    active_version: str | None = Field(
        default=None,
        description="Version that the agent's pods run; absent in the gap of a change that stops the old agent first. It may differ from spec.version "
        "for as long as a change is not approved, not done or failed.",
    )
    target_version: str | None = Field(default=None, description="Version that spec.version asks for.")
    last_good_version: str | None = Field(
        default=None, description="Version that became active last: going to an older one than this is a downgrade."
    )
    strategy: Strategy | None = Field(
        default=None,
        description="How the rollout under way, or the latest, is made: RollingHandoff (the new agent starts beside the old one) or Recreate (the old one "
        "stops first).",
    )
    plan: str | None = Field(
        default=None,
        description="What will happen, why, what is missing and the exact command for it, in whole sentences: the first thing to read.",
    )
    waiting_for_next_change: str | None = Field(
        default=None,
        description="What this release of the operator would make otherwise of the agent's pods or its gate's, and leaves as it is until the next change that "
        "replaces them, or until the annotation agents.medplum.com/refresh is given a new text; absent where nothing is.",
    )
    conditions: Annotated[
        tuple[Condition, ...],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ] = Field(
        default=(),
        description="Ready (the spec is fulfilled), Reconciling (a change is being made), Stalled (nothing goes on without a person), Available (some "
        "version of the agent serves: the one to alert on), ApprovalRequired (a downgrade waits for a cluster admin) and, with a gate, Forwarding (the agent answers "
        "what it is given).",
    )
    channels: Annotated[
        tuple[ChannelStatus, ...],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
    ] = Field(default=(), description="With a gate: what it tells of each channel, looked at every five minutes.")
    rollout: Rollout | None = Field(default=None, description="The rollout under way; absent where there is none.")
    history: Annotated[tuple[HistoryEntry, ...], Field(json_schema_extra={"maxItems": 10})] = Field(
        default=(), description="The last ten rollouts that ended, the latest first."
    )
    spent_approvals: Annotated[
        tuple[Annotated[str, Field(json_schema_extra={"maxLength": 300})], ...],
        Field(json_schema_extra={"maxItems": 50}),
    ] = Field(
        default=(),
        description="Values of the annotation agents.medplum.com/force-downgrade that have been used and count no more, until the annotation is taken off.",
    )


def parse_status(raw: object) -> MedplumAgentStatus:
    """Read a status back, whatever somebody made of it: the smallest part that does not fit reads as absent.

    Called in every pass: a status that fits, as nearly all do, is validated once.

    >>> parse_status({"phase": "Dreaming", "activeVersion": "5.1.15", "history": [{"to": "5.1.15"}, 7]}).active_version
    '5.1.15'
    """
    kept = raw if isinstance(raw, Mapping) else {}
    while True:
        try:
            return MedplumAgentStatus.model_validate(kept)
        except ValidationError as fault:
            first = fault.errors(include_url=False, include_context=False, include_input=False)[0]
            # What is missing is missing from something: a condition without a type is no condition.
            path = first["loc"][:-1] if first["type"] == "missing" else first["loc"]
            kept = _without(kept, path)


def _without(value: Any, path: Sequence[int | str]) -> Any:
    """A copy of a tree of maps and lists that lacks what is at `path`.

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
