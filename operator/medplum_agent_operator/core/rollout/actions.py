"""The writes of a pass: the objects beside the agent's Deployment, and how each object is compared with the live one.

Called by `plan` and `rollback`. Once an action is applied, the next observation must lead to no action.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from medplum_agent_operator.api.annotations import MANAGED_BY
from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.objects import gate_pod
from medplum_agent_operator.core.objects.agent_pod import selector
from medplum_agent_operator.core.objects.children import APPLIED_HASH, render_gate, render_supporting
from medplum_agent_operator.core.observed.deployment import LiveDeployment
from medplum_agent_operator.core.observed.drift import applied_fields, first_difference, first_drift
from medplum_agent_operator.core.observed.foreign_fields import with_own_leftovers
from medplum_agent_operator.core.observed.identity import Identity, applied
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.ownership import Ownership, ownership
from medplum_agent_operator.core.observed.scope import Config
from medplum_agent_operator.core.policy.drain import protected
from medplum_agent_operator.core.policy.prepull import Fetch
from medplum_agent_operator.core.rollout import template_in_force


@dataclass(frozen=True, slots=True)
class Apply:
    """One idempotent effect: server-side apply of `body`; for an immutable object, its creation.

    Attributes:
        body: the desired object.
        live: the live object; None if it does not exist.
        difference: the path of the first field that differs; `missing` without a live object.
        disruptive: whether it replaces pods.
        immutable: whether the object is only created, never changed: an existing object of that name is the same.
        rehearsal: what a rollback would write, a live object with its resource version. The action is done only if the API server would accept that.
    """

    body: Mapping[str, Any] = field(repr=False)
    live: Mapping[str, Any] | None = field(repr=False)
    difference: str
    disruptive: bool = False
    immutable: bool = False
    rehearsal: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    @property
    def kind(self) -> str:
        """The object's kind."""
        return str(self.body["kind"])

    @property
    def name(self) -> str:
        """The object's name."""
        return str(self.body["metadata"]["name"])


def apply_if_different(
    body: Mapping[str, Any], live: Mapping[str, Any] | None, *, disruptive: bool = False
) -> tuple[Apply, ...]:
    """The action that applies `body`; empty if the live object does not differ."""
    about, rest = {"spec": body.get("spec", {})}, {key: value for key, value in body.items() if key != "spec"}
    if live is None:
        difference: str | None = "missing"
    elif _hash(body) == _hash(
        live
    ):  # a policy's rewrite of spec or labels is no drift; annotations have our records and are compared exactly
        about["metadata"] = {"labels": body["metadata"].get("labels", {})}
        rest["metadata"] = {key: value for key, value in body["metadata"].items() if key != "labels"}
        difference = first_drift(about, live, applied_fields(live, MANAGED_BY)) or first_difference(rest, live)
    else:
        difference = first_difference(about, live) or first_difference(rest, live)
    return () if difference is None else (Apply(body, live, difference, disruptive),)


def as_stored(body: Mapping[str, Any], live: LiveDeployment | None) -> Mapping[str, Any]:
    """The Deployment with the pod template in the form that the API server stores: this write replaces no pod (docs/adr/0029)."""
    if live is None:
        return body
    template = with_own_leftovers(live.as_stored(body["spec"]["template"]), live.raw)
    return {**body, "spec": {**body["spec"], "template": template}}


def _hash(raw: Mapping[str, Any]) -> str | None:
    found: str | None = (raw["metadata"].get("annotations") or {}).get(APPLIED_HASH)
    return found


def supporting_actions(observed: Observed, spec: MedplumAgentSpec, config: Config) -> tuple[Apply, ...]:
    """The actions beside the agent's own Deployment; empty if no object differs."""
    bodies = render_supporting(
        observed.agent,
        spec,
        protected=protected(spec, nodes_watched=config.nodes_watched),
        through_gate=gate_pod.routes_through_gate(spec, observed.children.get("GateDeployment")),
    )
    bodies |= _gate_bodies(observed, spec, config)
    return tuple(
        action
        for part, body in bodies.items()
        if _may_write(observed, part)
        for action in apply_if_different(body, observed.children.get(part))
    )


def _may_write(observed: Observed, part: str) -> bool:
    """Whether a child may be written: never one of another owner, and none is created for an agent that is being deleted.

    The Service leads to the gate or past it: where the gate's Deployment has another owner, it stays as it is.
    """
    live, agent = observed.children.get(part), observed.agent
    if live is None:
        return not agent.finalizers
    gate = observed.children.get("GateDeployment") if part == "Service" else None
    return all(ownership(raw, agent) is Ownership.OURS for raw in (live, gate) if raw is not None)


def while_fetching(observed: Observed, fetch: Fetch, config: Config) -> tuple[Apply, ...]:
    """The actions while the image is pulled: the Job that pulls it, and the objects beside the agent by the applied spec."""
    applied = observed.applied_spec
    actions = () if applied is None else supporting_actions(observed, applied, config)
    return actions if fetch.job is not None else (*actions, Apply(fetch.body, None, "missing"))


def _gate_bodies(observed: Observed, spec: MedplumAgentSpec, config: Config) -> dict[str, dict[str, Any]]:
    """The gate's objects. A gate that the spec no longer has runs until the Service bypasses it; then it gets no replicas."""
    agent, live = observed.agent, observed.children.get("GateDeployment")
    found = template_in_force.of_gate(observed, spec, config)
    if found is None:
        return {}
    if spec.gated:
        return render_gate(agent, spec, template=found.applied, replicas=spec.gate.replicas)
    if live is None or ownership(live, agent) is not Ownership.OURS:
        return {}
    service = observed.children.get("Service") or {}
    bypassed = (service.get("spec") or {}).get("selector") == selector(agent)
    if not bypassed:
        return {}
    return {"GateDeployment": render_gate(agent, spec, template=found.applied, replicas=0)["GateDeployment"]}


def newly_claimed(actions: Iterable[Apply]) -> Identity | None:
    """The identity with which an action creates a Deployment, or to which it changes one; None without such an action."""
    for action in actions:
        identity = applied(action.body) if action.kind == "Deployment" else None
        if identity is not None and (action.live is None or applied(action.live) != identity):
            return identity
    return None
