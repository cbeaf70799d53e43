"""What a reconcile pass works on: `Observed`, everything it read, frozen, as values that can be printed and compared.

Built by `reconcile` from raw API objects; read by everything in `core`. The live objects are read leniently: a field that
somebody else broke reads as absent, and what is absent is taken for the less safe case by whoever decides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Self

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Outcome
from medplum_agent_operator.core.observed.activation import Activation, Evidence, activation
from medplum_agent_operator.core.observed.deployment import Workload
from medplum_agent_operator.core.observed.gate_reports import Traffic
from medplum_agent_operator.core.observed.identity import Claim, foremost_other
from medplum_agent_operator.core.observed.jobs import FetchJob
from medplum_agent_operator.core.observed.nodes import Node
from medplum_agent_operator.core.observed.ownership import Ownership, ownership
from medplum_agent_operator.core.observed.pods import Pod
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.observed.version import AgentVersion


class Key(NamedTuple):
    """Which MedplumAgent."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Config:
    """What the operator's settings mean to a pass.

    Attributes:
        image_repository: where the agent's image is when the spec does not say.
        nodes_watched: whether it is known which nodes are cordoned.
        gate_image: the image with the gate's program, the operator's own; None where it is not known.
        namespaces: those that are watched; none means all.
    """

    image_repository: str | None = None
    nodes_watched: bool = True
    gate_image: str | None = None
    namespaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that one pass knows.

    Attributes:
        agent: the MedplumAgent.
        deployment: its Deployment, whoever owns it; None where there is none.
        children: its other live objects, by the part that each plays (`resources.CHILDREN`).
        pods: its pods, dead ones included.
        nodes: the nodes of these pods, by name, as far as they are known.
        fetches: Jobs of ours that fetch an image for it.
        traffic: what its gates tell; None where they were not asked (yet).
        claims: who stands how to the identity that the spec asks for, this agent included.
    """

    agent: MedplumAgent
    deployment: Workload | None = None
    children: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    nodes: Mapping[str, Node] = field(default_factory=dict)
    fetches: tuple[FetchJob, ...] = ()
    traffic: Traffic | None = None
    claims: tuple[Claim, ...] = ()

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
        """Freeze what was read. `fetching`: Jobs that fetch an image, and their pods."""
        jobs = [raw for raw in fetching if raw.get("kind") == "Job" and ownership(raw, agent) is Ownership.OURS]
        return cls(
            agent=agent,
            deployment=None if deployment is None else Workload(deployment),
            children={part: raw for part, raw in children.items() if raw is not None},
            pods=tuple(sorted(map(Pod.read, pods), key=lambda pod: pod.name)),
            nodes={node.name: node for node in map(Node.read, nodes)},
            fetches=tuple(sorted((FetchJob.read(raw, fetching) for raw in jobs), key=lambda job: job.name)),
        )

    @property
    def holder(self) -> Claim | None:
        """Who holds the identity that the spec asks for, where that is another MedplumAgent."""
        return foremost_other(self.claims, Key(self.agent.namespace, self.agent.name))

    def node_of(self, pod: Pod) -> Node | None:
        """The node of a pod; None where it has none yet, or nodes are not watched."""
        return self.nodes.get(pod.node)

    @property
    def record(self) -> RolloutRecord | None:
        """How the live template came about; None where there is no Deployment, or no note of it there."""
        return None if self.deployment is None else self.deployment.record

    @property
    def applied_spec(self) -> MedplumAgentSpec | None:
        """The spec that was applied last; None where there is no Deployment, or somebody broke the note of it there."""
        return None if self.deployment is None else self.deployment.applied_spec

    @property
    def restart_mark(self) -> str | None:
        """What the last restart by hand left in the live template; None where there was none."""
        return None if self.deployment is None else self.deployment.restart_mark

    @property
    def stops(self) -> int:
        """How many changes have stopped the agent first so far, as far as that is noted: in the record, and in the live template."""
        if self.deployment is None:
            return 0
        return max(self.deployment.stops, (self.record and self.record.stops) or 0)

    def is_current(self, pod: Pod) -> bool:
        """Whether a pod, living or not, is one of the live template."""
        return self.deployment is not None and pod.template_hash == self.deployment.template_hash

    @property
    def live_pods(self) -> tuple[Pod, ...]:
        """Pods whose containers run or may run: terminating ones count until they are gone."""
        return tuple(pod for pod in self.pods if not pod.finished)

    @property
    def current_pods(self) -> tuple[Pod, ...]:
        """Live pods of the live template."""
        return tuple(pod for pod in self.live_pods if self.is_current(pod))

    @property
    def earlier_pods(self) -> tuple[Pod, ...]:
        """Live pods of templates before the live one."""
        return tuple(pod for pod in self.live_pods if pod not in self.current_pods)

    @property
    def serving_pods(self) -> tuple[Pod, ...]:
        """Pods that go on taking new connections: ready and not on their way out."""
        return tuple(pod for pod in self.live_pods if pod.ready and not pod.terminating)

    @property
    def open_pods(self) -> tuple[Pod, ...]:
        """Pods whose agent serves, those on their way out included: they take new connections while there is no other."""
        return tuple(pod for pod in self.live_pods if pod.open)

    @property
    def rollout_in_status(self) -> bool:
        """Whether `status` already has the rollout that the Deployment was last changed by."""
        record = self.record
        if record is None:
            return True
        status = self.agent.status
        known = [entry.started_at for entry in status.history]
        if status.rollout is not None:
            known.append(status.rollout.started_at)
        return record.started_at in known

    @property
    def activation(self) -> Activation:
        """How far the live pod template has come: the truth table is in `activation`."""
        deployment = self.deployment
        if deployment is None:
            return Activation.NEVER
        record = deployment.record
        return activation(
            Evidence(
                completed=record is not None and self.completed(record),
                rolled_out=deployment.rolled_out,
                earlier_pods=bool(self.earlier_pods),
                named_available=deployment.names_available({pod.replica_set for pod in self.current_pods}),
                restarted=deployment.restarted,
                ruled_out=self.activation_ruled_out,
            )
        )

    def completed(self, record: RolloutRecord) -> bool:
        """Whether history has a rollout as completed."""
        return any(
            entry.started_at == record.started_at and entry.outcome is Outcome.COMPLETED
            for entry in self.agent.status.history
        )

    @property
    def activation_ruled_out(self) -> bool:
        """Whether pods of earlier templates show that the live one cannot have become active.

        In a handoff a pod that is not terminating: it would have been deleted. Where the old pod stops first, any pod that has not
        ended: no new one is created before that.

        Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#recreate-deployment
        """
        stops_first = self.deployment is not None and self.deployment.mechanics.stops_first
        return any(stops_first or not pod.terminating for pod in self.earlier_pods)

    @property
    def last_active(self) -> AgentVersion | None:
        """The version that became active last; None before the first.

        The Deployment knows it without `status`: its own version once rolled out, else what its record names as active when the
        rollout began. Only without a Deployment does `status` count.
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
        """When the operator stops waiting for the live template's pod, where the Deployment controller never gives up. None where it does.

        The pod has not even been created for as long as a rollout may take, or has made no progress for as long.
        """
        deployment = self.deployment
        if deployment is None or self.activation.became_active:
            return None
        made = [pod.ready_since or pod.created for pod in self.current_pods if not pod.terminating]
        progressed = [at for at in made if at is not None]
        if deployment.has_stale_progressing_condition and progressed:
            return max(progressed) + deployment.deadline
        return deployment.creation_overdue_at

    @property
    def serves_alone(self) -> bool:
        """Whether pods of the live template serve, and none of an earlier template does."""
        serving = self.serving_pods
        return bool(serving) and all(pod in self.current_pods for pod in serving)

    @property
    def _newer(self) -> bool:
        applied, last_active = None if self.deployment is None else self.deployment.applied_version, self.last_active
        return applied is not None and (last_active is None or applied > last_active)

    @property
    def is_effectively_active(self) -> bool:
        """Whether a change counts as a change from the live template although its rollout was not seen to end."""
        return self.activation.is_effectively_active(newer=self._newer, serves_alone=self.serves_alone)

    @property
    def is_rollback_target(self) -> bool:
        """Whether the next change returns to the live template if it fails."""
        return self.activation.is_rollback_target(newer=self._newer, serves_alone=self.serves_alone)

    @property
    def baseline(self) -> AgentVersion | None:
        """The version that a change is a downgrade *from*: the one that became active last, or the one that effectively is."""
        if self.deployment is not None and self.is_effectively_active:
            return self.deployment.applied_version
        return self.last_active
