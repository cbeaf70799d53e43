"""What kind of change a target version means, and by which mechanics it is made. Two separate questions; approval is a third.

Called by `verdict`, `plan`, `desired` and `rollback`. No function may compare an old object with a new one: only the observation counts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medplum_agent_operator.api.spec import DowngradeApproval, MedplumAgentSpec
from medplum_agent_operator.api.status import Strategy
from medplum_agent_operator.core.observed.mechanics import RECREATE, ROLLING_HANDOFF, Mechanics
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER
from medplum_agent_operator.core.observed.rollout_record import Change
from medplum_agent_operator.core.observed.version import ZERO_DOWNTIME, AgentVersion, lowest_version
from medplum_agent_operator.core.policy.phrases import listed


def classify(observed: Observed, target: AgentVersion) -> Change:
    """Say what a change to `target` means.

    Worked rows, with 5.1.14 active and a rollout to 5.1.16 under way that is not available yet: 5.1.16 is None, 5.1.14 is
    Abort, 5.1.15 is Upgrade (5.1.16 never became active), 5.1.13 is Downgrade.
    """
    baseline = observed.baseline
    deployment = observed.deployment
    applied = None if deployment is None else deployment.applied_version
    if applied is not None and applied.same_release(target):
        return Change.NONE
    if baseline is None:
        return Change.INSTALL if deployment is None else Change.UPGRADE
    if target < baseline:
        return Change.DOWNGRADE
    if target.same_release(baseline):
        return Change.ABORT if deployment is not None else Change.INSTALL
    return Change.UPGRADE


def needs_approval(change: Change, target: AgentVersion, spec: MedplumAgentSpec) -> bool:
    """Whether a cluster admin has to approve: every downgrade, or only those below 4.2.4 if the policy says so."""
    if change is not Change.DOWNGRADE:
        return False
    return spec.downgrade_policy.approval is DowngradeApproval.ALWAYS or not target.hands_over


@dataclass(frozen=True, slots=True)
class Choice:
    """How a change is made, and why: `why` completes a sentence that begins with "because"."""

    mechanics: Mechanics
    why: str

    @property
    def strategy(self) -> Strategy:
        """The name of the mechanics in the API."""
        return self.mechanics.strategy


def _versions_in(template: Mapping[str, Any] | None) -> Iterator[AgentVersion]:
    """What a pod template really runs: the lower of its label's version and its image's."""
    if template is None:
        return
    containers = template["spec"]["containers"]
    image = next((c.get("image") or "" for c in containers if c["name"] == AGENT_CONTAINER), "")
    found = lowest_version((template.get("metadata") or {}).get("labels") or {}, image)
    if found is not None:
        yield found


def choose(
    observed: Observed, target: AgentVersion, *, host_ports: bool, template: Mapping[str, Any] | None = None
) -> Choice:
    """Choose between a handoff and a recreate.

    Every side counts: the target, the live template (a pod of it may start at any moment) and each pod that may still run.
    An unreadable version counts as one that cannot hand over.

    Args:
        observed: the cluster as it is.
        target: the version to change to.
        host_ports: whether a pod of the new template would bind ports of its node.
        template: the pod template to write, if it is known. Its version counts if it is lower than `target`.
    """
    target = min((target, *_versions_in(template)))
    if not target.hands_over:
        return Choice(RECREATE, f"{target} is older than {ZERO_DOWNTIME} and cannot run beside another agent")
    deployment = observed.deployment
    sides = [(pod.version, f"pod {pod.name}") for pod in observed.live_pods]
    if deployment is not None:
        sides.append((deployment.version, "the Deployment"))
    for version, where in sides:
        if version is None:
            return Choice(RECREATE, f"the version of {where} cannot be read, so it may not be able to hand over")
        if not version.hands_over:
            return Choice(RECREATE, f"{version} is older than {ZERO_DOWNTIME} and cannot run beside another agent")
    if host_ports or (deployment is not None and deployment.uses_host_ports):
        return Choice(RECREATE, "two agents cannot bind the same ports of a node (hostNetwork or hostPort)")
    names = sorted({target.text, *(version.text for version, _ in sides if version is not None)})
    if len(names) == 1:
        return Choice(ROLLING_HANDOFF, f"{target} is {ZERO_DOWNTIME} or newer, so two pods of it can run side by side")
    return Choice(ROLLING_HANDOFF, f"{listed(names)} are {ZERO_DOWNTIME} or newer and can run side by side")
