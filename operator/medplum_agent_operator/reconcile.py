"""One level-based pass for one MedplumAgent: observe, plan, apply, publish.

Called by `workqueue` with a key; the event that led to the pass is forgotten by then. Only this module reads the clock. It reaches the
cluster only through the Protocols of `ports`. A pass decides first on what the watches saw, without a request. If that decision applies
anything, the pass reads live what the decision depends on, decides again, and writes. If the second decision gives the agent
another identity, the pass decides a third time, on the live claims of other agents, one pass per identity at a time (docs/adr/0018).
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from weakref import WeakValueDictionary

from pydantic import ValidationError

from medplum_agent_operator.api.agent import KIND, MedplumAgent
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import MedplumAgentStatus, Phase, parse_status
from medplum_agent_operator.core.observed.findings import Finding, Message, warning
from medplum_agent_operator.core.observed.identity import Claim, Identity, other_holder, wanted
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.reading import first_fault, is_garbage_collected, read_agent
from medplum_agent_operator.core.observed.revision import Memory
from medplum_agent_operator.core.observed.scope import Config, Key
from medplum_agent_operator.core.plan import Plan, make_plan, without_actions
from medplum_agent_operator.core.policy import identity_messages, messages, revision_messages
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.rollout.actions import newly_claimed
from medplum_agent_operator.core.status import project, says_available, unreadable
from medplum_agent_operator.errors import ClusterError, ConflictError
from medplum_agent_operator.kinds import REVISION
from medplum_agent_operator.memory import Failures, Repairs, repeated
from medplum_agent_operator.observe import Observer, Snapshot
from medplum_agent_operator.ports import Cluster, Gates, Object, Seen
from medplum_agent_operator.publish import Publisher
from medplum_agent_operator.writes import StoppedError, Writer

REQUEUE_AFTER_REFUSED_WRITE: Final = timedelta(seconds=60)
SECONDS_IF_NOT_FOUND: Final = 5.0
"""When to try again after a 404 for an agent that the watch has not reported as deleted: it may be the API that is not served."""


@dataclass(frozen=True, slots=True)
class _Decision:
    """What a pass does and publishes for one snapshot.

    `before` is the status as it is, `after` as it should be. `observed` is None if the agent is unreadable or garbage collected.
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

    @property
    def available(self) -> Availability:
        """Who serves devices."""
        return Availability() if self.observed is None else Availability.of(self.observed)


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
        self._failures, self._repairs = Failures(), Repairs()
        self._writer = Writer(
            cluster, seen, on_write=lambda key, action: self._repairs.done(key, action, now=self._clock())
        )
        self._being_claimed: WeakValueDictionary[Identity, asyncio.Lock] = WeakValueDictionary()

    async def __call__(self, key: Key) -> float | None:
        """Run one pass. Returns the seconds after which to requeue the agent, or None.

        Raises:
            ClusterError: when a request failed and a later try may succeed.
        """
        raw = self._seen.get(KIND, *key)
        if raw is None:
            self._failures.forget(key)
            self._repairs.forget(key)
            return None
        try:
            requeue_after = await self._pass(key, raw)
        except ClusterError as fault:
            if self._failures.count(key, fault):
                await self._report_failures(key, raw, fault)
            raise
        self._failures.forget(key)
        return requeue_after

    async def _report_failures(self, key: Key, raw: Object, fault: ClusterError) -> None:
        """Report passes that fail again and again. If status cannot be written either, an Event and the log say it."""
        with suppress(ClusterError):
            raw = await self._cluster.get(KIND, *key) or raw
        decision = self._decide(self._observer.from_watches(key, raw))
        found = repeated(fault, decision.available)
        decision = self._stopped(decision, found)
        if decision.new_status is None or is_garbage_collected(raw):
            return
        try:
            await self._publisher.publish(key, raw, (found,), before=decision.before, status=decision.new_status)
        except ClusterError:
            await self._publisher.publish(key, raw, (found,), before=decision.before, status=None)

    async def _pass(self, key: Key, raw: Object) -> float | None:
        seen = self._observer.from_watches(key, raw)
        decision = self._decide(seen)
        if decision.plan.actions:
            live = await self._observer.from_cluster(
                key, seen, {(action.kind, action.name) for action in decision.plan.actions}
            )
            if live is None:
                return SECONDS_IF_NOT_FOUND
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
                return SECONDS_IF_NOT_FOUND
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
            message = identity_messages.rollback_blocked_by_identity(key, holder, failed, decision.available)
            decision = self._stopped(decision, warning(Reason.IDENTITY_TAKEN, message))
        return await self._carry_out(key, decision)

    async def _carry_out(self, key: Key, decision: _Decision) -> float | None:
        if is_garbage_collected(decision.raw):
            return None
        decision = await self._apply(key, decision)
        if not decision.plan.defer_reporting and (decision.new_status or decision.plan.actions):
            found = await self._publisher.publish(
                key, decision.raw, decision.plan.findings, before=decision.before, status=decision.new_status
            )
            if not found:
                return SECONDS_IF_NOT_FOUND
            self._repairs.reported(key, decision.plan.findings)
        requeue_at = decision.plan.requeue_at
        return None if requeue_at is None else (requeue_at - self._clock()).total_seconds()

    def _decide(self, snapshot: Snapshot) -> _Decision:
        raw = snapshot.agent
        before = parse_status(raw.get("status") or {})
        if is_garbage_collected(raw):
            nothing = Plan(phase=Phase.RUNNING, reason=Reason.SETTLED, message=Message(""))
            return _Decision(raw, nothing, before, before, None)
        memory = Memory.of(raw, before, deployment=snapshot.deployment, revisions=snapshot.revisions)
        try:
            agent = read_agent(raw, memory.notes.spec)
        except ValidationError as fault:
            found = warning(
                Reason.INVALID_SPEC, messages.invalid_spec(first_fault(fault), serving=says_available(before))
            )
            plan = Plan(phase=Phase.FAILED, reason=found.reason, message=found.message, findings=(found,))
            generation = raw["metadata"].get("generation", 0)
            after = unreadable(before, found, generation=generation, now=self._clock())
            return _Decision(raw, plan, before, after, None)
        return self._decide_about(agent, snapshot, before, memory)

    def _decide_about(
        self, agent: MedplumAgent, snapshot: Snapshot, before: MedplumAgentStatus, memory: Memory
    ) -> _Decision:
        now = self._clock()
        observed = Observed.of(
            agent,
            deployment=snapshot.deployment,
            children=snapshot.children,
            pods=snapshot.pods,
            nodes=snapshot.nodes,
            fetching=snapshot.fetching,
        )
        observed = replace(observed.with_memory(memory), traffic=snapshot.traffic, claims=snapshot.claims)
        plan = self._repairs.pausing(snapshot.key, make_plan(observed, config=self._config, now=now), now=now)
        return _Decision(snapshot.agent, plan, before, project(observed, plan, now=now), observed)

    async def _apply(self, key: Key, decision: _Decision) -> _Decision:
        """Carry out the plan. What stops it becomes a finding."""
        try:
            await self._writer.carry_out(key, decision.plan)
        except StoppedError as stop:
            return self._stopped(decision, self._why(decision, stop))
        return decision

    def _why(self, decision: _Decision, stop: StoppedError) -> Finding:
        """What the API server refused, and what that means."""
        action, fault, available, begins = stop.action, stop.fault, decision.available, decision.plan.begins
        if stop.rehearsed is not None and begins is not None:
            message = revision_messages.way_back_refused(begins, stop.rehearsed, fault, available)
            return warning(Reason.WAY_BACK_REFUSED, message)
        if action.kind != REVISION:
            exists = action.live is not None
            message = messages.write_refused(action.kind, action.name, fault, available, exists=exists)
        elif begins is not None and action.name == begins.backup:
            message = messages.backup_refused(begins, fault, available)
        else:
            message = revision_messages.revision_refused(action.name, fault, available, begins)
        return warning(Reason.WRITE_REFUSED, message)

    def _stopped(self, decision: _Decision, found: Finding) -> _Decision:
        """Drop the actions that are left, for this reason, and try again in a minute."""
        now = self._clock()
        plan = without_actions(decision.plan.stopped_by(found), requeue_at=now + REQUEUE_AFTER_REFUSED_WRITE)
        if decision.observed is None:
            return replace(decision, plan=plan)
        return replace(decision, plan=plan, after=project(decision.observed, plan, now=now))
