"""Project the whole status from the observation, the plan and the previous status.

Called by `reconcile` at the end of a pass, which writes the result if it differs. Status is a report, with two exceptions that
matter (ARCHITECTURE.md): the spent approvals, and the last active version where no Deployment exists.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final

from medplum_agent_operator.api.reasons import ConditionType
from medplum_agent_operator.api.status import (
    ConditionStatus,
    MedplumAgentStatus,
    Phase,
)
from medplum_agent_operator.core.observed.findings import Finding
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.ownership import Ownership, ownership
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.policy.approval import Spent
from medplum_agent_operator.core.report import traffic
from medplum_agent_operator.core.report.conditions import conditions, plan_conditions
from medplum_agent_operator.core.report.history import rollout_and_history
from medplum_agent_operator.core.report.statement import Statement

LONGEST_HISTORY: Final = 10


def project(observed: Observed, plan: Statement, *, now: datetime) -> MedplumAgentStatus:
    """Project the status for this observation and this plan."""
    observed = _without_foreign_deployment(observed)
    previous, memory = observed.agent.status, observed.memory
    spent = _spent(observed, plan.begins or observed.record)
    rollout, history = rollout_and_history(observed, plan, now=now)
    values = plan_conditions(plan, serving=bool(observed.pods_with_open_ports))
    forwarding = traffic.forwarding(observed)
    if forwarding is not None:
        values[ConditionType.FORWARDING] = forwarding
    gated = observed.agent.spec.gated
    return MedplumAgentStatus(
        observed_generation=observed.agent.generation,
        phase=plan.phase,
        active_version=_active_version(observed),
        target_version=observed.agent.spec.version,
        last_good_version=_last_good_version(observed),
        strategy=plan.strategy,
        plan=plan.text,
        waiting_for_next_change=plan.pending_update or None,
        conditions=conditions(
            [known for known in previous.conditions if gated or known.type != ConditionType.FORWARDING],
            values,
            generation=observed.agent.generation,
            now=now,
        ),
        channels=traffic.channels(observed, now=now),
        rollout=rollout,
        history=traffic.with_gate_figures(history, observed, now=now)[:LONGEST_HISTORY],
        revision=plan.revision or (previous.revision if memory.revision is None else memory.revision.name),
        spent_approvals=spent.texts,
        spent_fingerprints=spent.fingerprints,
    )


def _without_foreign_deployment(observed: Observed) -> Observed:
    """Leave out a Deployment of another owner: that of a deleted namesake describes rollouts that this agent never had."""
    if observed.deployment is None or ownership(observed.deployment.raw, observed.agent) is Ownership.OURS:
        return observed
    return replace(observed, deployment=None)


def says_available(status: MedplumAgentStatus) -> bool:
    """Whether the condition `Available` is True."""
    return any(c.type == ConditionType.AVAILABLE and c.status is ConditionStatus.TRUE for c in status.conditions)


def unreadable(previous: MedplumAgentStatus, finding: Finding, *, generation: int, now: datetime) -> MedplumAgentStatus:
    """Project the status of an object whose spec does not fit the model: report the fault and keep everything known."""
    plan = Statement(phase=Phase.FAILED, reason=finding.reason, message=finding.message)
    serving = says_available(previous)
    values = plan_conditions(plan, serving=serving)
    return previous.model_copy(
        update={
            "observed_generation": generation,
            "phase": plan.phase,
            "plan": plan.text,
            "conditions": tuple(conditions(previous.conditions, values, generation=generation, now=now)),
        }
    )


def _active_version(observed: Observed) -> str | None:
    """The version that the agent's pods run; if they run two, the active one; None in the gap of a recreate."""
    last_good = observed.last_active
    if observed.deployment is not None and observed.activation.became_active:
        # A pod whose image was edited in place runs another version than its template, and no controller replaces it.
        run = [pod.version for pod in observed.pods_with_open_ports if pod.version is not None]
        if last_good is None or not run or any(last_good.same_release(version) for version in run):
            return None if last_good is None else last_good.text
        return run[0].text
    # In a handoff the old version counts until the new one is active. If no pod serves, a terminating pod does not count.
    serving = bool(observed.pods_with_open_ports)
    running = [pod.version for pod in observed.live_pods if serving or not pod.terminating]
    if last_good is not None and last_good in running:
        return last_good.text
    ready = [pod.version.text for pod in observed.pods_with_open_ports if pod.version is not None]
    return ready[0] if ready else None


def _last_good_version(observed: Observed) -> str | None:
    last_good = observed.last_active
    return observed.agent.status.last_good_version if last_good is None else last_good.text


def _spent(observed: Observed, current: RolloutRecord | None) -> Spent:
    """All approvals that were ever used. Nothing empties it: an annotation that GitOps puts back must not approve again."""
    return Spent.of(observed.agent.status).added(None if current is None else current.approval)
