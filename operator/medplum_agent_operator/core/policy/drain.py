"""A node drain is a handoff: which agent has to leave a cordoned node, and how a pod template says so.

Called by `plan`, `resources` and `checks`. It does not watch drains: a node that takes no new pods is what `kubectl drain`,
autoscalers and node upgrades make first, and all that can be seen before an eviction. The budget holds the eviction back,
a changed annotation makes the Deployment controller start a pod elsewhere, and the drain goes on (docs/adr/0011).

The note on the template names the pod that it moves off: so a pod is moved off once, whatever happens in between, and
what is rendered later carries the live note on, because dropping it would replace the pod again.
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
    """Whether an eviction of this agent is held back until it has been handed over.

    Only where somebody will hand it over: the versions can, the user wants it, nodes are watched, and the new pod cannot land
    on the cordoned node again.
    """
    return (
        nodes_watched
        and spec.handoff.on_node_drain is OnNodeDrain.HANDOFF
        and AgentVersion.parse(spec.version).hands_over
        and not spec.uses_host_ports
        and not _tolerates_a_cordon(spec)
    )


def _tolerates_a_cordon(spec: MedplumAgentSpec) -> bool:
    """Such a pod could be put back on the node that it was moved off, again and again."""
    return any(
        toleration.key in {None, CORDON_TAINT} and toleration.effect in {None, TaintEffect.NO_SCHEDULE}
        for toleration in spec.pod_template.tolerations
    )


def on_cordoned_node(observed: Observed) -> Pod | None:
    """The serving pod that a drain is about to evict, or would if it could; None where there is none."""
    return next((pod for pod in observed.serving_pods if (node := observed.node_of(pod)) and node.cordoned), None)


def to_move(observed: Observed, spec: MedplumAgentSpec, *, nodes_watched: bool) -> Pod | None:
    """The pod that has to be handed to another node now; None where none has to, or not yet.

    Only a pod of the live template, and only when nothing is under way: a pod that starts avoids the node anyway.
    """
    deployment = observed.deployment
    if deployment is None or not protected(spec, nodes_watched=nodes_watched):
        return None
    if not observed.activation.settled or deployment.replacing:
        return None
    pod = on_cordoned_node(observed)
    if pod is None or pod not in observed.current_pods or note(pod) == live_note(observed):
        return None
    return pod


def note(pod: Pod) -> str:
    """What a template says that moves an agent off: the node, and which pod of it."""
    return f"{pod.node} (pod {pod.name})"


def live_note(observed: Observed) -> str:
    """What the live template says; empty where it was never moved."""
    return "" if observed.deployment is None else observed.deployment.template_annotation(MOVED_OFF)
