"""An agent's child objects: Deployment, Service, PodDisruptionBudget, ServiceAccount, and those that run its gate.

Called by `rollout`. Pure. Exactly the rendered objects are applied, by server-side apply under one field manager.
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
from medplum_agent_operator.core.observed.notes import Notes, copy_of, has_copy
from medplum_agent_operator.core.observed.revision import KIND as KIND_OF_REVISIONS
from medplum_agent_operator.core.observed.rollout_record import AppliedTemplate, RolloutRecord

APPLIED_HASH: Final = f"{names.DOMAIN}/applied-hash"
OLD_REPLICA_SETS: Final = 3
CHILDREN: Final[Mapping[str, tuple[str, str]]] = {
    "Service": ("Service", ""),
    # A refused eviction shows only the name of the budget, so the name is the explanation.
    "PodDisruptionBudget": ("PodDisruptionBudget", "-moves-by-handoff"),
    "ServiceAccount": ("ServiceAccount", ""),
    "AgentService": ("Service", "-agent"),
    "GateServiceAccount": ("ServiceAccount", "-gate"),
    "GateRoleBinding": ("RoleBinding", "-gate"),
    "GatePodDisruptionBudget": ("PodDisruptionBudget", "-gate"),
    "GateDeployment": ("Deployment", "-gate"),
}
"""An agent's children other than its own Deployment: role to kind and the suffix of its name after the agent's."""

ALWAYS: Final = ("Service", "PodDisruptionBudget", "ServiceAccount")
"""The children that every agent has. The others exist only for a gate."""


def kind_of(role: str) -> str:
    """The kind of a child by its role. The agent's own Deployment has the role "Deployment"."""
    return CHILDREN[role][0] if role in CHILDREN else role


def name_of(role: str, agent: str) -> str:
    """The name of a child by its role and the agent's name."""
    return agent + CHILDREN[role][1] if role in CHILDREN else agent


def owner_reference(agent: MedplumAgent) -> dict[str, Any]:
    """The owner reference that makes the MedplumAgent the controller of an object."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": agent.name,
        "uid": agent.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _object(
    agent: MedplumAgent, spec: MedplumAgentSpec, api_version: str, role: str, /, **content: Any
) -> dict[str, Any]:
    """A child object. Garbage collection deletes it after its owner, the MedplumAgent, without a finalizer."""
    labels = {
        **spec.for_children.labels,
        **selector(agent),
        names.INSTANCE_LABEL: agent.name,
        names.COMPONENT_LABEL: "gate" if role.startswith("Gate") else "agent",
        names.MANAGED_BY_LABEL: names.MANAGED_BY,
    }
    metadata = {
        "name": name_of(role, agent.name),
        "namespace": agent.namespace,
        "labels": labels | content.pop("labels", {}),
        "annotations": dict(spec.for_children.annotations) | content.pop("annotations", {}),
        "ownerReferences": [owner_reference(agent)],
    }
    return {"apiVersion": api_version, "kind": kind_of(role), "metadata": metadata, **content}


def _with_applied_hash(body: dict[str, Any]) -> dict[str, Any]:
    """Add the fingerprint of the rendered object. It also changes when a field is no longer rendered."""
    body["metadata"]["annotations"] = {**body["metadata"]["annotations"], APPLIED_HASH: fingerprint(body)}
    return body


def render_supporting(
    agent: MedplumAgent, spec: MedplumAgentSpec, *, protected: bool, through_gate: bool = False
) -> dict[str, dict[str, Any]]:
    """ServiceAccount, Service and PodDisruptionBudget for a spec, by role.

    Args:
        agent: the MedplumAgent.
        spec: the spec in force.
        protected: whether the budget refuses an eviction until the agent has been handed over (`policy.drain.protected`).
        through_gate: whether the Service selects the gate's pods instead of the agent's pod.
    """
    bodies = (
        _object(agent, spec, "v1", "ServiceAccount", automountServiceAccountToken=False),
        _render_service(agent, spec, through_gate=through_gate),
        _render_budget(agent, spec, protected=protected),
    )
    return {body["kind"]: _with_applied_hash(body) for body in bodies}


def render_gate(
    agent: MedplumAgent, spec: MedplumAgentSpec, *, template: AppliedTemplate, replicas: int
) -> dict[str, dict[str, Any]]:
    """The objects that run a gate, by role, in the order in which they must be applied."""
    gate_pods = gate_pod.gate_selector(agent)
    cluster_role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": gate_pod.CLUSTER_ROLE}
    account = {"kind": "ServiceAccount", "name": gate_pod.gate_name(agent), "namespace": agent.namespace}
    ports = [
        {"name": gate_pod.port_name(c), "port": c.port, "targetPort": c.port, "protocol": "TCP"} for c in spec.channels
    ]
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        # The gate finds the agent's pods through its endpoints. No client connects to it.
        "AgentService": ("v1", {"spec": {"clusterIP": "None", "selector": selector(agent), "ports": ports}}),
        "GateServiceAccount": ("v1", {"automountServiceAccountToken": True}),
        "GateRoleBinding": ("rbac.authorization.k8s.io/v1", {"roleRef": cluster_role, "subjects": [account]}),
        "GatePodDisruptionBudget": ("policy/v1", {"spec": _budget_spec({"maxUnavailable": 1}, gate_pods)}),
        "GateDeployment": (
            "apps/v1",
            {
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": gate_pods},
                    "strategy": dict(ROLLING_HANDOFF.deployment_strategy),
                    "minReadySeconds": 2,
                    "revisionHistoryLimit": OLD_REPLICA_SETS,
                    "template": template.template,
                },
            },
        ),
    }
    return {
        role: _with_applied_hash(_object(agent, spec, version, role, **content))
        for role, (version, content) in bodies.items()
    }


def _render_service(agent: MedplumAgent, spec: MedplumAgentSpec, *, through_gate: bool) -> dict[str, Any]:
    service = spec.service
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
    pods = gate_pod.gate_selector(agent) if through_gate else selector(agent)
    body: dict[str, Any] = {"type": str(service.type), "selector": pods, "ports": ports}
    if service.external_traffic_policy:
        body["externalTrafficPolicy"] = str(service.external_traffic_policy)
    if service.load_balancer_class:
        body["loadBalancerClass"] = service.load_balancer_class
    if service.load_balancer_source_ranges:
        body["loadBalancerSourceRanges"] = list(service.load_balancer_source_ranges)
    return _object(
        agent, spec, "v1", "Service", labels=dict(service.labels), annotations=dict(service.annotations), spec=body
    )


def _render_budget(agent: MedplumAgent, spec: MedplumAgentSpec, *, protected: bool) -> dict[str, Any]:
    """The agent's PodDisruptionBudget: it refuses an eviction if the agent can be handed to another node first."""
    limit = {"minAvailable": 1} if protected else {"maxUnavailable": 1}
    text = (
        "This budget refuses an eviction until the operator has handed the agent to another node. The node drain then resumes automatically. "
        f"If the operator is not running, cordon the node and run `kubectl -n {agent.namespace} rollout restart deployment/{agent.name}`. "
        f"To stop the agent instead, run `kubectl -n {agent.namespace} delete pod -l {names.AGENT_LABEL}={agent.name}`."
        if protected
        else "This budget allows an eviction: the agent stops, and a new pod starts."
    )
    return _object(
        agent,
        spec,
        "policy/v1",
        "PodDisruptionBudget",
        annotations={names.NODE_DRAIN: text},
        spec=_budget_spec(limit, selector(agent)),
    )


