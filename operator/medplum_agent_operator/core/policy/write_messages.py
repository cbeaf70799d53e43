"""Messages about requests and fields that do not settle: failures that repeat, conflicts, other writers.

Called by the shell, which alone sees how requests end, and by `report.notices`.
"""

from collections.abc import Sequence

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.foreign_fields import ForeignField, removal
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.phrases import listed


def request_failing(fault: str, available: Availability) -> Message:
    """A request that fails again and again although the API server does not refuse it. `fault`: the server's words."""
    return Message(
        "A request to the API server fails again and again, so the spec is not applied.",
        cause=fault,
        impact=f"{available.now} The rest of the change waits.",
        fix="Repair what the cause names: often an admission webhook whose backend is away, or a range without free addresses. "
        "The operator retries at least once a minute.",
    )


def conflict_without_end(fault: str, available: Availability) -> Message:
    """A write that always meets an object that has changed since it was read. `fault`: the server's words."""
    return Message(
        "Each try to apply the spec finds an object that has changed meanwhile.",
        cause=fault,
        impact=f"{available.now} The rest of the change waits.",
        fix="Find the other program that writes the object that the cause names (kubectl get --show-managed-fields). "
        "The operator retries at least once a minute.",
    )


def field_contested(kind: str, name: str, field: str, writer: str, *, at_once: bool) -> Message:
    """A field that another program changes each time after the operator has repaired it.

    Args:
        kind: the object's kind.
        name: the object's name.
        field: the field's path.
        writer: the field manager that owns the field; empty if none does.
        at_once: whether the operator repairs this field without a pause.
    """
    impact = (
        "Each time a second agent begins; the operator removes it at once, because the server sends each message to both."
        if at_once
        else "The operator repairs it after growing pauses of up to 5 minutes; until then the other value is in force."
    )
    return Message(
        f"{writer or 'Another program'} changes {kind} {name} ({field}) again and again.",
        impact=impact,
        fix="Let one program alone set this field: correct the other one, such as a second operator with other settings, "
        "an autoscaler or a GitOps tool.",
    )


def foreign_fields(agent: MedplumAgent, fields: Sequence[ForeignField]) -> Message:
    """Fields of the pod template that other field managers own and the operator does not render."""
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
        impact="The agent's pods have these fields. The command replaces the agent's pod, as kubectl rollout restart does.",
        fix=fix,
        command=f"kubectl -n {agent.namespace} patch deployment {agent.name} -p '{removal(tuple(fields))}'",
    )


def _of(manager: str, fields: Sequence[ForeignField]) -> list[str]:
    return [str(one) for one in fields if one.manager == manager]
