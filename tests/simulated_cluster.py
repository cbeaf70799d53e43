"""A tiny in-memory **model** of a cluster with one MedplumAgent, to tell whole stories in milliseconds. Not an API server.

What it plays, one small turn each `tick`: server-side apply of the few kinds (fields that we no longer apply go, lists are
replaced as wholes, a few defaults are added), the Deployment controller (RollingUpdate with surge 1 and unavailable 0, Recreate,
its `Progressing` condition with the traps that the real one has), ReplicaSets, a scheduler on one node (required pod
anti-affinity, host ports), a kubelet (a started agent is ready a second later, or never). The operator's part is the real
core: `make_plan`, then `project`. Whether the real parts do the same is what the tests on a real API server ask.

Two invariants are checked at every turn, by books of its own that the operator's code has no hand in: I1, no two running
agents where one is before 4.2.4; I2, no write goes below the version that was active last without an approval that has not
been used.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.status import MedplumAgentStatus, parse_status
from medplum_agent_operator.core.approval import kept
from medplum_agent_operator.core.model import Config, Observed
from medplum_agent_operator.core.plan import Plan, make_plan
from medplum_agent_operator.core.pods import AGENT_CONTAINER
from medplum_agent_operator.core.status import project
from medplum_agent_operator.core.version import AgentVersion
from medplum_agent_operator.core.workload import RolloutRecord
from tests.builders import ABSENT, CONFIG, NAME, NAMESPACE, NOW, Raw, agent, stamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medplum_agent_operator.core.findings import Finding


class OperatorDiedError(Exception):
    """The operator was killed between two writes."""


@dataclass
class SimulatedPod:
    """A pod and what the kubelet has done with it."""

    name: str
    template: Raw
    node: str = ""
    started: datetime | None = None
    ready_since: datetime | None = None
    told_to_go: datetime | None = None

    @property
    def version(self) -> AgentVersion:
        """What its container runs, from the image: what a label says proves nothing."""
        return AgentVersion.parse(self.template["spec"]["containers"][0]["image"].rpartition(":")[2])

    @property
    def running(self) -> bool:
        """Whether the agent's container has started and not ended."""
        return self.started is not None

    def raw(self) -> Raw:
        """The pod as the API server gives it."""
        ready: Raw = {"type": "Ready", "status": "False"}
        if self.ready_since is not None:
            ready = {"type": "Ready", "status": "True", "lastTransitionTime": stamp(self.ready_since)}
        scheduled = {"type": "PodScheduled", "status": "True"}
        if not self.node:
            scheduled |= {
                "status": "False",
                "reason": "Unschedulable",
                "message": "didn't match pod anti-affinity rules",
            }
        statuses = [{"name": AGENT_CONTAINER, "ready": self.ready_since is not None, "restartCount": 0, "state": {}}]
        metadata = {"name": self.name, "namespace": NAMESPACE, "uid": self.name, **self.template["metadata"]}
        if self.told_to_go is not None:
            metadata["deletionTimestamp"] = stamp(self.told_to_go)
        return {
            "kind": "Pod",
            "metadata": metadata,
            "spec": {**self.template["spec"], "nodeName": self.node},
            "status": {
                "phase": "Running" if self.running else "Pending",
                "conditions": [ready, scheduled],
                "containerStatuses": statuses if self.node else [],
            },
        }


@dataclass
class ReplicaSet:
    """A ReplicaSet of the Deployment."""

    name: str
    template: Raw
    replicas: int = 0
    pods: list[SimulatedPod] = field(default_factory=list)

    @property
    def active(self) -> list[SimulatedPod]:
        """The pods that count: those on their way out do not."""
        return [pod for pod in self.pods if pod.told_to_go is None]


