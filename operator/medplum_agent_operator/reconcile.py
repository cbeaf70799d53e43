"""One whole level-based pass for one MedplumAgent: observe, plan, apply, report.

Called by `workqueue` with a key; what made it so is forgotten by then. It reads the clock (nobody below does) and meets the
cluster only through the Protocols here. A pass decides first on what the watches saw, which costs no request; only if
something would have to be applied does it read live what the decision rests on, decide again on that, and write.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from pydantic import ValidationError

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import KIND, MedplumAgent
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import MedplumAgentStatus, Phase, parse_status
from medplum_agent_operator.core.events import render_event
from medplum_agent_operator.core.findings import Finding, Severity
from medplum_agent_operator.core.model import Config, Key, Observed
from medplum_agent_operator.core.plan import Apply, Plan, make_plan
from medplum_agent_operator.core.resources import name_of
from medplum_agent_operator.core.status import project, unreadable
from medplum_agent_operator.errors import ClusterError, ConflictError, RefusedError
from medplum_agent_operator.telemetry import log

SUPPORTING_KINDS: Final = ("Service", "PodDisruptionBudget", "ServiceAccount")
LOOK_AGAIN_AFTER_REFUSED_WRITE: Final = timedelta(seconds=60)

Object = Mapping[str, Any]


class Cluster(Protocol):
    """What a pass asks of the API server."""

    async def get(self, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        """Read one object; of a node, the namespace is None."""

    async def list(self, kind: str, namespace: str | None, *, selector: str = "") -> tuple[list[dict[str, Any]], str]:
        """Read all objects of a kind."""

    async def apply(self, body: Object, *, resource_version: str | None) -> dict[str, Any]:
        """Server-side apply, unless the object has changed since."""

    async def merge_patch(
        self, kind: str, namespace: str, name: str, patch: Object, *, subresource: str = ""
    ) -> dict[str, Any]:
        """JSON merge patch."""

    async def create(self, body: Object) -> dict[str, Any]:
        """Create an object."""


class Seen(Protocol):
    """What the watches have seen."""

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object."""

    def labelled(self, kind: str, namespace: str, key: str, value: str) -> list[Object]:
        """Objects with a label."""

    def put(self, kind: str, raw: Object) -> bool:
        """Keep what a write was answered with, so that the next pass does not see the state before it."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The raw objects that a pass looks at: as the watches saw them, or as they were just read."""

    agent: Object
    deployment: Object | None
    children: Mapping[str, Object | None]
    pods: Sequence[Object]
    nodes: Sequence[Object] = ()
    fetching: Sequence[Object] = ()


@dataclass(frozen=True, slots=True)
class _Thought:
    """What a pass would do and say about one snapshot."""

    raw: Object
    plan: Plan
    before: MedplumAgentStatus
    after: MedplumAgentStatus
    observed: Observed | None

    @property
    def changes_status(self) -> bool:
        return self.after != self.before


