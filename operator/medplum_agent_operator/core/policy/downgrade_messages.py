"""The message about a refused downgrade: what approving it means, and how to approve it. Called by `verdict` and `messages`.

This module must never decide anything.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.annotations import FORCE_DOWNGRADE
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.version import ZERO_DOWNTIME, AgentVersion
from medplum_agent_operator.core.policy.approval import Approval, Spent
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.phrases import annotate, listed, numbered

_STATISTICS: Final = AgentVersion.parse("5.1.10")
"""The first version that answers the server's operation $stats."""


def annotate_command(agent: MedplumAgent, target: AgentVersion) -> str:
    """The command that approves a downgrade to `target`, with a text that is not spent yet."""
    spent = Spent.of(agent.status)
    value = target.text
    for number in range(2, len(spent) + 3):
        if value not in spent:
            break
        value = f"{target} approval {number}"
    return annotate(agent, FORCE_DOWNGRADE, value)


@dataclass(frozen=True, slots=True)
class Situation:
    """What a refused downgrade would meet.

    Attributes:
        available: who serves devices.
        under_way: the version of a rollout that has not ended yet; None without such a rollout.
        stops_first: whether the downgrade would stop what runs before the target starts.
    """

    available: Availability
    under_way: str | None
    stops_first: bool


def refusal(agent: MedplumAgent, *, baseline: str, target: AgentVersion, approval: Approval, now: Situation) -> Message:
    """Why a downgrade is refused, what approving it means, and how to approve it.

    Args:
        agent: the agent.
        baseline: the version that `target` is a downgrade from.
        target: the target version.
        approval: what the annotation says.
        now: what the downgrade would meet.
    """
    impact, stay = _effect(baseline, target, now)
    when = "at once"
    if _waits_for_window(agent, now):
        when = "in the next maintenance window"
    elif now.stops_first and now.available.serving and agent.spec.handoff.pre_pull:
        when = "as soon as the node has the image"
    return Message(
        f"Downgrade from {baseline} to {target} is refused until a cluster admin approves it.",
        cause=approval.correction,
        impact=impact,
        before_you_approve=numbered(*_risks(agent, baseline, target, now), *_advice(agent, now)),
        fix=f"{stay} To downgrade, a cluster admin runs the command; the downgrade then starts {when}. "
        f'A change ticket may follow the version: "{target} CHG-1042".'
        f"{' The text in the command has not been used yet.' if len(Spent.of(agent.status)) else ''}",
        command=annotate_command(agent, target),
    )


def _effect(baseline: str, target: AgentVersion, now: Situation) -> tuple[str, str]:
    """What the refusal means for devices, and how to keep or leave what runs."""
    available, under_way = now.available, now.under_way
    impact = f"{'None so far; ' if available.serving else ''}{available.now} Other edits of the spec wait too, except spec.maintenanceWindows."
    if under_way is None:
        return impact, f'To stay, set spec.version back to "{baseline}".'
    now_text = (
        available.now
        if available.serving
        else f"No agent serves; {available.outage(f'{under_way} has opened its ports')}."
    )
    impact = f"The rollout of {under_way} continues, and the refusal does not delay it. {now_text}"
    stay = f'To keep the change to {under_way}, set spec.version to "{under_way}". To return to {baseline}, set it to "{baseline}"{_return(baseline, now)}.'
    if AgentVersion.parse(under_way) < target:
        handoff = AgentVersion.parse(under_way).hands_over and target.hands_over
        effect = (
            "no outage is expected" if handoff else f"{under_way} stops before {target} starts, which is another outage"
        )
        stay += f" If you do neither, the change to {target} starts automatically once {under_way} is active, because it is then an upgrade; {effect}."
    return impact, stay


def _return(baseline: str, now: Situation) -> str:
    """What the return to the active version means for devices, as the end of a sentence."""
    return "" if now.available.serving else f"; {now.available.outage(f'{baseline} has opened its ports')}"


def _waits_for_window(agent: MedplumAgent, now: Situation) -> bool:
    return now.stops_first and bool(agent.spec.maintenance_windows) and bool(now.available.serving)


def _risks(agent: MedplumAgent, baseline: str, target: AgentVersion, now: Situation) -> Iterator[str]:
    """What approving means for devices, and what it can lose."""
    if target.hands_over:
        yield f"The server, the channels or the bots may need {baseline}."
    if now.stops_first:
        yield _outage(target.text, now)
    else:
        yield f"No outage expected: {target} starts before {baseline} stops."
    if now.under_way is None or baseline in now.available.serving:
        shown = f" In Medplum, GET Agent/{agent.spec.server.agent_id}/$stats shows the number; wait for 0."
        yield (
            f"Messages that {baseline} has acknowledged and not forwarded yet can be lost with its pod (enhanced mode, durable queue)."
            f"{'' if AgentVersion.parse(baseline) < _STATISTICS else shown}"
        )
    if not target.hands_over:
        yield (
            f"Every later upgrade from {target} has such an outage too: agents older than {ZERO_DOWNTIME} cannot run beside another, because both would "
            "compete for identity, PID file and ports."
        )


def _outage(target: str, now: Situation) -> str:
    available = now.available
    if available.serving:
        return available.stop_first(listed(available.serving), target)
    until = available.outage(f"{target} has opened its ports")
    if now.under_way is not None:
        return f"The operator stops the rollout of {now.under_way} and starts {target} instead; {until}."
    return f"No agent serves; {until}."


def _advice(agent: MedplumAgent, now: Situation) -> Iterator[str]:
    """What to do before and after."""
    yield "Consider a newer version that fixes your problem, or a change of configuration in Medplum."
    if _waits_for_window(agent, now):
        yield "The downgrade waits for a window in spec.maintenanceWindows, also after its approval."
    elif now.stops_first and now.available.serving:
        yield "Run the command in an off-peak hour, or set spec.maintenanceWindows first: the downgrade then waits for a window."
    elif now.available.serving:
        yield "Run the command in an off-peak hour."
    yield "Save the JSON of the Agent and its Endpoints from Medplum to a file; the operator backs up only the MedplumAgent and its pod template."
    yield "Afterwards, check on every channel that messages arrive."