class SimulatedCluster:
    """A cluster with one MedplumAgent. See the module's docstring for what is modelled."""

    def __init__(self, raw: Raw | None = None, *, config: Config = CONFIG) -> None:
        self.now = NOW
        self.config = config
        self.agent: Raw = copy.deepcopy(raw if raw is not None else agent())
        self.objects: dict[str, Raw] = {}
        self.replica_sets: list[ReplicaSet] = []
        self.never_ready: set[str] = set()
        self.scheduler_keeps_apart = True
        self.writes: list[str] = []
        self.told: list[Finding] = []
        self.plans: list[Plan] = []
        self.rollouts: list[datetime] = []
        self._applied: dict[str, Mapping[str, Any]] = {}
        self._count = 10
        self._progress: tuple[str, datetime] | None = None
        self._active: AgentVersion | None = None
        self._used: set[str] = set()
        self._look_again_at: datetime | None = None
        self._seen = -1

    # What people do.

    def edit(self, **spec: Any) -> SimulatedCluster:
        """`kubectl apply` of some fields of the spec (`ABSENT` takes one out)."""
        wanted = {key: value for key, value in {**self.agent["spec"], **spec}.items() if value is not ABSENT}
        if wanted != self.agent["spec"]:
            self.agent["spec"] = wanted
            self.agent["metadata"]["generation"] += 1
            self._touch(self.agent)
        return self

    def annotate(self, text: str | None) -> SimulatedCluster:
        """`kubectl annotate` of the approval; None takes it off."""
        marks = self.agent["metadata"]["annotations"]
        if text is None:
            marks.pop(names.FORCE_DOWNGRADE, None)
            self._used.clear()
        else:
            marks[names.FORCE_DOWNGRADE] = text
        self._touch(self.agent)
        return self

    def delete(self, kind: str) -> SimulatedCluster:
        """`kubectl delete` of a child; the pods of a Deployment go with it."""
        self.objects.pop(kind, None)
        self._applied.pop(kind, None)
        if kind == "Deployment":
            self._progress = None
            for replica_set in self.replica_sets:
                replica_set.replicas = 0
                self._scale(replica_set)
        self._count += 1
        return self

    def restart_pods(self) -> SimulatedCluster:
        """`kubectl rollout restart`."""
        body = copy.deepcopy(self.deployment)
        body["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = stamp(self.now)
        self._store("Deployment", body)
        return self

    def evict(self) -> SimulatedCluster:
        """Every running pod is told to go, as by a node drain."""
        for pod in self.pods:
            pod.told_to_go = pod.told_to_go or self.now
        self._count += 1
        return self

    def lose_status(self) -> SimulatedCluster:
        """Somebody wipes the status."""
        self.agent.pop("status", None)
        self._touch(self.agent)
        return self

    # What tests look at.

    @property
    def deployment(self) -> Raw:
        """The live Deployment."""
        return self.objects["Deployment"]

    @property
    def pods(self) -> list[SimulatedPod]:
        """Every pod that is not gone."""
        return [pod for replica_set in self.replica_sets for pod in replica_set.pods]

    @property
    def running(self) -> list[str]:
        """Versions whose containers run, with repetitions."""
        return sorted(pod.version.text for pod in self.pods if pod.running)

    @property
    def strategy(self) -> str:
        """The live Deployment's strategy."""
        return str(self.deployment["spec"]["strategy"]["type"])

    @property
    def applied_version(self) -> str:
        """The version of the live Deployment's template."""
        return str(self.deployment["spec"]["template"]["metadata"]["labels"][names.VERSION_LABEL])

    @property
    def record(self) -> RolloutRecord:
        """How the live template came about."""
        found = RolloutRecord.read(self.deployment["metadata"]["annotations"].get(names.ROLLOUT))
        assert found is not None
        return found

    @property
    def status(self) -> MedplumAgentStatus:
        """What the operator has reported."""
        return parse_status(self.agent.get("status") or {})

    def condition(self, kind: str) -> tuple[str, str]:
        """A condition's status and reason."""
        return next((c.status, c.reason) for c in self.status.conditions if c.type == kind)

    def observe(self) -> Observed:
        """What a pass would read now."""
        return Observed.of(
            MedplumAgent.parse(copy.deepcopy(self.agent)),
            deployment=copy.deepcopy(self.objects.get("Deployment")),
            children={kind: raw for kind, raw in copy.deepcopy(self.objects).items() if kind != "Deployment"},
            pods=[pod.raw() for pod in self.pods],
        )

    def plan(self) -> Plan:
        """What a pass would do now."""
        return make_plan(self.observe(), config=self.config, now=self.now)

    # Time.

    def reconcile(self, *, dies_after: int | None = None) -> Plan:
        """One pass of the operator; killed after so many writes if that is asked for.

        Raises:
            OperatorDiedError: when it was killed.
        """
        self.now += timedelta(microseconds=1)
        seen, observed = self._count, self.observe()
        plan = make_plan(observed, config=self.config, now=self.now)
        done = 0
        for action in plan.actions:
            if done == dies_after:
                raise OperatorDiedError
            self.apply(action.body)
            done += 1
        status = project(observed, plan, now=self.now)
        if status != observed.agent.status and not plan.silent:
            if done == dies_after:
                raise OperatorDiedError
            self.agent["status"] = status.model_dump(by_alias=True, exclude_none=True, mode="json")
            self.writes.append("status")
            self._touch(self.agent)
            self.told.extend(plan.findings)
        self.plans.append(plan)
        self._look_again_at = plan.look_again_at
        if self._count == seen:
            self._seen = seen
        return plan

    def tick(self, seconds: float = 1.0) -> bool:
        """Let time go by and everybody but the operator take a turn. Returns whether anything changed."""
        self.now = (self.now + timedelta(seconds=seconds)).replace(microsecond=0)
        before = self._count
        self._deployment_controller()
        for replica_set in self.replica_sets:
            self._scale(replica_set)
        self._schedule()
        self._kubelet()
        self._assert_one_agent_at_a_time_where_it_must_be()
        return self._count != before

    def settle(self, *, seconds: int = 120, operator: bool = True) -> SimulatedCluster:
        """Let everybody work until nothing changes any more.

        Raises:
            AssertionError: when that does not happen within so many seconds.
        """
        quiet = 0
        longest = self._quiet_seconds()
        for _ in range(seconds):
            changed = self.tick()
            due = self._look_again_at is not None and self.now >= self._look_again_at
            if operator and (due or self._seen != self._count):
                before = self._count
                self.reconcile()
                changed = changed or self._count != before
            quiet = 0 if changed else quiet + 1
            if quiet > longest:
                return self
        raise AssertionError(
            f"not at rest after {seconds} s: {self.status.phase}, {self.status.plan}, {self.writes[-6:]}"
        )

    def _quiet_seconds(self) -> int:
        """How long nothing may happen although something is still to come: a pod that settles, a deadline."""
        live = self.objects.get("Deployment")
        if live is None:
            return 3
        drains = [_drain_seconds(pod.template) for pod in self.pods]
        return int(max(3, live["spec"]["minReadySeconds"] + 2, *drains, 0) + 1)

    def wait_for_deadline(self) -> SimulatedCluster:
        """Let the Deployment's progress deadline go by."""
        self.settle()
        self.tick(self.deployment["spec"]["progressDeadlineSeconds"] + 1)
        return self.settle()

    # The API server.

    def apply(self, body: Mapping[str, Any]) -> Raw:
        """Server-side apply by the operator."""
        kind = str(body["kind"])
        if kind == "Deployment":
            self._assert_no_unapproved_downgrade(body)
        live = copy.deepcopy(self.objects.get(kind))
        wanted: Raw = copy.deepcopy(dict(body))
        merged = wanted if live is None else _merged(_without(live, self._applied.get(kind, {}), wanted), wanted)
        if live is None:
            self._count += 1
            merged["metadata"] |= {"uid": f"{kind}-{self._count}", "generation": 0}
        self._applied[kind] = copy.deepcopy(dict(body))
        self._store(kind, _defaulted(kind, merged))
        self.writes.append(kind)
        if kind == "Deployment" and (not self.rollouts or self.rollouts[-1] != self.record.started_at):
            self.rollouts.append(self.record.started_at)
        self._assert_one_agent_at_a_time_where_it_must_be()
        return self.objects[kind]

    def _store(self, kind: str, wanted: Raw) -> None:
        live = self.objects.get(kind)
        if live is not None and live == wanted:
            return
        if live is None or live.get("spec") != wanted.get("spec"):
            wanted["metadata"]["generation"] = wanted["metadata"].get("generation", 0) + 1
        self._touch(wanted)
        self.objects[kind] = wanted

    def _touch(self, raw: Raw) -> None:
        self._count += 1
        raw["metadata"]["resourceVersion"] = str(self._count)

    # The Deployment controller: pkg/controller/deployment, rolling.go, recreate.go, sync.go, progress.go.

    def _deployment_controller(self) -> None:
        live = self.objects.get("Deployment")
        if live is None:
            return
        template = live["spec"]["template"]
        new = next((one for one in self.replica_sets if one.template == template), None)
        old = [one for one in self.replica_sets if one is not new]
        if live["spec"]["strategy"]["type"] == "Recreate":
            new = self._recreate(new, old, template)
        else:
            new = self._roll(new, old, template)
        self._report(live, new)

    def _recreate(self, new: ReplicaSet | None, old: list[ReplicaSet], template: Raw) -> ReplicaSet | None:
        if any(one.replicas for one in old):
            for one in old:
                one.replicas = 0
            self._count += 1
            return new
        if any(one.pods for one in old):
            return new  # terminating ones count until they are gone
        new = new or self._new_replica_set(template)
        self._resize(new, 1)
        return new

    def _roll(self, new: ReplicaSet | None, old: list[ReplicaSet], template: Raw) -> ReplicaSet:
        new = new or self._new_replica_set(template)
        total = sum(one.replicas for one in self.replica_sets)
        if new.replicas == 0 and total < 2:  # one replica and a surge of one
            self._resize(new, 1)
            return new
        # Old ones go as far as one stays available: first those that never got so, then the others.
        spare = total - 1 - (new.replicas - len(self._available(new)))
        for one in old:
            if spare > 0 and one.replicas and not self._available(one):
                self._resize(one, 0)
                spare -= 1
        serving = sum(len(self._available(one)) for one in self.replica_sets)
        for one in old:
            if spare > 0 and one.replicas and self._available(one) and serving > 1:
                self._resize(one, 0)
                spare -= 1
                serving -= 1
        return new

    def _new_replica_set(self, template: Raw) -> ReplicaSet:
        self._count += 1
        new = ReplicaSet(f"lab-{self._count}", copy.deepcopy(template))
        self.replica_sets.append(new)
        self._progress = ("NewReplicaSetCreated", self.now)
        return new

    def _resize(self, replica_set: ReplicaSet, replicas: int) -> None:
        if replica_set.replicas != replicas:
            replica_set.replicas = replicas
            self._count += 1

    def _available(self, replica_set: ReplicaSet) -> list[SimulatedPod]:
        settle = timedelta(seconds=self.deployment["spec"]["minReadySeconds"])
        return [
            pod for pod in replica_set.active if pod.ready_since is not None and pod.ready_since + settle <= self.now
        ]

    def _report(self, live: Raw, new: ReplicaSet | None) -> None:
        before = live.get("status") or {}
        counts = {
            "replicas": sum(len(one.active) for one in self.replica_sets),
            "updatedReplicas": len(new.active) if new is not None else 0,
            "readyReplicas": sum(pod.ready_since is not None for one in self.replica_sets for pod in one.active),
            "availableReplicas": sum(len(self._available(one)) for one in self.replica_sets),
        }
        complete = (1, 1, 1) == (counts["replicas"], counts["updatedReplicas"], counts["availableReplicas"])
        known, since = self._progress or ("", self.now)
        got_on = any(
            counts[key] > before.get(key, 0) for key in ("updatedReplicas", "readyReplicas", "availableReplicas")
        ) or counts["replicas"] - counts["updatedReplicas"] < before.get("replicas", 0) - before.get(
            "updatedReplicas", 0
        )
        deadline = timedelta(seconds=live["spec"]["progressDeadlineSeconds"])
        if known == "NewReplicaSetAvailable" and counts["replicas"] == counts["updatedReplicas"]:
            pass  # so it stays while a Recreate has only stopped the old pod: the trap
        elif complete:
            self._progress = ("NewReplicaSetAvailable", self.now)
        elif got_on:
            self._progress = ("ReplicaSetUpdated", self.now)
        elif known not in {"", "NewReplicaSetAvailable"} and since + deadline < self.now:
            self._progress = ("ProgressDeadlineExceeded", since)
        reason, since = self._progress or (known, since)
        condition = {"type": "Progressing", "status": "True", "reason": reason, "lastUpdateTime": stamp(since)}
        conditions = [condition] if reason else []
        status = {"observedGeneration": live["metadata"]["generation"], "conditions": conditions, **counts}
        if status != before:
            live["status"] = status
            self._touch(live)
        if complete and reason == "NewReplicaSetAvailable":
            self._active = AgentVersion.parse(self.record.to)

    # ReplicaSets, scheduler, kubelet.

    def _scale(self, replica_set: ReplicaSet) -> None:
        active = sorted(replica_set.active, key=lambda pod: pod.ready_since is not None)
        for pod in active[: max(0, len(active) - replica_set.replicas)]:
            pod.told_to_go = self.now
            self._count += 1
        for _ in range(replica_set.replicas - len(active)):
            self._count += 1
            replica_set.pods.append(
                SimulatedPod(f"{replica_set.name}-{self._count}", copy.deepcopy(replica_set.template))
            )

    def _schedule(self) -> None:
        for pod in self.pods:
            if pod.node or pod.told_to_go is not None:
                continue
            others = [other for other in self.pods if other.node]
            apart = self.scheduler_keeps_apart and any(_wants_to_be_alone(one.template) for one in (pod, *others))
            ports = _host_ports(pod.template)
            if others and (apart or any(ports & _host_ports(other.template) for other in others)):
                continue
            pod.node = "node-1"
            self._count += 1

    def _kubelet(self) -> None:
        for replica_set in self.replica_sets:
            for pod in list(replica_set.pods):
                if pod.told_to_go is not None:
                    drained = self.now >= pod.told_to_go + timedelta(seconds=_drain_seconds(pod.template))
                    if drained or not pod.running:
                        replica_set.pods.remove(pod)
                        self._count += 1
                elif pod.node and pod.started is None:
                    pod.started = self.now
                    self._count += 1
                elif pod.started is not None and pod.ready_since is None and pod.version.text not in self.never_ready:
                    pod.ready_since = self.now
                    self._count += 1

    # The invariants.

    def _assert_one_agent_at_a_time_where_it_must_be(self) -> None:
        running = [pod.version for pod in self.pods if pod.running]
        assert len(running) < 2 or all(version.hands_over for version in running), f"I1 is broken: {self.running}"

    def _assert_no_unapproved_downgrade(self, body: Mapping[str, Any]) -> None:
        record = RolloutRecord.read(body["metadata"]["annotations"][names.ROLLOUT])
        target = AgentVersion.parse(body["spec"]["template"]["metadata"]["labels"][names.VERSION_LABEL])
        same = "Deployment" in self.objects and AgentVersion.parse(self.applied_version).same_release(target)
        if self._active is None or same or not target < self._active:
            return
        policy = (self.agent["spec"].get("downgradePolicy") or {}).get("approval", "Always")
        if policy == "BelowZeroDowntime" and target.hands_over:
            return
        text = self.agent["metadata"]["annotations"].get(names.FORCE_DOWNGRADE, "")
        assert text.split()[:1] == [target.text], f"I2 is broken: {self._active} to {target} with {text!r}"
        assert text not in self._used, f"I2 is broken: {text!r} approves twice"
        assert record is not None
        assert kept(text) == record.approval
        self._used.add(text)


def _merged(live: Any, wanted: Any) -> Any:
    if not isinstance(live, dict) or not isinstance(wanted, dict):
        return wanted
    return {**live, **{key: _merged(live.get(key), value) for key, value in wanted.items()}}


def _without(live: Any, applied: Any, wanted: Any) -> Any:
    """`live` without what the operator applied before and does not apply any more."""
    if not isinstance(live, dict) or not isinstance(applied, dict):
        return live
    return {
        key: _without(value, applied.get(key), wanted.get(key) or {})
        for key, value in live.items()
        if not (key in applied and key not in wanted)
    }


def _defaulted(kind: str, raw: Raw) -> Raw:
    """A few of the fields that an API server adds."""
    if kind == "Service":
        raw["spec"] = {"clusterIP": "10.0.0.7", "sessionAffinity": "None", **raw["spec"]}
    if kind == "Deployment":
        pod = raw["spec"]["template"]["spec"]
        pod.setdefault("restartPolicy", "Always")
        pod.setdefault("schedulerName", "default-scheduler")
        for container in (*pod["containers"], *pod["initContainers"]):
            container.setdefault("terminationMessagePath", "/dev/termination-log")
    return raw


def _drain_seconds(template: Raw) -> int:
    hook = template["spec"]["containers"][0].get("lifecycle") or {}
    return int(hook.get("preStop", {}).get("sleep", {}).get("seconds", 0))


def _wants_to_be_alone(template: Raw) -> bool:
    against = (template["spec"].get("affinity") or {}).get("podAntiAffinity") or {}
    terms = against.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
    return any(term["labelSelector"]["matchLabels"].get(names.AGENT_LABEL) == NAME for term in terms)


def _host_ports(template: Raw) -> set[int]:
    pod = template["spec"]
    ports = [port for container in pod["containers"] for port in container.get("ports", ())]
    if pod.get("hostNetwork"):
        return {port["containerPort"] for port in ports}
    return {port["hostPort"] for port in ports if "hostPort" in port}


def installed(version: str = "5.1.15", **spec: Any) -> SimulatedCluster:
    """A cluster in which the agent was installed and serves."""
    quick = {"minReadySeconds": 2, "drainSeconds": 2, "progressDeadlineSeconds": 60}
    return SimulatedCluster(agent(version, **{"handoff": quick, **spec})).settle()


def changing(
    before: str, after: str, *, approval: str | None = None, seconds: int = 1, **spec: Any
) -> SimulatedCluster:
    """A cluster in which a change of version has begun and is not done; the new agent never gets ready."""
    cluster = installed(before, **spec)
    cluster.never_ready.add(after)
    if approval is not None:
        cluster.annotate(approval)
    cluster.edit(version=after).reconcile()
    for _ in range(seconds):
        cluster.tick()
        cluster.reconcile()
    return cluster
