"""How devices reach the agent: `spec.channels` and `spec.service`. Read by `spec`, which holds the rules between them."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from medplum_agent_operator.api.base import ApiModel, Matching, Rule, rules
from medplum_agent_operator.api.pod import ExtraAnnotations, ExtraLabels

Port = Annotated[int, Field(ge=1, le=65535)]


class Protocol(StrEnum):
    """What a channel speaks. Medplum's Endpoint decides how the agent treats it; this decides how a gate relays it."""

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


class Channel(ApiModel):
    """A port on which the agent takes connections from devices. The Agent resource on the server must have a channel whose Endpoint has this port."""

    name: Annotated[
        str,
        Field(max_length=15),
        Matching(
            "([0-9]+-)*[0-9]*[a-z][a-z0-9]*(-[a-z0-9]+)*",
            "a channel's name must consist of lower-case letters, digits and single '-' between them, with at least one letter, such as adt or lab-2",
        ),
    ] = Field(
        description="Name of the channel in this object, of the Service's port and of the container's: at most 15 characters."
    )
    port: Port = Field(
        description="TCP port, 1 to 65535: the one in the Endpoint's address, such as 2575 in mllp://0.0.0.0:2575. The agent opens it only after it has "
        "logged in and found the channel, and counts as ready when the ports of all channels are open."
    )
    protocol: Protocol = Field(
        default=Protocol.HL7,
        description="What devices speak: HL7 (v2 over MLLP, the default), DICOM, ASTM or TCP (any bytes). A gate relays HL7 message by message and drops "
        "what is no MLLP frame, so nothing else gets through where it is wrong; the others it relays byte by byte. The agent itself goes by the Endpoint's "
        "address.",
    )
    node_port: Port | None = Field(
        default=None,
        description="Port on every node that leads to this channel, for spec.service.type NodePort or LoadBalancer. Must be in the cluster's range, by "
        "default 30000 to 32767. Left out: Kubernetes chooses one.",
    )
    host_port: Port | None = Field(
        default=None,
        description="Port that the pod itself binds on its node. Two agents cannot bind it side by side, so each change then stops the old agent first, "
        "with downtime. Left out: none.",
    )


class ServiceSpec(ApiModel):
    """The Service that devices connect to. It has the MedplumAgent's name and a port for each channel."""

    model_config = rules(
        Rule(
            "!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'",
            "spec.service.externalTrafficPolicy is for spec.service.type NodePort or LoadBalancer; change the type or leave it out",
            blames=".externalTrafficPolicy",
        ),
        Rule(
            "!has(self.loadBalancerClass) || self.type == 'LoadBalancer'",
            "spec.service.loadBalancerClass is for spec.service.type LoadBalancer; change the type or leave it out",
            blames=".loadBalancerClass",
        ),
        Rule(
            "!has(self.loadBalancerSourceRanges) || size(self.loadBalancerSourceRanges) == 0 || self.type == 'LoadBalancer'",
            "spec.service.loadBalancerSourceRanges is for spec.service.type LoadBalancer; change the type or leave it out",
            blames=".loadBalancerSourceRanges",
        ),
    )

    type: ServiceType = Field(
        default=ServiceType.CLUSTER_IP,
        description="How devices reach the agent: ClusterIP (default; from within the cluster only), NodePort (a port on every node) or LoadBalancer.",
    )
    annotations: ExtraAnnotations = Field(
        default={}, description="Annotations of the Service, such as load balancers are set up by."
    )
    labels: ExtraLabels = Field(default={}, description="Labels of the Service, beside the operator's own.")
    load_balancer_class: Annotated[str, Field(min_length=1, max_length=317)] | None = Field(
        default=None,
        description="Which load balancer implementation serves it. Kubernetes does not let it be changed later.",
    )
    load_balancer_source_ranges: tuple[
        Annotated[
            str,
            Field(max_length=64),
            Matching(
                "[0-9A-Fa-f.:]+/[0-9]{1,3}", "a source range must be addresses in CIDR form, such as 10.20.0.0/16"
            ),
        ],
        ...,
    ] = Field(
        default=(),
        description="Addresses that may connect, in CIDR form, such as 10.20.0.0/16. Left out: all.",
        max_length=64,
    )
    external_traffic_policy: TrafficPolicy | None = Field(
        default=None,
        description="Local keeps the device's own address visible (to the gate; without one, to the agent) and serves only on nodes that run a gate, or "
        "without one the agent; Cluster serves on every node. Left out: Cluster.",
    )
