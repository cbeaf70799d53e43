"""How and when the operator makes changes: `spec.handoff`, `spec.downgradePolicy` and `spec.maintenanceWindows`.

Read by `spec`. Must only describe: `core.policy` decides.
"""

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
    """What the operator does after a rollout failed."""

    ROLLBACK = "Rollback"
    HOLD = "Hold"


class OnNodeDrain(StrEnum):
    """What a node drain does to an agent that supports a handoff."""

    HANDOFF = "Handoff"
    EVICT = "Evict"


class DowngradeApproval(StrEnum):
    """Which downgrades need an approval."""

    ALWAYS = "Always"
    BELOW_ZERO_DOWNTIME = "BelowZeroDowntime"


class HandoffSpec(ApiModel):
    """How a new agent takes over from the old one, and when a rollout counts as failed."""

    model_config = rules(
        Rule(
            "self.progressDeadlineSeconds > self.minReadySeconds",
            "spec.handoff.progressDeadlineSeconds must be greater than spec.handoff.minReadySeconds, because no rollout can succeed sooner; raise "
            "progressDeadlineSeconds or lower minReadySeconds",
            field_path=".progressDeadlineSeconds",
        )
    )

    min_ready_seconds: int = Field(
        default=5,
        ge=0,
        le=3600,
        description="Seconds, 0 to 3600 (default 5), that all ports of a new agent must stay open before the agent counts as active. A rolling handoff "
        "stops the old agent only then. A larger value detects more agents that start and then fail. It also lengthens the time in which both agents run "
        "and a device may receive an outbound message twice.",
    )
    drain_seconds: int = Field(
        default=5,
        ge=0,
        le=600,
        description="Seconds, 0 to 600 (default 5), that an agent keeps running before it is stopped. In a rolling handoff it gets no new connections "
        "during this time. No agent version drains on its own: a message that is still in flight at the end gets no acknowledgement, and the device sends "
        "it again. A change that stops the old agent first takes longer by this time. Behind a gate the drain ends as soon as every message is answered.",
    )
    progress_deadline_seconds: int = Field(
        default=300,
        ge=1,
        le=86_400,
        description="Seconds, 1 to 86400 (default 300), after which a rollout counts as failed if the new agent is not active. Must be greater than "
        "minReadySeconds. Allow time for pulling the image.",
    )
    on_failure: OnFailure = Field(
        default=OnFailure.ROLLBACK,
        description="What happens after a failed rollout. Rollback (default): the operator restores exactly what was active before. Hold: everything "
        "stays as it is. After a rollback the operator does not retry the change automatically. To retry it, edit the spec, or set the annotation "
        "agents.medplum.com/retry to a new text.",
    )
    pre_pull: bool = Field(
        default=True,
        description="Whether a short-lived Job pulls the new image on the agent's node before a change stops the old agent (default true). If the image "
        "cannot be pulled, or the Secret of the new agent is missing, the old agent is not stopped. No effect on a rolling handoff, which stops the old "
        "agent last. With false the old agent is stopped at once, and downtime includes the pull.",
    )
    on_node_drain: OnNodeDrain = Field(
        default=OnNodeDrain.HANDOFF,
        description="What happens when a node drain of the agent's node begins: it is cordoned, or an autoscaler taints it. Handoff (default): the operator hands the agent to "
        "another node, and the agent's PodDisruptionBudget blocks evictions until then. Evict: the budget allows the eviction, so the agent stops and "
        "then starts on another node. Before 4.2.4, with hostNetwork or hostPort, and with a toleration of such nodes, it is always Evict.",
    )


class DowngradePolicy(ApiModel):
    """Which downgrades need the approval of a cluster admin, given by the annotation agents.medplum.com/force-downgrade."""

    approval: DowngradeApproval = Field(
        default=DowngradeApproval.ALWAYS,
        description="Always (default): every downgrade needs an approval. BelowZeroDowntime: only a downgrade to a version before 4.2.4, which costs "
        "downtime, needs one. A downgrade changes nothing until it is approved; status.plan shows the command that approves it.",
    )


class MaintenanceWindow(ApiModel):
    """A period in which changes that cost downtime may begin."""

    schedule: Annotated[
        str,
        Field(max_length=128),
        Matching(
            _CRON,
            "a maintenance window's schedule must be a cron schedule with five fields (minute, hour, day of month, month, day of week), such as "
            "'0 2 * * SUN' for Sundays at 02:00",
        ),
    ] = Field(
        description="When the window opens: a cron schedule with five fields (minute, hour, day of month, month, day of week), such as '0 2 * * SUN' for "
        "Sundays at 02:00."
    )
    duration: Annotated[
        str,
        Field(max_length=32),
        Matching(_DURATION, "a maintenance window's duration must be hours, minutes or both, such as 2h, 90m or 1h30m"),
        Rule(
            f"!self.matches('^({_DURATION})$') || duration(self) <= duration('168h')",
            "a maintenance window's duration must be at most 168h (seven days); shorten it, or add a second window",
        ),
    ] = Field(
        description="How long the window stays open: hours, minutes or both, such as 2h, 90m or 1h30m; at most 168h (seven days)."
    )
    time_zone: Annotated[
        str,
        Field(max_length=64),
        Matching(
            "[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}",
            "a maintenance window's timeZone must be an IANA time zone name such as UTC or Europe/Berlin",
        ),
    ] = Field(
        default="UTC",
        description="Time zone of the schedule: an IANA time zone name such as Europe/Berlin. Default UTC.",
    )
