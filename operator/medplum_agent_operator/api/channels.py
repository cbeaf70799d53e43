"""How devices reach the agent: `spec.channels` and `spec.service`.

Read by `spec`, which adds the rules between the two. Must only describe: `core.objects` renders the Service.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from medplum_agent_operator.api.base import ApiModel, Matching, Rule, rules
from medplum_agent_operator.api.pod import ExtraAnnotations, ExtraLabels

Port = Annotated[int, Field(ge=1, le=65535)]


class Protocol(StrEnum):
    """The protocol of a channel. It decides how a gate relays the channel; for the agent, Medplum's Endpoint decides."""

    HL7 = "HL7"
    DICOM = "DICOM"
    ASTM = "ASTM"
    TCP = "TCP"


class ServiceType(StrEnum):
    """The type of the Service that devices connect to."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class TrafficPolicy(StrEnum):
    """Whether nodes without a serving pod forward traffic."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class Channel(ApiModel):
    """A port on which the agent accepts connections from devices. The Agent resource on the server needs a channel whose Endpoint has this port."""

    name: Annotated[
        str,
        Field(max_length=15),
        Matching(
            "([0-9]+-)*[0-9]*[a-z][a-z0-9]*(-[a-z0-9]+)*",
            "a channel's name must consist of lower-case letters and digits, with single '-' between them and at least one letter, such as adt or lab-2",
        ),
    ] = Field(
        description="Name of the channel, at most 15 characters. It names the port of the Service and of the container too."
    )
    port: Port = Field(
        description="TCP port, 1 to 65535. It must be the port in the Endpoint's address, such as 2575 in mllp://0.0.0.0:2575. The agent opens it only after "
        "it has logged in and found the channel. The agent is ready when the ports of all channels are open."
    )
    protocol: Protocol = Field(
        default=Protocol.HL7,
        description="What devices speak: HL7 (v2 over MLLP, the default), DICOM, ASTM or TCP (any bytes). A gate relays HL7 message by message and drops "
        "everything that is not an MLLP frame, so another protocol does not get through a channel that says HL7. It relays the other protocols byte by "
        "byte. The agent itself takes the protocol from the Endpoint's address.",
    )
    node_port: Port | None = Field(
        default=None,
        description="Port on every node that leads to this channel, for spec.service.type NodePort or LoadBalancer. It must be in the cluster's "
        "range, by default 30000 to 32767. If absent, Kubernetes chooses one.",
    )
    host_port: Port | None = Field(
        default=None,
        description="Port that the agent's pod binds on its node. Two agents cannot bind it on the same node, so each change then stops the old agent "
        "first, with downtime. If absent, the pod binds none.",
    )


class ServiceSpec(ApiModel):
    """The Service that devices connect to. It has the MedplumAgent's name and a port for each channel."""

    model_config = rules(
        Rule(
            "!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'",
            "spec.service.externalTrafficPolicy needs spec.service.type NodePort or LoadBalancer; change the type or remove externalTrafficPolicy",
            field_path=".externalTrafficPolicy",
        ),
        Rule(
            "!has(self.loadBalancerClass) || self.type == 'LoadBalancer'",
            "spec.service.loadBalancerClass needs spec.service.type LoadBalancer; change the type or remove loadBalancerClass",
            field_path=".loadBalancerClass",
        ),
        Rule(
            "!has(self.loadBalancerSourceRanges) || size(self.loadBalancerSourceRanges) == 0 || self.type == 'LoadBalancer'",
            "spec.service.loadBalancerSourceRanges needs spec.service.type LoadBalancer; change the type or remove loadBalancerSourceRanges",
            field_path=".loadBalancerSourceRanges",
        ),
    )

    type: ServiceType = Field(
        default=ServiceType.CLUSTER_IP,
        description="How devices reach the agent: ClusterIP (default; only from within the cluster), NodePort (a port on every node) or LoadBalancer.",
    )
    annotations: ExtraAnnotations = Field(
        default={}, description="Annotations of the Service, such as those that configure a load balancer."
    )
    labels: ExtraLabels = Field(default={}, description="Labels of the Service, in addition to the operator's own.")
    load_balancer_class: Annotated[str, Field(min_length=1, max_length=317)] | None = Field(
        default=None,
        description="Class of the load balancer implementation. Kubernetes does not allow it to change later.",
    )
    load_balancer_source_ranges: tuple[
        Annotated[
            str,
            Field(max_length=64),
            Matching(
                "[0-9A-Fa-f.:]+/[0-9]{1,3}",
                "a loadBalancerSourceRanges entry must be an address range in CIDR form, such as 10.20.0.0/16",
            ),
        ],
        ...,
    ] = Field(
        default=(),
        description="Address ranges that may connect, in CIDR form, such as 10.20.0.0/16. If absent, all addresses may connect.",
        max_length=64,
    )
    external_traffic_policy: TrafficPolicy | None = Field(
        default=None,
        description="Local preserves the device's source address and serves only on nodes with a gate pod, or without a gate on the node with the agent's "
        "pod. The gate sees that address; without a gate, the agent does. Cluster serves on every node. If absent, Cluster.",
    )
