"""`spec` of a MedplumAgent: the one source of the CRD's schema, its defaults, its descriptions and its CEL rules.

What can be said at `kubectl apply` is said there, by a rule whose message names the field and the fix; the models check
shapes only, for what an API server without our CRD might let through. Nothing here decides anything.
"""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from medplum_agent_operator.api.base import ApiModel, rule, ruled, under_rules
from medplum_agent_operator.api.pod import PodTemplateSpec

NUMBER: Final = "(0|[1-9][0-9]{0,8})"
VERSION_PATTERN: Final = rf"^{NUMBER}\.{NUMBER}\.{NUMBER}(-[0-9A-Za-z]{{1,40}})?$"
_TAGGED_VERSION: Final = r"^v?[0-9]+\\.[0-9]+\\.[0-9]+($|[^0-9.].*)"

Port = Annotated[int, Field(ge=1, le=65535)]


class PullPolicy(StrEnum):
    """When the kubelet pulls the image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class Protocol(StrEnum):
    """What a channel speaks. Medplum's Endpoint decides how the agent treats it; here it is documentation and labels."""

    HL7 = "HL7"
    DICOM = "DICOM"
    ASTM = "ASTM"
    TCP = "TCP"


class ServiceType(StrEnum):
    """How devices reach the agent."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class TrafficPolicy(StrEnum):
    """Whether nodes without the agent's pod pass traffic on."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class LogLevel(StrEnum):
    """The agent's log levels."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class OnFailure(StrEnum):
    """What a failed change leads to."""

    ROLLBACK = "Rollback"
    HOLD = "Hold"


class DowngradeApproval(StrEnum):
    """Which downgrades need an approval."""

    ALWAYS = "Always"
    BELOW_ZERO_DOWNTIME = "BelowZeroDowntime"


class LocalReference(ApiModel):
    """An object in the same namespace."""

    name: str = Field(description="The object's name.", min_length=1, max_length=253)


class ImageSpec(ApiModel):
    """The agent's container image."""

    repository: str | None = Field(
        default=None,
        description="Image repository, without tag or digest. Left out: the operator's setting image-repository. Upstream publishes no image; "
        "the user guide shows how to build one.",
        min_length=1,
        max_length=255,
        json_schema_extra=ruled(
            rule(
                "!self.matches('\\\\s') && !self.contains('@') && !self.matches(':[^/]*$')",
                "spec.image.repository is a repository such as registry.example.org/medplum-agent; put the tag into spec.image.tag and the digest into spec.image.digest",
            )
        ),
    )
    tag: str | None = Field(
        default=None,
        description="Image tag. Left out: spec.version. A tag that is itself a version must be the one in spec.version.",
        max_length=128,
        json_schema_extra=ruled(
            rule(
                "self.matches('^[A-Za-z0-9_][A-Za-z0-9_.-]*$')",
                "spec.image.tag must consist of letters, digits, '_', '.' and '-', such as 5.1.15-debian",
            )
        ),
    )
    digest: str | None = Field(
        default=None,
        description="Image digest that pins the image beside its tag: sha256: and 64 hexadecimal digits.",
        max_length=71,
        json_schema_extra=ruled(
            rule("self.matches('^sha256:[0-9a-f]{64}$')", "spec.image.digest must be sha256: and 64 hexadecimal digits")
        ),
    )
    pull_policy: PullPolicy = Field(
        default=PullPolicy.IF_NOT_PRESENT, description="When the image is pulled: IfNotPresent, Always or Never."
    )
    pull_secrets: tuple[LocalReference, ...] = Field(
        default=(), description="Secrets with which a private registry lets the image be pulled.", max_length=16
    )
    command: tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...] = Field(
        default=("/srv/medplum-agent",),
        description="The agent's program in the image, and its arguments if any. It is run as PID 1, without arguments of the operator's: it then "
        "reads agent.properties from its working directory.",
        min_length=1,
        max_length=16,
    )


