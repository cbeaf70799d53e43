"""Messages about a change that does not begin: failed before, waiting for a window, or refused by the API server.

Called by the other modules of this wing and by `reconcile`. Each message says what happened, who is affected and what to do
(docs/style.md). This module must never decide anything.
"""

from collections.abc import Iterable
from typing import Final

from medplum_agent_operator.api.agent import SINGULAR, MedplumAgent
from medplum_agent_operator.api.annotations import APPLIED_SPEC, NOW, RETRY
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.rollout_record import Failure, RolloutRecord
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy.approval import Approval
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.downgrade_messages import annotate_command
from medplum_agent_operator.core.policy.phrases import annotate, listed
from medplum_agent_operator.core.policy.strategy import Choice, choose
from medplum_agent_operator.core.policy.windows import Moment


def latched(observed: Observed, failed: Failure, approval: Approval | None) -> Message:
    """A change that failed and is not retried automatically."""
    agent, before, record = observed.agent, observed.last_active, observed.record
    if before is None or before.text == failed.version:
        what, back = f"The change of {failed.version}'s settings failed", "undo that change"
    else:
        what = f"The change from {before} to {failed.version} failed"
        back = f'set spec.version back to "{before}", which needs no approval and replaces no pod'
    rolled_back = record is not None and record.rolled_back_from is not None
    end = "was rolled back; it is not retried automatically" if rolled_back else "is not retried automatically"
    if approval is None or approval.granted:
        again, retry = annotate(agent, RETRY, "$(date +%FT%T)"), "retry with the command"
    else:
        again = annotate_command(agent, AgentVersion.parse(agent.spec.version))
        retry = "approve it again with the command (each approval counts once)"
    return Message(
        f"{what} and {end}.",
        cause=failed.message,
        impact=f"{Availability.of(observed).now}{_effect_of_retry(observed)}",
        fix=f"{failed.fix or 'Fix the cause.'} Then {retry}. Or edit the spec, or {back}.",
        command=again,
    )


def _effect_of_retry(observed: Observed) -> str:
    """What trying the spec again means for devices that an agent serves; empty if none does."""
    spec, available = observed.agent.spec, Availability.of(observed)
    if not available.serving:
        return ""
    choice = choose(observed, AgentVersion.parse(spec.version), host_ports=spec.uses_host_ports)
    if choice.mechanics.stops_first:
        return f" In a retry, {available.stop_first(listed(available.serving), spec.version)}"
    return " A retry starts the new agent beside it; no outage is expected."


def awaits_window(
    observed: Observed, choice: Choice, *, approval: str, opening: Moment | None, faults: Iterable[Message]
) -> Message:
    """A change that costs downtime and waits for a maintenance window."""
    agent, available, version = observed.agent, Availability.of(observed), observed.agent.spec.version
    old = listed(available.serving) or "what runs"
    then = f"When the change starts, {available.stop_first(old, version)}"
    rollout = f"Recreate, because {choice.why}."
    if approval:
        rollout += f' The downgrade is approved by "{approval}".'
    if opening is None:
        summary = f"The change to {version} waits for a maintenance window, but none ever opens."
        fix = "Correct spec.maintenanceWindows. If you remove them, or run the command, the change starts at once, with this impact."
    else:
        summary = f"The change to {version} waits for the window on {opening}."
        fix = "None needed; the change starts when the window opens. To start it now, run the command."
    return Message(
        summary,
        rollout=rollout,
        cause=" ".join(f"{fault.summary} {fault.cause} {fault.fix}" for fault in faults) if opening is None else "",
        impact=f"{available.now} {then}",
        fix=fix,
        command=annotate(agent, NOW, f"{version} $(date +%FT%T)"),
    )


_CORRECT: Final = "Correct what the cause names: a quota, an admission policy, the operator's RBAC or the spec."


