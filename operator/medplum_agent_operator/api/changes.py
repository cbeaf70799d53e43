"""How and when changes are made: `spec.handoff`, `spec.downgradePolicy`, `spec.maintenanceWindows`. Read by `spec`."""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from medplum_agent_operator.api.base import ApiModel, Matching, Rule, rules


def _cron_field(number: str) -> str:
    part = rf"(\*|{number}(-{number})?)(/[1-9][0-9]?)?"
    return f"{part}(,{part})*"


_CRON: Final = " +".join(
    (
        _cron_field("[0-5]?[0-9]"),
        _cron_field("([01]?[0-9]|2[0-3])"),
        _cron_field("(0?[1-9]|[12][0-9]|3[01])"),
        _cron_field("(0?[1-9]|1[0-2]|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)"),
        _cron_field("([0-7]|SUN|MON|TUE|WED|THU|FRI|SAT)"),
    )
)
_DURATION: Final = "[1-9][0-9]{0,2}h([1-9][0-9]{0,3}m)?|[1-9][0-9]{0,3}m"


class OnFailure(StrEnum):
    """What a failed change leads to."""

    ROLLBACK = "Rollback"
    HOLD = "Hold"


class OnNodeDrain(StrEnum):
    """What a node drain does to an agent that can hand over."""

    HANDOFF = "Handoff"
    EVICT = "Evict"


class DowngradeApproval(StrEnum):
    """Which downgrades need an approval."""

    ALWAYS = "Always"
    BELOW_ZERO_DOWNTIME = "BelowZeroDowntime"


class HandoffSpec(ApiModel):
    """How one agent takes over from another, and when a change counts as failed."""

    model_config = rules(
        Rule(
            "self.progressDeadlineSeconds > self.minReadySeconds",
            "spec.handoff.progressDeadlineSeconds must be greater than spec.handoff.minReadySeconds, or no change could ever succeed",
            blames=".progressDeadlineSeconds",
        )
    )

    min_ready_seconds: int = Field(
        default=5,
        ge=0,
        le=3600,
        description="Seconds, 0 to 3600 (default 5), for which all ports of a new agent must stay open before it counts as active. In a rolling handoff "
        "the old agent is stopped only then. A larger figure notices more agents that start and then fail, and lengthens the time in which both agents "
        "run and a device may get an outbound message twice.",
    )
    drain_seconds: int = Field(
        default=5,
        ge=0,
        le=600,
        description="Seconds, 0 to 600 (default 5), that an agent that is to stop goes on running after it gets no new connections. No version of the "
        "agent drains by itself: a message that is in flight when this time is over gets no acknowledgement, and the device sends it again. Downtime of "
        "a change that stops the old agent first grows by as much; behind a gate that wait ends as soon as everything is answered.",
    )
    progress_deadline_seconds: int = Field(
        default=300,
        ge=1,
        le=86_400,
        description="Seconds, 1 to 86400 (default 300), after which a change whose new agent is not active counts as failed. Must be greater than "
        "minReadySeconds. Leave room for pulling the image.",
    )
    on_failure: OnFailure = Field(
        default=OnFailure.ROLLBACK,
        description="What happens after a failed change: Rollback (default) brings back exactly what was active before, Hold leaves things as they are. "
        "After a rollback the change is not tried again by itself: another spec, or a new text in the annotation agents.medplum.com/retry, does that.",
    )
    pre_pull: bool = Field(
        default=True,
        description="Whether the new image is fetched to the agent's node, by a short-lived Job, before a change stops the old agent (default true). If "
        "it cannot be pulled, or the Secret that the new agent reads is not there, the old agent is not stopped. Without effect on a rolling handoff, "
        "which stops the old agent last. false: the old agent is stopped at once, and downtime includes the pull.",
    )
    on_node_drain: OnNodeDrain = Field(
        default=OnNodeDrain.HANDOFF,
        description="What happens when the agent's node is cordoned, as a drain does first. Handoff (default): the agent is handed to another node, and "
        "its PodDisruptionBudget holds an eviction back until then. Evict: the budget lets the eviction through, so the agent stops and then starts "
        "elsewhere. Without effect before 4.2.4, with hostNetwork or hostPort, and with a toleration of cordoned nodes: there it is always Evict.",
    )


class DowngradePolicy(ApiModel):
    """Which downgrades need a cluster admin's approval, given by the annotation agents.medplum.com/force-downgrade."""

    approval: DowngradeApproval = Field(
        default=DowngradeApproval.ALWAYS,
        description="Always (default): every downgrade needs an approval. BelowZeroDowntime: only one to a version before 4.2.4, which costs downtime. "
        "Until it is approved a downgrade changes nothing; status.plan says how to approve it.",
    )


class MaintenanceWindow(ApiModel):
    """A time in which changes that cost downtime may be made."""

    schedule: Annotated[
        str,
        Field(max_length=128),
        Matching(
            _CRON,
            "a maintenance window's schedule must be a cron schedule of five fields (minute, hour, day of month, month, day of week), such as "
            "'0 2 * * SUN' for Sundays at 02:00",
        ),
    ] = Field(
        description="When the window opens: a cron schedule of five fields (minute, hour, day of month, month, day of week), such as '0 2 * * SUN' for "
        "Sundays at 02:00."
    )
    duration: Annotated[
        str,
        Field(max_length=32),
        Matching(_DURATION, "a maintenance window's duration must be hours, minutes or both, such as 2h, 90m or 1h30m"),
        Rule(
            f"!self.matches('^({_DURATION})$') || duration(self) <= duration('168h')",
            "a maintenance window's duration must be at most 168h (seven days)",
        ),
    ] = Field(
        description="How long the window stays open: hours, minutes or both, such as 2h, 90m or 1h30m; at most 168h."
    )
    time_zone: Annotated[
        str,
        Field(max_length=64),
        Matching(
            "[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}",
            "a maintenance window's timeZone must be an IANA name such as UTC or Europe/Berlin",
        ),
    ] = Field(
        default="UTC", description="Time zone of the schedule, by its IANA name, such as Europe/Berlin. Default UTC."
    )
