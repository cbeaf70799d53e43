"""One whole level-based pass for one MedplumAgent: observe, plan, apply, report.

Called by `workqueue` with a key; what made it so is forgotten by then. It reads the clock (nobody below does) and meets the
cluster only through the Protocols of `ports`. A pass decides first on what the watches saw, which costs no request; only if
something would have to be applied does it read live what the decision rests on, decide again on that, and write. Where that
would make the agent one that it was not before, it decides a third time, alone, on what others are (docs/adr/0018).
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
from medplum_agent_operator.core.rollout import revisions
from medplum_agent_operator.core.rollout.actions import Apply, newly_claimed
from medplum_agent_operator.core.status import project, unreadable
from medplum_agent_operator.errors import ConflictError, RefusedError
from medplum_agent_operator.observe import Observer, Snapshot
from medplum_agent_operator.ports import Cluster, Gates, Object, Seen
from medplum_agent_operator.report import Reporter
from medplum_agent_operator.telemetry import log

LOOK_AGAIN_AFTER_REFUSED_WRITE: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class _Thought:
    """What a pass would do and say about one snapshot."""

    raw: Object
    plan: Plan
    before: MedplumAgentStatus
    after: MedplumAgentStatus
    observed: Observed | None

    @property
    def new_status(self) -> MedplumAgentStatus | None:
        """The status to write; None where what stands there is true."""
        return None if self.after == self.before else self.after


class Reconciler:
    """Brings agents to what their specs say."""

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
        self._reporter = Reporter(cluster, seen, clock=clock, identity=identity)
        self._being_claimed: WeakValueDictionary[Identity, asyncio.Lock] = WeakValueDictionary()

    async def __call__(self, key: Key) -> float | None:
        """Run one pass. Returns the seconds after which to look again.

        Raises:
            ClusterError: when a request failed in a way that a later try may mend.
        """
        raw = self._seen.get(KIND, *key)
        if raw is None:
            return None
        seen = self._observer.from_watches(key, raw)
        thought = self._think(seen)
        if thought.plan.actions:
            live = await self._observer.from_cluster(
                key, seen, {(action.kind, action.name) for action in thought.plan.actions}
            )
            if live is None:
                return None
            thought = self._think(live)
            claimed = newly_claimed(thought.plan.actions)
            if claimed is not None:
                return await self._claim(key, live, claimed)
        return await self._carry_out(key, thought)

    async def _claim(self, key: Key, live: Snapshot, identity: Identity) -> float | None:
        """Become another than before. One pass at a time for one identity, from the look at the others to the write."""
        lock = self._being_claimed.setdefault(identity, asyncio.Lock())
        async with lock:
            decisive = await self._observer.with_live_claims(key, live, identity)
            if decisive is None:
                return None
            if wanted(decisive.agent) != identity:
                return await self._become_again(key, live, decisive, identity)
            return await self._carry_out(key, self._think(decisive))

    async def _become_again(self, key: Key, live: Snapshot, decisive: Snapshot, identity: Identity) -> float | None:
        """Become what the spec does not ask for: what was active before a change of server that failed, if nobody else is that by now."""
        thought = self._think(replace(decisive, claims=live.claims))
        if newly_claimed(thought.plan.actions) != identity:
            raise ConflictError(f"MedplumAgent {key} would be another by now", status=409)
        own = Claim(
            *key, uid=live.agent["metadata"]["uid"], created=live.agent["metadata"].get("creationTimestamp", "")
        )
        known = any((claim.namespace, claim.name) == key for claim in decisive.claims)
        holder = other_holder(decisive.claims if known else (*decisive.claims, own), key)
        if holder is not None:
            thought = self._held(thought, warning(Reason.IDENTITY_TAKEN, identity_messages.cannot_become_again(holder)))
        return await self._carry_out(key, thought)

    async def _carry_out(self, key: Key, thought: _Thought) -> float | None:
        if _going(thought.raw):
            return None
        thought = await self._apply(key, thought)
        if not thought.plan.defer_reporting and (thought.new_status or thought.plan.actions):
            await self._reporter.report(key, thought.raw, thought.plan.findings, status=thought.new_status)
        again = thought.plan.requeue_at
        return None if again is None else (again - self._clock()).total_seconds()

    def _think(self, snapshot: Snapshot) -> _Thought:
        raw = snapshot.agent
        before = parse_status(raw.get("status") or {})
        now = self._clock()
        if _going(raw):
            return _Thought(
                raw, Plan(phase=Phase.RUNNING, reason=Reason.SETTLED, message=Message("")), before, before, None
            )
        try:
            agent = MedplumAgent.parse(raw)
        except ValidationError as fault:
            found = warning(Reason.INVALID_SPEC, _invalid(fault))
            plan = Plan(phase=Phase.FAILED, reason=found.reason, message=found.message, findings=(found,))
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
        observed = replace(observed, traffic=snapshot.traffic, claims=snapshot.claims)
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
            if not action.immutable:  # no watch would ever take it out again
                self._seen.put(action.kind, answer)
            log.info(
                "applied %s (%s)",
                action.kind,
                action.difference,
                extra={"agent": str(key), "reason": str(thought.plan.reason), "disruptive": action.disruptive},
            )
        return thought

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
            # Somebody else owns a parameter of the rolling strategy, which server-side apply cannot take away
            # (kubernetes/kubernetes#24198): free the strategy first. The pod template is not touched by that.
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
            return dict(action.body)  # of a pass that was ended before its next write

    def _refused(self, thought: _Thought, action: Apply, fault: RefusedError) -> _Thought:
        if action.kind == revisions.KIND:
            message = messages.backup_refused(action.name, str(fault))
        else:
            message = messages.write_refused(action.kind, action.name, str(fault))
        return self._held(thought, warning(Reason.WRITE_REFUSED, message))

    def _held(self, thought: _Thought, found: Finding) -> _Thought:
        """Nothing (more) of the plan is done, for this reason."""
        now = self._clock()
        plan = replace(
            thought.plan,
            phase=Phase.FAILED,
            reason=found.reason,
            message=found.message,
            notices=(),
            findings=(found,),
            actions=(),
            begins=None,
            defer_reporting=False,
            requeue_at=now + LOOK_AGAIN_AFTER_REFUSED_WRITE,
        )
        if thought.observed is None:
            return replace(thought, plan=plan)
        return replace(thought, plan=plan, after=project(thought.observed, plan, now=now))


def _going(raw: Object) -> bool:
    """Whether the object is being deleted: its children go by garbage collection, and nothing is to be made again."""
    return bool(raw["metadata"].get("deletionTimestamp"))


def _invalid(fault: ValidationError) -> Message:
    first = fault.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return messages.invalid_spec(f"{where}: {first['msg']}")
