"""One level-based pass for one MedplumAgent: observe, plan, apply, publish.

Called by `workqueue` with a key; the event that led to the pass is forgotten by then. Only this module reads the clock. It reaches the
cluster only through the Protocols of `ports`. A pass decides first on what the watches saw, without a request. If that decision applies
anything, the pass reads live what the decision depends on, decides again, and writes. If the second decision gives the agent
another identity, the pass decides a third time, on the live claims of other agents, one pass per identity at a time (docs/adr/0018).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from weakref import WeakValueDictionary

from pydantic import ValidationError

from medplum_agent_operator.api.agent import KIND, MedplumAgent
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import MedplumAgentStatus, Phase, parse_status
from medplum_agent_operator.core.observed.findings import Finding, Message, warning
from medplum_agent_operator.core.observed.identity import Claim, Identity, other_holder, wanted
from medplum_agent_operator.core.observed.model import Config, Key, Observed
from medplum_agent_operator.core.plan import Plan, make_plan
from medplum_agent_operator.core.policy import identity_messages, messages
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.rollout import revisions
from medplum_agent_operator.core.rollout.actions import Apply, newly_claimed
from medplum_agent_operator.core.status import project, says_available, unreadable
from medplum_agent_operator.errors import ConflictError, RefusedError
from medplum_agent_operator.observe import Observer, Snapshot
from medplum_agent_operator.ports import Cluster, Gates, Object, Seen
from medplum_agent_operator.publish import Publisher
from medplum_agent_operator.telemetry import log

REQUEUE_AFTER_REFUSED_WRITE: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class _Decision:
    """What a pass does and publishes for one snapshot.

    `before` is the status as it is, `after` as it should be. `observed` is None if the agent is unreadable or being deleted.
    """

    raw: Object
    plan: Plan
    before: MedplumAgentStatus
    after: MedplumAgentStatus
    observed: Observed | None

    @property
    def new_status(self) -> MedplumAgentStatus | None:
        """The status to write; None if it is up to date."""
        return None if self.after == self.before else self.after


class Reconciler:
    """Makes agents match their specs."""

    def __init__(
        self,
        cluster: Cluster,
        seen: Seen,
        gates: Gates,
        *,
        config: Config,
        clock: Callable[[], datetime],
        identity: str,
    ) -> None:
        self._cluster = cluster
        self._seen = seen
        self._config = config
        self._clock = clock
        self._observer = Observer(cluster, seen, gates, namespaces=config.namespaces)
        self._publisher = Publisher(cluster, seen, clock=clock, identity=identity)
        self._being_claimed: WeakValueDictionary[Identity, asyncio.Lock] = WeakValueDictionary()

    async def __call__(self, key: Key) -> float | None:
        """Run one pass. Returns the seconds after which to requeue the agent, or None.

        Raises:
            ClusterError: when a request failed and a later try may succeed.
        """
        raw = self._seen.get(KIND, *key)
        if raw is None:
            return None
        seen = self._observer.from_watches(key, raw)
        decision = self._decide(seen)
        if decision.plan.actions:
            live = await self._observer.from_cluster(
                key, seen, {(action.kind, action.name) for action in decision.plan.actions}
            )
            if live is None:
                return None
            decision = self._decide(live)
            claimed = newly_claimed(decision.plan.actions)
            if claimed is not None:
                return await self._claim(key, live, claimed)
        return await self._carry_out(key, decision)

    async def _claim(self, key: Key, live: Snapshot, identity: Identity) -> float | None:
        """Give the agent another identity. One pass at a time for one identity, from the read of the other claims to the write."""
        lock = self._being_claimed.setdefault(identity, asyncio.Lock())
        async with lock:
            decisive = await self._observer.with_live_claims(key, live, identity)
            if decisive is None:
                return None
            if wanted(decisive.agent) != identity:
                return await self._reclaim_identity(key, live, decisive, identity)
            return await self._carry_out(key, self._decide(decisive))

    async def _reclaim_identity(self, key: Key, live: Snapshot, decisive: Snapshot, identity: Identity) -> float | None:
        """Roll back to the identity before a failed change of server, unless another agent has it by now. The spec does not ask for it."""
        decision = self._decide(replace(decisive, claims=live.claims))
        if newly_claimed(decision.plan.actions) != identity:
            raise ConflictError(f"the rollback of MedplumAgent {key} no longer leads to this identity", status=409)
        own = Claim(
            *key, uid=live.agent["metadata"]["uid"], created=live.agent["metadata"].get("creationTimestamp", "")
        )
        listed = any((claim.namespace, claim.name) == key for claim in decisive.claims)
        holder = other_holder(decisive.claims if listed else (*decisive.claims, own), key)
        if holder is not None:
            failed = None if decision.plan.begins is None else decision.plan.begins.failed
            available = Availability() if decision.observed is None else Availability.of(decision.observed)
            message = identity_messages.rollback_blocked_by_identity(holder, failed, available)
            decision = self._stopped(decision, warning(Reason.IDENTITY_TAKEN, message))
        return await self._carry_out(key, decision)

    async def _carry_out(self, key: Key, decision: _Decision) -> float | None:
        if _is_being_deleted(decision.raw):
            return None
        decision = await self._apply(key, decision)
        if not decision.plan.defer_reporting and (decision.new_status or decision.plan.actions):
            await self._publisher.publish(key, decision.raw, decision.plan.findings, status=decision.new_status)
        requeue_at = decision.plan.requeue_at
        return None if requeue_at is None else (requeue_at - self._clock()).total_seconds()

    def _decide(self, snapshot: Snapshot) -> _Decision:
        raw = snapshot.agent
        before = parse_status(raw.get("status") or {})
        now = self._clock()
        if _is_being_deleted(raw):
            nothing = Plan(phase=Phase.RUNNING, reason=Reason.SETTLED, message=Message(""))
            return _Decision(raw, nothing, before, before, None)
        try:
            agent = MedplumAgent.parse(raw)
        except ValidationError as fault:
            found = warning(Reason.INVALID_SPEC, _invalid(fault, before))
            plan = Plan(phase=Phase.FAILED, reason=found.reason, message=found.message, findings=(found,))
            generation = raw["metadata"].get("generation", 0)
            return _Decision(raw, plan, before, unreadable(before, found, generation=generation, now=now), None)
        observed = Observed.of(
            agent,
            deployment=snapshot.deployment,
            children=snapshot.children,
            pods=snapshot.pods,
            nodes=snapshot.nodes,
            fetching=snapshot.fetching,
        )
        observed = replace(observed, traffic=snapshot.traffic, claims=snapshot.claims)
        plan = make_plan(observed, config=self._config, now=now)
        return _Decision(raw, plan, before, project(observed, plan, now=now), observed)

    async def _apply(self, key: Key, decision: _Decision) -> _Decision:
        """Carry out the actions in order. If the API server refuses one, the rest is not done and the refusal becomes a finding."""
        for action in decision.plan.actions:
            try:
                answer = await self._apply_one(key, action)
            except ConflictError:
                raise
            except RefusedError as fault:
                return self._refused(decision, action, fault)
            if not action.immutable:  # its kind is not watched, so the cache would keep it forever
                self._seen.put(action.kind, answer)
            log.info(
                "applied %s (%s)",
                action.kind,
                action.difference,
                extra={"agent": str(key), "reason": str(decision.plan.reason), "disruptive": action.disruptive},
            )
        return decision

    async def _apply_one(self, key: Key, action: Apply) -> Object:
        if action.immutable:
            return await self._create_once(action)
        version = None if action.live is None else action.live["metadata"]["resourceVersion"]
        try:
            return await self._cluster.apply(action.body, resource_version=version)
        except RefusedError as fault:
            strategy = (action.body.get("spec") or {}).get("strategy") or {}
            if strategy.get("type") != "Recreate" or "rollingUpdate" not in str(fault):
                raise
            # Another field manager owns a parameter of the rolling strategy, which server-side apply cannot remove
            # (kubernetes/kubernetes#24198). A merge patch removes it first; it does not touch the pod template.
            freed = {
                "spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}},
                "metadata": {"resourceVersion": version},
            }
            answer = await self._cluster.merge_patch(action.kind, *key, freed)
            return await self._cluster.apply(action.body, resource_version=answer["metadata"]["resourceVersion"])

    async def _create_once(self, action: Apply) -> dict[str, Any]:
        try:
            return await self._cluster.create(action.body)
        except ConflictError as fault:
            if fault.reason != "AlreadyExists":
                raise
            return dict(action.body)  # written by an earlier pass that ended before its next write

    def _refused(self, decision: _Decision, action: Apply, fault: RefusedError) -> _Decision:
        available = Availability() if decision.observed is None else Availability.of(decision.observed)
        if action.kind == revisions.KIND:
            message = messages.backup_refused(action.name, str(fault), available)
        else:
            message = messages.write_refused(action.kind, action.name, str(fault), available)
        return self._stopped(decision, warning(Reason.WRITE_REFUSED, message))

    def _stopped(self, decision: _Decision, found: Finding) -> _Decision:
        """Drop the actions that are left, for this reason, and try again in a minute."""
        now = self._clock()
        plan = replace(
            decision.plan,
            phase=Phase.FAILED,
            reason=found.reason,
            message=found.message,
            notices=(),
            findings=(found,),
            actions=(),
            begins=None,
            defer_reporting=False,
            requeue_at=now + REQUEUE_AFTER_REFUSED_WRITE,
        )
        if decision.observed is None:
            return replace(decision, plan=plan)
        return replace(decision, plan=plan, after=project(decision.observed, plan, now=now))


def _is_being_deleted(raw: Object) -> bool:
    """Whether the MedplumAgent is being deleted: garbage collection removes its children, and the operator must not create them again."""
    return bool(raw["metadata"].get("deletionTimestamp"))


def _invalid(fault: ValidationError, status: MedplumAgentStatus) -> Message:
    first = fault.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return messages.invalid_spec(f"{where}: {first['msg']}", serving=says_available(status))
