"""Pods, ReplicaSets and fetch Jobs of the model. Used by `workloads`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER
from medplum_agent_operator.core.observed.version import AgentVersion
from tests.support.builders import NAME, NAMESPACE, Raw, stamp

if TYPE_CHECKING:
    from datetime import datetime


@dataclass
class SimulatedPod:
    """A pod and its state on the node.

    Attributes:
        trouble: why the agent's container waits, as reason and message of the kubelet; None if it does not wait.
    """

    name: str
    template: Raw
    replica_set: str
    created: datetime
    node: str = ""
    started: datetime | None = None
    ready_since: datetime | None = None
    told_to_go: datetime | None = None
    unready_since: datetime | None = None
    trouble: tuple[str, str] | None = None
    ended: datetime | None = None

    @property
    def version(self) -> AgentVersion:
        """The version that its container runs, from the image; a label proves nothing."""
        return AgentVersion.parse(self.template["spec"]["containers"][0]["image"].rpartition(":")[2])

    @property
    def running(self) -> bool:
        """Whether the agent's container runs."""
        return self.started is not None and self.ended is None and self.trouble is None

    @property
    def never_starts(self) -> tuple[str, str] | None:
        """Why its container never starts, if its template says so."""
        return ("CreateContainerConfigError", "secret not found") if _lacks_secret(self.template) else None

    def raw(self) -> Raw:
        """The pod as the API server returns it."""
        ready: Raw = {"type": "Ready", "status": "False"}
        if self.ready_since is not None:
            ready = {"type": "Ready", "status": "True", "lastTransitionTime": stamp(self.ready_since)}
        elif self.unready_since is not None:
            ready["lastTransitionTime"] = stamp(self.unready_since)
        scheduled = {"type": "PodScheduled", "status": "True"}
        if not self.node:
            scheduled |= {
                "status": "False",
                "reason": "Unschedulable",
                "message": "didn't match pod anti-affinity rules",
            }
        state: Raw = {} if self.ended is None else {"terminated": {"exitCode": 0, "finishedAt": stamp(self.ended)}}
        agent: Raw = {"name": AGENT_CONTAINER, "ready": self.ready_since is not None, "restartCount": 0, "state": state}
        if self.trouble is not None and self.ended is None:
            reason, message = self.trouble
            agent["state"] = {"waiting": {"reason": reason, "message": message}}
            if reason == "CrashLoopBackOff":
                agent |= {"restartCount": 4, "lastState": {"terminated": {"exitCode": 1}}}
        statuses = [agent]
        metadata = {"name": self.name, "namespace": NAMESPACE, "uid": self.name, **self.template["metadata"]}
        metadata["creationTimestamp"] = stamp(self.created)
        metadata["ownerReferences"] = [{"kind": "ReplicaSet", "name": self.replica_set, "controller": True}]
        if self.told_to_go is not None:
            metadata["deletionTimestamp"] = stamp(self.told_to_go)
        return {
            "kind": "Pod",
            "metadata": metadata,
            "spec": {**self.template["spec"], "nodeName": self.node},
            "status": {
                "phase": "Succeeded" if self.ended is not None else "Running" if self.running else "Pending",
                "conditions": [ready, scheduled],
                "containerStatuses": statuses if self.node else [],
            },
        }


@dataclass
class SimulatedFetch:
    """A Job that fetches an image, and its pod.

    Attributes:
        body: the Job as it was applied.
        created: when it was applied.
        state: "" before the first step, "pulling" while its image cannot be pulled, "reading" while its Secret is missing, "done" at the end.
        done_at: when it was done.
        sidecar: whether a policy added a container that never ends to its pod: "regular" or "native"; empty for none.
    """

    body: Raw
    created: datetime
    state: str = ""
    done_at: datetime | None = None
    sidecar: str = ""

    @property
    def image(self) -> str:
        """The image that it fetches."""
        return str(self.body["spec"]["template"]["spec"]["containers"][0]["image"])

    @property
    def version(self) -> str:
        """The version in the image's tag."""
        return self.image.rpartition(":")[2]

    @property
    def lacks_secret(self) -> bool:
        """Whether its pod never starts, because its template says so."""
        return _lacks_secret(self.body["spec"]["template"])

    def raws(self) -> list[Raw]:
        """The Job and its pod as the API server returns them."""
        name = self.body["metadata"]["name"]
        metadata = {**self.body["metadata"], "uid": f"job-{name}", "creationTimestamp": stamp(self.created)}
        is_complete = self.state == "done" and self.sidecar != "regular"
        complete = [{"type": "Complete", "status": "True"}] if is_complete else []
        job = {**self.body, "metadata": metadata, "status": {"conditions": complete}}
        if not self.state:
            return [job]
        states = {
            "pulling": {"waiting": {"reason": "ErrImagePull", "message": f"{self.image}: not found"}},
            "reading": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "lab" not found'}},
            "done": {"terminated": {"exitCode": 0}},
        }
        own = {"name": AGENT_CONTAINER, "state": states[self.state]}
        added = {"name": "istio-proxy", "state": {"running": {}}}
        pod = {
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-1",
                "namespace": NAMESPACE,
                "labels": self.body["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [{"kind": "Job", "name": name, "uid": metadata["uid"], "controller": True}],
            },
            "spec": self.body["spec"]["template"]["spec"],
            "status": {
                "containerStatuses": [added, own] if self.sidecar == "regular" else [own],
                "initContainerStatuses": [added] if self.sidecar == "native" else [],
            },
        }
        return [job, pod]


@dataclass
class ReplicaSet:
    """A ReplicaSet of the Deployment.

    Attributes:
        deleted: whether its Deployment was deleted; it is removed after its pods.
        revision: the Deployment controller's number for it.
    """

    name: str
    template: Raw
    replicas: int = 0
    deleted: bool = False
    revision: int = 0
    pods: list[SimulatedPod] = field(default_factory=list)

    @property
    def active(self) -> list[SimulatedPod]:
        """The pods that are not terminating."""
        return [pod for pod in self.pods if pod.told_to_go is None]


def drain_seconds(template: Raw) -> int:
    """The seconds that a pod of the template sleeps before SIGTERM."""
    hook = template["spec"]["containers"][0].get("lifecycle") or {}
    return int(hook.get("preStop", {}).get("sleep", {}).get("seconds", 0))


def has_exclusive_anti_affinity(template: Raw) -> bool:
    """Whether a template requires that no other pod of the agent is on its node."""
    against = (template["spec"].get("affinity") or {}).get("podAntiAffinity") or {}
    terms = against.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
    return any(term["labelSelector"]["matchLabels"].get(names.AGENT_LABEL) == NAME for term in terms)


def host_ports(template: Raw) -> set[int]:
    """The ports of its node that a pod of the template binds."""
    pod = template["spec"]
    ports = [port for container in pod["containers"] for port in container.get("ports") or ()]
    if pod.get("hostNetwork"):
        return {port["containerPort"] for port in ports}
    return {port["hostPort"] for port in ports if "hostPort" in port}


def _lacks_secret(template: Raw) -> bool:
    """Whether a template asks for a missing Secret, as for kwok's stages (tests/support/cluster/stages)."""
    notes = template["metadata"].get("annotations") or {}
    return bool(notes.get("sim.medplum.com/behaviour") == "config-error")
