"""A pass that replaces no pod: repair drift, apply changes that need no rollout, report progress.

Called by `plan` and `rollback`. Pure.
"""

from dataclasses import replace
from typing import Final

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.objects import gate_pod
from medplum_agent_operator.core.objects.agent_pod import selector
from medplum_agent_operator.core.observed.findings import Finding, Message, news
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.revision import KIND
from medplum_agent_operator.core.report import progress
from medplum_agent_operator.core.rollout.actions import Apply
from medplum_agent_operator.core.rollout.records import current_record
from medplum_agent_operator.core.rollout.steps import Pass, Step

_RECORDS: Final = {f"metadata.annotations.{name}" for name in (names.ROLLOUT, names.REVISION, names.APPLIED_SPEC)}
"""The operator's own entries on the Deployment. If somebody changes them, that has a reason of its own: RecordRestored."""


def upkeep(this: Pass, spec: MedplumAgentSpec, actions: tuple[Apply, ...]) -> Step:
    """Apply what replaces no pod, and report how far the rollout under way has come or that nothing is pending."""
    record = current_record(this.observed, spec, now=this.now)
    state = progress.under_way_or_at_rest(this.observed, record, spec, now=this.now)
    worth_an_event = [action for action in actions if not _is_internal(action, this.observed)]
    if worth_an_event:
        state = replace(state, findings=(*state.findings, _applied(this.observed, worth_an_event)))
    return Step(state, record, actions)


def report_first(this: Pass, spec: MedplumAgentSpec) -> Step:
    """Write the latest rollout to status before the next one begins: a crash in between would lose it."""
    step = upkeep(this, spec, ())
    return replace(step, progress=replace(step.progress, defer_reporting=False, requeue_at=this.now))


def _applied(observed: Observed, actions: list[Apply]) -> Finding:
    what = ", ".join(f"{action.kind} ({action.difference})" for action in actions)
    if observed.agent.status.observed_generation == observed.agent.generation:
        return news(Reason.DRIFT_REPAIRED, Message(f"Repaired drift: {what}."))
    return news(Reason.SPEC_APPLIED, Message(f"Applied the spec without a rollout: {what}."))


def _is_internal(action: Apply, observed: Observed) -> bool:
    """Whether an action is not worth an Event: the strategy after a recreate, our own records, the Service's selector for a gate."""
    return (
        (observed.activation.settled and action.difference == "spec.strategy.type")
        or action.kind == KIND
        or action.difference in _RECORDS
        or _only_redirects(action, observed)
    )


def _only_redirects(action: Apply, observed: Observed) -> bool:
    """Whether an action only points the Service to the gate, or back to the agent."""
    if action.kind != "Service" or action.live is None or not action.difference.startswith("spec.selector"):
        return False
    selectors = (gate_pod.gate_selector(observed.agent), selector(observed.agent))
    return (action.live.get("spec") or {}).get("selector") in selectors
