"""`spec.podTemplate`: the part of a pod that is the user's business, in Kubernetes' own words and shapes.

Read by `core.pod_template`, which embeds what `model_dump(by_alias=True, exclude_none=True)` gives as it is: so nothing in
here may dump what the user did not write, or an empty string that the API server drops: an unchanged agent would look changed.
What the operator guarantees about a pod (its containers, security, volumes, own labels) cannot be set here.
"""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from medplum_agent_operator.api.base import ApiModel, Matching, Rule
from medplum_agent_operator.api.scheduling import Affinity, SelectedLabels, Toleration, TopologySpreadConstraint

_LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_DNS_SUBDOMAIN: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_QUANTITY: Final = r"\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?"

Name = Annotated[
    str,
    Field(max_length=253),
    Matching(
        _DNS_SUBDOMAIN, "must be the name of an object: lower-case letters, digits, '-' and '.', such as medplum-agent"
    ),
]
LabelValue = Annotated[
    str,
    Field(max_length=63),
    Matching(
        f"({_LABEL})?",
        "a label's value has at most 63 letters, digits, '-', '_' and '.', and begins and ends with a letter or digit",
    ),
]

_KEYS: Final = Rule(
    f"self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_LABEL}$'))",
    "a key has at most 63 letters, digits, '-', '_' and '.', with an optional domain in front, such as example.org/team",
)
ExtraLabels = Annotated[
    dict[str, LabelValue],
    Field(max_length=32),
    _KEYS,
    Rule(
        "self.all(k, !k.startsWith('agents.medplum.com/') && !(k in ['app.kubernetes.io/name', 'app.kubernetes.io/instance', "
        "'app.kubernetes.io/component', 'app.kubernetes.io/managed-by']))",
        "labels agents.medplum.com/… and app.kubernetes.io/name, instance, component and managed-by are the operator's own; use other keys",
    ),
]
ExtraAnnotations = Annotated[
    dict[str, str],
    Field(max_length=64),
    _KEYS,
    Rule(
        "self.all(k, !k.startsWith('agents.medplum.com/'))",
        "annotations agents.medplum.com/… are the operator's own; use other keys",
    ),
]
Quantity = (
    Annotated[int, Field(ge=0)]
    | Annotated[
        str, Field(max_length=40), Matching(_QUANTITY, "an amount must be a quantity such as 500m, 1.5 or 512Mi")
    ]
)
Quantities = Annotated[
    dict[str, Quantity],
    Field(max_length=8),
    Rule(
        "self.all(k, isQuantity(string(self[k])) && !string(self[k]).startsWith('-'))",
        'amounts must be quantities such as 500m, "1.5" or 512Mi, and not negative',
    ),
]


class ResourceAmounts(ApiModel):
    """What the agent's container may use. Where either map is given, both are taken as they are, without the operator's figures."""

    requests: Quantities | None = Field(
        default=None,
        description="What the agent is sure to get, by resource: cpu in cores (250m is a quarter), memory in bytes (512Mi).",
    )
    limits: Quantities | None = Field(
        default=None,
        description="What the agent may use at the most, by resource. With less CPU it is slowed down; with more memory than this it is killed, and "
        "messages in flight get no acknowledgement.",
    )


class DnsPolicy(StrEnum):
    """How names are resolved in the pod."""

    CLUSTER_FIRST = "ClusterFirst"
    CLUSTER_FIRST_WITH_HOST_NET = "ClusterFirstWithHostNet"
    DEFAULT = "Default"
    NONE = "None"


class DnsOption(ApiModel):
    """A resolver option."""

    name: str = Field(description="The option, such as ndots.", min_length=1, max_length=64)
    value: str | None = Field(default=None, description="Its value, if it has one.", max_length=64)


class DnsConfig(ApiModel):
    """What is added to the pod's resolv.conf."""

    nameservers: (
        Annotated[tuple[Annotated[str, Field(min_length=1, max_length=45)], ...], Field(max_length=3)] | None
    ) = Field(default=None, description="IP addresses of name servers, asked before those that dnsPolicy gives.")
    searches: (
        Annotated[tuple[Annotated[str, Field(min_length=1, max_length=253)], ...], Field(max_length=32)] | None
    ) = Field(default=None, description="Domains that are tried for short names.")
    options: Annotated[tuple[DnsOption, ...], Field(max_length=16)] | None = Field(
        default=None, description="Resolver options."
    )