class CredentialsReference(ApiModel):
    """The Secret that holds the ClientApplication's credentials. The pod reads it; the operator has no right to."""

    name: str = Field(description="Name of a Secret in the same namespace.", min_length=1, max_length=253)
    client_id_key: str = Field(
        default="clientId", description="Key that holds the client id.", min_length=1, max_length=253
    )
    client_secret_key: str = Field(
        default="clientSecret",
        description="Key that holds the client secret. Neither value may contain '=' or a line break, which the agent's configuration file cannot carry.",
        min_length=1,
        max_length=253,
    )


class ServerSpec(ApiModel):
    """The Medplum server, and who this agent is there."""

    base_url: str = Field(
        description="The Medplum server's base URL, such as https://api.medplum.com/.",
        min_length=1,
        max_length=1024,
        json_schema_extra=ruled(
            rule(
                "self.matches('^https?://[^\\\\s=]+$')",
                "spec.server.baseUrl must be a URL such as https://api.medplum.com/, without spaces and without '=' (the agent's configuration file cuts a value there)",
            )
        ),
    )
    agent_id: str = Field(
        description="Id of the Agent resource on the server: the identity. It never changes; another identity is another MedplumAgent.",
        min_length=1,
        max_length=64,
        json_schema_extra=ruled(
            rule(
                "self.matches('^[A-Za-z0-9.-]+$')",
                "spec.server.agentId must be a FHIR id: letters, digits, '-' and '.', such as 7ee1a9a5-6b6f-4d8c-9a55-0d3c2c5f4e21",
            ),
            rule(
                "self == oldSelf",
                "spec.server.agentId is the agent's identity and never changes; create a new MedplumAgent for another identity and delete this one",
            ),
        ),
    )
    credentials_secret_ref: CredentialsReference = Field(
        description="Where the pod reads the ClientApplication's credentials."
    )


class Channel(ApiModel):
    """A port on which the agent takes messages from devices. Must match an Endpoint of a channel of the Agent resource."""

    name: str = Field(
        description="Name of the channel here: of the Service's port and of the container's.",
        min_length=1,
        max_length=15,
        json_schema_extra=ruled(
            rule(
                "self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && !self.contains('--')",
                "a channel's name must begin with a letter and consist of lower-case letters, digits and single '-', such as adt or lab-2",
            )
        ),
    )
    port: int = Field(
        description="TCP port: the one in the Endpoint's address, such as mllp://0.0.0.0:2575.",
        json_schema_extra=ruled(rule("self >= 1 && self <= 65535", "a channel's port must be from 1 to 65535")),
        ge=1,
        le=65535,
    )
    protocol: Protocol = Field(
        default=Protocol.HL7,
        description="What devices speak on it: HL7 (v2 over MLLP), DICOM, ASTM or TCP (raw bytes).",
    )
    node_port: Port | None = Field(
        default=None,
        description="Port on every node, for spec.service.type NodePort or LoadBalancer. Left out: Kubernetes picks one. It must be in the cluster's "
        "range, 30000 to 32767 by default.",
    )
    host_port: Port | None = Field(
        default=None,
        description="Port of the node that the pod itself binds. Two agents cannot bind it side by side: every change then stops the old agent first.",
    )


class ServiceSpec(ApiModel):
    """The Service that devices connect to."""

    model_config = under_rules(
        rule(
            "!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'",
            "spec.service.externalTrafficPolicy needs spec.service.type NodePort or LoadBalancer",
        ),
        rule(
            "(!has(self.loadBalancerClass) && (!has(self.loadBalancerSourceRanges) || size(self.loadBalancerSourceRanges) == 0)) || self.type == 'LoadBalancer'",
            "spec.service.loadBalancerClass and loadBalancerSourceRanges need spec.service.type LoadBalancer",
        ),
    )

    type: ServiceType = Field(
        default=ServiceType.CLUSTER_IP, description="How devices reach the agent: ClusterIP, NodePort or LoadBalancer."
    )
    annotations: dict[str, str] = Field(
        default={}, description="Annotations of the Service, as load balancers want them.", max_length=64
    )
    labels: dict[str, str] = Field(default={}, description="Labels of the Service.", max_length=64)
    load_balancer_class: str | None = Field(
        default=None, description="Which load balancer implementation serves it.", max_length=253
    )
    load_balancer_source_ranges: tuple[Annotated[str, Field(max_length=64)], ...] = Field(
        default=(), description="Address ranges that may connect, such as 10.20.0.0/16.", max_length=64
    )
    external_traffic_policy: TrafficPolicy | None = Field(
        default=None,
        description="Local keeps a device's address visible and passes traffic to nodes with the agent's pod only; Cluster passes it on from any node.",
    )


