"""A node drain becomes a handoff: which agent has to leave its node, and how a pod template records the move.

Called by `desired`, `actions`, `checks` and `plan`. No code watches drains. The signs before an eviction are on the node: a cordon, as of
`kubectl drain` and node upgrades, or a taint, as of autoscalers and interruption handlers. The PodDisruptionBudget blocks the
eviction, a changed annotation makes the Deployment controller start a pod elsewhere, and the node drain then continues
(docs/adr/0011). The API server stores nothing about an eviction that it refuses, so a drain without either sign cannot be seen.

The mark on the template names the pod to move, so each pod moves only once. Later templates must keep the live mark: without it
the Deployment controller would replace the pod again.
"""

from collections.abc import Iterable
from typing import Final

from medplum_agent_operator.api.annotations import MOVED_OFF
from medplum_agent_operator.api.changes import OnNodeDrain
from medplum_agent_operator.api.scheduling import Toleration, TolerationOperator
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.model import Config, Observed
from medplum_agent_operator.core.observed.nodes import Node, Taint
from medplum_agent_operator.core.observed.pods import Pod
from medplum_agent_operator.core.observed.version import AgentVersion

CORDON_TAINT: Final = "node.kubernetes.io/unschedulable"
"""The taint of a cordoned node.

Source: https://kubernetes.io/docs/reference/labels-annotations-taints/#node-kubernetes-io-unschedulable
"""
EVICTION_TAINTS: Final = (
    CORDON_TAINT,
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
    "ToBeDeletedByClusterAutoscaler",
    "aws-node-termination-handler/*",
    "cloud.google.com/impending-node-termination",
    "node.cloudprovider.kubernetes.io/shutdown",
    "medik8s.io/drain",
)
"""Keys of taints with which a tool announces that it evicts a node's pods: Karpenter (from 1.0 on, before), cluster-autoscaler, AWS's
handler of interruptions, GKE, cloud controllers, the node maintenance operator. `prefix/*`: all keys with a prefix.
"""
_STATES: Final = ("node.kubernetes.io/",)
"""Prefixes of taints that show a state of the node. The kubelet and the taint manager act on these themselves."""
_PASSING: Final = ("not-ready", "uninitialized")
"""Ends of keys of taints that go when the node, or a daemon on it, is ready."""


def protected(spec: MedplumAgentSpec, *, nodes_watched: bool) -> bool:
    """Whether the PodDisruptionBudget blocks evictions of this agent until a handoff is done.

    Only if the operator will hand it over: nodes are watched, the user wants it, the version can hand over, and the new pod cannot
    land on the node again.
    """
    return (
        nodes_watched
        and spec.handoff.on_node_drain is OnNodeDrain.HANDOFF
        and AgentVersion.parse(spec.version).hands_over
        and not spec.uses_host_ports
        and not any(_tolerates(spec, Taint(key)) for key in EVICTION_TAINTS)
    )


def _tolerates(spec: MedplumAgentSpec, taint: Taint) -> bool:
    """Whether the scheduler could place the pod on a node with this taint, so that it would move again and again."""
    return any(_matches(toleration, taint) for toleration in spec.pod_template.tolerations)


def _matches(toleration: Toleration, taint: Taint) -> bool:
    """https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#concepts."""
    if toleration.key not in {None, taint.key} or toleration.effect not in {None, taint.effect}:
        return False
    return toleration.operator is TolerationOperator.EXISTS or (toleration.value or "") == taint.value


def _is_named(key: str, patterns: Iterable[str]) -> bool:
    return any(key.startswith(one[:-1]) if one.endswith("/*") else key == one for one in patterns)


def why_departing(node: Node, spec: MedplumAgentSpec, *, further: Iterable[str] = ()) -> str:
    """The sign that the agent has to leave a node, as what the node "is" or "has"; empty without one. `further`: more keys of taints."""
    if node.cordoned:
        return "is cordoned"
    announced = (*EVICTION_TAINTS, *further)
    found = (one for one in node.taints if _is_named(one.key, announced) and not _tolerates(spec, one))
    return next((f"has taint {taint.key}" for taint in found), "")


def on_departing_node(observed: Observed, spec: MedplumAgentSpec, *, further: Iterable[str] = ()) -> Pod | None:
    """The serving pod on a node that is about to be drained, whose pods are evicted; None without one."""
    further = tuple(further)
    for pod in observed.serving_pods:
        node = observed.node_of(pod)
        if node is not None and why_departing(node, spec, further=further):
            return pod
    return None


def unknown_taint(observed: Observed, spec: MedplumAgentSpec, config: Config) -> tuple[str, Taint] | None:
    """A node with a serving pod, and its taint that may or may not announce an eviction, which the budget would block."""
    if not protected(spec, nodes_watched=config.nodes_watched):
        return None
    announced = (*EVICTION_TAINTS, *config.eviction_taints)
    for node in filter(None, map(observed.node_of, observed.serving_pods)):
        for taint in node.taints:
            passing = taint.key.startswith(_STATES) or taint.key.endswith(_PASSING)
            if not passing and not _is_named(taint.key, announced) and not _tolerates(spec, taint):
                return node.name, taint
    return None


def pod_to_move(observed: Observed, spec: MedplumAgentSpec, *, config: Config) -> Pod | None:
    """The pod that has to move to another node now; None if no pod has to, or not yet.

    Only a pod of the live template, and only without a rollout: a pod that starts avoids the node anyway.
    """
    deployment = observed.deployment
    if deployment is None or not protected(spec, nodes_watched=config.nodes_watched):
        return None
    if not observed.activation.settled or deployment.replacing:
        return None
    pod = on_departing_node(observed, spec, further=config.eviction_taints)
    if pod is None or pod not in observed.current_pods or moved_off_mark(pod) == live_moved_off_mark(observed):
        return None
    return pod


def moved_off_mark(pod: Pod) -> str:
    """The mark of a template that moves the agent off a node: the node, and its pod."""
    return f"{pod.node} (pod {pod.name})"


def live_moved_off_mark(observed: Observed) -> str:
    """The mark of the live template; empty if the agent never moved."""
    return "" if observed.deployment is None else observed.deployment.template_annotation(MOVED_OFF)