def _budget_spec(limit: Mapping[str, int], pods: Mapping[str, str]) -> dict[str, Any]:
    return {**limit, "selector": {"matchLabels": pods}, "unhealthyPodEvictionPolicy": "AlwaysAllow"}


def render_deployment(
    agent: MedplumAgent,
    spec: MedplumAgentSpec,
    *,
    template: AppliedTemplate,
    strategy: Strategy,
    record: RolloutRecord,
    revision: str,
) -> dict[str, Any]:
    """The Deployment: one replica, and the strategy of its next rollout.

    Args:
        agent: the MedplumAgent.
        spec: the spec in force.
        template: the pod template in force.
        strategy: the rollout's strategy.
        record: the rollout's record.
        revision: the name of the revision that has all this.
    """
    deployment = _object(
        agent,
        spec,
        "apps/v1",
        "Deployment",
        labels={names.VERSION_LABEL: spec.version},
        annotations={names.APPLIED_SPEC: copy_of(spec)} if has_copy(spec) else {},
        spec={
            "replicas": 1,
            "selector": {"matchLabels": selector(agent)},
            "strategy": dict(mechanics_of(strategy).deployment_strategy),
            # The API server drops a zero, and the object would always differ.
            **({"minReadySeconds": spec.handoff.min_ready_seconds} if spec.handoff.min_ready_seconds else {}),
            "progressDeadlineSeconds": spec.handoff.progress_deadline_seconds,
            "revisionHistoryLimit": OLD_REPLICA_SETS,
            "template": template.template,
        },
    )
    body = _with_applied_hash(deployment)
    body["metadata"]["annotations"] |= {names.ROLLOUT: record.dump(), names.REVISION: revision}
    return body


def render_revision(agent: MedplumAgent, notes: Notes, number: int) -> dict[str, Any]:
    """A revision: the immutable ControllerRevision that has what the operator remembers. Its name has its number and its content's fingerprint."""
    data = notes.dump()
    version = {} if notes.spec is None else {names.VERSION_LABEL: notes.spec.version}
    spec = notes.spec or agent.spec
    body = _object(agent, spec, "apps/v1", KIND_OF_REVISIONS, labels={names.REVISION: str(number), **version})
    body["metadata"]["name"] = f"{agent.name}-r{number}-{fingerprint([agent.uid, number, data])[:10]}"
    return {**body, "revision": number, "data": data}