class LoggingSpec(ApiModel):
    """What the agent logs."""

    level: LogLevel = Field(default=LogLevel.INFO, description="Level of the agent's own log.")
    channel_level: LogLevel = Field(
        default=LogLevel.WARN,
        description="Level of the channels' logs. At INFO and below they hold whole messages, hence patient data. Agents before 4.3.14 have one level "
        "for everything: there the stricter of the two is used.",
    )


class HandoffSpec(ApiModel):
    """How one agent takes over from another, and when a change counts as failed."""

    model_config = under_rules(
        rule(
            "self.progressDeadlineSeconds > self.minReadySeconds",
            "spec.handoff.progressDeadlineSeconds must be greater than spec.handoff.minReadySeconds, or no change could ever succeed",
        )
    )

    min_ready_seconds: int = Field(
        default=5,
        ge=0,
        le=3600,
        description="Seconds for which a new agent's ports must stay open before it counts as active and, in a rolling handoff, the old one is stopped.",
    )
    drain_seconds: int = Field(
        default=5,
        ge=0,
        le=600,
        description="Seconds between the moment when an old agent gets no new connections and its SIGTERM. The agent itself does not drain: what is in "
        "flight after that gets no acknowledgement, and the device sends it again.",
    )
    progress_deadline_seconds: int = Field(
        default=300, ge=1, le=86_400, description="Seconds after which a change that is not done counts as failed."
    )
    on_failure: OnFailure = Field(
        default=OnFailure.ROLLBACK,
        description="Rollback goes back to the version that served last, Hold leaves everything as it is. Not yet acted on in this release: a failed "
        "change is held and reported, whatever stands here.",
    )


class DowngradePolicy(ApiModel):
    """Which downgrades need a cluster admin's approval."""

    approval: DowngradeApproval = Field(
        default=DowngradeApproval.ALWAYS,
        description="Always: each downgrade does. BelowZeroDowntime: only those to a version before 4.2.4, which cost downtime. The approval is the "
        "annotation agents.medplum.com/force-downgrade, whose value begins with the version to go down to.",
    )


class MaintenanceWindow(ApiModel):
    """A time in which changes that cost downtime may be made."""

    schedule: str = Field(
        description="When it opens: a cron schedule of five fields (minute, hour, day of month, month, day of week), such as 0 2 * * 0.",
        min_length=9,
        max_length=128,
        json_schema_extra=ruled(
            rule(
                "self.matches('^[0-9*/,-]+ +[0-9*/,-]+ +[0-9*/,LW?-]+ +[0-9A-Za-z*/,-]+ +[0-9A-Za-z*/,#?-]+$')",
                "a maintenance window's schedule must be a cron schedule of five fields, such as '0 2 * * 0' (Sundays at 02:00)",
            )
        ),
    )
    duration: str = Field(
        description="For how long it is open: hours and minutes, such as 2h, 90m or 1h30m, at most 168h.",
        max_length=8,
        json_schema_extra=ruled(
            rule(
                "self.matches('^([1-9][0-9]{0,2}h)?([1-9][0-9]{0,3}m)?$') && self != '' && duration(self) <= duration('168h')",
                "a maintenance window's duration must be hours and minutes such as 2h, 90m or 1h30m, and at most 168h",
            )
        ),
    )
    time_zone: str = Field(
        default="UTC",
        description="IANA time zone that the schedule is meant in, such as Europe/Berlin.",
        max_length=64,
        json_schema_extra=ruled(
            rule(
                "self.matches('^[A-Za-z][A-Za-z0-9+_-]*(/[A-Za-z0-9+_-]+)*$')",
                "a maintenance window's timeZone must be an IANA name such as UTC or Europe/Berlin",
            )
        ),
    )


