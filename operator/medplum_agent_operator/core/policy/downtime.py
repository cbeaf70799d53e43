"""Whether a change that costs downtime may begin now, or waits for a maintenance window.

Called by `plan` for a change that stops the old agent first. `windows` says when windows are open. Pure.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.annotations import NOW
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.findings import Finding, Severity
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import Change, RolloutRecord
from medplum_agent_operator.core.policy import diagnosis, failure, messages, windows
from medplum_agent_operator.core.policy.approval import stored_form
from medplum_agent_operator.core.policy.strategy import Choice
from medplum_agent_operator.core.policy.verdict import Allowed, Refused


def outside_windows(
    observed: Observed, allowed: Allowed, template: Mapping[str, Any], choice: Choice, *, now: datetime
) -> Refused | None:
    """The refusal of an allowed change that has to wait for a window; None if it may begin now."""
    applied, spec = observed.applied_spec, allowed.spec
    if applied is None or not is_bound(observed, allowed, template, now=now):
        return None
    read = windows.read(spec.maintenance_windows)
    if windows.is_open(read.usable, now):
        return None
    opening = windows.next_opening(read.usable, now)
    approval = allowed.approval.text if allowed.approval is not None else ""
    message = messages.awaits_window(observed, choice, approval=approval, opening=opening, faults=read.faults)
    severity = Severity.WARNING if opening is None else Severity.NORMAL
    return Refused(
        allowed.change,
        allowed.target,
        Finding(Reason.AWAITING_WINDOW, severity, message),
        applied,
        allowed.approval,
        until=None if opening is None else opening.at,
    )


def is_bound(observed: Observed, allowed: Allowed, template: Mapping[str, Any], *, now: datetime) -> bool:
    """Whether an allowed change that stops first is bound to windows: a user planned it, and it interrupts service.

    Not bound are:
    - a change where no version was ever active, or where no agent serves and none will without a change;
    - an abort: a return from a target that never became active;
    - a repair of drift: the pod template returns to the applied one, which was edited by hand;
    - a change that the annotation `agents.medplum.com/now` requests at once.
    """
    live = observed.deployment
    if not allowed.spec.maintenance_windows or live is None or allowed.change is Change.ABORT:
        return False
    if observed.last_active is None or (not observed.pods_with_open_ports and _is_down(observed, now=now)):
        return False
    if live.applied_template is not None and live.applied_template.template == template:
        return False
    return not requested_now(observed.agent, allowed.spec, live.record)


def _is_down(observed: Observed, *, now: datetime) -> bool:
    """Whether no agent will serve without a change: the rollout failed, or the pod has been broken for a whole rollout deadline."""
    if failure.has_failed(observed, now=now):
        return True
    live = observed.deployment
    since = [pod.ports_closed_since for pod in observed.current_pods if pod.ports_closed_since is not None]
    return live is not None and diagnosis.never_serves(observed) and bool(since) and now >= max(since) + live.deadline


def requested_now(agent: MedplumAgent, spec: MedplumAgentSpec, record: RolloutRecord | None) -> bool:
    """Whether the annotation requests exactly this target now, with a text that is not used up."""
    text = agent.annotations.get(NOW, "")
    named = text.split(maxsplit=1)[:1] == [spec.version]
    return named and (record is None or record.now != stored_form(text))
