"""Where the agent's pod runs: the scheduling part of `spec.podTemplate`, in Kubernetes' own words and shapes.

An absent list or map must be None, so that a dump contains only what the user wrote. CEL rules are too costly in nested lists.
"""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from medplum_agent_operator.api.base import ApiModel

LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
SelectedValue = Annotated[str, Field(max_length=63)]
SelectedLabels = Annotated[dict[str, SelectedValue], Field(max_length=32)]
Namespaces = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=63)], ...], Field(max_length=64)]


def _absent_if_empty(value: Any) -> Any:
    """Return None for the empty string, which the API server drops from a pod."""
    return None if value == "" else value


class NodeOperator(StrEnum):
    """How a node's label is compared with values."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GT = "Gt"
    LT = "Lt"


class LabelOperator(StrEnum):
    """How a label is compared with values."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class NodeRequirement(ApiModel):
    """One requirement on a node."""

    key: LabelKey = Field(description="Key of the node's label, or name of the node's field.")
    operator: NodeOperator = Field(description="How the label is compared: In, NotIn, Exists, DoesNotExist, Gt or Lt.")
    values: Annotated[tuple[SelectedValue, ...], Field(max_length=64)] | None = Field(
        default=None,
        description="Values for In and NotIn; one whole number for Gt and Lt; absent for Exists and DoesNotExist.",
    )


class LabelRequirement(ApiModel):
    """One requirement on labels."""

    key: LabelKey = Field(description="Key of the label.")
    operator: LabelOperator = Field(description="How the label is compared: In, NotIn, Exists or DoesNotExist.")
    values: Annotated[tuple[SelectedValue, ...], Field(max_length=64)] | None = Field(
        default=None, description="Values for In and NotIn; absent for Exists and DoesNotExist."
    )


class LabelSelector(ApiModel):
    """Selects objects by their labels. All requirements must match; an empty selector selects every object."""

    match_labels: SelectedLabels | None = Field(
        default=None, description="Labels that an object must have with exactly these values."
    )
    match_expressions: Annotated[tuple[LabelRequirement, ...], Field(max_length=32)] | None = Field(
        default=None, description="Additional requirements on labels."
    )


NodeRequirements = Annotated[tuple[NodeRequirement, ...], Field(max_length=32)]


class NodeSelectorTerm(ApiModel):
    """Selects nodes. All requirements of a term must match; an empty term selects no node."""

    match_expressions: NodeRequirements | None = Field(default=None, description="Requirements on the node's labels.")
    match_fields: NodeRequirements | None = Field(
        default=None, description="Requirements on the node's fields. Kubernetes supports only metadata.name."
    )


class NodeSelector(ApiModel):
    """Selects the nodes that match at least one term."""

    node_selector_terms: tuple[NodeSelectorTerm, ...] = Field(
        description="Terms, of which at least one must match.", min_length=1, max_length=32
    )


class PreferredNodes(ApiModel):
    """A preference for some nodes."""

    weight: int = Field(
        description="Weight of the preference, 1 to 100. Kubernetes adds up the weights of all preferences that match a node.",
        ge=1,
        le=100,
    )
    preference: NodeSelectorTerm = Field(description="The nodes to prefer.")


