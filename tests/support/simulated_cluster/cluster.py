"""The simulated cluster as tests use it: what people do, what is to be seen, time, and the API server."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.status import MedplumAgentStatus, Outcome, parse_status
from medplum_agent_operator.core.observed.model import Config, Observed
from medplum_agent_operator.core.observed.rollout_record import Change, RolloutRecord
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.plan import make_plan
from medplum_agent_operator.core.status import project
from tests.support.builders import ABSENT, CONFIG, NOW, Raw, agent, stamp
from tests.support.simulated_cluster.apply import copied, defaulted, merged, without
from tests.support.simulated_cluster.books import Books
from tests.support.simulated_cluster.pods import SimulatedFetch, drain_seconds
from tests.support.simulated_cluster.workloads import NODES, Workloads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from medplum_agent_operator.core.observed.findings import Finding
    from medplum_agent_operator.core.plan import Plan


class OperatorDiedError(Exception):
    """The operator was killed between two writes."""


class SimulatedCluster(Workloads):
    """A cluster with one MedplumAgent. What is modelled stands in the package's docstring.

    Attributes:
        agent: the raw MedplumAgent.
        objects: its live children, by kind.
        backups: ControllerRevisions, by name.
        books: what the invariants are asserted from.
        writes: everything that the operator has written: a kind, or `status`.
        told: every finding that came with a written status.
        plans: the plan of each pass.
    """

    def __init__(self, raw: Raw | None = None, *, config: Config = CONFIG) -> None:
        super().__init__()
        self.config = config
        self.agent: Raw = copied(raw if raw is not None else agent())
        self.objects: dict[str, Raw] = {}
        self.backups: dict[str, Raw] = {}
        self.books = Books()
        self.writes: list[str] = []
        self.told: list[Finding] = []
        self.plans: list[Plan] = []
        self._applied: dict[str, Mapping[str, Any]] = {}
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
            self.books.used.clear()
        else:
            marks[names.FORCE_DOWNGRADE] = text
        self._touch(self.agent)
        return self

    def mark(self, name: str, text: str | None) -> SimulatedCluster:
        """`kubectl annotate` of anything else; None takes it off."""
        marks = self.agent["metadata"]["annotations"]
        if text is None:
            marks.pop(name, None)
        else:
            marks[name] = text
        self._touch(self.agent)
        return self

    def mend(self) -> SimulatedCluster:
        """Every pod can start and get ready."""
        self.never_ready.clear()
        self.troubles.clear()
        self.count += 1
        return self

    def delete(self, kind: str) -> SimulatedCluster:
        """`kubectl delete` of a child; the pods of a Deployment go with it."""
        self.objects.pop(kind, None)
        self._applied.pop(kind, None)
        if kind == "Deployment":
            self.delete_all()
        self.count += 1
        return self

    def restart_pods(self, *, clock: timedelta = timedelta()) -> SimulatedCluster:
        """`kubectl rollout restart`. `clock`: by how much that machine's is ahead."""
        record = RolloutRecord.read(self.deployment["metadata"]["annotations"].get(names.ROLLOUT))
        completed = [entry.started_at for entry in self.status.history if entry.outcome is Outcome.COMPLETED]
        if record is None or record.started_at not in completed:
            self.books.in_doubt = copied(self.deployment["spec"]["template"])
        body = copied(self.deployment)
        body["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = stamp(
            self.now + clock
        )
        self._store("Deployment", body)
        return self

    def evict(self) -> SimulatedCluster:
        """Every running pod is told to go, as by a node drain."""
        for pod in self.pods:
            pod.told_to_go = pod.told_to_go or self.now
        self.count += 1
        return self

    def cordon(self, *nodes: str) -> SimulatedCluster:
        """`kubectl cordon`."""
        self.cordoned.update(nodes)
        self.count += 1
        return self

    def uncordon(self) -> SimulatedCluster:
        """`kubectl uncordon` of every node."""
        self.cordoned.clear()
        self.count += 1
        return self

    def lose_node(self, node: str) -> SimulatedCluster:
        """Its kubelet is not heard of any more; what runs there may run on."""
        self.lost.setdefault(node, self.now)
        self.count += 1
        return self

    def find_nodes(self) -> SimulatedCluster:
        """Every lost node comes back, with what ran on it."""
        self.lost.clear()
        self.count += 1
        return self

    def remove_what_belonged_to(self, uid: str) -> SimulatedCluster:
        """The MedplumAgent of this uid is gone: the garbage collector removes what it owned, and tells its pods to go."""
        for kind in [kind for kind, raw in self.objects.items() if _owner(raw) == uid]:
            self.delete(kind)
        for name in [name for name, fetch in self.fetching.items() if _owner(fetch.body) == uid]:
            del self.fetching[name]
        for name in [name for name, raw in self.backups.items() if _owner(raw) == uid]:
            del self.backups[name]
        return self

    def collect_garbage(self) -> SimulatedCluster:
        """The MedplumAgent was deleted: all that it had goes, and in the end its pods."""
        self.remove_what_belonged_to(self.agent["metadata"]["uid"])
        for _ in range(20):
            self.tick()
        assert not self.left
        return self

    def replace_agent(self, version: str) -> SimulatedCluster:
        """Another MedplumAgent under the name of one that was deleted."""
        self.agent["metadata"] |= {"uid": f"uid-{self.count}", "generation": 1, "annotations": {}}
        self.agent["spec"] = {**self.agent["spec"], "version": version, "paused": False}
        self.agent.pop("status", None)
        self.books = Books()
        self._touch(self.agent)
        return self

    def lose_status(self) -> SimulatedCluster:
        """Somebody wipes the status."""
        self.agent.pop("status", None)
        self._touch(self.agent)
        return self

    # What tests look at.

    @property
    def left(self) -> list[str]:
        """Everything that there is beside the MedplumAgent."""
        return [*self.objects, *self.fetching, *self.backups, *(pod.name for pod in self.pods)]

    @property
    def deployment(self) -> Raw:
        """The live Deployment."""
        return self.objects["Deployment"]

    @property
    def nodes(self) -> list[Raw]:
        """The nodes as the API server gives them."""
        return [
            {
                "metadata": {"name": name},
                "spec": {"unschedulable": name in self.cordoned},
                "status": {"conditions": [self._heard_of(name)]},
            }
            for name in NODES
        ]

    def _heard_of(self, node: str) -> Raw:
        since = self.lost.get(node)
        if since is None:
            return {"type": "Ready", "status": "True", "lastTransitionTime": stamp(NOW)}
        return {"type": "Ready", "status": "Unknown", "lastTransitionTime": stamp(since)}

    @property
    def jobs(self) -> list[Raw]:
        """Jobs that fetch an image, and their pods."""
        return [raw for fetch in self.fetching.values() for raw in fetch.raws()]

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
            MedplumAgent.parse(copied(self.agent)),
            deployment=copied(self.objects.get("Deployment")),
            children={kind: raw for kind, raw in copied(self.objects).items() if kind != "Deployment"},
            pods=[pod.raw() for pod in self.pods],
            nodes=self.nodes,
            fetching=self.jobs,
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
        seen, observed = self.count, self.observe()
        plan = make_plan(observed, config=self.config, now=self.now)
        done = 0
        for action in plan.actions:
            if done == dies_after:
                raise OperatorDiedError
            self.apply(action.body)
            done += 1
        status = project(observed, plan, now=self.now)
        if status != observed.agent.status and not plan.defer_reporting:
            if done == dies_after:
                raise OperatorDiedError
            self.agent["status"] = status.model_dump(by_alias=True, exclude_none=True, mode="json")
            self.writes.append("status")
            self._touch(self.agent)
            self.told.extend(plan.findings)
        self.plans.append(plan)
        self._look_again_at = plan.requeue_at
        if self.count == seen:
            self._seen = seen
        return plan

    def dies_at_each_pass(self, *, after: int, passes: int) -> SimulatedCluster:
        """Operators that come one after the other, and are each killed after so many writes of their first pass."""
        for _ in range(passes):
            with contextlib.suppress(OperatorDiedError):
                self.reconcile(dies_after=after)
            self.tick()
        return self

    def fetched(self) -> SimulatedCluster:
        """A change that stops first has its image on the node: what it does next is begin."""
        if any(action.kind == "Job" for action in self.plan().actions):
            self.reconcile()
            self.tick()
        return self

    def tick(self, seconds: float = 1.0) -> bool:
        """Let time go by and everybody but the operator take a turn. Returns whether anything changed."""
        self.now = (self.now + timedelta(seconds=seconds)).replace(microsecond=0)
        before = self.count
        live = self.objects.get("Deployment")
        if live is not None:
            status = self.deployment_controller(live)
            if status != live.get("status"):
                live["status"] = status
                self._touch(live)
            if self._complete(status) and _owner(live) == self.agent["metadata"]["uid"]:
                self.books.completed(AgentVersion.parse(self.applied_version), live["spec"]["template"])
        self.pod_controllers()
        self.books.assert_one_agent_at_a_time_where_it_must_be(self.pods)
        return self.count != before

    def _complete(self, status: Raw) -> bool:
        """https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#complete-deployment."""
        counts = [status[key] for key in ("replicas", "updatedReplicas", "availableReplicas")]
        return counts == [1, 1, 1] and status["conditions"][0]["reason"] == "NewReplicaSetAvailable"

    def until(self, reached: Callable[[], bool], *, seconds: int = 300) -> SimulatedCluster:
        """Let everybody work until something is so.

        Raises:
            AssertionError: when that does not happen within so many seconds.
        """
        for _ in range(seconds):
            if reached():
                return self
            self.reconcile()
            self.tick()
        raise AssertionError(f"not within {seconds} s: {self.status.plan}")

    def settle(self, *, seconds: int = 120, operator: bool = True) -> SimulatedCluster:
        """Let everybody work until nothing changes any more.

        Raises:
            AssertionError: when that does not happen within so many seconds.
        """
        quiet = 0
        for _ in range(seconds):
            changed = self.tick()
            due = self._look_again_at is not None and self.now >= self._look_again_at
            if operator and (due or self._seen != self.count):
                before = self.count
                self.reconcile()
                changed = changed or self.count != before
            quiet = 0 if changed else quiet + 1
            if quiet > self._quiet_seconds():
                return self
        raise AssertionError(
            f"not at rest after {seconds} s: {self.status.phase}, {self.status.plan}, {self.writes[-6:]}"
        )

    def _quiet_seconds(self) -> int:
        """How long nothing may happen although something is still to come: a pod that settles, a deadline."""
        live = self.objects.get("Deployment")
        if live is None:
            return 3
        drains = [drain_seconds(pod.template) for pod in self.pods]
        return int(max(3, live["spec"].get("minReadySeconds", 0) + 2, *drains, 0) + 1)

    def wait_for_deadline(self) -> SimulatedCluster:
        """Let the Deployment's progress deadline go by."""
        self.settle()
        self.tick(self.deployment["spec"]["progressDeadlineSeconds"] + 1)
        return self.settle()

    # The API server.

    def apply(self, body: Mapping[str, Any]) -> Raw:
        """Server-side apply by the operator."""
        kind = str(body["kind"])
        if kind == "Job":
            return self._start_job(body)
        if kind == "ControllerRevision":
            return self._keep(body)
        if kind == "Deployment":
            self._assert_allowed(body)
        live = copied(self.objects.get(kind))
        wanted: Raw = copied(dict(body))
        whole = wanted if live is None else merged(without(live, self._applied.get(kind, {}), wanted), wanted)
        if live is None:
            self.count += 1
            whole["metadata"] |= {"uid": f"{kind}-{self.count}", "generation": 0}
        self._applied[kind] = copied(dict(body))
        self._store(kind, defaulted(kind, whole))
        self.writes.append(kind)
        if kind == "Deployment":
            self.books.began(self.record)
        self.books.assert_one_agent_at_a_time_where_it_must_be(self.pods)
        return self.objects[kind]

    def _start_job(self, body: Mapping[str, Any]) -> Raw:
        name = body["metadata"]["name"]
        assert name not in self.fetching, "a Job's template cannot be changed"
        self.fetching[name] = SimulatedFetch(copied(dict(body)), self.now)
        self.writes.append("Job")
        self.count += 1
        return self.fetching[name].raws()[0]

    def _keep(self, body: Mapping[str, Any]) -> Raw:
        """https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/controller-revision-v1/: `data` is immutable."""
        kept = self.backups.setdefault(body["metadata"]["name"], copied(dict(body)))
        assert kept == body, "a backup can never be another one"
        self.writes.append("ControllerRevision")
        self.count += 1
        return kept

    def _store(self, kind: str, wanted: Raw) -> None:
        live = self.objects.get(kind)
        if live is not None and live == wanted:
            return
        if live is None or live.get("spec") != wanted.get("spec"):
            wanted["metadata"]["generation"] = wanted["metadata"].get("generation", 0) + 1
        self._touch(wanted)
        self.objects[kind] = wanted

    def _touch(self, raw: Raw) -> None:
        self.count += 1
        raw["metadata"]["resourceVersion"] = str(self.count)

    def _assert_image_is_there(self, body: Mapping[str, Any]) -> None:
        """No serving agent is stopped for an image that nobody has seen on its node."""
        live, template = self.objects.get("Deployment"), body["spec"]["template"]
        stops_first = body["spec"]["strategy"]["type"] == "Recreate"
        if live is None or not stops_first or live["spec"]["template"]["spec"] == template["spec"]:
            return
        image = template["spec"]["containers"][0]["image"]
        stopped = [pod for pod in self.pods if pod.ready_since is not None and pod.told_to_go is None]
        known = {pod.template["spec"]["containers"][0]["image"] for pod in stopped}
        known |= {fetch.image for fetch in self.fetching.values() if fetch.state == "done"}
        pulls_first = (self.agent["spec"].get("handoff") or {}).get("prePull", True)
        assert not stopped or not pulls_first or image in known, f"{image} may not be on the node"

    def _assert_allowed(self, body: Mapping[str, Any]) -> None:
        record = RolloutRecord.read(body["metadata"]["annotations"][names.ROLLOUT])
        assert record is not None
        target = AgentVersion.parse(body["spec"]["template"]["metadata"]["labels"][names.VERSION_LABEL])
        applied = AgentVersion.parse(self.applied_version) if "Deployment" in self.objects else None
        self._assert_image_is_there(body)
        self.books.assert_no_unapproved_downgrade(self.agent, record, target=target, applied=applied)
        approved = record.change is Change.DOWNGRADE and record.approval is not None
        if approved and applied is not None and record.started_at == self.now:
            noted = names.LAST_GOOD in self.deployment["metadata"]["annotations"]
            # One that was made again, and never became active, does not know what was.
            if noted or record.previous_outcome is Outcome.COMPLETED:
                self.books.assert_backed_up(self.backups.get(record.backup or ""), record)
        if record.rolled_back_from is not None and record.started_at == self.now:
            self.books.assert_back_to_what_was_active(body["spec"]["template"])


def _owner(raw: Mapping[str, Any]) -> str | None:
    """The uid of the object that this one is removed with; None where there is none."""
    found: str | None = next(
        (owner["uid"] for owner in raw["metadata"].get("ownerReferences", ()) if owner.get("controller")), None
    )
    return found
