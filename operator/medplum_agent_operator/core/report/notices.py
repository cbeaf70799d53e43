"""What else is wrong, independent of any rollout: windows that never open, a pod that does not end, a gate that does not serve, a silent agent.

Called by `plan`, once for each pass. It must never change what the operator applies.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.objects import gate_pod
from medplum_agent_operator.core.observed.findings import Finding, Message, warning
from medplum_agent_operator.core.observed.foreign_fields import of_pod_spec
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.scope import Config
from medplum_agent_operator.core.policy import drain, endings, gate_messages, node_messages, windows, write_messages
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.report import traffic


@dataclass(frozen=True, slots=True)
class Notices:
    """What a plan says besides its main message.

    Attributes:
        findings: what deserves an Event when it is new.
        quiet: messages without an Event.
        requeue_at: when to reconcile again for a gate that does not serve yet or a pod that should have ended; None if events suffice.
    """

    findings: tuple[Finding, ...] = ()
    quiet: tuple[Message, ...] = ()
    requeue_at: datetime | None = None

    @property
    def silent_agent(self) -> Message | None:
        """The message about an agent that does not answer; None if it answers."""
        return next((found.message for found in self.findings if found.reason is Reason.AGENT_SILENT), None)

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages, in the order in which they are shown."""
        return (*(found.message for found in self.findings), *self.quiet)


def notices(observed: Observed, config: Config, *, known: Collection[Finding], now: datetime) -> Notices:
    """Collect the notices. `known`: what the plan already reports."""
    overdue_at = endings.end_overdue_at(observed, now=now)
    faults = windows.read(observed.agent.spec.maintenance_windows).faults
    found = tuple(warning(Reason.WINDOW_INVALID, fault) for fault in faults)
    late = endings.not_ending(observed, now=now)
    if late is not None and late.reason not in {each.reason for each in known}:
        found = (*found, late)
    found = (*found, *_about_pod_template(observed))
    tainted = drain.unknown_taint(observed, observed.applied_spec or observed.agent.spec, config)
    on_node = () if tainted is None else (node_messages.unknown_taint(observed.agent, *tainted),)
    if not observed.agent.spec.gated:
        return Notices(found, on_node, requeue_at=overdue_at)
    deployment = observed.children.get("GateDeployment")
    due = gate_pod.absence_tolerated_until(deployment, now=now)
    waits = due is not None and config.gate_image is not None and now < due
    about_gate = tuple(_about_gate(observed, not_serving=due is not None and not waits))
    unreachable = traffic.gates_unreachable(observed)
    quiet = (gate_messages.gates_unreachable(observed.agent),) if unreachable else ()
    requeue_at = min((at for at in (due if waits else None, overdue_at) if at), default=None)
    return Notices((*found, *about_gate), (*quiet, *on_node), requeue_at)


def _about_pod_template(observed: Observed) -> Iterator[Finding]:
    """What other field managers have set in the pod template. An older release did not record what it rendered."""
    live = observed.deployment
    applied = None if live is None else live.applied_template
    if live is not None and applied is not None and applied.revision:
        fields = of_pod_spec(applied.template, live.raw)
        if fields:
            replacement = Availability.of(observed).replacement(observed.applied_spec or observed.agent.spec)
            yield warning(Reason.FOREIGN_FIELDS, write_messages.foreign_fields(observed.agent, fields, replacement))


def _about_gate(observed: Observed, *, not_serving: bool) -> Iterator[Finding]:
    agent, deployment = observed.agent, observed.children.get("GateDeployment")
    if not_serving:
        refused = gate_pod.creation_failure(deployment)
        message = gate_messages.gate_not_serving(agent, exists=deployment is not None, refused=refused)
        yield warning(Reason.GATE_NOT_SERVING, message)
    if gate_pod.available(deployment) and (why := gate_pod.stall_reason(deployment)):
        yield warning(Reason.GATE_NOT_UPDATED, gate_messages.gate_not_updated(agent, why))
    if since := traffic.silent_channels(observed):
        yield warning(
            Reason.AGENT_SILENT, gate_messages.agent_silent(agent, observed.applied_spec or agent.spec, since)
        )
