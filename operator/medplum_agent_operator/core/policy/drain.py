"""A node drain becomes a handoff: which agent has to leave a cordoned node, and how a pod template records the move.

Called by `desired`, `actions` and `checks`. No code watches drains: the cordon comes first in `kubectl drain`, autoscalers and
node upgrades, and it is the only sign before an eviction. The PodDisruptionBudget blocks the eviction, a changed annotation
makes the Deployment controller start a pod elsewhere, and the node drain then continues (docs/adr/0011).

The mark on the template names the pod to move, so each pod moves only once. Later templates must keep the live mark: without it
the Deployment controller would replace the pod again.
"""

from typing import Final

from medplum_agent_operator.api.annotations import MOVED_OFF
from medplum_agent_operator.api.changes import OnNodeDrain
from medplum_agent_operator.api.scheduling import TaintEffect
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.pods import Pod
from medplum_agent_operator.core.observed.version import AgentVersion

CORDON_TAINT: Final = "node.kubernetes.io/unschedulable"
"""The taint of a cordoned node.

Source: https://kubernetes.io/docs/reference/labels-annotations-taints/#node-kubernetes-io-unschedulable
"""


def protected(spec: MedplumAgentSpec, *, nodes_watched: bool) -> bool:
    """Whether the PodDisruptionBudget blocks evictions of this agent until a handoff is done.

    Only if the operator will hand it over: nodes are watched, the user wants it, the version can hand over, and the new pod cannot
    land on the cordoned node again.
    """
    return (
        nodes_watched
        and spec.handoff.on_node_drain is OnNodeDrain.HANDOFF
        and AgentVersion.parse(spec.version).hands_over
        and not spec.uses_host_ports
        and not _tolerates_a_cordon(spec)
    )


def _tolerates_a_cordon(spec: MedplumAgentSpec) -> bool:
    """Whether the scheduler could place the pod on a cordoned node again, so that it would move again and again."""
    return any(
        toleration.key in {None, CORDON_TAINT} and toleration.effect in {None, TaintEffect.NO_SCHEDULE}
        for toleration in spec.pod_template.tolerations
    )


def on_cordoned_node(observed: Observed) -> Pod | None:
    """The serving pod on a cordoned node, which a node drain evicts or tries to; None without one."""
    return next((pod for pod in observed.serving_pods if (node := observed.node_of(pod)) and node.cordoned), None)


def pod_to_move(observed: Observed, spec: MedplumAgentSpec, *, nodes_watched: bool) -> Pod | None:
    """The pod that has to move to another node now; None if no pod has to, or not yet.

    Only a pod of the live template, and only without a rollout: a pod that starts avoids the node anyway.
    """
    deployment = observed.deployment
    if deployment is None or not protected(spec, nodes_watched=nodes_watched):
        return None
    if not observed.activation.settled or deployment.replacing:
        return None
    pod = on_cordoned_node(observed)
    if pod is None or pod not in observed.current_pods or moved_off_mark(pod) == live_moved_off_mark(observed):
        return None
    return pod


def moved_off_mark(pod: Pod) -> str:
    """The mark of a template that moves the agent off a node: the node, and its pod."""
    return f"{pod.node} (pod {pod.name})"


def live_moved_off_mark(observed: Observed) -> str:
    """The mark of the live template; empty if the agent never moved."""
    return "" if observed.deployment is None else observed.deployment.template_annotation(MOVED_OFF)
