"""`spec.podTemplate`: the part of a pod that is the user's business, in Kubernetes' own words and shapes.

Read by `core.pod_template`, which embeds what `model_dump` gives as it is. What the operator guarantees about a pod (its
containers, security, volumes, labels) cannot be set here.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from medplum_agent_operator.api.base import ApiModel, rule, ruled

Quantity = Annotated[
    int | str,
    Field(
        description="An amount such as 500m, 512Mi or 2.",
        max_length=64,
        pattern=r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
    ),
]
"""Source of the pattern: k8s.io/apimachinery resource.Quantity's own schema in structural CRDs."""

Labels = Annotated[dict[str, str], Field(max_length=64)]


class Expression(ApiModel):
    """One requirement on labels."""

    key: str = Field(description="The label's key.", max_length=317)
    operator: str = Field(description="In, NotIn, Exists or DoesNotExist; for nodes also Gt or Lt.", max_length=16)
    values: tuple[Annotated[str, Field(max_length=63)], ...] = Field(
        default=(), description="The values that In and NotIn compare with, or the number for Gt and Lt.", max_length=64
    )


class LabelSelector(ApiModel):
    """Which objects, by their labels. All requirements must hold."""

    match_labels: Labels = Field(default={}, description="Labels that must be there with these values.")
    match_expressions: tuple[Expression, ...] = Field(default=(), description="Further requirements.", max_length=32)


class NodeSelectorTerm(ApiModel):
    """Which nodes. All requirements of a term must hold."""

    match_expressions: tuple[Expression, ...] = Field(
        default=(), description="Requirements on the node's labels.", max_length=32
    )
    match_fields: tuple[Expression, ...] = Field(
        default=(), description="Requirements on the node's fields, such as metadata.name.", max_length=32
    )


class NodeSelector(ApiModel):
    """Nodes that at least one of the terms selects."""

    node_selector_terms: tuple[NodeSelectorTerm, ...] = Field(
        description="Terms of which one must hold.", min_length=1, max_length=32
    )


class PreferredNodes(ApiModel):
    """Nodes that are preferred."""

    weight: int = Field(description="How much: 1 to 100.", ge=1, le=100)
    preference: NodeSelectorTerm = Field(description="Which nodes.")


class NodeAffinity(ApiModel):
    """Where the pod may and should run, by labels of nodes."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = Field(
        default=None, description="Nodes on which the pod may run."
    )
    preferred_during_scheduling_ignored_during_execution: tuple[PreferredNodes, ...] = Field(
        default=(), description="Nodes on which it should rather run.", max_length=32
    )


class PodAffinityTerm(ApiModel):
    """Pods to be near to or far from."""

    label_selector: LabelSelector | None = Field(default=None, description="Which pods.")
    topology_key: str = Field(
        description="Label of nodes that says what near means, such as kubernetes.io/hostname.",
        min_length=1,
        max_length=317,
    )
    namespaces: tuple[Annotated[str, Field(max_length=63)], ...] = Field(
        default=(), description="Namespaces of those pods. Left out: this one.", max_length=64
    )
    namespace_selector: LabelSelector | None = Field(
        default=None, description="Namespaces of those pods, by their labels."
    )


class WeightedPodAffinityTerm(ApiModel):
    """Pods to be rather near to or far from."""

    weight: int = Field(description="How much: 1 to 100.", ge=1, le=100)
    pod_affinity_term: PodAffinityTerm = Field(description="Which pods, and what near means.")


class PodAffinity(ApiModel):
    """Nearness to other pods. The operator adds a term of its own where an agent must be alone (before 4.2.4)."""

    required_during_scheduling_ignored_during_execution: tuple[PodAffinityTerm, ...] = Field(
        default=(), description="What must hold.", max_length=32
    )
    preferred_during_scheduling_ignored_during_execution: tuple[WeightedPodAffinityTerm, ...] = Field(
        default=(), description="What should rather hold.", max_length=32
    )


class Affinity(ApiModel):
    """Where the pod may and should run."""

    node_affinity: NodeAffinity | None = Field(default=None, description="By labels of nodes.")
    pod_affinity: PodAffinity | None = Field(default=None, description="Near to these pods.")
    pod_anti_affinity: PodAffinity | None = Field(default=None, description="Far from these pods.")


class Toleration(ApiModel):
    """A taint that does not keep the pod away."""

    key: str | None = Field(
        default=None, description="The taint's key; left out with operator Exists: every taint.", max_length=317
    )
    operator: str | None = Field(default=None, description="Equal (the default) or Exists.", max_length=16)
    value: str | None = Field(default=None, description="The taint's value, for Equal.", max_length=63)
    effect: str | None = Field(
        default=None, description="NoSchedule, PreferNoSchedule or NoExecute; left out: all.", max_length=32
    )
    toleration_seconds: int | None = Field(
        default=None, description="Seconds for which NoExecute is tolerated; left out: for ever."
    )


class TopologySpreadConstraint(ApiModel):
    """How pods are spread over parts of the cluster."""

    max_skew: int = Field(description="The largest difference in numbers of pods that is allowed.", ge=1)
    topology_key: str = Field(description="Label of nodes that says what a part is.", min_length=1, max_length=317)
    when_unsatisfiable: str = Field(description="DoNotSchedule or ScheduleAnyway.", max_length=32)
    label_selector: LabelSelector | None = Field(default=None, description="Which pods are counted.")


class ResourceAmounts(ApiModel):
    """What the agent's container may use."""

    requests: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(
        default={}, description="What it is sure to get."
    )
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(
        default={}, description="What it may use at the most; it is killed when it uses more memory."
    )


