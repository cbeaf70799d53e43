"""Messages about an identity that another MedplumAgent has. Called by `checks`, `verdict` and `reconcile`."""

from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.identity import Claim, normalised
from medplum_agent_operator.core.observed.rollout_record import Failure
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.core.observed.version import ZERO_DOWNTIME
from medplum_agent_operator.core.policy.availability import Availability


def identity_taken(
    agent: MedplumAgent, holder: Claim, *, available: Availability | None, before: MedplumAgentSpec | None
) -> Message:
    """Why an agent may not run with the identity in its spec, and each way out.

    Args:
        agent: the agent.
        holder: the MedplumAgent that has the identity.
        available: who serves this agent's devices; None if the agent is not installed.
        before: the spec that stays in force meanwhile; None if the cluster does not have it.
    """
    server, name = agent.spec.server, f"{holder.namespace}/{holder.name}"
    same_server = before is not None and normalised(before.server.base_url) == normalised(server.base_url)
    impact, what = _effect(before, available, same_server=same_server)
    cause = (
        f"spec.server asks for agent {server.agent_id} on {server.base_url}. The server would send each message for a device to both, and agents "
        f"older than {ZERO_DOWNTIME} would compete for the identity."
    )
    if holder.is_leftover:
        return Message(
            f"The deleted MedplumAgent {name} still has this identity: its Deployment or a pod still exists.",
            cause=cause,
            impact=f"{impact} The agent of {name} may still serve devices.",
            fix=f"None needed; {what.lower()} automatically when both are gone. If the Deployment stays, as after kubectl delete --cascade=orphan, run the "
            "command: it stops that agent, and its devices have none until this one serves.",
            command=f"kubectl -n {holder.namespace} delete deployment {holder.name}",
        )
    return Message(
        f"The identity in spec.server belongs to MedplumAgent {name}.",
        cause=cause,
        impact=impact if same_server and available is not None else f"{impact} The agent of {name} is not affected.",
        fix=_ways_out(name, what, None if before is None or same_server else before),
    )


def _ways_out(name: str, what: str, before: MedplumAgentSpec | None) -> str:
    """What to do about an identity that is taken. `before`: the spec with another server to which the user can return; None without one."""
    delete = f"If {name} is not needed, delete it: its devices have no agent then, and {what[0].lower()}{what[1:]} automatically when its pods are gone."
    if before is not None:
        return f'To stay, set spec.server.baseUrl back to "{before.server.base_url}". {delete}'
    return (
        f"If you do not need this MedplumAgent, delete it. {delete} If you need both, create another Agent in Medplum and a new MedplumAgent with its "
        "id, and delete this one: spec.server.agentId cannot be changed."
    )


def _effect(before: MedplumAgentSpec | None, available: Availability | None, *, same_server: bool) -> tuple[str, str]:
    """The impact, and what then happens automatically."""
    if available is None:
        return "This MedplumAgent is not installed and serves no devices.", "The installation starts"
    if same_server:
        return (
            f"{available.now} Both agents run and neither was stopped; devices may receive messages twice. Edits of this spec wait.",
            "Edits are applied",
        )
    keeps = f"; this agent keeps running with {before.server.base_url}" if before is not None else ""
    return f"{available.now} Nothing was changed{keeps}. Other edits of the spec wait too.", "The change starts"


def rollback_blocked_by_identity(key: Key, holder: Claim, failed: Failure | None, available: Availability) -> Message:
    """Why a failed change of the server is not rolled back. `failed`: the failure; None if unknown."""
    name = f"{holder.namespace}/{holder.name}"
    why = "" if failed is None else f"The change failed: {failed.message} "
    return Message(
        f"The change failed and cannot be rolled back: MedplumAgent {name} now has the previous identity.",
        cause=f"{why}The previous spec used another server. There, {name} now has this agent's id, and the server would send each message to both.",
        impact=available.now,
        fix=f"{(failed.fix if failed else '') or 'Fix the cause of the failure.'} The change then resumes automatically. Or, only if {name} is not needed, "
        "delete it: its devices have no agent then, and the rollback starts automatically when its pods are gone. The command shows the agent's log.",
        command=f"kubectl -n {key.namespace} logs deployment/{key.name} -c agent",
    )