class MedplumAgentSpec(ApiModel):
    """What the agent should be."""

    model_config = under_rules(
        rule(
            f"!has(self.image) || !has(self.image.tag) || !self.image.tag.matches('{_TAGGED_VERSION}') || "
            "self.image.tag.find('[0-9]+\\\\.[0-9]+\\\\.[0-9]+') == self.version.find('[0-9]+\\\\.[0-9]+\\\\.[0-9]+')",
            "spec.image.tag names another version than spec.version; set spec.version to the version that the image holds, or leave the tag out",
        ),
        rule(
            "self.channels.all(a, self.channels.exists_one(b, b.name == a.name))",
            "spec.channels: two channels have the same name; give each its own",
        ),
        rule(
            "self.channels.all(a, self.channels.exists_one(b, b.port == a.port))",
            "spec.channels: two channels have the same port; the agent listens once on each port, so give each channel its own",
        ),
        rule(
            "self.channels.all(a, !has(a.nodePort) || self.channels.exists_one(b, has(b.nodePort) && b.nodePort == a.nodePort))",
            "spec.channels: two channels have the same nodePort; give each its own or leave them out",
        ),
        rule(
            "self.channels.all(a, !has(a.hostPort) || self.channels.exists_one(b, has(b.hostPort) && b.hostPort == a.hostPort))",
            "spec.channels: two channels have the same hostPort; give each its own or leave them out",
        ),
        rule(
            "self.channels.all(c, !has(c.nodePort)) || (has(self.service) && has(self.service.type) && self.service.type != 'ClusterIP')",
            "spec.channels: a nodePort needs spec.service.type NodePort or LoadBalancer",
        ),
        rule(
            "!has(self.podTemplate) || !has(self.podTemplate.hostNetwork) || !self.podTemplate.hostNetwork || self.channels.all(c, !has(c.hostPort) || c.hostPort == c.port)",
            "spec.channels: with spec.podTemplate.hostNetwork the pod binds its channels' own ports on the node; leave hostPort out or make it equal to port",
        ),
    )

    version: str = Field(
        description="Version of the Medplum Agent to run, such as 5.1.15 or 5.1.15-abc1234. Versions are compared by X.Y.Z alone; what follows is a build "
        "id. An older one than the one that is active is a downgrade and needs an approval.",
        max_length=70,
        json_schema_extra=ruled(
            rule(
                f"self.matches('{VERSION_PATTERN.replace(chr(92), chr(92) * 2)}') && !self.contains('\\n')",
                "spec.version must be a full version such as 5.1.15 or 5.1.15-abc1234: three numbers, no v in front, no tag such as latest, no range, no line break",
            )
        ),
    )
    image: ImageSpec = Field(default=ImageSpec(), description="The agent's container image.")
    server: ServerSpec = Field(description="The Medplum server, and who this agent is there.")
    channels: tuple[Channel, ...] = Field(
        description="Ports on which the agent takes messages. The agent is ready when it takes connections on all of them.",
        min_length=1,
        max_length=32,
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    service: ServiceSpec = Field(default=ServiceSpec(), description="The Service that devices connect to.")
    logging: LoggingSpec = Field(default=LoggingSpec(), description="What the agent logs.")
    handoff: HandoffSpec = Field(
        default=HandoffSpec(), description="How one agent takes over from another, and when a change counts as failed."
    )
    downgrade_policy: DowngradePolicy = Field(
        default=DowngradePolicy(), description="Which downgrades need a cluster admin's approval."
    )
    maintenance_windows: tuple[MaintenanceWindow, ...] = Field(
        default=(),
        description="Times in which changes that cost downtime may be made. Validated, but not yet acted on in this release: such a change is made as "
        "soon as it is asked for and approved, and status.plan says so.",
        max_length=16,
    )
    paused: bool = Field(
        default=False, description="Hands off: the operator changes nothing and repairs nothing while this is true."
    )
    pod_template: PodTemplateSpec = Field(default=PodTemplateSpec(), description="Where and how the agent's pod runs.")
