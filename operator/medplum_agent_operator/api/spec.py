"""`spec` of a MedplumAgent: the one source of the CRD's schema, its defaults, its descriptions and its CEL rules.

Read by `crd`, which renders it, and by the whole of `core`. What can be said at `kubectl apply` is said there, by a rule whose
message names the field and the fix. Nothing here decides anything.
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
from medplum_agent_operator.api.pod import Name, PodTemplateSpec

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
"""A full version. Not anchored: to be matched as a whole, since `$` would let a line break at the end through."""

_RELEASE: Final = "[0-9]+[.][0-9]+[.][0-9]+"
_PATH_PART: Final = "[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"


SecretKey = Annotated[
    str,
    Field(max_length=253),
    Matching("[-._a-zA-Z0-9]+", "must be a key of a Secret: letters, digits, '-', '_' and '.', such as clientSecret"),
]


class PullPolicy(StrEnum):
    """When the kubelet pulls the image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class LogLevel(StrEnum):
    """The agent's log levels."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class LocalReference(ApiModel):
    """An object in the same namespace."""

    name: Name = Field(description="The object's name.")


class ImageSpec(ApiModel):
    """The agent's container image. Upstream publishes none; the user guide shows how to build one."""

    repository: (
        Annotated[
            str,
            Field(max_length=255),
            Matching(
                rf"([A-Za-z0-9.-]+(:[0-9]+)?/)?{_PATH_PART}(/{_PATH_PART})*",
                "spec.image.repository must be an image name without tag and digest, such as registry.example.org/medplum-agent; "
                "a tag belongs into spec.image.tag, a digest into spec.image.digest",
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="Image repository, without tag and digest. Left out: the one in the operator's settings.",
    )
    tag: (
        Annotated[
            str,
            Field(max_length=128),
            Matching(
                "[A-Za-z0-9_][A-Za-z0-9_.-]*",
                "spec.image.tag must consist of letters, digits, '_', '.' and '-', such as 5.1.15-debian",
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="Image tag. Left out: spec.version. A tag that is itself a version must be the one in spec.version. Any other tag is trusted to "
        "hold that version: upgrades, downgrades and their approval are judged by spec.version alone.",
    )
    digest: (
        Annotated[
            str,
            Field(max_length=128),
            Matching(
                "sha256:[0-9a-f]{64}", "spec.image.digest must be sha256: and 64 hexadecimal digits in lower case"
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="Image digest, sha256: and 64 hexadecimal digits: exactly this image is run, whatever the tag points to. Change it together with "
        "spec.version, or each version would run the same image.",
    )
    pull_policy: PullPolicy = Field(
        default=PullPolicy.IF_NOT_PRESENT,
        description="When a node pulls the image: IfNotPresent (default), Always or Never. With Always, a registry that is down keeps a pod from "
        "starting again.",
    )
    pull_secrets: tuple[LocalReference, ...] = Field(
        default=(),
        description="Secrets of type kubernetes.io/dockerconfigjson with which the image is pulled.",
        max_length=16,
    )
    command: tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...] = Field(
        default=("/srv/medplum-agent",),
        description="The agent's program in the image, with arguments of its own if it needs any. Default /srv/medplum-agent, where upstream's "
        "Dockerfile puts it. It runs as process 1 and reads agent.properties from its working directory. A script must end by exec'ing the agent, or "
        "the agent never gets the signal to stop.",
        min_length=1,
        max_length=16,
    )


class CredentialsReference(ApiModel):
    """The Secret with the credentials. The pod reads it; the operator has no right to read Secrets."""

    name: Name = Field(description="Name of the Secret, in the same namespace.")
    client_id_key: SecretKey = Field(
        default="clientId", description="Key in the Secret that holds the client id. Default clientId."
    )
    client_secret_key: SecretKey = Field(
        default="clientSecret",
        description="Key in the Secret that holds the client secret. Default clientSecret. Neither value may contain '=' or a line break: the agent's "
        "configuration file cannot carry them, and the pod refuses to start. A changed Secret takes effect at the pod's next start.",
    )


class ServerSpec(ApiModel):
    """The Medplum server, and who the agent is there."""

    base_url: Annotated[
        str,
        Field(max_length=1024),
        Matching(
            r"https?://[A-Za-z0-9.:_\[\]-]+(/[A-Za-z0-9/._~%:@!$&'()*+,;-]*)?",
            "spec.server.baseUrl must be an http or https URL such as https://api.medplum.com/, without user, query, '=' and white space (the agent's "
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
            "spec.server.agentId is the agent's identity and never changes; for another identity create a new MedplumAgent, and delete this one if it "
            "is no longer needed",
        ),
    ] = Field(
        description="Id of the Agent resource on the server: the agent's identity. It cannot be changed; another identity is another MedplumAgent. No two "
        "MedplumAgents run with the same one on the same server, because that would send each message for a device to both: the younger is refused."
    )
    credentials_secret_ref: CredentialsReference = Field(
        description="Secret with the client id and client secret of the ClientApplication with which the agent logs in."
    )


class LoggingSpec(ApiModel):
    """What the agent logs."""

    level: LogLevel = Field(
        default=LogLevel.INFO, description="Level of the agent's own log: DEBUG, INFO (default), WARN or ERROR."
    )
    channel_level: LogLevel = Field(
        default=LogLevel.WARN,
        description="Level of the channels' logs: DEBUG, INFO, WARN (default) or ERROR. At INFO and DEBUG they hold whole messages, and so patient data. "
        "Agents before 4.3.14 have one level for everything: they get the stricter of the two.",
    )


def _each_its_own(field: str, fix: str) -> Rule:
    """No two channels have the same value in a field that may be left out."""
    same = f"has(d.{field}) && d.{field} == c.{field}"
    return Rule(
        f"self.channels.all(c, !has(c.{field}) || self.channels.exists_one(d, {same}))",
        f"spec.channels: two channels have the same {field}; {fix}",
        blames=".channels",
    )


class MedplumAgentSpec(ApiModel):
    """What the agent should be."""

    model_config = rules(
        Rule(
            f"!has(self.image.tag) || !self.image.tag.matches('^[vV]?{_RELEASE}') || self.image.tag.find('{_RELEASE}') == self.version.find('{_RELEASE}')",
            "spec.image.tag names another version than spec.version; set spec.version to the version that the image holds, or leave spec.image.tag out",
            blames=".image.tag",
        ),
        _each_its_own("name", "give each a name of its own"),
        _each_its_own("port", "the agent listens once on each port, so give each channel its own"),
        _each_its_own("nodePort", "give each its own, or leave nodePort out and Kubernetes chooses"),
        _each_its_own("hostPort", "give each its own, or leave hostPort out"),
        Rule(
            "self.service.type != 'ClusterIP' || self.channels.all(c, !has(c.nodePort))",
            "spec.channels: a nodePort needs spec.service.type NodePort or LoadBalancer; change the type or leave nodePort out",
            blames=".channels",
        ),
        Rule(
            "!self.podTemplate.hostNetwork || self.channels.all(c, !has(c.hostPort) || c.hostPort == c.port)",
            "spec.channels: with spec.podTemplate.hostNetwork a channel's port is the node's port, so hostPort must equal port; leave hostPort out",
            blames=".channels",
        ),
    )

    version: Annotated[
        str,
        # A version is the value of a label too, hence 63 characters.
        Field(max_length=63),
        Matching(
            VERSION_PATTERN,
            "spec.version must be a full version such as 5.1.15 or 5.1.15-abc1234 (three numbers, no v in front, no range, no tag like latest, no "
            "white space or line break)",
        ),
    ] = Field(
        description="Version of the Medplum Agent to run, such as 5.1.15, or 5.1.15-abc1234 with a build id. Versions are compared by their three numbers "
        "alone. A newer one is an upgrade: without downtime when both are 4.2.4 or newer, else the old agent is stopped first. An older one is a "
        "downgrade: it changes nothing until a cluster admin approves it (see spec.downgradePolicy). Going back to the version that still serves is "
        "always allowed."
    )
    image: ImageSpec = Field(default=ImageSpec(), description="The agent's container image.")
    server: ServerSpec = Field(description="The Medplum server, who the agent is there, and its credentials.")
    channels: tuple[Channel, ...] = Field(
        description="Ports on which the agent takes connections from devices, 1 to 32. Each must have a channel with an Endpoint of the same port on the "
        "server, or the agent never gets ready. The list is applied as a whole: whoever applies it owns all of it.",
        min_length=1,
        max_length=32,
    )
    service: ServiceSpec = Field(default=ServiceSpec(), description="The Service that devices connect to.")
    gate: GateSpec = Field(
        default=GateSpec(),
        description="A relay in front of the agent, through which devices keep their connections while the agent behind it changes.",
    )
    logging: LoggingSpec = Field(
        default=LoggingSpec(), description="What the agent logs. Channel logs can hold patient data."
    )
    handoff: HandoffSpec = Field(
        default=HandoffSpec(),
        description="How one agent takes over from another when the version or anything else about the pod changes, and when that counts as failed. From "
        "4.2.4 on the new agent starts beside the old one and takes over without downtime; before, and with hostNetwork or hostPort, the old agent stops "
        "first.",
    )
    downgrade_policy: DowngradePolicy = Field(
        default=DowngradePolicy(), description="Which downgrades need a cluster admin's approval."
    )
    maintenance_windows: tuple[MaintenanceWindow, ...] = Field(
        default=(),
        description="Times, at most 16, in which changes that cost downtime may begin: those that stop the old agent first. Left out: at any time. "
        "Rolling handoffs do not wait. status.plan says what waits, and for which opening.",
        max_length=16,
    )
    paused: bool = Field(
        default=False,
        description="Hands off: while true the operator changes nothing and repairs nothing, and the agent runs on. Default false. What is changed "
        "meanwhile is acted on once it is false again.",
    )
    pod_template: PodTemplateSpec = Field(
        default=PodTemplateSpec(),
        description="Where and how the agent's pod runs. A change here replaces the pod, without downtime where a version change would be.",
    )

    @property
    def gated(self) -> bool:
        """Whether devices are to reach the agent through a gate."""
        if self.gate.enabled is not None:
            return self.gate.enabled
        return not self.uses_host_ports and any(channel.protocol is Protocol.HL7 for channel in self.channels)

    @property
    def uses_host_ports(self) -> bool:
        """Whether the agent's pod binds ports of its node, so that two of them cannot run side by side on one."""
        return self.pod_template.host_network or any(channel.host_port for channel in self.channels)
