"""The desired Deployment for the spec in force, and whether it replaces the agent's pod. Called by `plan`. Pure."""

from dataclasses import dataclass, field, replace

from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.deployment import LiveDeployment
from medplum_agent_operator.core.observed.notes import template_hash
from medplum_agent_operator.core.observed.pods import Pod
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy import drain
from medplum_agent_operator.core.policy.strategy import Choice, choose
from medplum_agent_operator.core.rollout.steps import Pass
from medplum_agent_operator.core.rollout.template_in_force import Template, of_agent


@dataclass(frozen=True, slots=True)
class Desired:
    """The desired Deployment, and whether it replaces the agent's pod.

    Attributes:
        spec: the spec in force.
        template: the pod template in force.
        choice: the strategy by which the pod would be replaced.
        begins: whether a rollout begins.
        moved: the pod that the rollout moves off its node; None if the rollout is no move.
    """

    spec: MedplumAgentSpec = field(repr=False)
    template: Template
    choice: Choice
    begins: bool
    moved: Pod | None = None


def desired(this: Pass) -> Desired:
    """Render the Deployment's template for the spec in force, and compare it with the live one."""
    observed, spec = this.observed, this.spec
    template = of_agent(observed, spec, this.config, refreshes=this.allowed is not None)
    choice = choose(observed, AgentVersion.parse(spec.version), host_ports=spec.uses_host_ports, template=template.body)
    live = observed.deployment
    return Desired(spec, template, choice, begins=_begins(live, template))


def _begins(live: LiveDeployment | None, template: Template) -> bool:
    """Whether the template has to be written as a rollout. Somebody may have put the live one there already: then it needs its record."""
    if live is None or live.differs_from(template.body):
        return True
    applied = live.applied_template
    return applied is not None and template_hash(applied.template) != template_hash(template.body)


def move_if_departing(this: Pass, wanted: Desired) -> Desired:
    """Turn the desired state into a move off the agent's node, if that is about to be drained and the agent can hand over."""
    if wanted.choice.mechanics.stops_first:
        return wanted
    pod = drain.pod_to_move(this.observed, wanted.spec, config=this.config)
    if pod is None:
        return wanted
    return replace(
        wanted, begins=True, moved=pod, template=wanted.template.with_moved_off_mark(drain.moved_off_mark(pod))
    )
