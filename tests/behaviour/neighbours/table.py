"""The table of neighbours: who is there, what it does, and what must hold. A new neighbour is a new row.

Played by `test_neighbours`, which also judges what holds for every row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.behaviour.neighbours import policies
from tests.support.world import QUICK, agent_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.cluster import Cluster
    from tests.support.world import World

    Objects = Callable[[Cluster, str], list[dict[str, Any]]]

DEADLINE: Final = {"handoff": {"minReadySeconds": 0, "drainSeconds": 1, "progressDeadlineSeconds": 4}}
DOWN: Final = {"version": "4.2.3"}
MANY: Final = 99
"""The operator removes a second agent at once; each new try begins another."""
UP: Final = {"version": "5.1.16"}


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One row.

    Attributes:
        name: who it is and what it does.
        objects: its objects in the cluster, for a namespace.
        before: the version that serves when it comes; None if it is there before the agent is installed.
        spec: the rest of the agent's spec.
        acts: what it does while the agent serves.
        change: what the user changes then; a downgrade is approved.
        phase: how that ends.
        reason: the reason of an Event or of a condition that says so.
        says: words of `status.plan`.
        heals: whether to take its objects away at the end, and to wait until the agent serves what the spec says.
        rests: whether the operator must then write nothing.
        pods: how many agents may have run at the same time, at most.
    """

    name: str
    objects: Objects | None = None
    before: str | None = "5.1.15"
    spec: Mapping[str, Any] = field(default_factory=dict)
    acts: Callable[[World], object] | None = None
    change: Mapping[str, Any] = field(default_factory=dict)
    phase: str = "Running"
    reason: str = ""
    says: str = ""
    heals: bool = False
    rests: bool = True
    pods: int = 2

    def __str__(self) -> str:
        return self.name


def _policy(make: Callable[..., list[dict[str, Any]]], *arguments: str) -> Objects:
    return lambda cluster, namespace: make(cluster, namespace, *arguments)


def _namespaced(kind: str, spec: dict[str, Any]) -> Objects:
    def objects(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
        del cluster
        metadata = {"name": "tight", "namespace": namespace}
        return [{"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec}]

    return objects


def _scale(world: World) -> None:
    """Set two replicas each time the operator has set one, as an autoscaler does."""
    for _ in range(5):
        world.kubectl("scale", "deployment", "front-desk", "--replicas=2")
        world.wait(lambda: world.deployment()["spec"]["replicas"] == 1, "one agent")


def _reload(world: World) -> None:
    """Add a variable to the pod template, as a reloader does after the edit of a Secret."""
    [old] = [pod["metadata"]["uid"] for pod in world.pods()]
    variable = {"name": "STAKATER_FRONT_DESK_SECRET", "value": "7c1"}
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "agent", "env": [variable]}]}}}}
    world.kubectl("patch", "deployment", "front-desk", "--field-manager=Reloader", "-p", json.dumps(patch))
    world.wait(lambda: [p for p in world.pods() if p["metadata"]["uid"] != old] == world.pods() != [], "the new pod")


def _scale_down(world: World) -> None:
    """Taint the agent's node, as cluster-autoscaler does before it evicts the node's pods."""
    node, taint = world.pods()[0]["spec"]["nodeName"], "ToBeDeletedByClusterAutoscaler"
    world.cluster.kubectl("taint", "node", node, f"{taint}=1790000000:NoSchedule")
    try:
        world.wait(lambda: node not in [pod["spec"].get("nodeName") for pod in world.pods()], "the agent elsewhere")
    finally:
        world.cluster.kubectl("taint", "node", node, f"{taint}:NoSchedule-")


def _relabel(world: World) -> None:
    """Set a label of the operator on the Deployment, twice."""
    label = "app.kubernetes.io/managed-by"
    for _ in range(2):
        world.kubectl("label", "deployment", "front-desk", "--overwrite", f"{label}=platform")
        world.wait(lambda: world.deployment()["metadata"]["labels"][label] != "platform", "the label is put back")


def _second_operator(world: World) -> None:
    """Start an operator of the same agents that sees no nodes, and so wants another budget."""
    world.start_operator("--no-watch-nodes")
    world.wait(lambda: world.events("FieldContested"), "the Warning")
    world.operators[-1].kill()


def _restore(world: World) -> None:
    """Put the Deployment back to what it was before a change of its pods, as a restore from a backup does."""
    old = world.deployment()
    world.patch({"podTemplate": {"nodeSelector": {"kubernetes.io/os": "linux"}}})
    world.wait(lambda: len(world.status()["history"]) == 2, "the change")
    world.wait_for_phase("Running")
    for key in ("resourceVersion", "uid", "managedFields", "generation", "creationTimestamp"):
        old["metadata"].pop(key, None)
    old.pop("status")
    world.kubectl("replace", "-f", "-", input=json.dumps(old))
    world.wait(lambda: "nodeSelector" in world.deployment()["spec"]["template"]["spec"], "what the spec says")
    world.wait(lambda: len(world.status()["history"]) == 3, "the repair")


