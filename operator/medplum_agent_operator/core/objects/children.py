"""Everything that the operator owns besides the pod template: Deployment, Service, PodDisruptionBudget, ServiceAccount.

Called by `plan`. Pure: what is rendered here is exactly what is applied, under one field manager, by server-side apply.
"""

from collections.abc import Mapping
from typing import Any, Final

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import API_VERSION, KIND, MedplumAgent
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.api.status import Strategy
from medplum_agent_operator.core.objects import gate_pod
from medplum_agent_operator.core.objects.agent_pod import selector
from medplum_agent_operator.core.observed.drift import fingerprint
from medplum_agent_operator.core.observed.mechanics import ROLLING_HANDOFF, mechanics_of
from medplum_agent_operator.core.observed.rollout_record import AppliedTemplate, RolloutRecord

APPLIED_HASH: Final = f"{names.DOMAIN}/applied-hash"
OLD_REPLICA_SETS: Final = 3
CHILDREN: Final[Mapping[str, tuple[str, str]]] = {
    "Service": ("Service", ""),
    # A refused eviction names the budget and nothing else: so its name says what is going on.
    "PodDisruptionBudget": ("PodDisruptionBudget", "-moves-by-handoff"),
    "ServiceAccount": ("ServiceAccount", ""),
    "AgentService": ("Service", "-agent"),
    "GateServiceAccount": ("ServiceAccount", "-gate"),
    "GateRoleBinding": ("RoleBinding", "-gate"),
    "GatePodDisruptionBudget": ("PodDisruptionBudget", "-gate"),
    "GateDeployment": ("Deployment", "-gate"),
}
"""What belongs to an agent besides its own Deployment: the part that it plays, its kind, and what its name adds to the agent's."""

ALWAYS: Final = ("Service", "PodDisruptionBudget", "ServiceAccount")
"""The children of every agent; the others are there for a gate."""


def kind_of(part: str) -> str:
    """The kind of an agent's child; its own Deployment is one too."""
    return CHILDREN[part][0] if part in CHILDREN else part


def name_of(part: str, agent: str) -> str:
    """The name of an agent's child."""
    return agent + CHILDREN[part][1] if part in CHILDREN else agent


