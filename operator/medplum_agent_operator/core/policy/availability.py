"""Who serves devices right now, and what happens to messages while no agent serves: the core of every `Impact:` line.

Made from an observation by `policy` and `report`. It must never decide anything.
"""

from dataclasses import dataclass
from typing import Self

from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.objects import gate_pod
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy.phrases import seconds


@dataclass(frozen=True, slots=True)
class Availability:
    """Who serves devices.

    Attributes:
        serving: versions of the agents that serve, in order.
        hold_seconds: how long a gate holds a message; 0 if no gate serves.
        earlier_serves: whether an agent of an earlier pod template serves, terminating or not.
    """

    serving: tuple[str, ...] = ()
    hold_seconds: int = 0
    earlier_serves: bool = False

    @classmethod
    def of(cls, observed: Observed) -> Self:
        """Read it from an observation."""
        spec = observed.agent.spec
        gate = spec.gated and gate_pod.available(observed.children.get("GateDeployment"))
        versions = {pod.version.text for pod in observed.serving_pods if pod.version is not None}
        earlier = any(pod.ports_open for pod in observed.earlier_pods)
        return cls(tuple(sorted(versions)), spec.gate.hold_seconds if gate else 0, earlier)

    @property
    def now(self) -> str:
        """The state now, as a sentence.

        >>> Availability(("5.1.15",)).now, Availability().now
        ('5.1.15 keeps serving devices.', 'No agent serves; devices cannot deliver messages.')
        """
        if not self.serving:
            return f"No agent serves; {self.outage()}."
        return f"{' and '.join(self.serving)} {'keeps' if len(self.serving) == 1 else 'keep'} serving devices."

    def outage(self, until: str = "") -> str:
        """What happens to messages while no agent serves, as a clause.

        >>> Availability().outage("5.1.15 has opened its ports")
        'devices cannot deliver messages until 5.1.15 has opened its ports'
        >>> Availability(hold_seconds=20).outage("5.1.15 has opened its ports")
        'until 5.1.15 has opened its ports, the gate holds messages for up to 20 seconds; after that, devices must resend'
        """
        if not self.hold_seconds:
            return f"devices cannot deliver messages{' until ' if until else ''}{until}"
        held = f"the gate holds messages for up to {seconds(self.hold_seconds)}; after that, devices must resend"
        return f"until {until}, {held}" if until else held

    def stop_first(self, old: str, new: str) -> str:
        """What a recreate means for devices, as a sentence.

        >>> Availability().stop_first("4.2.3", "5.1.15")
        '4.2.3 stops before 5.1.15 starts; devices cannot deliver messages until 5.1.15 has opened its ports.'
        """
        return f"{old} stops before {new} starts; {self.outage(f'{new} has opened its ports')}."

    def replacement(self, spec: MedplumAgentSpec) -> str:
        """What another pod of the same version means for devices, as a sentence. `spec`: what the agent runs with."""
        if AgentVersion.parse(spec.version).hands_over and not spec.uses_host_ports:
            return "The new agent starts before the old one stops; no outage is expected."
        return f"The old agent stops before the new one starts; {self.outage('the new one has opened its ports')}."