REFUSED: Final[Mapping[str, Any]] = {"phase": "Failed", "reason": "WriteRefused"}
AWAY: Final[Mapping[str, Any]] = {"phase": "Failed", "reason": "RequestFailing", "heals": True}
NO_POD: Final[Mapping[str, Any]] = {
    "phase": "Failed",
    "reason": "PodCreationFailed",
    "spec": DEADLINE,
    "change": UP,
    "pods": 1,
}

NEIGHBOURS: Final = (
    # Admission that changes objects.
    Neighbour(
        "a policy takes images from a mirror", _policy(policies.mutating, "deployments", policies.IMAGE), change=UP
    ),
    Neighbour("a policy adds a sidecar to pods", _policy(policies.mutating, "pods", policies.SIDECAR), change=UP),
    Neighbour("a policy rewrites a label", _policy(policies.mutating, "deployments", policies.LABEL), change=UP),
    Neighbour(
        "a queue suspends Jobs",
        _policy(policies.mutating, "jobs", policies.SUSPEND),
        change=DOWN,
        phase="Recreating",
        reason="JobSuspended",
        pods=1,
    ),
    # Admission that refuses objects.
    Neighbour(
        "a policy refuses Deployments",
        _policy(policies.refusing, "deployments"),
        change=UP,
        says="deployments need the label team",
        heals=True,
        **REFUSED,
    ),
    Neighbour(
        "a policy refuses revisions",
        _policy(policies.refusing, "controllerrevisions"),
        change=UP,
        says="controllerrevisions need the label team",
        heals=True,
        **REFUSED,
    ),
    Neighbour(
        "a webhook for revisions is away",
        _policy(policies.webhook_away, "controllerrevisions"),
        change=UP,
        says='failed calling webhook "controllerrevisions.example.org"',
        **AWAY,
    ),
    Neighbour(
        "a policy refuses budgets",
        _policy(policies.refusing, "poddisruptionbudgets"),
        before=None,
        says="poddisruptionbudgets need the label team",
        **REFUSED,
    ),
    Neighbour(
        "a policy refuses accounts",
        _policy(policies.refusing, "serviceaccounts"),
        before=None,
        says="serviceaccounts need the label team",
        **REFUSED,
    ),
    Neighbour(
        "a policy that is satisfied by spec.children",
        _policy(policies.refusing, "serviceaccounts"),
        before=None,
        spec={"children": {"labels": {"team": "lab"}}},
    ),
    Neighbour(
        "a policy refuses Jobs",
        _policy(policies.refusing, "jobs"),
        change=DOWN,
        says="jobs need the label team",
        pods=1,
        **REFUSED,
    ),
    Neighbour(
        "a policy refuses gate pods",
        _policy(policies.refusing, "pods"),
        spec={"podTemplate": {"annotations": dict(QUICK), "labels": {"team": "lab"}}},
        change={"gate": {"enabled": True}},
        reason="GateNotServing",  # with the policy's words after a minute: tests/unit/test_gate.py
        rests=False,
    ),
    Neighbour(
        "a webhook for Services is away",
        _policy(policies.webhook_away, "services"),
        before=None,
        says='failed calling webhook "services.example.org"',
        **AWAY,
    ),
    Neighbour(
        "a webhook for Deployments is away",
        _policy(policies.webhook_away, "deployments"),
        change=UP,
        says='failed calling webhook "deployments.example.org"',
        **AWAY,
    ),
    # Limits of the namespace.
    Neighbour(
        "a LimitRange with a minimum",
        _namespaced("LimitRange", {"limits": [{"type": "Container", "min": {"memory": "64Mi"}}]}),
        says="minimum memory usage per Container is 64Mi",
        **NO_POD,
    ),
    Neighbour(
        "a quota of one pod",
        _namespaced("ResourceQuota", {"hard": {"pods": "1"}}),
        says="exceeded quota: tight",
        **NO_POD,
    ),
    Neighbour(
        "a quota of no Jobs",
        _namespaced("ResourceQuota", {"hard": {"count/jobs.batch": "0"}}),
        change=DOWN,
        says="Or set spec.handoff.prePull to false",
        pods=1,
        **REFUSED,
    ),
    # Programs that write.
    Neighbour("an autoscaler wants two agents", acts=_scale, reason="FieldContested", pods=MANY),
    Neighbour("a reloader", acts=_reload),
    Neighbour("a reloader, before 4.2.4", before="4.2.3", acts=_reload, pods=1),
    Neighbour("cluster-autoscaler removes the node", acts=_scale_down, reason="MovingOffNode"),
    Neighbour("somebody rewrites a label", acts=_relabel),
    Neighbour("a second operator with other settings", acts=_second_operator, reason="FieldContested", rests=False),
    # The repair begins while the pod of the restored template still starts.
    Neighbour("a restore of the Deployment", acts=_restore, reason="RecordRestored", pods=3),
)


def manifest(row: Neighbour) -> dict[str, Any]:
    """The agent of a row."""
    return agent_manifest(version=row.before or "5.1.15", **row.spec)
