"""Messages about a rollout, from its first write until it has completed or failed.

Called by `progress` and `plan`. Messages about a change that does not begin are in `policy.messages`. This module must never
decide anything.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import assert_never

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.rollout_record import Change, RolloutRecord
from medplum_agent_operator.core.policy.phrases import NOTHING_NEEDED, capital, in_between, seconds, who_serves


def under_way(record: RolloutRecord, spec: MedplumAgentSpec) -> Message:
    """A rollout that has begun: what it does, and why by this strategy."""
    return Message(
        _what(record),
        cause=_why(record),
        impact=_impact(record, spec),
        fix=NOTHING_NEEDED,
    )


def _what(record: RolloutRecord) -> str:
    """What a rollout does, as a sentence."""
    to, how = record.to, record.mechanics.how
    if record.from_version is None:
        return f"Installing {to}."
    if record.moved_off:
        return f"Moving the agent, {to}, off node {record.moved_off} {how}."
    return f"{_change(record)} {how}{_because_of_failure(record)}."


def _change(record: RolloutRecord) -> str:
    """What a rollout changes, as the beginning of a sentence."""
    to = record.to
    match record.change:
        case Change.ABORT:
            return f"Aborting the change and returning to {to}"
        case Change.NONE:
            return f"Applying other settings to {to}"
        case Change.INSTALL:
            return f"Installing {to} again"
        case Change.ROLLBACK:
            return f"Rolling back to {to}"
        case Change.UPGRADE | Change.DOWNGRADE:
            return f"Changing from {record.from_version} to {to}"
        case _ as never:
            assert_never(never)


def _because_of_failure(record: RolloutRecord) -> str:
    return f": the change to {record.rolled_back_from} failed" if record.rolled_back_from else ""


def _why(record: RolloutRecord) -> str:
    """Why the rollout is made, and by which strategy."""
    if record.from_version is None:
        return ""
    parts = [f"{capital(record.why)}."] if record.why else []
    if record.change is Change.ROLLBACK and record.failed is not None:
        parts = [record.failed.message, *(parts if record.mechanics.stops_first else ())]
    if record.moved_off:
        parts.append("A node drain waits for the move and then resumes automatically.")
    if record.approval:
        parts.append(f'The downgrade is approved by "{record.approval}".')
    if record.backup:
        parts.append(f"The backup is ControllerRevision {record.backup}.")
    return " ".join(parts)


def _impact(record: RolloutRecord, spec: MedplumAgentSpec) -> str:
    settle, drain = seconds(spec.handoff.min_ready_seconds), seconds(spec.handoff.drain_seconds)
    if record.from_version is None:
        return f"No agent serves yet; the agent counts as active once every channel port has been open for {settle}."
    if record.mechanics.stops_first:
        up_to = "up to " if spec.gated else ""
        return f"The old agent drains for {up_to}{drain} and stops before the new one starts; {in_between(spec)}."
    if record.change in {Change.ABORT, Change.ROLLBACK}:
        return f"None expected; {record.to} still runs and stays unless other settings changed. The other agent drains for {drain} and stops."
    where = " on another node" if record.moved_off else ""
    return (
        f"None expected; the new agent starts{where} beside the old one. Once every channel port has been open for {settle}, the old one gets no new "
        f"connections, drains for {drain} and stops."
    )


def approved(record: RolloutRecord) -> Message:
    """An approved downgrade, its approver and its backup."""
    by = f" ({record.approved_by})" if record.approved_by else ""
    backup = f"Backup: {record.backup}." if record.backup else "There is no backup: the cluster has no previous state."
    return Message(
        f'The downgrade from {record.from_version} to {record.to} is approved by "{record.approval}"{by}. {backup}'
    )


def superseded(message: Message) -> Message:
    """A rollout that replaces one that was not complete."""
    return replace(message, summary=f"{message.summary} The previous rollout was not complete.")


def recreated_deployment(message: Message) -> Message:
    """A rollout that creates a deleted Deployment again."""
    return replace(message, summary=f"The Deployment was missing and is created again. {message.summary}")


def fetching(record: RolloutRecord, *, image: str, node: str, serving: Iterable[str]) -> Message:
    """A change that stops first and whose image is pulled before that. `serving`: versions that serve meanwhile."""
    change = f"The change from {record.from_version} to {record.to}"
    if record.from_version == record.to:
        change = f"The change of {record.to}'s settings"
    approved_by = f' It is approved by "{record.approval}".' if record.approval else ""
    return Message(
        f"Pulling the image of {record.to} before the old agent stops.",
        rollout=f"{change} stops the old agent first, because {record.why}.{approved_by}",
        cause=f"The new agent needs image {image} on node {node}.",
        impact=f"{who_serves(serving)} The operator stops no agent before the image and the Secret are available.",
        fix=NOTHING_NEEDED,
    )


def restarting(agent: MedplumAgent, spec: MedplumAgentSpec, *, stops_first: bool) -> Message:
    """New pods of the running version that a user requested, not the operator."""
    impact = f"The old pod stops before the new one starts; {in_between(spec)}."
    return Message(
        f"New pods of {spec.version} were requested (kubectl rollout restart); they replace the old ones.",
        impact=impact if stops_first else "None expected; the old pod serves until the new one is ready.",
        fix=NOTHING_NEEDED,
        command=f"kubectl -n {agent.namespace} rollout status deployment/{agent.name}",
    )


def completed(record: RolloutRecord) -> Message:
    """A rollout that completed."""
    to, how = record.to, record.mechanics.how
    if record.from_version is None:
        return Message(f"{to} is installed and serves.")
    if record.rolled_back_from:
        return Message(f"{to} serves as before; the failed change to {record.rolled_back_from} was rolled back.")
    if record.change is Change.ABORT:
        return Message(f"{to} serves as before; the change from it was aborted.")
    if record.moved_off:
        return Message(f"{to} serves; it was moved off node {record.moved_off} {how}.")
    return Message(f"{to} serves; it replaced {record.from_version} {how}.")


def active(spec: MedplumAgentSpec) -> str:
    """That the target version is active and nothing is pending, as a line in a message about something else."""
    return f"{spec.version} is active; no changes are pending."


def at_rest(spec: MedplumAgentSpec) -> Message:
    """The target version serves and nothing is pending."""
    return Message(
        f"{spec.version} serves; no changes are pending.", impact="None; devices are served.", fix="None needed."
    )
