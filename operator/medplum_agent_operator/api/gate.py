"""The gate in front of the agent: `spec.gate`.

Read by `spec`; `core.objects.gate_pod` renders it into flags of `medplum-agent-gate`. Must only describe.
"""

from pydantic import Field

from medplum_agent_operator.api.base import ApiModel
from medplum_agent_operator.api.pod import ResourceAmounts


class GateSpec(ApiModel):
    """A relay in front of the agent. Devices keep their connections to it while the agent behind it changes."""

    enabled: bool | None = Field(
        default=None,
        description="Whether devices reach the agent through a gate. The gate moves a device's connection to the new agent between two messages, holds "
        "messages while no agent runs, and acknowledges nothing itself. The agent then sees the gate's address in place of the device's. If absent, a gate "
        "runs when a channel speaks HL7, unless hostNetwork or a hostPort lets devices connect past it. Switching it on or off replaces the agent's pod, "
        "by a handoff if a version change would be one.",
    )
    replicas: int = Field(
        default=2,
        ge=1,
        le=10,
        description="Number of gate pods, 1 to 10 (default 2). If one ends, its devices connect again, to another one.",
    )
    hold_seconds: int = Field(
        default=20,
        ge=1,
        le=600,
        description="Seconds, 1 to 600 (default 20), that the gate holds a message while no agent is ready. Then it closes the device's connection without "
        "an acknowledgement, so that the device sends the message again. Keep it above the downtime of a change that stops the old agent first, and below "
        "the timeout of the devices.",
    )
    answer_seconds: int = Field(
        default=60,
        ge=1,
        le=3600,
        description="Seconds, 1 to 3600 (default 60), that the next message of a device waits for the answer to the previous one. If a bot fails, the "
        "agent sends no answer at all: without this limit, one such message would block all later ones.",
    )
    move_seconds: int = Field(
        default=30,
        ge=1,
        le=3600,
        description="Seconds, 1 to 3600 (default 30), that a message may wait for an answer from an agent after another agent has taken over. Then the "
        "gate closes the device's connection without an acknowledgement, so that the device sends the message again: the gate does not know whether the "
        "message arrived.",
    )
    send_again: bool = Field(
        default=True,
        description="Whether the gate sends a message that an agent had not answered when it ended to the next agent (default true). The message may "
        "arrive twice, as it may when the device sends it again. With false the gate closes the device's connection, and the device sends the message "
        "again.",
    )
    max_message_mebibytes: int = Field(
        default=16,
        ge=1,
        le=64,
        description="Longest message in MiB, 1 to 64 (default 16). A longer one closes the device's connection before any agent receives it.",
    )
    max_connections: int = Field(
        default=2000,
        ge=1,
        le=20_000,
        description="Device connections that one gate pod accepts, 1 to 20000 (default 2000).",
    )
    max_connections_per_address: int = Field(
        default=1000,
        ge=1,
        le=20_000,
        description="Device connections that one gate pod accepts from one address, 1 to 20000 (default 1000). Many devices share one address if a node "
        "or a router replaces their addresses by its own.",
    )
    resources: ResourceAmounts | None = Field(
        default=None,
        description="CPU and memory of each gate pod. If absent: requests of 50m CPU and 64Mi memory, and a limit of 256Mi memory. A gate pod uses at "
        "most 62 MiB, plus 64 KiB for each connection, plus twice maxMessageMebibytes: raise the memory limit if you raise these.",
    )
