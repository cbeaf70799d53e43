"""The gate in front of the agent: `spec.gate`. Read by `spec`; rendered into flags of `medplum-agent-gate` by `core.gate`."""

from pydantic import Field

from medplum_agent_operator.api.base import ApiModel
from medplum_agent_operator.api.pod import ResourceAmounts


class GateSpec(ApiModel):
    """A relay through which devices keep their connections while the agent behind it changes."""

    enabled: bool | None = Field(
        default=None,
        description="Whether devices reach the agent through a gate. It moves a device's connection to the new agent between two messages, holds messages "
        "while no agent runs, and acknowledges nothing itself. The agent then sees the gate's address in place of the device's. Left out: yes where a "
        "channel speaks HL7, unless hostNetwork or a hostPort lets devices connect past it. Switching it on or off replaces the agent's pod, by a handoff "
        "where a version change would be one.",
    )
    replicas: int = Field(
        default=2,
        ge=1,
        le=10,
        description="Gates, 1 to 10 (default 2). If one ends, its devices connect again, to another.",
    )
    hold_seconds: int = Field(
        default=20,
        ge=1,
        le=600,
        description="Seconds, 1 to 600 (default 20), for which a message waits while no agent is ready. Then the device's connection is closed without an "
        "acknowledgement, so that the device sends again. Keep it above the downtime of a change that stops the old agent first, and below the time after "
        "which devices give up.",
    )
    answer_seconds: int = Field(
        default=60,
        ge=1,
        le=3600,
        description="Seconds, 1 to 3600 (default 60), for which the next message of a device waits for the answer to the one before. The agent answers a "
        "failing bot with silence: without this, one such message would hold up all that follow.",
    )
    move_seconds: int = Field(
        default=30,
        ge=1,
        le=3600,
        description="Seconds, 1 to 3600 (default 30), for which a message may wait for its answer from an agent that another has taken over from. Then the "
        "device's connection is closed without an acknowledgement, so that the device sends again: the gate does not know whether it arrived.",
    )
    send_again: bool = Field(
        default=True,
        description="Whether a message that an agent had not answered when it ended is sent to the next agent (default true): it may arrive twice, as when "
        "the device sends it again. false: the device's connection is closed, and the device sends it again.",
    )
    max_message_mebibytes: int = Field(
        default=16,
        ge=1,
        le=64,
        description="Longest message, in MiB, 1 to 64 (default 16). A longer one closes the device's connection before any agent sees it.",
    )
    max_connections: int = Field(
        default=2000,
        ge=1,
        le=20_000,
        description="Devices' connections that one gate takes, 1 to 20000 (default 2000).",
    )
    max_connections_per_address: int = Field(
        default=1000,
        ge=1,
        le=20_000,
        description="Connections that one gate takes from one address, 1 to 20000 (default 1000). Many devices have one address where a node or a router "
        "puts its own in their place.",
    )
    resources: ResourceAmounts | None = Field(
        default=None,
        description="CPU and memory of each gate. Left out: 50m CPU and 64Mi memory requested, at most 256Mi memory. A gate takes at most 60 MiB, 64 KiB a connection and twice maxMessageMebibytes: raise the limit with these.",
    )
