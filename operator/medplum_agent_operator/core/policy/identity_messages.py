"""Messages about an identity that another MedplumAgent has. Called by `checks`, `verdict` and `reconcile`."""

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.identity import Claim, normalised
from medplum_agent_operator.core.observed.rollout_record import Failure
from medplum_agent_operator.core.observed.version import ZERO_DOWNTIME
from medplum_agent_operator.core.policy.availability import Availability


def identity_taken(agent: MedplumAgent, holder: Claim, *, installed: bool, before: MedplumAgentSpec | None) -> Message:
    """Why an agent may not run with the identity in its spec, and each way out.

    Args:
        agent: the agent.
        holder: the MedplumAgent that has the identity.
        installed: whether the agent has a Deployment.
        before: the spec that stays in force meanwhile; None if the cluster does not have it.
    """
    server, name = agent.spec.server, f"{holder.namespace}/{holder.name}"
    same_server = before is not None and normalised(before.server.base_url) == normalised(server.base_url)
    impact, what = _effect(before, installed=installed, same_server=same_server)
    cause = (
        f"spec.server asks for agent {server.agent_id} on {server.base_url}. The server would send each message for a device to both, and agents "
        f"older than {ZERO_DOWNTIME} would compete for the identity."
    )
    if holder.is_leftover:
        return Message(
            f"The deleted MedplumAgent {name} still has this identity: its Deployment or a pod still exists.",
            cause=cause,
            impact=impact,
            fix=f"None needed; {what.lower()} automatically when both are gone. If the Deployment stays, as after kubectl delete --cascade=orphan, run the "
            "command; it stops that agent.",
            command=f"kubectl -n {holder.namespace} delete deployment {holder.name}",
        )
    fix = f"{what} automatically when {name} has been deleted and its pods are gone, or when {name} runs with another server."
    if before is not None and not same_server:
        fix += f' To stay, set spec.server.baseUrl back to "{before.server.base_url}".'
    else:
        fix += (
            " If you need both, create another Agent on the Medplum server and a new MedplumAgent with its id, and delete this one: "
            "spec.server.agentId cannot be changed. If you do not need this one, delete it."
        )
    return Message(f"The identity in spec.server belongs to MedplumAgent {name}.", cause=cause, impact=impact, fix=fix)


def _effect(before: MedplumAgentSpec | None, *, installed: bool, same_server: bool) -> tuple[str, str]:
    """The impact, and what then happens automatically."""
    if not installed:
        return "This MedplumAgent is not installed and serves no devices.", "The installation starts"
    if same_server:
        return (
            "Both agents run and neither was stopped; devices may receive messages twice. Edits of this spec wait.",
            "Edits are applied",
        )
    keeps = f"; this agent keeps running with {before.server.base_url}" if before is not None else ""
    return f"Nothing was changed{keeps}. Other edits of the spec wait too.", "The change starts"


def rollback_blocked_by_identity(holder: Claim, failed: Failure | None, available: Availability) -> Message:
    """Why a failed change of the server is not rolled back. `failed`: the failure; None if unknown."""
    name = f"{holder.namespace}/{holder.name}"
    why = "" if failed is None else f"The change failed: {failed.message} "
    return Message(
        f"The change failed and cannot be rolled back: MedplumAgent {name} now has the previous identity.",
        cause=f"{why}The previous spec used another server, which would send each message for a device to both agents.",
        impact=available.now,
        fix=f"{(failed.fix if failed else '') or 'Fix the cause of the failure.'} The change then resumes automatically. Or, only if {name} is not needed, "
        "delete it: its devices then have no agent, and the rollback starts when its pods are gone.",
    )