class Reconciler:
    """Brings agents to what their specs say."""

    def __init__(
        self, cluster: Cluster, seen: Seen, *, config: Config, clock: Callable[[], datetime], identity: str
    ) -> None:
        self._cluster = cluster
        self._seen = seen
        self._config = config
        self._clock = clock
        self._identity = identity

    async def __call__(self, key: Key) -> float | None:
        """Run one pass. Returns the seconds after which to look again.

        Raises:
            ClusterError: when a request failed in a way that a later try may mend.
        """
        raw = self._seen.get(KIND, *key)
        if raw is None:
            return None
        seen = self._from_watches(key, raw)
        thought = self._think(seen)
        if thought.plan.actions:
            live = await self._from_cluster(key, seen, {action.kind for action in thought.plan.actions})
            if live is None:
                return None
            thought = self._think(live)
        if _going(thought.raw):
            return None
        thought = await self._apply(key, thought)
        if not thought.plan.silent:
            await self._report(key, thought)
        again = thought.plan.look_again_at
        return None if again is None else (again - self._clock()).total_seconds()

    def _from_watches(self, key: Key, raw: Object) -> _Snapshot:
        pods = self._seen.labelled("Pod", key.namespace, names.AGENT_LABEL, key.name)
        return _Snapshot(
            raw,
            self._seen.get("Deployment", *key),
            {kind: self._seen.get(kind, key.namespace, name_of(kind, key.name)) for kind in SUPPORTING_KINDS},
            pods,
            self._nodes_of(pods),
            [
                *self._seen.labelled("Job", key.namespace, names.FETCH_LABEL, key.name),
                *self._seen.labelled("Pod", key.namespace, names.FETCH_LABEL, key.name),
            ],
        )

    def _nodes_of(self, pods: Sequence[Object]) -> list[Object]:
        """The nodes that these pods are on, as far as the watches have seen them."""
        on = sorted({(pod.get("spec") or {}).get("nodeName") or "" for pod in pods} - {""})
        return [node for name in on if (node := self._seen.get("Node", "", name)) is not None]

    async def _from_cluster(self, key: Key, seen: _Snapshot, to_write: Collection[str]) -> _Snapshot | None:
        """Read live whatever a decision rests on: the agent, its Deployment and pods, and each kind that is to be written.

        The others stay as the watches saw them: should they have to be written after all, that write is bound to the
        version that was seen, and is refused if it is not the live one.
        """
        supporting = [kind for kind in SUPPORTING_KINDS if kind in to_write]
        raw, deployment, found, (pods, _) = await asyncio.gather(
            self._cluster.get(KIND, *key),
            self._cluster.get("Deployment", *key),
            asyncio.gather(*(self._cluster.get(kind, key.namespace, name_of(kind, key.name)) for kind in supporting)),
            self._cluster.list("Pod", key.namespace, selector=f"{names.AGENT_LABEL}={key.name}"),
        )
        if raw is None:
            return None
        nodes = await self._look_at(self._nodes_of(pods))
        children = {**seen.children, **dict(zip(supporting, found, strict=True))}
        # A Job that fetches an image is looked at as the watches saw it: it can only have got further since.
        return replace(seen, agent=raw, deployment=deployment, children=children, pods=pods, nodes=nodes)

    async def _look_at(self, nodes: Sequence[Object]) -> list[Object]:
        """Cordoned nodes are read live, as an agent is moved off them; of the others what the watches saw will do."""
        cordoned = [node["metadata"]["name"] for node in nodes if (node.get("spec") or {}).get("unschedulable")]
        live = await asyncio.gather(*(self._cluster.get("Node", None, name) for name in cordoned))
        others = [node for node in nodes if node["metadata"]["name"] not in cordoned]
        return [*others, *(node for node in live if node is not None)]

    def _think(self, snapshot: _Snapshot) -> _Thought:
        raw = snapshot.agent
        before = parse_status(raw.get("status") or {})
        now = self._clock()
        if _going(raw):
            return _Thought(raw, Plan(Phase.RUNNING, Reason.SETTLED, ""), before, before, None)
        try:
            agent = MedplumAgent.parse(raw)
        except ValidationError as fault:
            found = Finding(Reason.INVALID_SPEC, Severity.WARNING, _invalid(fault))
            plan = Plan(Phase.FAILED, found.reason, found.message, findings=(found,))
            generation = raw["metadata"].get("generation", 0)
            return _Thought(raw, plan, before, unreadable(before, found, generation=generation, now=now), None)
        observed = Observed.of(
            agent,
            deployment=snapshot.deployment,
            children=snapshot.children,
            pods=snapshot.pods,
            nodes=snapshot.nodes,
            fetching=snapshot.fetching,
        )
        plan = make_plan(observed, config=self._config, now=now)
        return _Thought(raw, plan, before, project(observed, plan, now=now), observed)

    async def _apply(self, key: Key, thought: _Thought) -> _Thought:
        """Carry the actions out, in order; what the API server refuses becomes a finding, and what comes after it is not done."""
        for action in thought.plan.actions:
            try:
                answer = await self._apply_one(key, action)
            except ConflictError:
                raise
            except RefusedError as fault:
                return self._refused(thought, action, fault)
            self._seen.put(action.kind, answer)
            log.info(
                "applied %s (%s)",
                action.kind,
                action.difference,
                extra={"agent": str(key), "reason": str(thought.plan.reason), "disruptive": action.disruptive},
            )
        return thought

    async def _apply_one(self, key: Key, action: Apply) -> dict[str, Any]:
        version = None if action.live is None else action.live["metadata"]["resourceVersion"]
        try:
            return await self._cluster.apply(action.body, resource_version=version)
        except RefusedError as fault:
            strategy = (action.body.get("spec") or {}).get("strategy") or {}
            if strategy.get("type") != "Recreate" or "rollingUpdate" not in str(fault):
                raise
            # Somebody else owns a parameter of the rolling strategy, which server-side apply cannot take away
            # (kubernetes/kubernetes#24198): free the strategy first. The pod template is not touched by that.
            freed = {
                "spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}},
                "metadata": {"resourceVersion": version},
            }
            answer = await self._cluster.merge_patch(action.kind, *key, freed)
            return await self._cluster.apply(action.body, resource_version=answer["metadata"]["resourceVersion"])

    def _refused(self, thought: _Thought, action: Apply, fault: RefusedError) -> _Thought:
        way_around = ", or set spec.handoff.prePull to false" if action.kind == "Job" else ""
        found = Finding(
            Reason.WRITE_REFUSED,
            Severity.WARNING,
            f"The API server refuses the {action.kind} that this spec leads to, and nothing after it was changed: {fault} Correct the spec (or the "
            f"operator's rights{way_around}); it is tried again every minute.",
        )
        now = self._clock()
        plan = replace(
            thought.plan,
            phase=Phase.FAILED,
            reason=found.reason,
            sentence=found.message,
            findings=(found,),
            actions=(),
            begins=None,
            silent=False,
            look_again_at=now + LOOK_AGAIN_AFTER_REFUSED_WRITE,
        )
        if thought.observed is None:
            return replace(thought, plan=plan)
        return replace(thought, plan=plan, after=project(thought.observed, plan, now=now))

    async def _report(self, key: Key, thought: _Thought) -> None:
        """Write the status if it differs, then say what is new: as Events and as log lines."""
        if thought.changes_status:
            answer = await self._write_status(key, thought)
            if answer is None:
                return
            self._seen.put(KIND, answer)
        elif not thought.plan.actions:
            return
        for finding in thought.plan.findings:
            level = log.warning if finding.severity is Severity.WARNING else log.info
            level("%s", finding.message, extra={"agent": str(key), "reason": str(finding.reason)})
            await self._record(key, thought.raw, finding)

    async def _write_status(self, key: Key, thought: _Thought) -> dict[str, Any] | None:
        metadata = thought.raw["metadata"]
        wanted = thought.after.model_dump(by_alias=True, exclude_none=True, mode="json")
        patch = {
            "metadata": {"resourceVersion": metadata["resourceVersion"]},
            "status": _overwriting(wanted, thought.raw.get("status") or {}),
        }
        try:
            return await self._cluster.merge_patch(KIND, *key, patch, subresource="status")
        except ClusterError as fault:
            if fault.status == 404:  # noqa: PLR2004 - HTTP's own number: deleted meanwhile
                return None
            raise

    async def _record(self, key: Key, raw: Object, finding: Finding) -> None:
        event = render_event(raw, finding, now=self._clock(), instance=self._identity)
        try:
            await self._cluster.create(event)
        except ConflictError:
            return  # told before: the name is made of what is said
        except ClusterError as fault:
            log.warning(
                "an Event could not be written: %s", fault, extra={"agent": str(key), "reason": str(finding.reason)}
            )


def _overwriting(wanted: Object, live: Object) -> dict[str, Any]:
    """A merge patch that leaves exactly `wanted`: what else is live is set to null.

    >>> _overwriting({"rollout": {"to": "5.1.15"}}, {"rollout": {"from": "5.1.14"}, "phase": "Running"})
    {'rollout': {'from': None, 'to': '5.1.15'}, 'phase': None}
    """
    patch: dict[str, Any] = dict.fromkeys(live)
    for key, value in wanted.items():
        other = live.get(key)
        patch[key] = _overwriting(value, other) if isinstance(value, Mapping) and isinstance(other, Mapping) else value
    return patch


def _going(raw: Object) -> bool:
    """Whether the object is being deleted: its children go by garbage collection, and nothing is to be made again."""
    return bool(raw["metadata"].get("deletionTimestamp"))


def _invalid(fault: ValidationError) -> str:
    first = fault.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return (
        f"This operator cannot read the object: {where}: {first['msg']}. Nothing was changed. Correct the field; if the API server accepted it, "
        "the CRD in the cluster is not the one of this operator's release: apply crds/medplumagents.yaml of the same release."
    )
