"""Put a state in force: the revision that has it, and the Deployment that names that revision (docs/adr/0032).

Called by `plan` and `rollback`. The revision is written first; if that fails, nothing else is written. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from medplum_agent_operator.api.changes import OnFailure
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Strategy
from medplum_agent_operator.core.objects.children import render_deployment, render_revision
from medplum_agent_operator.core.observed.drift import fingerprint
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.notes import Notes
from medplum_agent_operator.core.observed.revision import Revision
from medplum_agent_operator.core.observed.rollout_record import Failure, LastGood, RolloutRecord
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy.strategy import Choice, choose
from medplum_agent_operator.core.rollout import records
from medplum_agent_operator.core.rollout.actions import Apply
from medplum_agent_operator.core.rollout.steps import Pass
from medplum_agent_operator.core.rollout.template_in_force import of_gate

KEPT: Final = 10
"""How many revisions of an agent stay."""


@dataclass(frozen=True, slots=True)
class InForce:
    """A state to put in force.

    Attributes:
        revision: the name of its revision.
        create: the action that creates the revision; empty if it exists.
        body: the Deployment that names it.
    """

    revision: str
    create: tuple[Apply, ...]
    body: Mapping[str, Any] = field(repr=False)


def put_in_force(
    this: Pass, state: LastGood, strategy: Strategy, record: RolloutRecord, *, before: LastGood | None
) -> InForce:
    """The revision and the Deployment for a spec and a template.

    Args:
        this: the inputs of the pass.
        state: the spec and the agent's template.
        strategy: the Deployment's strategy.
        record: the rollout that the state belongs to.
        before: what was active before it.
    """
    memory, agent = this.observed.memory, this.observed.agent
    notes = _notes(this, state, record, before)
    if memory.revision is not None and memory.notes == notes and not memory.has_unused:
        name: str = memory.revision.name
        create: tuple[Apply, ...] = ()
    else:
        body = render_revision(agent, notes, memory.highest + 1)
        name, create = body["metadata"]["name"], (Apply(body, None, "missing", immutable=True),)
    deployment = render_deployment(
        agent, state.spec, template=state.applied, strategy=strategy, record=record, revision=name
    )
    return InForce(name, create, deployment)


def _notes(this: Pass, state: LastGood, record: RolloutRecord, before: LastGood | None) -> Notes:
    """What there is to remember. A pause of the spec does not belong to it."""
    spec = state.spec.model_copy(update={"paused": False})
    gate = of_gate(this.observed, state.spec, this.config) if spec.gated else None
    return Notes(record, spec, state.applied, None if gate is None else gate.applied, before)


def rehearsal(this: Pass, spec: MedplumAgentSpec, before: LastGood | None) -> tuple[Mapping[str, Any], ...]:
    """What a rollback of the change to `spec` would write: its revision and its Deployment. Empty if it would not be rolled back."""
    observed, live = this.observed, this.observed.deployment
    if live is None or not observed.pods_with_open_ports:
        return ()  # nothing serves that could be lost
    if before is None or spec.handoff.on_failure is not OnFailure.ROLLBACK:
        return ()
    failed = Failure(version=spec.version, spec=fingerprint(spec.version), reason=Reason.CRASH_LOOP, message="")
    back = way_back(observed, before)
    record = records.begin_rollback(observed, before, back, failed, now=this.now)
    revision = render_revision(observed.agent, _notes(this, before, record, before), observed.memory.highest + 2)
    deployment = render_deployment(
        observed.agent,
        before.spec,
        template=before.applied,
        strategy=back.strategy,
        record=record,
        revision=revision["metadata"]["name"],
    )
    version = {"resourceVersion": live.raw["metadata"].get("resourceVersion")}
    return revision, {**deployment, "metadata": {**deployment["metadata"], **version}}


def way_back(observed: Observed, before: LastGood) -> Choice:
    """The strategy of a rollback."""
    version, template = AgentVersion.parse(before.spec.version), before.applied.template
    return choose(observed, version, host_ports=before.spec.uses_host_ports, template=template)


def outdated(observed: Observed, *, creates: bool, in_force: str | None) -> tuple[Revision, ...]:
    """The revisions to delete: all but the newest. `creates`: whether the pass creates one. The one in force stays in every case."""
    oldest = observed.memory.revisions[KEPT - creates :]
    kept = {in_force, observed.agent.status.revision}
    if observed.memory.revision is not None:
        kept.add(observed.memory.revision.name)
    return tuple(revision for revision in oldest if revision.name not in kept)
