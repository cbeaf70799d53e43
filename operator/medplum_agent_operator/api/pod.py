"""`spec.podTemplate`: the parts of the agent's pod that users may set, in Kubernetes' own words and shapes.

Read by `core.objects.agent_pod`, which embeds the result of `model_dump(by_alias=True, exclude_none=True)` unchanged. So a
dump must never contain a field that the user did not write, nor an empty string, which the API server drops: an unchanged
agent would look changed. Users cannot set here what the operator guarantees: containers, security, volumes, own labels.
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
        _DNS_SUBDOMAIN, "must be a valid object name: lower-case letters, digits, '-' and '.', such as medplum-agent"
    ),
]
LabelValue = Annotated[
    str,
    Field(max_length=63),
    Matching(
        f"({_LABEL})?",
        "a label value must have at most 63 letters, digits, '-', '_' and '.', and must begin and end with a letter or digit",
    ),
]

_KEYS: Final = Rule(
    f"self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_LABEL}$'))",
    "a key must have at most 63 letters, digits, '-', '_' and '.', with an optional domain in front, such as example.org/team",
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
    """CPU and memory of a container. If either map is set, the operator's defaults apply to neither."""

    requests: Quantities | None = Field(
        default=None,
        description="Amounts that the container is guaranteed, by resource: cpu in cores (250m is a quarter), memory in bytes (512Mi).",
    )
    limits: Quantities | None = Field(
        default=None,
        description="Amounts that the container may use at most, by resource. A container that needs more CPU is slowed down. One that uses more memory is "
        "killed, and messages in flight get no acknowledgement.",
    )


class DnsPolicy(StrEnum):
    """How the pod resolves names."""

    CLUSTER_FIRST = "ClusterFirst"
    CLUSTER_FIRST_WITH_HOST_NET = "ClusterFirstWithHostNet"
    DEFAULT = "Default"
    NONE = "None"


class DnsOption(ApiModel):
    """An option of the pod's resolver."""

    name: str = Field(description="Name of the option, such as ndots.", min_length=1, max_length=64)
    value: str | None = Field(default=None, description="Value of the option, if it has one.", max_length=64)


class DnsConfig(ApiModel):
    """Additions to the pod's resolv.conf."""

    nameservers: (
        Annotated[tuple[Annotated[str, Field(min_length=1, max_length=45)], ...], Field(max_length=3)] | None
    ) = Field(default=None, description="IP addresses of name servers that the pod asks before those of dnsPolicy.")
    searches: (
        Annotated[tuple[Annotated[str, Field(min_length=1, max_length=253)], ...], Field(max_length=32)] | None
    ) = Field(default=None, description="Search domains for short names.")
    options: Annotated[tuple[DnsOption, ...], Field(max_length=16)] | None = Field(
        default=None, description="Options of the pod's resolver."
    )


class HostAlias(ApiModel):
    """A line of the pod's /etc/hosts."""

    ip: str = Field(description="The IP address.", min_length=1, max_length=45)
    hostnames: tuple[Annotated[str, Field(min_length=1, max_length=253)], ...] = Field(
        description="Names that resolve to it.", min_length=1, max_length=16
    )


Id = Annotated[int, Field(ge=1, le=2_147_483_647)]


class PodSecurity(ApiModel):
    """User and groups of the agent: the only part of its security that depends on the image."""

    run_as_user: Id = Field(
        default=5678,
        description="User id of the agent, never 0 (root). Default 5678, the user of upstream's Dockerfile.",
    )
    run_as_group: Id = Field(default=5678, description="Group id of the agent, never 0. Default 5678.")
    fs_group: Id = Field(
        default=5678,
        description="Group id that owns the pod's volumes, so that the agent can write to them. Default 5678.",
    )


class PodTemplateSpec(ApiModel):
    """Where and how the agent's pod runs. Each change here replaces the pod: by a rolling handoff from 4.2.4 on, by a recreate before."""

    labels: ExtraLabels = Field(
        default={},
        description="Labels of the pod, in addition to the operator's own (agents.medplum.com/…, app.kubernetes.io/…).",
    )
    annotations: ExtraAnnotations = Field(
        default={}, description="Annotations of the pod, in addition to the operator's own (agents.medplum.com/…)."
    )
    resources: ResourceAmounts | None = Field(
        default=None,
        description="CPU and memory of the agent's container. If absent: requests of 250m CPU and 512Mi memory, and a limit of 2Gi memory.",
    )
    node_selector: SelectedLabels = Field(
        default={}, description="Labels that a node must have to run the agent's pod."
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(), description="Node taints that the agent's pod tolerates.", max_length=32
    )
    affinity: Affinity | None = Field(
        default=None, description="Where the agent's pod may run and should run, by nodes and by other pods."
    )
    topology_spread_constraints: tuple[TopologySpreadConstraint, ...] = Field(
        default=(), description="How pods are spread over nodes, zones or other parts of the cluster.", max_length=16
    )
    priority_class_name: Name | None = Field(
        default=None,
        description="PriorityClass of the pod: which pods go first when nodes are full. If absent, the cluster's default.",
    )
    runtime_class_name: Name | None = Field(
        default=None,
        description="RuntimeClass of the pod: which container runtime runs it. If absent, the node's default.",
    )
    service_account_name: Name | None = Field(
        default=None,
        description="ServiceAccount of the pod. If absent, the operator creates one without rights. Its token is never mounted, because the agent does not "
        "use the Kubernetes API.",
    )
    host_network: bool = Field(
        default=False,
        description="Whether the pod uses the node's network, where each channel's port is a port of the node (default false). Two agents cannot bind the "
        "same ports of a node, so each change then stops the old agent first, with downtime. Pod Security 'baseline' and 'restricted' forbid it.",
    )
    dns_policy: DnsPolicy | None = Field(
        default=None,
        description="How the pod resolves names: ClusterFirst, ClusterFirstWithHostNet (needed with hostNetwork to resolve Services), Default (as the node "
        "does) or None (only dnsConfig). If absent, ClusterFirst.",
    )
    dns_config: DnsConfig | None = Field(
        default=None, description="Name servers, search domains and options, in addition to those of dnsPolicy."
    )
    host_aliases: tuple[HostAlias, ...] = Field(
        default=(),
        description="Additional lines for the pod's /etc/hosts, for names that no name server resolves.",
        max_length=32,
    )
    security_context: PodSecurity = Field(
        default=PodSecurity(),
        description="User and groups of the agent. They must be those that its image is built for. The rest of the pod's security is fixed and meets Pod "
        "Security 'restricted'.",
    )


class ChildrenSpec(ApiModel):
    """What all objects that the operator creates for the agent have in common, as admission policies and quotas demand."""

    labels: ExtraLabels = Field(
        default={},
        description="Labels of every object that the operator creates for this agent, and of the pods of gates and fetch Jobs, in addition to the "
        "operator's own. Those of the agent's pod are spec.podTemplate.labels.",
    )
    annotations: ExtraAnnotations = Field(
        default={},
        description="Annotations of the same objects and pods, in addition to the operator's own. Those of the agent's pod are "
        "spec.podTemplate.annotations.",
    )
    idle_resources: ResourceAmounts | None = Field(
        default=None,
        description="CPU and memory of each container that only sleeps or ends at once: one for each channel after the first, and that of the fetch Job. If "
        "absent: requests of 10m CPU and 16Mi memory, and limits of 250m CPU and 32Mi memory. With two or more channels a change here replaces the agent's "
        "pod.",
    )
