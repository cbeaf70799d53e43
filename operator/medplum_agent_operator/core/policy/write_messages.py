"""Messages about requests and fields that do not settle: failures that repeat, conflicts, other writers.

Called by the shell, which alone sees how requests end, and by `report.notices`.
"""

import re
from collections.abc import Sequence
from typing import Final

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.foreign_fields import ForeignField, removal
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.phrases import listed

_OBJECT: Final = re.compile(r"/namespaces/(?P<namespace>[^/ ]+)/(?P<kind>[^/ ]+)/(?P<name>[^/ ?]+)")
"""The path of an object in the words about a request."""


def request_failing(fault: str, available: Availability) -> Message:
    """A request that fails again and again although the API server does not refuse it. `fault`: the server's words."""
    return Message(
        "A request to the API server fails again and again, so the spec is not applied.",
        cause=fault,
        impact=f"{available.now} The rest of the change waits.",
        fix="Repair what the cause names: often an admission webhook whose backend is away, or a Service range without free addresses. "
        "The operator retries at least once a minute. If the cause names a webhook, the command lists all webhooks.",
        command="kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations",
    )


def conflict_without_end(fault: str, available: Availability) -> Message:
    """A write that always meets an object that has changed since it was read. `fault`: the server's words."""
    found = _OBJECT.search(fault)
    command = (
        f"kubectl -n {found['namespace']} get {found['kind']} {found['name']} -o yaml --show-managed-fields"
        if found
        else ""
    )
    how = (
        "the command shows them under managedFields"
        if command
        else "kubectl get -o yaml --show-managed-fields shows them"
    )
    return Message(
        "Each try to apply the spec finds an object that has changed meanwhile.",
        cause=fault,
        impact=f"{available.now} The rest of the change waits.",
        fix=f"Stop the other program that writes this object all the time. Find it among the object's writers: {how}, each with its latest write. "
        "The operator retries at least once a minute.",
        command=command,
    )


def field_contested(
    kind: str, name: str, field: str, writer: str, *, at_once: bool, stops_first: bool | None = None
) -> Message:
    """A field that another program changes each time after the operator has repaired it.

    Args:
        kind: the object's kind.
        name: the object's name.
        field: the field's path.
        writer: the field manager that owns the field; empty if none does.
        at_once: whether the operator repairs this field without a pause.
        stops_first: whether each change of this field stops the agent before the next one starts; None if it replaces no pod.
    """
    deleted = field == "missing"
    what = f"deletes {kind} {name}" if deleted else f"changes {kind} {name} ({field})"
    return Message(
        f"{writer or 'Another program'} {what} again and again.",
        impact=_effect_of_contest(kind, field, at_once=at_once, stops_first=stops_first),
        fix=_FIND_WHO_DELETES if deleted else _LET_ONE_SET_IT,
    )


_FIND_WHO_DELETES: Final = (
    "Find the program that deletes the object, such as a GitOps tool that prunes, and exempt the object from it."
)
_LET_ONE_SET_IT: Final = "Let one program alone set this field: correct the other one, such as a second operator with other settings, an autoscaler or a GitOps tool."


def _effect_of_contest(kind: str, field: str, *, at_once: bool, stops_first: bool | None) -> str:
    """What the fight means for devices."""
    if at_once:
        return (
            "The agent keeps serving devices. Each time a second agent starts, the operator stops it at once; until then, the server sends each "
            "message to both, so devices may receive messages twice."
        )
    pause = "The operator repairs it after growing pauses of up to 5 minutes."
    if kind == "Deployment" and field in {"spec.replicas", "missing"}:
        return f"No pod of the Deployment serves devices until the operator has repaired it and a pod is ready. {pause}"
    if stops_first is not None:
        gap = (
            "stops the agent before the next one starts: no agent serves in between"
            if stops_first
            else "starts a new pod before the old one stops"
        )
        return f"Each change, by either program, {gap}, and closes devices' connections. {pause} Until then the other value is in force."
    if kind == "Service":
        return f"The agent keeps running, but devices may not reach it until the operator has repaired the Service. {pause}"
    if kind == "PodDisruptionBudget":
        return f"The agent keeps running, and devices are served. Until the operator has repaired the budget, a node drain may stop the agent. {pause}"
    return f"The agent keeps running, and devices are served. {pause} Until then the other value is in force."


def foreign_fields(agent: MedplumAgent, fields: Sequence[ForeignField], replacement: str) -> Message:
    """Fields of the pod template that other field managers own and the operator does not render. `replacement`: what another pod means for devices."""
    first, managers = fields[0], sorted({one.manager for one in fields})
    others = f" and {len(fields) - 1} more" if len(fields) > 1 else ""
    programs = sorted({one.manager for one in fields if not one.by_hand})
    fix = (
        f"Remove the fields from what {listed(programs)} applies, then run the command, or leave them: the operator keeps them."
        if programs
        else "None needed: the operator removes them with the agent's next rollout. To remove them now, run the command."
    )
    return Message(
        f"{first.manager} has set a field of the pod template that the spec does not have: {first}{others}.",
        cause=f"Field managers: {'; '.join(f'{name}: {listed(_of(name, fields))}' for name in managers)}.",
        impact=f"None for devices now; the agent's pod has these fields. The command replaces the pod. {replacement}",
        fix=fix,
        command=f"kubectl -n {agent.namespace} patch deployment {agent.name} -p '{removal(tuple(fields))}'",
    )


def _of(manager: str, fields: Sequence[ForeignField]) -> list[str]:
    return [str(one) for one in fields if one.manager == manager]
