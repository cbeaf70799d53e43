"""What else is wrong, independent of any rollout: windows that never open, a gate that does not serve, a silent agent.

Called by `plan`, once for each pass. It must never change what the operator applies.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.objects import gate_pod
from medplum_agent_operator.core.observed.findings import Finding, Message, warning
from medplum_agent_operator.core.observed.model import Config, Observed
from medplum_agent_operator.core.policy import drain, gate_messages, messages, windows
from medplum_agent_operator.core.report import traffic


@dataclass(frozen=True, slots=True)
class Notices:
    """What a plan says besides its main message.

    Attributes:
        findings: what deserves an Event when it is new.
        quiet: messages without an Event.
        requeue_at: when to reconcile again for a gate that does not serve yet; None if events suffice.
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


def notices(observed: Observed, config: Config, *, now: datetime) -> Notices:
    """Collect the notices."""
    faults = windows.read(observed.agent.spec.maintenance_windows).faults
    invalid = tuple(warning(Reason.WINDOW_INVALID, fault) for fault in faults)
    tainted = drain.unknown_taint(observed, observed.applied_spec or observed.agent.spec, config)
    on_node = () if tainted is None else (messages.unknown_taint(observed.agent, *tainted),)
    if not observed.agent.spec.gated:
        return Notices(invalid, on_node)
    deployment = observed.children.get("GateDeployment")
    due = gate_pod.absence_tolerated_until(deployment, now=now)
    waits = due is not None and config.gate_image is not None and now < due
    about_gate = tuple(_about_gate(observed, not_serving=due is not None and not waits))
    unreachable = traffic.gates_unreachable(observed)
    quiet = (gate_messages.gates_unreachable(observed.agent),) if unreachable else ()
    return Notices((*invalid, *about_gate), (*quiet, *on_node), due if waits else None)


def _about_gate(observed: Observed, *, not_serving: bool) -> Iterator[Finding]:
    agent, deployment = observed.agent, observed.children.get("GateDeployment")
    if not_serving:
        yield warning(Reason.GATE_NOT_SERVING, gate_messages.gate_not_serving(agent, exists=deployment is not None))
    if gate_pod.available(deployment) and (why := gate_pod.stall_reason(deployment)):
        yield warning(Reason.GATE_NOT_UPDATED, gate_messages.gate_not_updated(agent, why))
    if since := traffic.silent_channels(observed):
        yield warning(Reason.AGENT_SILENT, gate_messages.agent_silent(agent, since))
