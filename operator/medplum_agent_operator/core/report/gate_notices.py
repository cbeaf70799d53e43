"""What is wrong with the gate or the traffic through it, independent of any rollout.

Called by `plan`, once for each pass. It must never change what the operator applies.
"""

from collections.abc import Iterator
from datetime import datetime

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.objects import gate_pod
from medplum_agent_operator.core.observed.findings import Finding, warning
from medplum_agent_operator.core.observed.model import Config, Observed
from medplum_agent_operator.core.policy import gate_messages
from medplum_agent_operator.core.report import traffic


def gate_notices(observed: Observed, config: Config, *, now: datetime) -> tuple[tuple[Finding, ...], datetime | None]:
    """What is wrong with the gate or its traffic, and when to requeue for a gate that does not serve yet; None if events suffice."""
    if not observed.agent.spec.gated:
        return (), None
    deployment = observed.children.get("GateDeployment")
    due = gate_pod.absence_tolerated_until(deployment, now=now)
    waits = due is not None and config.gate_image is not None and now < due
    return tuple(_found(observed, not_serving=due is not None and not waits)), due if waits else None


def _found(observed: Observed, *, not_serving: bool) -> Iterator[Finding]:
    agent, deployment = observed.agent, observed.children.get("GateDeployment")
    if not_serving:
        yield warning(
            Reason.GATE_NOT_SERVING,
            gate_messages.gate_not_serving(
                agent, exists=deployment is not None, refused=gate_pod.creation_failure(deployment)
            ),
        )
    if gate_pod.available(deployment) and (why := gate_pod.stall_reason(deployment)):
        yield warning(Reason.GATE_NOT_UPDATED, gate_messages.gate_not_updated(agent, why))
    if since := traffic.silent_channels(observed):
        yield warning(Reason.AGENT_SILENT, gate_messages.agent_silent(agent, since))
