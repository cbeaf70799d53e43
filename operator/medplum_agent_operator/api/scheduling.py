"""Where the agent's pod may and should run: the scheduling part of `spec.podTemplate`, in Kubernetes' own words and shapes.

Read by `pod`. Every list and map that the user may leave out is None then, so that nothing is dumped that was not written.
"""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from medplum_agent_operator.api.base import ApiModel

LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
# Deep in lists of lists a rule would cost more than the API server allows: the length must do.
SelectedValue = Annotated[str, Field(max_length=63)]
SelectedLabels = Annotated[dict[str, SelectedValue], Field(max_length=32)]
Namespaces = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=63)], ...], Field(max_length=64)]


def _absent_if_empty(value: Any) -> Any:
    """Read the empty string, which the API server drops from a pod, as absent."""
    return None if value == "" else value


class NodeOperator(StrEnum):
    """How a node's label relates to values."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GT = "Gt"
    LT = "Lt"


class LabelOperator(StrEnum):
    """How a label relates to values."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class NodeRequirement(ApiModel):
    """One requirement on a node."""

    key: LabelKey = Field(description="Key of the node's label, or name of the field.")
    operator: NodeOperator = Field(description="In, NotIn, Exists, DoesNotExist, Gt or Lt.")
    values: Annotated[tuple[SelectedValue, ...], Field(max_length=64)] | None = Field(
        default=None,
        description="What In and NotIn compare with; one whole number for Gt and Lt; left out for Exists and DoesNotExist.",
    )


class LabelRequirement(ApiModel):
    """One requirement on labels."""

    key: LabelKey = Field(description="The label's key.")
    operator: LabelOperator = Field(description="In, NotIn, Exists or DoesNotExist.")
    values: Annotated[tuple[SelectedValue, ...], Field(max_length=64)] | None = Field(
        default=None, description="What In and NotIn compare with; left out for Exists and DoesNotExist."
    )


class LabelSelector(ApiModel):
    """Which objects, by their labels. All requirements must hold; an empty selector means every object."""

    match_labels: SelectedLabels | None = Field(
        default=None, description="Labels that must be there with exactly these values."
    )
    match_expressions: Annotated[tuple[LabelRequirement, ...], Field(max_length=32)] | None = Field(
        default=None, description="Further requirements on labels."
    )


NodeRequirements = Annotated[tuple[NodeRequirement, ...], Field(max_length=32)]


class NodeSelectorTerm(ApiModel):
    """Which nodes. All requirements of a term must hold; an empty term selects no node."""

    match_expressions: NodeRequirements | None = Field(default=None, description="Requirements on the node's labels.")
    match_fields: NodeRequirements | None = Field(
        default=None, description="Requirements on the node's fields; Kubernetes knows metadata.name only."
    )


class NodeSelector(ApiModel):
    """Nodes that at least one of the terms selects."""

    node_selector_terms: tuple[NodeSelectorTerm, ...] = Field(
        description="Terms, of which at least one must hold.", min_length=1, max_length=32
    )


class PreferredNodes(ApiModel):
    """Nodes that are preferred."""

    weight: int = Field(
        description="How much they are preferred, 1 to 100; the weights that hold for a node are added up.",
        ge=1,
        le=100,
    )
    preference: NodeSelectorTerm = Field(description="Which nodes are preferred.")


