"""A pod that was deleted and does not end: what waits for its end must say so.

Called by `plan` and `progress`. Pure. Kubernetes reports no such fault: the pod stays Terminating.
"""

from datetime import datetime, timedelta
from typing import Final

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.observed.findings import Finding, Message, warning
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.pods import Pod
from medplum_agent_operator.core.policy.availability import Availability

ENDS_LATE: Final = timedelta(seconds=60)
"""How long after its grace period a pod may take to end before that is reported."""


def not_ending(observed: Observed, *, now: datetime) -> Finding | None:
    """A pod that was deleted and has not ended long after its grace period."""
    for pod in observed.live_pods:
        node = observed.node_of(pod)
        if pod.ends_by is None or now < pod.ends_by + ENDS_LATE or (node is not None and node.lost_since is not None):
            continue  # about an unreachable node `diagnosis.lost_node` says more
        where = f" on node {pod.node}" if pod.node else ""
        return warning(
            Reason.POD_NOT_ENDING,
            Message(
                f"Pod {pod.name} should have ended by {pod.ends_by:%Y-%m-%dT%H:%M:%SZ} and is still there{where}.",
                cause="The kubelet or the container runtime of its node has not stopped its containers, or has not reported that.",
                impact=f"{_serving(observed, pod)} A rollout that stops the old agent first waits until this pod has ended.",
                fix="Read the pod's Events with the command. Repair the kubelet or the container runtime of its node; the pod then "
                "ends automatically. Do not delete it by force before its containers have ended: two agents could run at once.",
                command=f"kubectl -n {observed.agent.namespace} describe pod {pod.name}",
            ),
        )
    return None


def _serving(observed: Observed, pod: Pod) -> str:
    """Who serves devices, as a sentence: a pod that does not end may still do it."""
    available = Availability.of(observed)
    if available.serving or not pod.ports_open:
        return f"{available.now} The agent in this pod may still run."
    return "Kubernetes still reports this pod as ready, so its agent probably serves devices. When it has ended, none serves until the next one is ready."


def end_overdue_at(observed: Observed, *, now: datetime) -> datetime | None:
    """When the next terminating pod will count as one that does not end; None without such a pod."""
    due = (pod.ends_by + ENDS_LATE for pod in observed.live_pods if pod.ends_by is not None)
    return min((at for at in due if at > now), default=None)