class HostAlias(ApiModel):
    """A line of the pod's /etc/hosts."""

    ip: str = Field(description="The IP address.", min_length=1, max_length=45)
    hostnames: tuple[Annotated[str, Field(min_length=1, max_length=253)], ...] = Field(
        description="Names that resolve to it.", min_length=1, max_length=16
    )


Id = Annotated[int, Field(ge=1, le=2_147_483_647)]


class PodSecurity(ApiModel):
    """The user that the agent runs as: the one thing about its security that depends on the image."""

    run_as_user: Id = Field(
        default=5678,
        description="User id that the agent runs as, never 0 (root). Default 5678, the user of upstream's Dockerfile.",
    )
    run_as_group: Id = Field(default=5678, description="Group id that the agent runs as, never 0. Default 5678.")
    fs_group: Id = Field(
        default=5678,
        description="Group id that owns the pod's volumes, so that the agent can write them. Default 5678.",
    )


class PodTemplateSpec(ApiModel):
    """Where and how the agent's pod runs. Each change here replaces the pod: by a rolling handoff from 4.2.4 on, else stop, then start."""

    labels: ExtraLabels = Field(
        default={},
        description="Labels of the pod, beside the operator's own (agents.medplum.com/…, app.kubernetes.io/…).",
    )
    annotations: ExtraAnnotations = Field(
        default={}, description="Annotations of the pod, beside the operator's own (agents.medplum.com/…)."
    )
    resources: ResourceAmounts | None = Field(
        default=None,
        description="CPU and memory of the agent's container. Left out: 250m CPU and 512Mi memory requested, at most 2Gi memory.",
    )
    node_selector: SelectedLabels = Field(
        default={}, description="Labels that a node must have for the agent to run there."
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(), description="Taints of nodes that do not keep the agent away.", max_length=32
    )
    affinity: Affinity | None = Field(
        default=None, description="Where the agent's pod may and should run: by nodes, and by other pods."
    )
    topology_spread_constraints: tuple[TopologySpreadConstraint, ...] = Field(
        default=(), description="How the agents' pods are spread over nodes, zones and the like.", max_length=16
    )
    priority_class_name: Name | None = Field(
        default=None,
        description="PriorityClass of the pod: who goes first when nodes are full. Left out: the cluster's default.",
    )
    runtime_class_name: Name | None = Field(
        default=None,
        description="RuntimeClass of the pod: which container runtime runs it. Left out: the node's default.",
    )
    service_account_name: Name | None = Field(
        default=None,
        description="ServiceAccount of the pod. Left out: one that the operator makes, with no rights. Its token is never mounted: the agent does not "
        "talk to Kubernetes.",
    )
    host_network: bool = Field(
        default=False,
        description="Run in the node's network, where each channel's port is a port of the node. Default false. Two agents cannot bind the same ports "
        "of a node, so each change then stops the old agent first, with downtime. Pod Security 'baseline' and 'restricted' forbid it.",
    )
    dns_policy: DnsPolicy | None = Field(
        default=None,
        description="How names are resolved in the pod: ClusterFirst, ClusterFirstWithHostNet (which hostNetwork needs to find Services), Default (as "
        "the node does) or None (dnsConfig alone). Left out: ClusterFirst.",
    )
    dns_config: DnsConfig | None = Field(
        default=None, description="Name servers, search domains and options added to what dnsPolicy gives."
    )
    host_aliases: tuple[HostAlias, ...] = Field(
        default=(),
        description="Lines added to the pod's /etc/hosts, for names that no name server knows.",
        max_length=32,
    )
    security_context: PodSecurity = Field(
        default=PodSecurity(),
        description="User and groups that the agent runs as: those that its image is made for. The rest of the pod's security is fixed: it fulfils Pod "
        "Security 'restricted'.",
    )