class NodeAffinity(ApiModel):
    """Affinity to nodes."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = Field(
        default=None,
        description="Nodes that the agent may run on. If none of them has room, the agent's pod stays Pending.",
    )
    preferred_during_scheduling_ignored_during_execution: (
        Annotated[tuple[PreferredNodes, ...], Field(max_length=32)] | None
    ) = Field(default=None, description="Nodes that the scheduler prefers if they have room.")


class PodAffinityTerm(ApiModel):
    """Pods to run near to, or away from."""

    label_selector: LabelSelector | None = Field(default=None, description="Selects the pods. If absent, none.")
    topology_key: LabelKey = Field(
        description="Key of a node label, such as kubernetes.io/hostname. Nodes with the same value count as one place."
    )
    namespaces: Namespaces | None = Field(
        default=None,
        description="Namespaces of those pods. If this and namespaceSelector are absent, the agent's own namespace.",
    )
    namespace_selector: LabelSelector | None = Field(
        default=None,
        description="Selects namespaces of those pods by their labels, in addition to those in namespaces.",
    )
    match_label_keys: Annotated[tuple[LabelKey, ...], Field(max_length=16)] | None = Field(
        default=None,
        description="Labels whose values must be the same on those pods. Needs Kubernetes 1.31; 1.30 drops it silently.",
    )
    mismatch_label_keys: Annotated[tuple[LabelKey, ...], Field(max_length=16)] | None = Field(
        default=None,
        description="Labels whose values must differ on those pods. Needs Kubernetes 1.31; 1.30 drops it silently.",
    )


class WeightedPodAffinityTerm(ApiModel):
    """A preference to run near to, or away from, some pods."""

    weight: int = Field(description="Weight of the preference, 1 to 100.", ge=1, le=100)
    pod_affinity_term: PodAffinityTerm = Field(description="The pods, and which nodes count as one place.")


class PodAffinity(ApiModel):
    """Affinity or anti-affinity to other pods."""

    required_during_scheduling_ignored_during_execution: (
        Annotated[tuple[PodAffinityTerm, ...], Field(max_length=32)] | None
    ) = Field(default=None, description="Terms that must be met. If they cannot be, the agent's pod stays Pending.")
    preferred_during_scheduling_ignored_during_execution: (
        Annotated[tuple[WeightedPodAffinityTerm, ...], Field(max_length=32)] | None
    ) = Field(default=None, description="Terms that the scheduler prefers to meet.")


class Affinity(ApiModel):
    """Where the agent's pod may run and should run."""

    node_affinity: NodeAffinity | None = Field(default=None, description="Nodes to run on.")
    pod_affinity: PodAffinity | None = Field(default=None, description="Pods to run near to.")
    pod_anti_affinity: PodAffinity | None = Field(
        default=None,
        description="Pods to run away from. For versions before 4.2.4 the operator adds a term that prevents a second pod of the same agent from starting.",
    )


class TaintEffect(StrEnum):
    """The effect of a taint on pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class TolerationOperator(StrEnum):
    """How a toleration matches a taint."""

    EQUAL = "Equal"
    EXISTS = "Exists"


class Toleration(ApiModel):
    """A node taint that the agent's pod tolerates."""

    key: LabelKey | None = Field(
        default=None, description="Key of the taint. If absent with operator Exists, every taint."
    )
    operator: TolerationOperator | None = Field(
        default=None,
        description="How the taint is matched. Equal compares its value with value; Exists accepts any value. If absent, Equal.",
    )
    value: Annotated[SelectedValue | None, BeforeValidator(_absent_if_empty)] = Field(
        default=None, description="Value of the taint, for operator Equal. If absent, the taint has no value."
    )
    effect: TaintEffect | None = Field(
        default=None,
        description="Effect of the taint: NoSchedule, PreferNoSchedule or NoExecute. If absent, all three.",
    )
    toleration_seconds: int | None = Field(
        default=None,
        description="Seconds that a NoExecute taint is tolerated before the pod is evicted. With 0 or less it is evicted at once. If absent, never.",
    )


class Unsatisfiable(StrEnum):
    """What happens when a pod cannot be spread."""

    DO_NOT_SCHEDULE = "DoNotSchedule"
    SCHEDULE_ANYWAY = "ScheduleAnyway"


class NodeInclusion(StrEnum):
    """Whether a node policy is honored."""

    HONOR = "Honor"
    IGNORE = "Ignore"


class TopologySpreadConstraint(ApiModel):
    """How pods are spread over parts of the cluster."""

    max_skew: int = Field(description="Largest allowed difference between the numbers of pods in two places.", ge=1)
    topology_key: LabelKey = Field(
        description="Key of a node label, such as topology.kubernetes.io/zone. Nodes with the same value count as one place."
    )
    when_unsatisfiable: Unsatisfiable = Field(
        description="What happens if the spread is not possible. DoNotSchedule leaves the agent's pod Pending; ScheduleAnyway only prefers the spread."
    )
    label_selector: LabelSelector | None = Field(
        default=None, description="Selects the pods to count. If absent, none."
    )
    min_domains: int | None = Field(default=None, description="Number of places that must exist. If absent, 1.", ge=1)
    node_affinity_policy: NodeInclusion | None = Field(
        default=None,
        description="Which nodes count. Honor: only nodes that nodeSelector and nodeAffinity select. Ignore: all nodes. If absent, Honor.",
    )
    node_taints_policy: NodeInclusion | None = Field(
        default=None,
        description="Which nodes count. Honor: only nodes whose taints the agent's pod tolerates. Ignore: all nodes. If absent, Ignore.",
    )
    match_label_keys: Annotated[tuple[LabelKey, ...], Field(max_length=16)] | None = Field(
        default=None,
        description="Keys of labels whose values must be the same on the counted pods as on the agent's pod.",
    )
