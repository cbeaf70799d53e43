"""`spec` of a MedplumAgent: the only source of the CRD's schema, defaults, descriptions and CEL rules.

Read by `crd`, which renders it, and by all of `core`. A mistake that the API server can find is rejected at `kubectl apply`, by
a rule whose message names the field and the fix. Must only describe: `core.policy` decides.
"""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from medplum_agent_operator.api.base import ApiModel, Matching, Rule, rules
from medplum_agent_operator.api.changes import (
    DowngradeApproval,
    DowngradePolicy,
    HandoffSpec,
    MaintenanceWindow,
    OnFailure,
)
from medplum_agent_operator.api.channels import Channel, Protocol, ServiceSpec, ServiceType, TrafficPolicy
from medplum_agent_operator.api.gate import GateSpec
from medplum_agent_operator.api.image import ImageSpec, LocalReference, PullPolicy
from medplum_agent_operator.api.pod import ChildrenSpec, Name, PodTemplateSpec

__all__ = [
    "VERSION_PATTERN",
    "Channel",
    "CredentialsReference",
    "DowngradeApproval",
    "DowngradePolicy",
    "GateSpec",
    "HandoffSpec",
    "ImageSpec",
    "LocalReference",
    "LogLevel",
    "LoggingSpec",
    "MaintenanceWindow",
    "MedplumAgentSpec",
    "OnFailure",
    "PodTemplateSpec",
    "Protocol",
    "PullPolicy",
    "ServerSpec",
    "ServiceSpec",
    "ServiceType",
    "TrafficPolicy",
]

_NUMBER: Final = "(0|[1-9][0-9]{0,8})"
VERSION_PATTERN: Final = rf"{_NUMBER}(\.{_NUMBER}){{2}}(-[0-9A-Za-z]{{1,40}})?"
"""A full version, without anchors. Match it as a whole: `$` would accept a line break at the end."""

_RELEASE: Final = "[0-9]+[.][0-9]+[.][0-9]+"


SecretKey = Annotated[
    str,
    Field(max_length=253),
    Matching(
        "[-._a-zA-Z0-9]+", "must be a valid key of a Secret: letters, digits, '-', '_' and '.', such as clientSecret"
    ),
]


class LogLevel(StrEnum):
    """Log levels of the agent."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class CredentialsReference(ApiModel):
    """The Secret with the agent's credentials. The pod reads it; the operator has no right to read Secrets."""

    name: Name = Field(description="Name of the Secret, in the same namespace.")
    client_id_key: SecretKey = Field(
        default="clientId", description="Key of the client id in the Secret. Default clientId."
    )
    client_secret_key: SecretKey = Field(
        default="clientSecret",
        description="Key of the client secret in the Secret. Default clientSecret. Neither value may contain '=' or a line break: the agent's configuration "
        "file cannot represent them, and the pod does not start. A changed Secret takes effect at the pod's next start.",
    )


class ServerSpec(ApiModel):
    """The Medplum server, and the agent's identity and credentials there."""

    base_url: Annotated[
        str,
        Field(max_length=1024),
        Matching(
            r"https?://[A-Za-z0-9.:_\[\]-]+(/[A-Za-z0-9/._~%:@!$&'()*+,;-]*)?",
            "spec.server.baseUrl must be an http or https URL such as https://api.medplum.com/, without user, query, '=' or white space (the agent's "
            "configuration file cuts a value at its first '=')",
        ),
    ] = Field(description="Base URL of the Medplum server, such as https://api.medplum.com/.")
    agent_id: Annotated[
        str,
        Field(max_length=128),
        Matching(
            "[A-Za-z0-9.-]{1,64}",
            "spec.server.agentId must be the id of an Agent resource: 1 to 64 letters, digits, '-' and '.', such as 7ee1a9a5-6b6f-4d8c-9a55-0d3c2c5f4e21",
        ),
        Rule(
            "self == oldSelf",
            "spec.server.agentId is the agent's identity and cannot change; for another identity create a new MedplumAgent, and delete this one if it "
            "is no longer needed",
        ),
    ] = Field(
        description="Id of the Agent resource on the server: the agent's identity. It cannot change; for another identity create another MedplumAgent. Two "
        "MedplumAgents never run with the same id on the same server, because both would receive each message for a device: the operator refuses the "
        "younger one."
    )
    credentials_secret_ref: CredentialsReference = Field(
        description="Secret with the client id and the client secret of the ClientApplication that the agent logs in with."
    )


class LoggingSpec(ApiModel):
    """Log levels of the agent and of its channels."""

    level: LogLevel = Field(
        default=LogLevel.INFO, description="Level of the agent's own log: DEBUG, INFO (default), WARN or ERROR."
    )
    channel_level: LogLevel = Field(
        default=LogLevel.WARN,
        description="Level of the channels' logs: DEBUG, INFO, WARN (default) or ERROR. At INFO and DEBUG these logs contain whole messages, and so patient "
        "data. Agents before 4.3.14 have a single level: they get the stricter of the two.",
    )


def _unique_across_channels(field: str, fix: str) -> Rule:
    """Require that no two channels have the same value in an optional field."""
    same = f"has(d.{field}) && d.{field} == c.{field}"
    return Rule(
        f"self.channels.all(c, !has(c.{field}) || self.channels.exists_one(d, {same}))",
        f"spec.channels: two channels have the same {field}; {fix}",
        field_path=".channels",
    )


