"""The Deployment controller, ReplicaSet controller, scheduler and kubelet of the model, in small steps. Used by `cluster`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from medplum_agent_operator.core.policy.prepull import TTL_SECONDS
from tests.support.builders import NOW, Raw, stamp
from tests.support.simulated_cluster.apply import copied
from tests.support.simulated_cluster.pods import (
    ReplicaSet,
    SimulatedFetch,
    SimulatedPod,
    drain_seconds,
    has_exclusive_anti_affinity,
    host_ports,
)

if TYPE_CHECKING:
    from datetime import datetime


EVICTED_AFTER: Final = timedelta(seconds=300)
"""https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-based-evictions."""
NODES: Final = ("node-1", "node-2")
"""The scheduler puts all pods on the first node that accepts them."""


HARD: Final = {"NoSchedule", "NoExecute"}
"""Effects of taints that keep new pods away."""


class Workloads:
    """ReplicaSets and pods, and their controllers.

    Attributes:
        now: the time.
        count: the number of changes so far; also the next resource version.
        never_ready: versions whose agents never open their ports.
        troubles: versions whose containers never run, with reason and message of the kubelet.
        scheduler_keeps_apart: whether the scheduler honours the pod anti-affinity.
        cordoned: nodes that take no new pods.
        taints: taints of nodes that no pod tolerates; a hard one keeps new pods away.
        lost: nodes whose kubelet stopped reporting, and since when; the state of their pods is unknown.
        never_pulled: versions whose images cannot be pulled by a Job.
        without_secret: versions whose Job does not find its Secret.
        sidecar: the container that a policy adds to the pods of Jobs, "regular" or "native"; empty for none.
        fetching: Jobs that fetch an image, with the state of their pods; oldest first.
    """

    def __init__(self) -> None:
        self.now = NOW
        self.count = 10
        self.replica_sets: list[ReplicaSet] = []
        self.never_ready: set[str] = set()
        self.troubles: dict[str, tuple[str, str]] = {}
        self.scheduler_keeps_apart = True
        self.cordoned: set[str] = set()
        self.taints: dict[str, list[Raw]] = {}
        self.lost: dict[str, datetime] = {}
        self.never_pulled: set[str] = set()
        self.without_secret: set[str] = set()
        self.sidecar = ""
        self.fetching: dict[str, SimulatedFetch] = {}
        self._min_ready_seconds = 0
        self._progress: tuple[str, datetime, str] | None = None

    @property
    def pods(self) -> list[SimulatedPod]:
        """All pods that exist."""
        return [pod for replica_set in self.replica_sets for pod in replica_set.pods]

    @property
    def running(self) -> list[str]:
        """The versions of all running agents, with repetitions."""
        return sorted(pod.version.text for pod in self.pods if pod.running)

    @property
    def _own(self) -> list[ReplicaSet]:
        """The ReplicaSets of the live Deployment, without those of a deleted one."""
        return [one for one in self.replica_sets if not one.deleted]

    def deployment_controller(self, live: Raw) -> Raw:
        """Run one sync of the Deployment controller: pkg/controller/deployment, rolling.go, recreate.go, sync.go, progress.go.

        Returns:
            The Deployment's status.
        """
        self._min_ready_seconds = live["spec"].get("minReadySeconds", 0)
        template = live["spec"]["template"]
        new = next((one for one in self._own if one.template == template), None)
        old = [one for one in self._own if one is not new]
        if live["spec"]["strategy"]["type"] == "Recreate":
            new = self._recreate(new, old, template)
        else:
            new = self._roll(new, old, template)
        return self._status(live, new)

    def _recreate(self, new: ReplicaSet | None, old: list[ReplicaSet], template: Raw) -> ReplicaSet | None:
        if any(one.replicas for one in old):
            for one in old:
                one.replicas = 0
            self.count += 1
            return new
        if any(pod.ended is None for one in old for pod in one.pods):
            return new  # terminating pods count until they have ended
        new = new or self._new_replica_set(template)
        self._resize(new, 1)
        return new

    def _roll(self, new: ReplicaSet | None, old: list[ReplicaSet], template: Raw) -> ReplicaSet:
        new = new or self._new_replica_set(template)
        total = sum(one.replicas for one in self._own)
        if new.replicas == 0 and total < 2:  # one replica and a surge of one
            self._resize(new, 1)
            return new
        # Scale old ReplicaSets down while one pod stays available: first the unavailable ones, then the others.
        spare = total - 1 - (new.replicas - len(self._available(new)))
        for one in old:
            if spare > 0 and one.replicas and not self._available(one):
                self._resize(one, 0)
                spare -= 1
        serving = sum(len(self._available(one)) for one in self._own)
        for one in old:
            if spare > 0 and one.replicas and self._available(one) and serving > 1:
                self._resize(one, 0)
                spare -= 1
                serving -= 1
        return new

    def _new_replica_set(self, template: Raw) -> ReplicaSet:
        self.count += 1
        new = ReplicaSet(f"lab-{self.count}", copied(template))
        self.replica_sets.append(new)
        self._progress = ("NewReplicaSetCreated", self.now, f'Created new replica set "{new.name}"')
        return new

    def _resize(self, replica_set: ReplicaSet, replicas: int) -> None:
        if replica_set.replicas != replicas:
            replica_set.replicas = replicas
            self.count += 1

    def _available(self, replica_set: ReplicaSet) -> list[SimulatedPod]:
        settle = timedelta(seconds=self._min_ready_seconds)
        return [
            pod for pod in replica_set.active if pod.ready_since is not None and pod.ready_since + settle <= self.now
        ]

    def _status(self, live: Raw, new: ReplicaSet | None) -> Raw:
        before = live.get("status") or {}
        counts = {
            "replicas": sum(len(one.active) for one in self._own),
            "updatedReplicas": len(new.active) if new is not None else 0,
            "readyReplicas": sum(pod.ready_since is not None for one in self._own for pod in one.active),
            "availableReplicas": sum(len(self._available(one)) for one in self._own),
        }
        complete = (1, 1, 1) == (counts["replicas"], counts["updatedReplicas"], counts["availableReplicas"])
        known, since, _ = self._progress or ("", self.now, "")
        progressed = any(
            counts[key] > before.get(key, 0) for key in ("updatedReplicas", "readyReplicas", "availableReplicas")
        ) or counts["replicas"] - counts["updatedReplicas"] < before.get("replicas", 0) - before.get(
            "updatedReplicas", 0
        )
        deadline = timedelta(seconds=live["spec"]["progressDeadlineSeconds"])
        about = f'ReplicaSet "{new.name}"' if new is not None else 'Deployment "lab"'
        if known == "NewReplicaSetAvailable" and counts["replicas"] == counts["updatedReplicas"]:
            pass  # the trap: the condition stays while a Recreate has only stopped the old pod
        elif complete:
            self._progress = ("NewReplicaSetAvailable", self.now, f"{about} has successfully progressed.")
        elif progressed:
            self._progress = ("ReplicaSetUpdated", self.now, f"{about} is progressing.")
        elif known not in {"", "NewReplicaSetAvailable"} and since + deadline < self.now:
            self._progress = ("ProgressDeadlineExceeded", since, f"{about} has timed out progressing.")
        conditions = []
        if self._progress is not None:
            reason, since, message = self._progress
            conditions = [
                {
                    "type": "Progressing",
                    "status": "False" if reason == "ProgressDeadlineExceeded" else "True",
                    "reason": reason,
                    "message": message,
                    "lastUpdateTime": stamp(since),
                }
            ]
        return {"observedGeneration": live["metadata"]["generation"], "conditions": conditions, **counts}

    def pod_controllers(self) -> None:
        """Run one step of the ReplicaSet controller, the scheduler and the kubelet."""
        for replica_set in self.replica_sets:
            self._scale(replica_set)
        self._schedule()
        self._evict_from_lost_nodes()
        self._kubelet()
        self._fetch()

    def delete_all(self) -> None:
        """Collect the garbage of a deleted Deployment: its ReplicaSets are deleted and their pods terminated."""
        self._progress = None
        for replica_set in self.replica_sets:
            replica_set.deleted = True
            replica_set.replicas = 0
            self._scale(replica_set)

    def _scale(self, replica_set: ReplicaSet) -> None:
        active = sorted(replica_set.active, key=lambda pod: pod.ready_since is not None)
        for pod in active[: max(0, len(active) - replica_set.replicas)]:
            pod.told_to_go = self.now
            self.count += 1
        for _ in range(replica_set.replicas - len(active)):
            self.count += 1
            name = f"{replica_set.name}-{self.count}"
            replica_set.pods.append(SimulatedPod(name, copied(replica_set.template), replica_set.name, self.now))

    def _schedule(self) -> None:
        for pod in self.pods:
            if pod.node or pod.told_to_go is not None:
                continue
            others = [other for other in self.pods if other.node and other.ended is None]
            apart = self.scheduler_keeps_apart and any(
                has_exclusive_anti_affinity(one.template) for one in (pod, *others)
            )
            ports = host_ports(pod.template)
            if others and (apart or any(ports & host_ports(other.template) for other in others)):
                continue
            closed = {node for node, taints in self.taints.items() if any(one["effect"] in HARD for one in taints)}
            free = [node for node in NODES if node not in {*self.cordoned, *self.lost, *closed}]
            if free:
                pod.node = free[0]
                self.count += 1

    def _fetch(self) -> None:
        """Advance the Jobs: each pod pulls its image or waits. A Job that is done is deleted after a while."""
        for name, fetch in list(self.fetching.items()):
            before = fetch.state
            if fetch.done_at is not None and self.now >= fetch.done_at + timedelta(seconds=TTL_SECONDS):
                del self.fetching[name]
                self.count += 1
                continue
            lacks_secret = fetch.lacks_secret or fetch.version in self.without_secret
            fetch.state = "reading" if lacks_secret else "done"
            if fetch.version in self.never_pulled:
                fetch.state = "pulling"
            if before == "done":
                fetch.state = "done"
            elif fetch.state == "done":
                fetch.done_at = self.now
            if before != fetch.state:
                self.count += 1

    def _evict_from_lost_nodes(self) -> None:
        """Act as the node controller: the pods of a lost node become unready, and are evicted after a while."""
        for pod in self.pods:
            since = self.lost.get(pod.node)
            if since is None:
                continue
            if pod.ready_since is not None:
                pod.ready_since, pod.unready_since = None, self.now
                self.count += 1
            if pod.told_to_go is None and self.now >= since + EVICTED_AFTER:
                pod.told_to_go = self.now
                self.count += 1

    def _kubelet(self) -> None:
        for replica_set in self.replica_sets:
            for pod in list(replica_set.pods):
                if pod.node in self.lost:
                    continue
                if pod.told_to_go is None:
                    self.count += self._run(pod)
                elif self.now < pod.told_to_go + timedelta(seconds=drain_seconds(pod.template)) and pod.running:
                    continue
                elif pod.running:
                    pod.ended, pod.ready_since, pod.unready_since = self.now, None, self.now
                    self.count += 1
                else:
                    replica_set.pods.remove(pod)
                    self.count += 1

    def _run(self, pod: SimulatedPod) -> bool:
        """Advance a pod that should run by one step. Returns whether anything changed."""
        trouble = self.troubles.get(pod.version.text) or pod.never_starts
        if not pod.node or pod.ready_since is not None:
            return False
        if pod.started is None:
            pod.started = pod.unready_since = self.now
        elif pod.trouble != trouble:
            pod.trouble = trouble
        elif trouble is None and pod.version.text not in self.never_ready:
            pod.ready_since = self.now
        else:
            return False
        return True