class DnsPolicy(StrEnum):
    """How names are resolved in the pod."""

    CLUSTER_FIRST = "ClusterFirst"
    CLUSTER_FIRST_WITH_HOST_NET = "ClusterFirstWithHostNet"
    DEFAULT = "Default"
    NONE = "None"


class DnsOption(ApiModel):
    """A line of resolv.conf's options."""

    name: str = Field(description="The option, such as ndots.", max_length=64)
    value: str | None = Field(default=None, description="Its value, if it has one.", max_length=64)


class DnsConfig(ApiModel):
    """What is added to the pod's resolv.conf."""

    nameservers: tuple[Annotated[str, Field(max_length=45)], ...] = Field(
        default=(), description="Addresses of name servers.", max_length=3
    )
    searches: tuple[Annotated[str, Field(max_length=253)], ...] = Field(
        default=(), description="Domains that are tried for short names.", max_length=32
    )
    options: tuple[DnsOption, ...] = Field(default=(), description="Resolver options.", max_length=16)


class HostAlias(ApiModel):
    """A line of the pod's /etc/hosts."""

    ip: str = Field(description="The address.", max_length=45)
    hostnames: tuple[Annotated[str, Field(max_length=253)], ...] = Field(
        description="Its names.", min_length=1, max_length=16
    )


class PodSecurity(ApiModel):
    """The user that the agent runs as: the one thing about security that depends on the image."""

    run_as_user: int = Field(
        default=5678, ge=1, le=2_147_483_647, description="User id; 5678 as in upstream's Dockerfile."
    )
    run_as_group: int = Field(default=5678, ge=1, le=2_147_483_647, description="Group id.")
    fs_group: int = Field(default=5678, ge=1, le=2_147_483_647, description="Group that owns the pod's volumes.")


class PodTemplateSpec(ApiModel):
    """Where and how the agent's pod runs."""

    labels: dict[str, str] = Field(
        default={},
        description="Further labels of the pod.",
        max_length=64,
        json_schema_extra=ruled(
            rule(
                "self.all(k, !k.startsWith('agents.medplum.com/') && !(k in ['app.kubernetes.io/name', 'app.kubernetes.io/instance', "
                "'app.kubernetes.io/managed-by', 'app.kubernetes.io/component']))",
                "spec.podTemplate.labels: labels of agents.medplum.com and app.kubernetes.io/name, instance, managed-by and component are the operator's; use others",
            )
        ),
    )
    annotations: dict[str, str] = Field(
        default={},
        description="Further annotations of the pod.",
        max_length=64,
        json_schema_extra=ruled(
            rule(
                "self.all(k, !k.startsWith('agents.medplum.com/'))",
                "spec.podTemplate.annotations: annotations of agents.medplum.com are the operator's; use others",
            )
        ),
    )
    resources: ResourceAmounts | None = Field(
        default=None,
        description="What the agent's container may use. Left out: 250m CPU and 512Mi memory requested, 2Gi memory at the most.",
    )
    node_selector: Labels = Field(default={}, description="Labels that a node must have.")
    tolerations: tuple[Toleration, ...] = Field(
        default=(), description="Taints that do not keep the pod away.", max_length=32
    )
    affinity: Affinity | None = Field(default=None, description="Where the pod may and should run.")
    topology_spread_constraints: tuple[TopologySpreadConstraint, ...] = Field(
        default=(), description="How pods are spread over parts of the cluster.", max_length=16
    )
    priority_class_name: str | None = Field(
        default=None, description="Priority of the pod when nodes are full.", max_length=253
    )
    runtime_class_name: str | None = Field(default=None, description="Container runtime that runs it.", max_length=253)
    service_account_name: str | None = Field(
        default=None,
        description="ServiceAccount of the pod. Left out: one of its own, with no rights. Its token is not mounted in either case.",
        max_length=253,
    )
    host_network: bool = Field(
        default=False,
        description="Run in the node's network: the channels' ports are the node's. Two agents cannot bind them side by side, so every change then "
        "stops the old agent first. Not allowed by Pod Security 'restricted'.",
    )
    dns_policy: DnsPolicy | None = Field(default=None, description="How names are resolved in the pod.")
    dns_config: DnsConfig | None = Field(default=None, description="What is added to the pod's resolv.conf.")
    host_aliases: tuple[HostAlias, ...] = Field(default=(), description="Lines of the pod's /etc/hosts.", max_length=32)
    security_context: PodSecurity = Field(
        default=PodSecurity(), description="The user that the agent runs as: the one that the image is made for."
    )