class NodeAffinity(ApiModel):
    """Nodes to run on."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = Field(
        default=None,
        description="Nodes on which the agent may run at all. Where none has room, the agent's pod stays Pending.",
    )
    preferred_during_scheduling_ignored_during_execution: (
        Annotated[tuple[PreferredNodes, ...], Field(max_length=32)] | None
    ) = Field(default=None, description="Nodes on which the agent runs if they have room.")


class PodAffinityTerm(ApiModel):
    """Pods to be near to, or far from."""

    label_selector: LabelSelector | None = Field(default=None, description="Which pods. Left out: none.")
    topology_key: LabelKey = Field(
        description="Label of nodes whose value is the same for all nodes that count as one place, such as kubernetes.io/hostname."
    )
    namespaces: Namespaces | None = Field(
        default=None,
        description="Namespaces of those pods. Left out, with no namespaceSelector: the agent's own namespace.",
    )
    namespace_selector: LabelSelector | None = Field(
        default=None,
        description="Namespaces of those pods, by the labels of the namespaces; added to those named in namespaces.",
    )
    match_label_keys: Annotated[tuple[LabelKey, ...], Field(max_length=16)] | None = Field(
        default=None, description="Keys of labels in which those pods must equal the agent's pod."
    )
    mismatch_label_keys: Annotated[tuple[LabelKey, ...], Field(max_length=16)] | None = Field(
        default=None, description="Keys of labels in which those pods must differ from the agent's pod."
    )


class WeightedPodAffinityTerm(ApiModel):
    """Pods to be rather near to, or far from."""

    weight: int = Field(description="How much it counts, 1 to 100.", ge=1, le=100)
    pod_affinity_term: PodAffinityTerm = Field(description="Which pods, and which nodes count as one place.")


class PodAffinity(ApiModel):
    """Nearness to other pods."""

    required_during_scheduling_ignored_during_execution: (
        Annotated[tuple[PodAffinityTerm, ...], Field(max_length=32)] | None
    ) = Field(default=None, description="What must hold. Where it cannot, the agent's pod stays Pending.")
    preferred_during_scheduling_ignored_during_execution: (
        Annotated[tuple[WeightedPodAffinityTerm, ...], Field(max_length=32)] | None
    ) = Field(default=None, description="What should hold if there is room.")


class Affinity(ApiModel):
    """Where the agent's pod may and should run."""

    node_affinity: NodeAffinity | None = Field(default=None, description="Nodes to run on, by their labels.")
    pod_affinity: PodAffinity | None = Field(default=None, description="Pods to run near to.")
    pod_anti_affinity: PodAffinity | None = Field(
        default=None,
        description="Pods to run far from. For versions before 4.2.4 the operator adds a term that keeps a second pod of the same agent from starting.",
    )


class TaintEffect(StrEnum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class TolerationOperator(StrEnum):
    """How a taint is recognised."""

    EQUAL = "Equal"
    EXISTS = "Exists"


class Toleration(ApiModel):
    """A taint that does not keep the agent away."""

    key: LabelKey | None = Field(
        default=None, description="The taint's key. Left out with operator Exists: every taint."
    )
    operator: TolerationOperator | None = Field(
        default=None,
        description="Equal compares the taint's value with value, Exists takes any value. Left out: Equal.",
    )
    value: Annotated[SelectedValue | None, BeforeValidator(_absent_if_empty)] = Field(
        default=None, description="The taint's value, for operator Equal. Left out: the taint has none."
    )
    effect: TaintEffect | None = Field(
        default=None, description="NoSchedule, PreferNoSchedule or NoExecute. Left out: all three."
    )
    toleration_seconds: int | None = Field(
        default=None,
        description="Seconds for which a NoExecute taint is tolerated before the pod is evicted; 0 and less: evicted at once. Left out: for ever.",
    )


class Unsatisfiable(StrEnum):
    """What to do when a spread cannot be had."""

    DO_NOT_SCHEDULE = "DoNotSchedule"
    SCHEDULE_ANYWAY = "ScheduleAnyway"


class NodeInclusion(StrEnum):
    """Whether something about nodes is taken into account."""

    HONOR = "Honor"
    IGNORE = "Ignore"


class TopologySpreadConstraint(ApiModel):
    """How pods are spread over parts of the cluster."""

    max_skew: int = Field(
        description="The largest difference in numbers of pods between two places that is allowed.", ge=1
    )
    topology_key: LabelKey = Field(
        description="Label of nodes whose value is the same for all nodes that count as one place, such as topology.kubernetes.io/zone."
    )
    when_unsatisfiable: Unsatisfiable = Field(
        description="DoNotSchedule leaves the agent's pod Pending where the spread cannot be had, ScheduleAnyway only prefers it."
    )
    label_selector: LabelSelector | None = Field(default=None, description="Which pods are counted. Left out: none.")
    min_domains: int | None = Field(default=None, description="Number of places that must exist. Left out: 1.", ge=1)
    node_affinity_policy: NodeInclusion | None = Field(
        default=None,
        description="Honor counts only nodes that nodeSelector and nodeAffinity select, Ignore all. Left out: Honor.",
    )
    node_taints_policy: NodeInclusion | None = Field(
        default=None,
        description="Honor leaves out nodes whose taints the agent does not tolerate, Ignore counts all. Left out: Ignore.",
    )
    match_label_keys: Annotated[tuple[LabelKey, ...], Field(max_length=16)] | None = Field(
        default=None, description="Keys of labels in which the counted pods must equal the agent's pod."
    )
