"""Whether a change that costs downtime may be made now, or waits for a maintenance window.

Called by `plan` for a change that stops the old agent first. When windows are open is `windows`' affair. Pure.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.annotations import NOW
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import Change, RolloutRecord
from medplum_agent_operator.core.policy import diagnosis, failure, messages, windows
from medplum_agent_operator.core.policy.approval import kept
from medplum_agent_operator.core.policy.strategy import Mechanics
from medplum_agent_operator.core.policy.verdict import Verdict
from medplum_agent_operator.core.policy.windows import Moment


def is_bound(
    observed: Observed, verdict: Verdict, spec: MedplumAgentSpec, template: Mapping[str, Any], *, now: datetime
) -> bool:
    """Whether a change that stops first is bound to windows: somebody planned it, and it takes something away that is there.

    Not where nothing was ever active; not where nobody serves and nobody will by itself; not a way back from a target that never
    became active; not while the user's spec is refused; and not where the pod template only goes back to what was applied, because
    somebody changed it by hand.
    """
    live = observed.deployment
    if not spec.maintenance_windows or live is None or verdict.refusal is not None or verdict.change is Change.ABORT:
        return False
    if observed.last_good is None or (not observed.open_pods and _is_down(observed, now=now)):
        return False
    if live.applied_template is not None and live.applied_template.template == template:
        return False
    return not asked_for_at_once(observed.agent, spec, live.record)


def _is_down(observed: Observed, *, now: datetime) -> bool:
    """Whether it will not serve again by itself: what was tried has failed, or what runs has been out of order for as long as a rollout may take."""
    if failure.is_over(observed, now=now):
        return True
    live, since = (
        observed.deployment,
        [pod.closed_since for pod in observed.current_pods if pod.closed_since is not None],
    )
    return live is not None and diagnosis.hopeless(observed) and bool(since) and now >= max(since) + live.deadline


def asked_for_at_once(agent: MedplumAgent, spec: MedplumAgentSpec, record: RolloutRecord | None) -> bool:
    """Whether the annotation asks for exactly this target at once, by a text that has not been used."""
    text = agent.annotations.get(NOW, "")
    named = text.split(maxsplit=1)[:1] == [spec.version]
    return named and (record is None or record.now != kept(text))


def waits_for(spec: MedplumAgentSpec, *, now: datetime) -> tuple[Moment | None, bool]:
    """The next opening of a window, and whether there is anything to wait for: not while a window is open."""
    usable = windows.read(spec.maintenance_windows).usable
    if windows.open_span(usable, now) is not None:
        return None, False
    return windows.next_opening(usable, now), True


def sentence(
    agent: MedplumAgent, spec: MedplumAgentSpec, verdict: Verdict, mechanics: Mechanics, opening: Moment | None
) -> str:
    """What waits, for what, and how to go at once."""
    faults = windows.read(spec.maintenance_windows).faults
    approval = verdict.approval.text if verdict.approval is not None else ""
    return messages.awaits_window(agent, mechanics, approval=approval, opening=opening, faults=faults)
