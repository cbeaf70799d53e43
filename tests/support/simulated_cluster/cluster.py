"""The simulated cluster as tests use it: actions of users, queries, time, and the API server."""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.status import MedplumAgentStatus, Outcome, parse_status
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.reading import read_agent
from medplum_agent_operator.core.observed.revision import Memory
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
    from medplum_agent_operator.core.observed.scope import Config
    from medplum_agent_operator.core.plan import Plan


class OperatorDiedError(Exception):
    """The operator was killed between two writes."""


class SimulatedCluster(Workloads):
    """A cluster with one MedplumAgent. The docstring of the package says what is modelled.

    Attributes:
        agent: the raw MedplumAgent.
        objects: its live children, by kind.
        backups: ControllerRevisions with backups, by name.
        revisions: ControllerRevisions with what the operator remembers, by name.
        books: the records that the invariants are asserted from.
        writes: all writes of the operator: a kind, or `status`.
        told: all findings that were published: with a status, or after writes.
        plans: the plan of each pass.
        saved: the Deployment as a backup tool has saved it; None if none has.
    """

    def __init__(self, raw: Raw | None = None, *, config: Config = CONFIG) -> None:
        super().__init__()
        self.config = config
        self.agent: Raw = copied(raw if raw is not None else agent())
        self.objects: dict[str, Raw] = {}
        self.backups: dict[str, Raw] = {}
        self.revisions: dict[str, Raw] = {}
        self.books = Books()
        self.writes: list[str] = []
        self.told: list[Finding] = []
        self.plans: list[Plan] = []
        self.saved: Raw | None = None
        self._applied: dict[str, Mapping[str, Any]] = {}
        self._requeue_at: datetime | None = None
        self._seen = -1

    # What users do.

    def edit(self, **spec: Any) -> SimulatedCluster:
        """`kubectl apply` of some fields of the spec (`ABSENT` removes one)."""
        wanted = {key: value for key, value in {**self.agent["spec"], **spec}.items() if value is not ABSENT}
        if wanted != self.agent["spec"]:
            self.agent["spec"] = wanted
            self.agent["metadata"]["generation"] += 1
            self._touch(self.agent)
        return self

    def annotate(self, text: str | None) -> SimulatedCluster:
        """`kubectl annotate` with an approval; None removes it."""
        marks = self.agent["metadata"]["annotations"]
        if text is None:
            marks.pop(names.FORCE_DOWNGRADE, None)
        else:
            marks[names.FORCE_DOWNGRADE] = text
        self._touch(self.agent)
        return self

    def mark(self, name: str, text: str | None) -> SimulatedCluster:
        """`kubectl annotate` with another annotation; None removes it."""
        marks = self.agent["metadata"]["annotations"]
        if text is None:
            marks.pop(name, None)
        else:
            marks[name] = text
        self._touch(self.agent)
        return self

    def mend(self) -> SimulatedCluster:
        """Let every pod start and become ready from now on."""
        self.never_ready.clear()
        self.troubles.clear()
        self.count += 1
        return self

    def delete(self, kind: str) -> SimulatedCluster:
        """`kubectl delete` of a child. The pods of a Deployment are deleted with it."""
        self.objects.pop(kind, None)
        self._applied.pop(kind, None)
        if kind == "Deployment":
            self.delete_all()
        self.count += 1
        return self

    def restart_pods(self, *, clock: timedelta = timedelta()) -> SimulatedCluster:
        """`kubectl rollout restart`. `clock`: by how much the clock of the user's machine is ahead."""
        mark = {"kubectl.kubernetes.io/restartedAt": stamp(self.now + clock)}
        return self.edit_template(lambda template: template["metadata"]["annotations"].update(mark))

    def edit_template(self, edit: Callable[[Raw], None]) -> SimulatedCluster:
        """Somebody else changes the live pod template: a person, a reloader, an admission policy."""
        record = RolloutRecord.read(self.deployment["metadata"]["annotations"].get(names.ROLLOUT))
        completed = [entry.started_at for entry in self.status.history if entry.outcome is Outcome.COMPLETED]
        if record is None or record.started_at not in completed:
            self.books.in_doubt = copied(self.deployment["spec"]["template"])
        body = copied(self.deployment)
        edit(body["spec"]["template"])
        self._store("Deployment", body)
        return self

    def evict(self) -> SimulatedCluster:
        """Evict every pod, as a node drain does."""
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

    def taint(self, node: str, key: str, *, effect: str = "NoSchedule", value: str = "") -> SimulatedCluster:
        """`kubectl taint`, or an autoscaler that is about to remove the node."""
        self.taints.setdefault(node, []).append({"key": key, "value": value, "effect": effect})
        self.count += 1
        return self

    def untaint(self) -> SimulatedCluster:
        """Take every taint off."""
        self.taints.clear()
        self.count += 1
        return self

    def lose_node(self, node: str) -> SimulatedCluster:
        """The kubelet of a node stops reporting. Its pods may still run."""
        self.lost.setdefault(node, self.now)
        self.count += 1
        return self

    def find_nodes(self) -> SimulatedCluster:
        """Every lost node comes back with its pods."""
        self.lost.clear()
        self.count += 1
        return self

    def remove_what_belonged_to(self, uid: str) -> SimulatedCluster:
        """Collect the garbage of a deleted MedplumAgent: its objects are removed and its pods are terminated."""
        for kind in [kind for kind, raw in self.objects.items() if _owner(raw) == uid]:
            self.delete(kind)
        for name in [name for name, fetch in self.fetching.items() if _owner(fetch.body) == uid]:
            del self.fetching[name]
        for kept in (self.backups, self.revisions):
            for name in [name for name, raw in kept.items() if _owner(raw) == uid]:
                del kept[name]
        return self

    def collect_garbage(self) -> SimulatedCluster:
        """Delete the MedplumAgent: all its objects are removed, and then its pods."""
        self.remove_what_belonged_to(self.agent["metadata"]["uid"])
        for _ in range(20):
            self.tick()
        assert not self.left
        return self

    def replace_agent(self, version: str) -> SimulatedCluster:
        """Create another MedplumAgent with the name of a deleted one."""
        self.agent["metadata"] |= {"uid": f"uid-{self.count}", "generation": 1, "annotations": {}}
        self.agent["spec"] = {**self.agent["spec"], "version": version, "paused": False}
        self.agent.pop("status", None)
        self.books = Books()
        self._touch(self.agent)
        return self

    def lose_status(self) -> SimulatedCluster:
        """Delete the status."""
        self.agent.pop("status", None)
        self._touch(self.agent)
        return self

    def as_before_revisions(self) -> SimulatedCluster:
        """The state that an operator release without revisions leaves: its memory is annotations of the Deployments."""
        notes = self.memory.notes
        assert notes.template is not None
        marks = self.deployment["metadata"]["annotations"]
        marks.pop(names.REVISION)
        marks[f"{names.DOMAIN}/applied-template"] = json.dumps(notes.template.dump())
        if notes.before is not None:
            marks[f"{names.DOMAIN}/last-good"] = json.dumps(notes.before.dump())
        self.revisions.clear()
        (self.agent.get("status") or {}).pop("revision", None)
        self._applied["Deployment"]["metadata"]["annotations"] = {
            key: value for key, value in marks.items() if key.startswith(names.DOMAIN)
        }
        self._touch(self.agent)
        self._touch(self.deployment)
        return self

    def remember(self, **parts: Any) -> SimulatedCluster:
        """Change the content of the revision in force, as only a cluster admin could: parts of its data as JSON; None removes one."""
        data = self.revisions[self.in_force]["data"]
        for part, value in parts.items():
            if value is None:
                data.pop(part, None)
            else:
                data[part] = value
        self.count += 1
        return self

    # Queries.

    @property
    def left(self) -> list[str]:
        """All objects except the MedplumAgent."""
        return [*self.objects, *self.fetching, *self.backups, *self.revisions, *(pod.name for pod in self.pods)]

    @property
    def deployment(self) -> Raw:
        """The live Deployment."""
        return self.objects["Deployment"]

    @property
    def nodes(self) -> list[Raw]:
        """The nodes as the API server returns them."""
        return [
            {
                "metadata": {"name": name},
                "spec": {"unschedulable": name in self.cordoned, "taints": self.taints.get(name, [])},
                "status": {"conditions": [self._ready_condition(name)]},
            }
            for name in NODES
        ]

    def _ready_condition(self, node: str) -> Raw:
        since = self.lost.get(node)
        if since is None:
            return {"type": "Ready", "status": "True", "lastTransitionTime": stamp(NOW)}
        return {"type": "Ready", "status": "Unknown", "lastTransitionTime": stamp(since)}

    @property
    def jobs(self) -> list[Raw]:
        """The Jobs that fetch an image, and their pods."""
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
        """The rollout record of the live template."""
        found = RolloutRecord.read(self.deployment["metadata"]["annotations"].get(names.ROLLOUT))
        assert found is not None
        return found

    @property
    def in_force(self) -> str:
        """The name of the revision that the Deployment names."""
        return str(self.deployment["metadata"]["annotations"][names.REVISION])

    @property
    def memory(self) -> Memory:
        """What the operator believes."""
        live = self.objects.get("Deployment")
        return Memory.of(self.agent, self.status, deployment=live, revisions=self.revisions.values())

    @property
    def status(self) -> MedplumAgentStatus:
        """The status that the operator wrote."""
        return parse_status(self.agent.get("status") or {})

    def condition(self, kind: str) -> tuple[str, str]:
        """A condition's status and reason."""
        return next((c.status, c.reason) for c in self.status.conditions if c.type == kind)

    def observe(self) -> Observed:
        """Observe what a pass would observe now."""
        memory = self.memory
        found = Observed.of(
            read_agent(copied(self.agent), memory.notes.spec),
            deployment=copied(self.objects.get("Deployment")),
            children={kind: raw for kind, raw in copied(self.objects).items() if kind != "Deployment"},
            pods=[pod.raw() for pod in self.pods],
            nodes=self.nodes,
            fetching=self.jobs,
        )
        return found.with_memory(memory)

    def plan(self) -> Plan:
        """Make the plan that a pass would make now."""
        return make_plan(self.observe(), config=self.config, now=self.now)

    # Time.

    def reconcile(self, *, dies_after: int | None = None) -> Plan:
        """Run one pass of the operator. `dies_after`: the number of writes after which the operator is killed.

        Raises:
            OperatorDiedError: when the operator was killed.
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
        for revision in plan.outdated:
            del self.revisions[revision.name]
        status = project(observed, plan, now=self.now)
        if status != observed.agent.status and not plan.defer_reporting:
            if done == dies_after:
                raise OperatorDiedError
            self.agent["status"] = status.model_dump(by_alias=True, exclude_none=True, mode="json")
            self.writes.append("status")
            self._touch(self.agent)
            self.told.extend(plan.findings)
        elif plan.actions and not plan.defer_reporting:
            self.told.extend(plan.findings)
        self.plans.append(plan)
        self._requeue_at = plan.requeue_at
        if self.count == seen:
            self._seen = seen
        return plan

    def dies_at_each_pass(self, *, after: int, passes: int) -> SimulatedCluster:
        """Run several operators one after the other, each killed after some writes of its first pass."""
        for _ in range(passes):
            with contextlib.suppress(OperatorDiedError):
                self.reconcile(dies_after=after)
            self.tick()
        return self

    def fetched(self) -> SimulatedCluster:
        """Let a pre-pull finish, so that the next pass of a change that stops first begins the rollout."""
        if any(action.kind == "Job" for action in self.plan().actions):
            self.reconcile()
            self.tick()
        return self

    def tick(self, seconds: float = 1.0) -> bool:
        """Advance the time and run one step of everything but the operator. Returns whether anything changed."""
        self.now = (self.now + timedelta(seconds=seconds)).replace(microsecond=0)
        before = self.count
        live = self.objects.get("Deployment")
        if live is not None:
            status = self.deployment_controller(live)
            if status != live.get("status"):
                live["status"] = status
                live["metadata"]["annotations"] |= {"deployment.kubernetes.io/revision": str(self.revision)}
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
        """Run everything until `reached` is true.

        Raises:
            AssertionError: when that takes longer than `seconds`.
        """
        for _ in range(seconds):
            if reached():
                return self
            self.reconcile()
            self.tick()
        raise AssertionError(f"not within {seconds} s: {self.status.plan}")

    def settle(self, *, seconds: int = 120, operator: bool = True) -> SimulatedCluster:
        """Run everything until nothing changes any more.

        Raises:
            AssertionError: when that takes longer than `seconds`.
        """
        quiet = 0
        for _ in range(seconds):
            changed = self.tick()
            due = self._requeue_at is not None and self.now >= self._requeue_at
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
        """How long nothing may change before a pending event: a pod that becomes available, a drain that ends."""
        live = self.objects.get("Deployment")
        if live is None:
            return 3
        drains = [drain_seconds(pod.template) for pod in self.pods]
        return int(max(3, live["spec"].get("minReadySeconds", 0) + 2, *drains, 0) + 1)

    def wait_for_deadline(self) -> SimulatedCluster:
        """Advance the time past the Deployment's progress deadline."""
        self.settle()
        self.tick(self.deployment["spec"]["progressDeadlineSeconds"] + 1)
        return self.settle()

    # The API server.

    def apply(self, body: Mapping[str, Any]) -> Raw:
        """Apply an object by server-side apply, as the operator."""
        kind = str(body["kind"])
        if kind == "Job":
            return self._start_job(body)
        if kind == "ControllerRevision":
            return self._store_revision(body)
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
        self.fetching[name] = SimulatedFetch(copied(dict(body)), self.now, sidecar=self.sidecar)
        self.writes.append("Job")
        self.count += 1
        return self.fetching[name].raws()[0]

    def _store_revision(self, body: Mapping[str, Any]) -> Raw:
        """https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/controller-revision-v1/: `data` is immutable."""
        name, kept = body["metadata"]["name"], self.backups
        if names.REVISION in body["metadata"]["labels"]:
            kept = self.revisions
            assert name not in kept, "a revision is created once"
        stored = kept.setdefault(name, copied(dict(body)))
        assert stored == body, "a ControllerRevision is immutable"
        self.writes.append("ControllerRevision")
        self.count += 1
        return stored

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
        """No serving agent is stopped before the new image is on its node."""
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
            noted = self.memory.notes.before is not None
            # A Deployment that was created again and never became active does not know the version before it.
            if noted or record.previous_outcome is Outcome.COMPLETED:
                self.books.assert_backed_up(self.backups.get(record.backup or ""), record)
        if record.rolled_back_from is not None and record.started_at == self.now:
            self.books.assert_back_to_what_was_active(body["spec"]["template"])


def _owner(raw: Mapping[str, Any]) -> str | None:
    """The uid of the owner; None if there is no owner."""
    found: str | None = next(
        (owner["uid"] for owner in raw["metadata"].get("ownerReferences", ()) if owner.get("controller")), None
    )
    return found
