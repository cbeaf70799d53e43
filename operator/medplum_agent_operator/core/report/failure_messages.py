"""Messages about a rollout that is blocked or has failed, and about an agent that does not serve.

Called by `progress`. Each message extends the one of `policy.diagnosis` about the fault. This module must never decide anything.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from medplum_agent_operator.api.changes import OnFailure
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.activation import Activation
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import RolloutRecord
from medplum_agent_operator.core.policy.phrases import in_between, seconds, who_serves

_RESUMES: Final = "Fix the cause and the rollout resumes automatically."


def of_rollout(
    observed: Observed, record: RolloutRecord, spec: MedplumAgentSpec, trouble: Message, *, late: bool
) -> Message:
    """Choose the message about a rollout that has failed. `late`: whether it missed its deadline."""
    deadline, serving = spec.handoff.progress_deadline_seconds, bool(observed.serving_pods)
    if observed.activation.settled:
        return restart_failed(version=record.to, trouble=trouble, serving=serving, deadline_seconds=deadline)
    if record.moved_off is not None:
        return move_failed(
            node=record.moved_off,
            version=record.to,
            trouble=trouble,
            serving=serving,
            deadline_seconds=deadline if late else None,
        )
    return failed(
        record,
        trouble=trouble,
        serving=serving_versions(observed),
        deadline_seconds=deadline if late else None,
        not_rolled_back=_why_not_rolled_back(observed, spec),
        was_active=observed.activation.became_active or observed.is_effectively_active,
    )


def serving_versions(observed: Observed) -> list[str]:
    """The versions of the pods that serve."""
    return [pod.version.text for pod in observed.serving_pods if pod.version is not None]


def _why_not_rolled_back(observed: Observed, spec: MedplumAgentSpec) -> str:
    """Why a failed change is not rolled back; empty if there is nothing to return to."""
    record = observed.record
    if record is None or record.from_version is None:
        return ""  # a first installation, also one whose settings were changed: no version was ever active
    if spec.handoff.on_failure is OnFailure.HOLD:
        return "It is not rolled back, because spec.handoff.onFailure is Hold."
    if observed.deployment is not None and observed.deployment.last_good is None:
        return "It is not rolled back, because an older operator release started it and did not record what was active before."
    if observed.activation is Activation.POSSIBLY:
        return "It is not rolled back, because somebody else has requested new pods of it since: it may have been active before."
    return ""


def blocked(progress: Message, trouble: Message, *, serving: Iterable[str]) -> Message:
    """A rollout that something blocks. `serving`: versions that serve meanwhile."""
    return replace(
        trouble,
        summary=f"Blocked: {trouble.summary}",
        rollout=progress.summary,
        impact=trouble.impact or who_serves(serving),
        fix=f"{trouble.fix} The rollout resumes automatically." if trouble.fix else _RESUMES,
    )


def not_fetched(record: RolloutRecord, *, image: str, node: str, trouble: Message) -> Message:
    """An image that did not arrive in time, or never can. The old agent was not stopped."""
    back = "undo the change"
    if record.from_version != record.to:
        back = f'set spec.version back to "{record.from_version}"'
    return replace(
        trouble,
        summary=f"The image of {record.to} cannot be made available on the node; nothing was stopped.",
        cause=f"The new agent needs image {image} on node {node}. {_flat(trouble)}",
        impact="None; the old agent keeps serving.",
        fix=f"{trouble.fix} The change then starts automatically; or {back}. With spec.handoff.prePull false "
        "the old agent would stop at once, whether or not the new one can start.",
    )


def no_other_node(*, node: str, trouble: Message) -> Message:
    """A move off a node for which no other node accepts the pod. The agent was not stopped."""
    return replace(
        trouble,
        summary=f"No other node accepts the agent; a drain of node {node} waits.",
        cause=trouble.cause,
        impact=f"None; the agent keeps serving on {node}.",
        fix="Add a node, make room or correct the scheduling in spec.podTemplate. "
        "Or uncordon the node. Or set spec.handoff.onNodeDrain to Evict, so that the drain stops the agent.",
    )


def move_failed(*, node: str, version: str, trouble: Message, serving: bool, deadline_seconds: int | None) -> Message:
    """A move off a cordoned node that failed. `deadline_seconds`: the deadline that it missed; None if it failed before."""
    within = f" within {seconds(deadline_seconds)}" if deadline_seconds else ""
    return replace(
        trouble,
        summary=f"The agent, {version}, could not be moved off node {node}{within}.",
        cause=_flat(trouble),
        impact=f"{who_serves([version] if serving else [])} A drain of the node waits.",
        fix=f"{trouble.fix or 'Fix the cause.'} The move then resumes automatically. Or set spec.handoff.onNodeDrain to Evict, so that the drain stops the agent.",
    )


def failed(
    record: RolloutRecord,
    *,
    trouble: Message,
    serving: Iterable[str],
    deadline_seconds: int | None,
    not_rolled_back: str,
    was_active: bool,
) -> Message:
    """A rollout that has failed.

    Args:
        record: the rollout.
        trouble: the cause.
        serving: versions that serve.
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
        impact=who_serves(serving),
        fix=f"{trouble.fix or 'Fix the cause.'} The rollout then resumes automatically; or {back}.",
    )


def restart_failed(*, version: str, trouble: Message, serving: bool, deadline_seconds: int) -> Message:
    """New pods of the same version that a user requested, not the operator, and that did not become available."""
    return replace(
        trouble,
        summary=f"The requested restart of {version} did not complete within {seconds(deadline_seconds)}.",
        cause=_flat(trouble),
        impact=f"The previous pod of {version} keeps serving." if serving else who_serves([]),
        fix=f"{trouble.fix or 'Fix the cause.'} The restart then completes automatically. Or undo it with kubectl rollout undo.",
    )


def installed_but_not_ready(spec: MedplumAgentSpec, trouble: Message | None) -> Message:
    """The target version is installed and no pod of it is ready. `trouble`: why, if the cluster reports it."""
    summary = f"{spec.version} is installed, but no pod of it is ready."
    impact = f"No agent serves; {in_between(spec)}."
    if trouble is None:
        return Message(summary, impact=impact, fix="None needed; Kubernetes starts the agent again automatically.")
    return replace(trouble, summary=summary, cause=_flat(trouble), impact=impact)


def _flat(trouble: Message) -> str:
    """Join summary and cause of a message into one cause."""
    return " ".join(part for part in (trouble.summary, trouble.cause) if part)
