"""The whole status, projected from what was observed, what is planned and what status said before.

Called by `reconcile` at the end of a pass; it writes the result only where it differs. Nothing in here is a memory that the
operator would need to act rightly: it is lost with a wiped status only that an approval was taken off and set again.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final

from medplum_agent_operator.api.annotations import FORCE_DOWNGRADE
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
from medplum_agent_operator.core.report import traffic
from medplum_agent_operator.core.report.conditions import conditions, plan_conditions
from medplum_agent_operator.core.report.history import follow
from medplum_agent_operator.core.report.statement import Statement

LONGEST_HISTORY: Final = 10


def project(observed: Observed, plan: Statement, *, now: datetime) -> MedplumAgentStatus:
    """The status that goes with this observation and this plan."""
    observed = _without_somebody_else_s(observed)
    previous = observed.agent.status
    current = plan.begins or observed.record
    rollout, history = follow(observed, plan, now=now)
    told = plan_conditions(plan, serving=bool(observed.pods_with_open_ports))
    forwarding = traffic.forwarding(observed)
    if forwarding is not None:
        told[ConditionType.FORWARDING] = forwarding
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
            told,
            generation=observed.agent.generation,
            now=now,
        ),
        channels=traffic.channels(observed, now=now),
        rollout=rollout,
        history=traffic.with_figures(history, observed, now=now)[:LONGEST_HISTORY],
        spent_approvals=_spent(observed, current),
    )


def _without_somebody_else_s(observed: Observed) -> Observed:
    """The same without a Deployment that is not this agent's: a deleted namesake's tells of rollouts that this one never had."""
    if observed.deployment is None or ownership(observed.deployment.raw, observed.agent) is Ownership.OURS:
        return observed
    return replace(observed, deployment=None)


def unreadable(previous: MedplumAgentStatus, finding: Finding, *, generation: int, now: datetime) -> MedplumAgentStatus:
    """The status of an object whose spec does not fit the model: everything known stays, the fault is told."""
    plan = Statement(phase=Phase.FAILED, reason=finding.reason, message=finding.message)
    serving = any(c.type == ConditionType.AVAILABLE and c.status is ConditionStatus.TRUE for c in previous.conditions)
    told = plan_conditions(plan, serving=serving)
    return previous.model_copy(
        update={
            "observed_generation": generation,
            "phase": plan.phase,
            "plan": plan.text,
            "conditions": tuple(conditions(previous.conditions, told, generation=generation, now=now)),
        }
    )


def _active_version(observed: Observed) -> str | None:
    """The version that the agent's pods run, the active one where there are two; None in the gap of a recreate."""
    last_good = observed.last_active
    if observed.deployment is not None and observed.activation.became_active:
        return None if last_good is None else last_good.text
    # In a handoff the old one counts until the new one is active; where nothing serves, one on its way out does not count.
    serving = bool(observed.pods_with_open_ports)
    running = [pod.version for pod in observed.live_pods if serving or not pod.terminating]
    if last_good is not None and last_good in running:
        return last_good.text
    ready = [pod.version.text for pod in observed.pods_with_open_ports if pod.version is not None]
    return ready[0] if ready else None


def _last_good_version(observed: Observed) -> str | None:
    last_good = observed.last_active
    return observed.agent.status.last_good_version if last_good is None else last_good.text


def _spent(observed: Observed, current: RolloutRecord | None) -> list[str]:
    """Approvals that cannot be used again: all that were, until somebody takes the annotation off."""
    agent = observed.agent
    if FORCE_DOWNGRADE not in agent.annotations:
        return []
    spent = list(agent.status.spent_approvals)
    noted = observed.rollout_in_status and current == observed.record
    if current is not None and current.approval is not None and not noted and current.approval not in spent:
        spent.append(current.approval)
    return spent
