"""Messages about a rollout, from its first write until it has completed or failed.

Called by `progress` and `plan`. Messages about a change that does not begin are in `policy.messages`. This module must never
decide anything.
"""

from dataclasses import replace
from typing import assert_never

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.rollout_record import Change, RolloutRecord
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.phrases import NOTHING_NEEDED, capital, seconds


def under_way(record: RolloutRecord, spec: MedplumAgentSpec, available: Availability) -> Message:
    """A rollout that has begun: what it does, why by this strategy, and what devices notice."""
    failed = record.failed if record.change is Change.ROLLBACK else None
    fix = NOTHING_NEEDED
    if failed is not None:
        first = failed.fix or "Fix the cause."
        fix = f"None needed for the rollback. Before you retry the change, {first[0].lower()}{first[1:]}"
    return Message(
        _what(record, available),
        rollout=_how(record, available),
        cause="" if failed is None else failed.message,
        impact=_impact(record, spec, available),
        fix=fix,
    )


def _installs_again(record: RolloutRecord, available: Availability) -> bool:
    """Whether a rollout brings back a lost agent while none serves: then nothing is handed over."""
    return record.change is Change.INSTALL and not available.serving


def _what(record: RolloutRecord, available: Availability) -> str:
    """What a rollout does, as a sentence."""
    to, how = record.to, record.mechanics.how
    if record.from_version is None:
        return f"Installing {to}."
    if _installs_again(record, available):
        return f"Installing {to} again; no agent serves until it is ready."
    if record.moved_off:
        return f"Moving the agent, {to}, off node {record.moved_off} {how}."
    return f"{_change(record)} {how}{_because_of_failure(record)}."


def _change(record: RolloutRecord) -> str:
    """What a rollout changes, as the beginning of a sentence."""
    to = record.to
    match record.change:
        case Change.ABORT:
            return f"The change was withdrawn; returning to {to}"
        case Change.NONE:
            return f"Applying changed settings to {to}"
        case Change.INSTALL:
            return f"Installing {to} again"
        case Change.ROLLBACK:
            return f"Rolling back to {to}"
        case Change.UPGRADE:
            return f"Upgrading from {record.from_version} to {to}"
        case Change.DOWNGRADE:
            return f"Downgrading from {record.from_version} to {to}"
        case _ as never:
            assert_never(never)


def _because_of_failure(record: RolloutRecord) -> str:
    return f": the change to {record.rolled_back_from} failed" if record.rolled_back_from else ""


def _how(record: RolloutRecord, available: Availability) -> str:
    """The strategy and why it was chosen; the approval and the backup of a downgrade."""
    if record.from_version is None or _installs_again(record, available):
        return ""
    parts = [f"{capital(record.mechanics.name)}, because {record.why}." if record.why else ""]
    if record.moved_off:
        parts.append("A node drain waits for the move and then resumes automatically.")
    if record.approval:
        parts.append(f'The downgrade is approved by "{record.approval}".')
    if record.backup:
        parts.append(f"The backup is ControllerRevision {record.backup}.")
    return " ".join(part for part in parts if part)


def _impact(record: RolloutRecord, spec: MedplumAgentSpec, available: Availability) -> str:
    settle, drain, to = seconds(spec.handoff.min_ready_seconds), seconds(spec.handoff.drain_seconds), record.to
    if record.from_version is None:
        return f"No agent serves yet; devices can connect once {to} has opened its ports. It counts as active once every channel port has been open for {settle}."
    if record.mechanics.stops_first:
        return _impact_of_recreate(record, spec, available)
    if not available.serving:
        return f"No agent serves; {available.outage(f'{to} has opened its ports')}."
    devices = "devices keep their connections to the gate" if available.hold_seconds else "its devices reconnect"
    if record.change in {Change.ABORT, Change.ROLLBACK}:
        return f"No outage expected; {to} keeps serving devices. The agent of the withdrawn change drains for {drain} and stops; {devices}."
    where = " on another node" if record.moved_off else ""
    return (
        f"No outage expected; the new agent starts{where} beside the old one. Once every channel port has been open for {settle}, the old one gets no "
        f"new connections, drains for {drain} and stops; {devices}."
    )


def _impact_of_recreate(record: RolloutRecord, spec: MedplumAgentSpec, available: Availability) -> str:
    """Before, between and after: each differs in who serves."""
    old, new, drain = record.from_version or "the old agent", record.to, seconds(spec.handoff.drain_seconds)
    if available.earlier_serves:
        up_to = "up to " if available.hold_seconds else ""
        return f"{old} drains for {up_to}{drain}. Then it stops before {new} starts; {available.outage(f'{new} has opened its ports')}."
    if available.serving:
        return f"{new} serves; it counts as active once every port has been open for {seconds(spec.handoff.min_ready_seconds)}."
    return f"No agent serves; {available.outage(f'{new} has opened its ports')}."


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


def recreated_deployment(message: Message, record: RolloutRecord, available: Availability) -> Message:
    """A rollout that creates a deleted Deployment again."""
    what = f"The Deployment was deleted; the operator creates it again with {record.to}."
    if available.serving:
        deleted = f"If Kubernetes deletes its pod with the Deployment, {available.outage('the new one is ready')}."
        return replace(message, summary=what, impact=f"{available.now} {deleted}")
    return replace(
        message,
        summary=f"The Deployment was deleted; installing {record.to} again. No agent serves until it is ready.",
        rollout="",
        impact=f"No agent serves; {available.outage(f'{record.to} has opened its ports')}.",
    )


def fetching(record: RolloutRecord, *, image: str, node: str, available: Availability) -> Message:
    """A change that stops first and whose image is pulled before that."""
    change, old = f"The change from {record.from_version} to {record.to}", record.from_version or "the old agent"
    back = f'set spec.version back to "{record.from_version}"'
    if record.from_version == record.to:
        change, back = f"The change of {record.to}'s settings", "undo the change of the spec"
    approved_by = f' It is approved by "{record.approval}".' if record.approval else ""
    return Message(
        f"Pulling the image of {record.to} before the old agent stops.",
        rollout=f"{change} stops the old agent first, because {record.why}.{approved_by}",
        cause=f"The new agent needs image {image} on node {node}.",
        impact=f"{available.now} Once the node has the image and can read the agent's Secret, {available.stop_first(old, record.to)}",
        fix=f"{NOTHING_NEEDED} To cancel the change while {old} still serves, {back}.",
    )


def restarting(agent: MedplumAgent, spec: MedplumAgentSpec, available: Availability, *, stops_first: bool) -> Message:
    """New pods of the running version that a user requested, not the operator."""
    impact = f"The old pod stops before the new one starts; {available.outage('the new one has opened its ports')}."
    return Message(
        f"New pods of {spec.version} were requested (kubectl rollout restart); they replace the old ones.",
        impact=impact if stops_first else "No outage expected; the old pod serves until the new one is ready.",
        fix=f"{NOTHING_NEEDED} To watch it, run the command.",
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
        return Message(f"{to} serves as before; the change was withdrawn.")
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