class MedplumAgentSpec(ApiModel):
    """The desired state of the agent."""

    model_config = rules(
        Rule(
            f"!has(self.image.tag) || !self.image.tag.matches('^[vV]?{_RELEASE}') || self.image.tag.find('{_RELEASE}') == self.version.find('{_RELEASE}')",
            "spec.image.tag names another version than spec.version; set spec.version to the version in the image, or leave spec.image.tag out",
            field_path=".image.tag",
        ),
        _unique_across_channels("name", "give each channel its own name"),
        _unique_across_channels("port", "the agent listens once on each port, so give each channel its own"),
        _unique_across_channels("nodePort", "give each its own, or leave nodePort out to let Kubernetes choose"),
        _unique_across_channels("hostPort", "give each its own, or leave hostPort out"),
        Rule(
            "self.service.type != 'ClusterIP' || self.channels.all(c, !has(c.nodePort))",
            "spec.channels: a nodePort needs spec.service.type NodePort or LoadBalancer; change the type or leave nodePort out",
            field_path=".channels",
        ),
        Rule(
            "!self.podTemplate.hostNetwork || self.channels.all(c, !has(c.hostPort) || c.hostPort == c.port)",
            "spec.channels: with spec.podTemplate.hostNetwork a channel's port is the node's port, so hostPort must equal port; leave hostPort out",
            field_path=".channels",
        ),
    )

    version: Annotated[
        str,
        # A version is a label value too, hence 63 characters.
        Field(max_length=63),
        Matching(
            VERSION_PATTERN,
            "spec.version must be a full version such as 5.1.15 or 5.1.15-abc1234 (three numbers, no v in front, no range, no tag like latest, no "
            "white space or line break)",
        ),
    ] = Field(
        description="Version of the Medplum Agent to run, such as 5.1.15, or 5.1.15-abc1234 with a build id. Only the three numbers are compared. A newer "
        "version is an upgrade: without downtime when both versions are 4.2.4 or newer; in other cases the old agent is stopped first. An older version is "
        "a downgrade: it changes nothing until a cluster admin approves it (see spec.downgradePolicy). Returning to the version that still serves is always "
        "allowed."
    )
    image: ImageSpec = Field(default=ImageSpec(), description="The agent's container image.")
    server: ServerSpec = Field(description="The Medplum server, and the agent's identity and credentials there.")
    channels: tuple[Channel, ...] = Field(
        description="Ports on which the agent accepts connections from devices, 1 to 32. The server needs a channel with an Endpoint on the same port for "
        "each, or the agent never becomes ready. The list is applied as a whole: its field manager owns all of it.",
        min_length=1,
        max_length=32,
    )
    service: ServiceSpec = Field(default=ServiceSpec(), description="The Service that devices connect to.")
    gate: GateSpec = Field(
        default=GateSpec(),
        description="A relay in front of the agent. Devices keep their connections to it while the agent behind it changes.",
    )
    logging: LoggingSpec = Field(
        default=LoggingSpec(),
        description="Log levels of the agent and of its channels. Channel logs can contain patient data.",
    )
    handoff: HandoffSpec = Field(
        default=HandoffSpec(),
        description="How a new agent takes over when the version or another part of the pod changes, and when the rollout counts as failed. From 4.2.4 on "
        "the new agent starts beside the old one and takes over without downtime. Before 4.2.4, and with hostNetwork or hostPort, the old agent is stopped "
        "first.",
    )
    downgrade_policy: DowngradePolicy = Field(
        default=DowngradePolicy(), description="Which downgrades need the approval of a cluster admin."
    )
    maintenance_windows: tuple[MaintenanceWindow, ...] = Field(
        default=(),
        description="Periods, at most 16, in which changes that cost downtime may begin: those that stop the old agent first. If absent, they may begin at "
        "any time. Rolling handoffs do not wait. status.plan shows which change waits, and for which window.",
        max_length=16,
    )
    paused: bool = Field(
        default=False,
        description="While true, the operator makes no changes and repairs no drift; the agent keeps running (default false). Edits made in the meantime take "
        "effect when paused is false again.",
    )
    pod_template: PodTemplateSpec = Field(
        default=PodTemplateSpec(),
        description="Where and how the agent's pod runs. A change here replaces the pod: without downtime if a version change would have none.",
    )
    # Without a default: then the records of agents that do not set it stay as they are.
    children: ChildrenSpec | None = Field(
        default=None,
        description="Labels, annotations and resources of the objects that the operator creates for this agent, where a policy or a LimitRange demands some. "
        "A change of labels or annotations rolls the gates.",
    )

    @property
    def for_children(self) -> ChildrenSpec:
        """What every child gets in addition to the operator's own."""
        return self.children or ChildrenSpec()

    @property
    def gated(self) -> bool:
        """Whether the spec asks for a gate between devices and the agent."""
        if self.gate.enabled is not None:
            return self.gate.enabled
        return not self.uses_host_ports and any(channel.protocol is Protocol.HL7 for channel in self.channels)

    @property
    def uses_host_ports(self) -> bool:
        """Whether the agent's pod binds ports of its node. Then two agents cannot run on one node at the same time."""
        return self.pod_template.host_network or any(channel.host_port for channel in self.channels)
