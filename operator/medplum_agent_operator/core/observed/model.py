"""The input of a pass: `Observed`, everything that it read, frozen.

Built by `observe` from raw API objects; read by every wing. Live objects are read leniently: an invalid field counts as
absent, and every decision treats an absent field as the less safe case.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Outcome
from medplum_agent_operator.core.observed.activation import Activation, Evidence, activation
from medplum_agent_operator.core.observed.deployment import LiveDeployment
from medplum_agent_operator.core.observed.gate_reports import Traffic
from medplum_agent_operator.core.observed.identity import Claim, other_holder
from medplum_agent_operator.core.observed.jobs import FetchJob
from medplum_agent_operator.core.observed.nodes import Node
from medplum_agent_operator.core.observed.ownership import Ownership, ownership
from medplum_agent_operator.core.observed.pods import Pod
from medplum_agent_operator.core.observed.requests import asked_for_new_pods
from medplum_agent_operator.core.observed.revision import Memory
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.core.observed.version import AgentVersion


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that one pass knows.

    Attributes:
        agent: the MedplumAgent.
        deployment: the Deployment of its name, also if the operator does not own it; None if it does not exist.
        children: its other live objects, by role (the keys of `objects.children.CHILDREN`).
        pods: its pods, including pods that have ended.
        nodes: the known nodes of these pods, by name.
        fetches: the operator's Jobs that pull an image for it.
        traffic: what its gates report; None if they have not been asked.
        claims: the claims on the identity that the spec requests, including this agent's.
        memory: what the operator remembers of what it applied.
    """

    agent: MedplumAgent
    deployment: LiveDeployment | None = None
    children: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    nodes: Mapping[str, Node] = field(default_factory=dict)
    fetches: tuple[FetchJob, ...] = ()
    traffic: Traffic | None = None
    claims: tuple[Claim, ...] = ()
    memory: Memory = field(default_factory=Memory)

    @classmethod
    def of(
        cls,
        agent: MedplumAgent,
        *,
        deployment: Mapping[str, Any] | None,
        children: Mapping[str, Mapping[str, Any] | None],
        pods: Iterable[Mapping[str, Any]],
        nodes: Iterable[Mapping[str, Any]] = (),
        fetching: Sequence[Mapping[str, Any]] = (),
    ) -> Self:
        """Build it from raw objects. `fetching`: Jobs that pull an image, and their pods."""
        jobs = [raw for raw in fetching if raw.get("kind") == "Job" and ownership(raw, agent) is Ownership.OURS]
        return cls(
            agent=agent,
            deployment=None if deployment is None else LiveDeployment(deployment),
            children={role: raw for role, raw in children.items() if raw is not None},
            pods=tuple(sorted(map(Pod.read, pods), key=lambda pod: pod.name)),
            nodes={node.name: node for node in map(Node.read, nodes)},
            fetches=tuple(sorted((FetchJob.read(raw, fetching) for raw in jobs), key=lambda job: job.name)),
        )

    def with_memory(self, memory: Memory) -> Self:
        """The same, with what the operator remembers."""
        return replace(self, memory=memory, deployment=self.deployment and self.deployment.with_notes(memory.notes))

    def live_object(self, role: str) -> Mapping[str, Any]:
        """The live object of a role; that of its own Deployment is "Deployment". Empty metadata if it does not exist."""
        if role == "Deployment" and self.deployment is not None:
            return self.deployment.raw
        return self.children.get(role, {"metadata": {}})

    @property
    def holder(self) -> Claim | None:
        """The claim of the MedplumAgent that has the identity that the spec requests; None if this one may have it."""
        return other_holder(self.claims, Key(self.agent.namespace, self.agent.name))

    def node_of(self, pod: Pod) -> Node | None:
        """The node of a pod; None if the pod is not scheduled yet or its node is unknown."""
        return self.nodes.get(pod.node)

    @property
    def record(self) -> RolloutRecord | None:
        """The record of the rollout that led to the live template; None without a Deployment or a valid record."""
        return None if self.deployment is None else self.deployment.record

    @property
    def applied_spec(self) -> MedplumAgentSpec | None:
        """The spec that was applied last; None without a Deployment or a valid annotation."""
        return None if self.deployment is None else self.deployment.applied_spec

    @property
    def recreate_count(self) -> int:
        """How many recreates with a newly rendered template there were so far: the record or the live template shows it."""
        if self.deployment is None:
            return 0
        return max(self.deployment.recreate_count, (self.record and self.record.recreate_count) or 0)

    def is_current(self, pod: Pod) -> bool:
        """Whether a pod, live or ended, was created from the live template."""
        return self.deployment is not None and pod.template_hash == self.deployment.template_hash

    @property
    def live_pods(self) -> tuple[Pod, ...]:
        """Pods whose containers run or may run. A terminating pod counts until it is gone."""
        return tuple(pod for pod in self.pods if not pod.finished)

    @property
    def current_pods(self) -> tuple[Pod, ...]:
        """Live pods of the live template."""
        return tuple(pod for pod in self.live_pods if self.is_current(pod))

    @property
    def earlier_pods(self) -> tuple[Pod, ...]:
        """Live pods of earlier templates."""
        return tuple(pod for pod in self.live_pods if pod not in self.current_pods)

    @property
    def serving_pods(self) -> tuple[Pod, ...]:
        """Pods that are ready and not terminating."""
        return tuple(pod for pod in self.live_pods if pod.ready and not pod.terminating)

    @property
    def pods_with_open_ports(self) -> tuple[Pod, ...]:
        """Pods whose agent serves, including terminating ones: these take new connections while no other pod does."""
        return tuple(pod for pod in self.live_pods if pod.ports_open)

    @property
    def rollout_in_status(self) -> bool:
        """Whether `status` already shows the rollout in the Deployment's record."""
        record, status = self.record, self.agent.status
        if record is None:
            return True
        known = [entry.started_at for entry in status.history]
        if status.rollout is not None:
            known.append(status.rollout.started_at)
        return record.started_at in known

    @property
    def activation(self) -> Activation:
        """How far the live pod template has come. The module `activation` has the truth table."""
        deployment = self.deployment
        if deployment is None:
            return Activation.NEVER
        record = deployment.record
        return activation(
            Evidence(
                completed=record is not None and self.completed(record),
                rolled_out=deployment.rolled_out and deployment.runs_applied_template,
                earlier_pods=bool(self.earlier_pods),
                named_available=deployment.runs_applied_template
                and deployment.names_available({pod.replica_set for pod in self.current_pods}),
                restarted=asked_for_new_pods(deployment),
                ruled_out=self.activation_ruled_out,
            )
        )

    def completed(self, record: RolloutRecord) -> bool:
        """Whether `status.history` lists a rollout as completed."""
        ended = [entry for entry in self.agent.status.history if entry.outcome is Outcome.COMPLETED]
        return record.started_at in {entry.started_at for entry in ended}

    @property
    def activation_ruled_out(self) -> bool:
        """Whether pods of earlier templates prove that the live template cannot have become active.

        In a handoff, an earlier pod that is not terminating proves it: the Deployment controller would have deleted it. In a
        recreate, any earlier pod that has not ended proves it: no new pod is created before that.

        Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#recreate-deployment
        """
        stops_first = self.deployment is not None and self.deployment.mechanics.stops_first
        return any(stops_first or not pod.terminating for pod in self.earlier_pods)

    @property
    def last_active(self) -> AgentVersion | None:
        """The active version: the one that became available last; None if no version ever did.

        The Deployment shows it without `status`: the applied version once that became active, or else the version that the
        record names as active when the rollout began. `status` counts only if the Deployment shows neither.
        """
        deployment = self.deployment
        if deployment is not None:
            became_active = self.activation.became_active
            if became_active and deployment.applied_version is not None:
                return deployment.applied_version
            if deployment.record is not None and not became_active:
                return AgentVersion.read(deployment.record.from_version)
        return AgentVersion.read(self.agent.status.last_good_version)

    @property
    def overdue_at(self) -> datetime | None:
        """When the rollout counts as failed although the Deployment controller never reports a missed deadline.

        None if the Deployment controller reports it, or if the live template became active. The pod could not be created, or
        made no progress, for as long as the progress deadline.
        """
        deployment = self.deployment
        if deployment is None or self.activation.became_active:
            return None
        times = [pod.ready_since or pod.created for pod in self.current_pods if not pod.terminating]
        progress_times = [at for at in times if at is not None]
        if deployment.has_stale_progressing_condition and progress_times:
            return max(progress_times) + deployment.deadline
        return deployment.creation_overdue_at

    @property
    def serves_alone(self) -> bool:
        """Whether pods of the applied template serve and no pod of another template serves."""
        applied = self.deployment is not None and self.deployment.runs_applied_template
        return applied and bool(self.serving_pods) and all(pod in self.current_pods for pod in self.serving_pods)

    @property
    def _applied_is_newer(self) -> bool:
        """Whether the applied version is newer than the active version, or no version was ever active."""
        applied, last_active = None if self.deployment is None else self.deployment.applied_version, self.last_active
        return applied is not None and (last_active is None or applied > last_active)

    @property
    def is_effectively_active(self) -> bool:
        """Whether a change counts as a change from the live template, although the operator did not see its rollout end."""
        return self.activation.is_effectively_active(newer=self._applied_is_newer, serves_alone=self.serves_alone)

    @property
    def is_rollback_target(self) -> bool:
        """Whether a rollback of the next change would return to the live template."""
        return self.activation.is_rollback_target(newer=self._applied_is_newer, serves_alone=self.serves_alone)

    @property
    def baseline(self) -> AgentVersion | None:
        """The version below which a change is a downgrade: the active one, or one that is effectively active."""
        if self.deployment is not None and self.is_effectively_active:
            return self.deployment.applied_version
        return self.last_active