def owner_reference(agent: MedplumAgent) -> dict[str, Any]:
    """What makes an object the agent's own."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": agent.name,
        "uid": agent.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _object(agent: MedplumAgent, api_version: str, part: str, **content: Any) -> dict[str, Any]:
    """An owned object. The MedplumAgent is its controller: garbage collection removes it with its owner, no finalizer needed."""
    labels = {
        **selector(agent),
        names.INSTANCE_LABEL: agent.name,
        names.COMPONENT_LABEL: "gate" if part.startswith("Gate") else "agent",
        names.MANAGED_BY_LABEL: names.MANAGED_BY,
    }
    metadata = {
        "name": name_of(part, agent.name),
        "namespace": agent.namespace,
        "labels": labels | content.pop("labels", {}),
        "annotations": content.pop("annotations", {}),
        "ownerReferences": [owner_reference(agent)],
    }
    return {"apiVersion": api_version, "kind": kind_of(part), "metadata": metadata, **content}


def _sealed(body: dict[str, Any]) -> dict[str, Any]:
    """Add the fingerprint of what is rendered, so that a field that is no longer rendered is noticed too."""
    body["metadata"]["annotations"] = {**body["metadata"]["annotations"], APPLIED_HASH: fingerprint(body)}
    return body


def render_supporting(
    agent: MedplumAgent, spec: MedplumAgentSpec, *, protected: bool, through_gate: bool = False
) -> dict[str, dict[str, Any]]:
    """ServiceAccount, Service and PodDisruptionBudget for a spec, by their part.

    Args:
        agent: the MedplumAgent.
        spec: the spec in force.
        protected: whether the budget refuses an eviction until the agent has been handed over (`policy.drain.protected`).
        through_gate: whether the Service selects the gate's pods; otherwise it selects the agent's pod.
    """
    bodies = (
        _object(agent, "v1", "ServiceAccount", automountServiceAccountToken=False),
        _render_service(agent, spec, through_gate=through_gate),
        _render_budget(agent, held_back=protected),
    )
    return {body["kind"]: _sealed(body) for body in bodies}


def render_gate(
    agent: MedplumAgent, spec: MedplumAgentSpec, *, template: AppliedTemplate, replicas: int
) -> dict[str, dict[str, Any]]:
    """What runs a gate, by its part, in the order in which it is to be applied."""
    own = gate_pod.gate_selector(agent)
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": gate_pod.CLUSTER_ROLE}
    account = {"kind": "ServiceAccount", "name": gate_pod.gate_name(agent), "namespace": agent.namespace}
    ports = [
        {"name": gate_pod.port_name(c), "port": c.port, "targetPort": c.port, "protocol": "TCP"} for c in spec.channels
    ]
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        # Its endpoints are how the gate learns of the agent's pods; nobody connects to it.
        "AgentService": ("v1", {"spec": {"clusterIP": "None", "selector": selector(agent), "ports": ports}}),
        "GateServiceAccount": ("v1", {"automountServiceAccountToken": True}),
        "GateRoleBinding": ("rbac.authorization.k8s.io/v1", {"roleRef": role, "subjects": [account]}),
        "GatePodDisruptionBudget": ("policy/v1", {"spec": _budget({"maxUnavailable": 1}, own)}),
        "GateDeployment": (
            "apps/v1",
            {
                "annotations": {names.APPLIED_TEMPLATE: template.dump()},
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": own},
                    "strategy": dict(ROLLING_HANDOFF.deployment_strategy),
                    "minReadySeconds": 2,
                    "revisionHistoryLimit": OLD_REPLICA_SETS,
                    "template": template.template,
                },
            },
        ),
    }
    return {part: _sealed(_object(agent, version, part, **content)) for part, (version, content) in bodies.items()}


def _render_service(agent: MedplumAgent, spec: MedplumAgentSpec, *, through_gate: bool) -> dict[str, Any]:
    wanted = spec.service
    ports = []
    for channel in spec.channels:
        port: dict[str, Any] = {
            "name": channel.name,
            "port": channel.port,
            "targetPort": gate_pod.port_name(channel) if through_gate else channel.port,
            "protocol": "TCP",
        }
        if channel.node_port:
            port["nodePort"] = channel.node_port
        ports.append(port)
    chosen = gate_pod.gate_selector(agent) if through_gate else selector(agent)
    body: dict[str, Any] = {"type": str(wanted.type), "selector": chosen, "ports": ports}
    if wanted.external_traffic_policy:
        body["externalTrafficPolicy"] = str(wanted.external_traffic_policy)
    if wanted.load_balancer_class:
        body["loadBalancerClass"] = wanted.load_balancer_class
    if wanted.load_balancer_source_ranges:
        body["loadBalancerSourceRanges"] = list(wanted.load_balancer_source_ranges)
    return _object(agent, "v1", "Service", labels=dict(wanted.labels), annotations=dict(wanted.annotations), spec=body)


def _render_budget(agent: MedplumAgent, *, held_back: bool) -> dict[str, Any]:
    """Hold an eviction back where the agent can be handed to another node first; let it happen where it cannot."""
    limit = {"minAvailable": 1} if held_back else {"maxUnavailable": 1}
    how = (
        "An eviction is held back until the operator has handed the agent to another node; the drain then goes on by itself. If the operator does "
        f"not run, do what it would: with the node cordoned, kubectl -n {agent.namespace} rollout restart deployment/{agent.name}. To let the agent "
        f"stop instead: kubectl -n {agent.namespace} delete pod -l {names.AGENT_LABEL}={agent.name}."
        if held_back
        else "An eviction goes through: the agent stops, and starts elsewhere."
    )
    return _object(
        agent,
        "policy/v1",
        "PodDisruptionBudget",
        annotations={names.NODE_DRAIN: how},
        spec=_budget(limit, selector(agent)),
    )


def _budget(limit: Mapping[str, int], pods: Mapping[str, str]) -> dict[str, Any]:
    return {**limit, "selector": {"matchLabels": pods}, "unhealthyPodEvictionPolicy": "AlwaysAllow"}


def applied_spec(spec: MedplumAgentSpec) -> str:
    """The note of what a Deployment was rendered from. `paused` is left out: it is about the operator, not the agent."""
    return spec.model_dump_json(by_alias=True, exclude_none=True, exclude={"paused"})


def render_deployment(
    agent: MedplumAgent,
    spec: MedplumAgentSpec,
    *,
    template: AppliedTemplate,
    strategy: Strategy,
    record: RolloutRecord,
    last_good: str | None,
) -> dict[str, Any]:
    """The Deployment: one replica, and the strategy that its next rollout takes.

    A zero is omitted where the API server omits it, or the live object would differ for ever.
    """
    body = _object(
        agent,
        "apps/v1",
        "Deployment",
        labels={names.VERSION_LABEL: spec.version},
        annotations={names.APPLIED_SPEC: applied_spec(spec)},
        spec={
            "replicas": 1,
            "selector": {"matchLabels": selector(agent)},
            "strategy": dict(mechanics_of(strategy).deployment_strategy),
            **({"minReadySeconds": spec.handoff.min_ready_seconds} if spec.handoff.min_ready_seconds else {}),
            "progressDeadlineSeconds": spec.handoff.progress_deadline_seconds,
            "revisionHistoryLimit": OLD_REPLICA_SETS,
            "template": template.template,
        },
    )
    body = _sealed(body)
    notes = {names.ROLLOUT: record.dump(), names.APPLIED_TEMPLATE: template.dump()}
    body["metadata"]["annotations"] |= notes if last_good is None else {**notes, names.LAST_GOOD: last_good}
    return body
