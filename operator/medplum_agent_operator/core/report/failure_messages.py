"""Messages about a rollout that is blocked or has failed, and about an agent that does not serve.

Called by `progress`. Each message extends the one of `policy.diagnosis` about the fault. This module must never decide anything.
"""

from dataclasses import replace
from typing import Final

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.annotations import AGENT_LABEL
from medplum_agent_operator.api.changes import OnFailure
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.activation import Activation
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.phrases import capital, seconds

_UNAFFECTED: Final = " No step below interrupts that."
_RESUMES: Final = "Fix the cause and the rollout resumes automatically."


def of_rollout(
    observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec, trouble: Message, *, late: bool
) -> Message:
    """Choose the message about a rollout that has failed. `late`: whether it missed its deadline."""
    deadline, available = spec.handoff.progress_deadline_seconds, Availability.of(observed)
    if observed.activation.settled:
        return restart_failed(observed.agent, record, trouble=trouble, available=available, deadline_seconds=deadline)
    if record.moved_off is not None:
        return move_failed(
            record,
            node=record.moved_off,
            trouble=trouble,
            available=available,
            deadline_seconds=deadline if late else None,
        )
    return failed(
        record,
        trouble=trouble,
        available=available,
        deadline_seconds=deadline if late else None,
        not_rolled_back=_why_not_rolled_back(observed, spec),
        was_active=observed.activation.became_active or observed.is_effectively_active,
    )


def _why_not_rolled_back(observed: Observed, spec: MedplumAgentSpec) -> str:
    """Why a failed change is not rolled back; empty if there is nothing to return to."""
    record = observed.record
    if record is None or record.from_version is None:
        return ""  # a first installation, also one whose settings were changed: no version was ever active
    if spec.handoff.on_failure is OnFailure.HOLD:
        return "The change is not rolled back, because spec.handoff.onFailure is Hold."
    if observed.deployment is not None and observed.deployment.last_good is None:
        return "The change is not rolled back, because an older operator release started it and did not record what was active before."
    if observed.activation is Activation.POSSIBLY:
        return "The change is not rolled back, because somebody has requested new pods of it since: it may have been active before."
    return ""


def blocked(progress: Message, trouble: Message, impact: str) -> Message:
    """A rollout that something blocks. `impact`: what that means for devices, if the trouble does not say it."""
    return replace(
        trouble,
        summary=f"Blocked: {trouble.summary}",
        rollout=progress.summary,
        impact=trouble.impact or impact,
        fix=_with_resumption(trouble.fix),
    )


def _with_resumption(fix: str) -> str:
    if not fix:
        return _RESUMES
    return fix if "automatically" in fix else f"{fix} The rollout then resumes automatically."


def while_blocked(record: RolloutRecord, available: Availability) -> str:
    """What a blocked rollout means for devices, now and when it resumes."""
    if not available.serving:
        return f"No agent serves; {available.outage(f'{record.to} has opened its ports')}."
    if record.mechanics.stops_first:
        then = f" Once it has stopped, {available.outage(f'{record.to} has opened its ports')}."
        return f"{available.now}{then if available.earlier_serves else ''}"
    return f"{available.now} No outage is expected when the rollout resumes."


def not_fetched(record: RolloutRecord, *, image: str, node: str, trouble: Message, available: Availability) -> Message:
    """An image that did not arrive in time, or never can. The old agent was not stopped."""
    back = "undo the change"
    if record.from_version != record.to:
        back = f'set spec.version back to "{record.from_version}", which needs no approval'
    return replace(
        trouble,
        summary=f"Node {node} cannot get the image of {record.to}; the operator stopped no agent.",
        cause=f"The new agent needs image {image}. {_flat(trouble)}",
        impact=f"{available.now} Once the image is there, {available.stop_first(record.from_version or 'the old agent', record.to)}",
        fix=f"{trouble.fix} The change then starts automatically; or {back}.",
    )


_LAST_RESORT: Final = (
    "Only as a last resort, set spec.handoff.onNodeDrain to Evict: the drain then stops the agent, and devices cannot deliver messages until "
    "another node runs it."
)


def no_other_node(*, node: str, trouble: Message) -> Message:
    """A move off a node for which no other node accepts the pod. The agent was not stopped."""
    return replace(
        trouble,
        summary=f"No other node accepts the agent; a drain of node {node} waits.",
        cause=trouble.cause,
        impact=f"None; the agent keeps serving devices on {node}.",
        fix="Add a node, free capacity, or correct the scheduling in spec.podTemplate; the move then resumes automatically, without an outage. To give up "
        f"the drain, uncordon the node or remove its taint. {_LAST_RESORT}",
    )