def backup_refused(record: RolloutRecord, fault: str, available: Availability) -> Message:
    """A downgrade that does not begin because its backup cannot be written. `record`: of that downgrade."""
    old, new = record.from_version or "the old agent", record.to
    then = f"{new} starts before {old} stops; no outage is expected."
    if record.mechanics.stops_first:
        then = available.stop_first(old, new)
    return Message(
        f"The approved downgrade from {old} to {new} does not start: its backup cannot be written.",
        cause=f"ControllerRevision {record.backup}: {fault}",
        impact=f"{available.now} The operator stopped no agent, and the approval is not used up.",
        fix=f"{_CORRECT} The operator retries every minute. Once the backup is written, the downgrade starts: {then} To prevent that, set "
        f'spec.version back to "{old}" first.',
    )


def last_spec_unknown() -> Message:
    """The user's spec is refused, and the applied one is unknown."""
    return Message(
        "The operator cannot read which spec it applied last, so it repairs nothing of this agent.",
        cause=f"The ControllerRevision in force has no valid spec, nor has annotation {APPLIED_SPEC} of the agent's Deployment.",
        impact="None for devices now. If somebody edits or deletes an object of the agent, the operator does not restore it.",
        fix="Solve the problem above; the operator then records the spec again and repairs what differs.",
    )


def write_refused(kind: str, name: str, fault: str, available: Availability, *, exists: bool) -> Message:
    """A write that the API server refuses. `fault`: the server's words. `exists`: whether the object does."""
    impact, around = f"{available.now} The rest of the change waits.", ""
    if kind == "Job":
        then = available.outage("the new one has opened its ports")
        impact = f"{available.now} The change waits for this Job, which pulls the new image. Then the old agent stops before the new one starts; {then}."
        around = " Or set spec.handoff.prePull to false: the old agent then stops at once, and no agent serves if the new image cannot be pulled."
    elif kind == "Service":
        if exists:
            impact += " Devices reach the agent through the Service as it is now."
        else:
            runs = f"{listed(available.serving)} runs, but the" if available.serving else "No agent serves, and the"
            impact = f"{runs} Service does not exist: devices that connect through it cannot deliver messages. The rest of the change waits."
    return Message(
        f"The API server refuses to write {kind} {name}.",
        cause=fault,
        impact=impact,
        fix=f"{_CORRECT} The operator retries every minute.{around}",
    )


def being_deleted(
    agent: MedplumAgent, finalizers: Iterable[str], available: Availability, *, looked_after: bool
) -> Message:
    """A deleted MedplumAgent that finalizers of other programs keep. `looked_after`: whether its Deployment is."""
    shown = listed(list(finalizers))
    still = "The operator makes no changes and creates no missing object again."
    if looked_after:
        still = "No change of the spec is applied. The agent's own Deployment is still repaired, rolled back and moved off cordoned nodes."
    return Message(
        f"This MedplumAgent was deleted, and finalizer {shown} keeps it.",
        cause="Kubernetes removes the object, and then its agent, when the program that set the finalizer has removed the finalizer.",
        impact=f"{available.now} {still} When the finalizer is removed, the agent stops and its devices have no agent.",
        fix="First save the MedplumAgent with the command: a deletion cannot be undone. If the deletion was a mistake, keep the finalizer until a maintenance "
        "window. Otherwise find out why the program does not remove it. Once the MedplumAgent is gone, you can create it again from that file, without "
        "metadata.uid, metadata.resourceVersion and metadata.finalizers.",
        command=f"kubectl -n {agent.namespace} get {SINGULAR} {agent.name} -o yaml > {agent.name}.yaml",
    )


def invalid_spec(fault: str, *, serving: bool) -> Message:
    """An object that does not fit this operator's model. `fault`: the first field at fault, and why."""
    return Message(
        "This operator release rejects the spec of the MedplumAgent.",
        cause=f"{fault.rstrip('.')}.",
        impact="The running agent keeps serving devices. No edit of the spec is applied."
        if serving
        else "No agent serves; devices cannot deliver messages.",
        fix="Correct the field that the cause names; the operator then applies the spec automatically. If the API server accepted the field, the installed "
        "CRD is of another operator release: apply crds/medplumagents.yaml in the operator's sources, of this release.",
    )