def move_failed(
    record: RolloutRecord, *, node: str, trouble: Message, available: Availability, deadline_seconds: int | None
) -> Message:
    """A move off a node that failed. `deadline_seconds`: the deadline that it missed; None if it failed before."""
    within = f" within {seconds(deadline_seconds)}" if deadline_seconds else ""
    return replace(
        trouble,
        summary=f"The agent, {record.to}, could not be moved off node {node}{within}.",
        cause=_flat(trouble),
        impact=f"{available.now} A drain of the node waits.",
        fix=f"{trouble.fix or 'Fix the cause.'} The move then resumes automatically. {_LAST_RESORT}",
    )


def failed(
    record: RolloutRecord,
    *,
    trouble: Message,
    available: Availability,
    deadline_seconds: int | None,
    not_rolled_back: str,
    was_active: bool,
) -> Message:
    """A rollout that has failed.

    Args:
        record: the rollout.
        trouble: the cause.
        available: who serves devices.
        deadline_seconds: the deadline that it missed; None if it failed before.
        not_rolled_back: why it is not rolled back although it could be; empty if there is nothing to return to.
        was_active: whether the target counts as having been active, so that a return from it may be a downgrade.
    """
    before, to = record.from_version, record.to
    if record.rolled_back_from:
        what = f"The rollback to {to}"
    else:
        what = f"The change from {before} to {to}" if before else f"The installation of {to}"
    how = f"did not complete within {seconds(deadline_seconds)}" if deadline_seconds else "failed"
    if before is None or record.rolled_back_from:
        back = "edit the spec"
    elif before == to:
        back = "undo the change of the spec"
    elif was_active:
        back = f'set spec.version back to "{before}", which counts as a change from {to}: a downgrade needs an approval'
    else:
        back = f'set spec.version back to "{before}", which needs no approval'
    return replace(
        trouble,
        summary=f"{what} {how}.",
        cause=" ".join(part for part in (_flat(trouble), not_rolled_back) if part),
        impact=_after_failure(record, available),
        fix=f"{trouble.fix or 'Fix the cause.'} The rollout then resumes automatically; or {back}.",
    )


def _after_failure(record: RolloutRecord, available: Availability) -> str:
    """Who serves now, and whether the ways out interrupt it."""
    unaffected = available.serving and not record.mechanics.stops_first
    return f"{available.now}{_UNAFFECTED if unaffected else ''}"


def restart_failed(
    agent: MedplumAgent, record: RolloutRecord, *, trouble: Message, available: Availability, deadline_seconds: int
) -> Message:
    """New pods of the same version that a user requested, not the operator, and that did not become available."""
    undo = f"kubectl -n {agent.namespace} rollout undo deployment/{agent.name}"
    return replace(
        trouble,
        summary=f"The requested restart of {record.to} did not complete within {seconds(deadline_seconds)}.",
        cause=_flat(trouble),
        impact=f"The previous pod of {record.to} keeps serving devices.{_UNAFFECTED}"
        if available.serving
        else available.now,
        fix=f"{trouble.fix or 'Fix the cause.'} The restart then completes automatically. To give it up, run this command one time only: {undo}",
    )


def installed_but_not_ready(
    agent: MedplumAgent, spec: MedplumAgentSpec, trouble: Message | None, available: Availability
) -> Message:
    """An installed target version without a ready pod. `trouble`: why, if the cluster reports it."""
    summary = f"No agent serves: {spec.version} is installed, but none of its pods is ready."
    impact = f"{capital(available.outage('a pod is ready'))}."
    logs = f"kubectl -n {agent.namespace} logs deployment/{agent.name} -c agent"
    if trouble is not None:
        return replace(trouble, summary=summary, cause=_flat(trouble), impact=trouble.impact or impact)
    return Message(
        summary,
        cause="The cluster reports no reason.",
        impact=impact,
        fix="None needed for the first minutes; Kubernetes restarts a container that exits. If no pod becomes ready, look at the pod's events with the "
        f"command, then read the agent's log: {logs}",
        command=f"kubectl -n {agent.namespace} describe pods -l {AGENT_LABEL}={agent.name}",
    )


def _flat(trouble: Message) -> str:
    """Join summary and cause of a message into one cause."""
    return " ".join(part for part in (trouble.summary, trouble.cause) if part)
