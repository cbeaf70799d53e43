"""What users can set on every object that the operator creates: `spec.children`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from medplum_agent_operator.core.plan import make_plan
from tests.support.builders import CONFIG, NOW
from tests.support.simulated_cluster import SimulatedCluster, installed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.builders import Raw

GATED = replace(CONFIG, gate_image="registry.example.org/operator:1")
CHILDREN = {
    "labels": {"cost-centre": "4711"},
    "annotations": {"example.org/owner": "clinic"},
    "idleResources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "64Mi"}},
}
CHANNELS = [{"name": "adt", "port": 2575}, {"name": "lab", "port": 2576}]


def written(cluster: SimulatedCluster) -> list[Raw]:
    """What the next pass writes, with a gate."""
    return [dict(action.body) for action in make_plan(cluster.observe(), config=GATED, now=NOW).actions]


def templates(raw: Raw) -> Iterator[Raw]:
    """The pod template of an object."""
    if "template" in raw.get("spec", {}):
        yield raw["spec"]["template"]


def everything(**spec: Any) -> list[Raw]:
    """Every object that an agent may have: at its installation, and before an approved downgrade with its fetch."""
    first = written(SimulatedCluster(installed("5.1.15", gate={"enabled": True}, channels=CHANNELS, **spec).agent))
    down = installed("5.1.15", channels=CHANNELS, **spec).annotate("4.2.3 CHG-1").edit(version="4.2.3")
    job = [dict(action.body) for action in down.plan().actions]
    down.fetched()
    return [*first, *job, *(dict(action.body) for action in down.plan().actions)]


def test_labels_and_annotations_reach_every_object_and_the_pods_of_gates_and_jobs() -> None:
    """A policy that demands a label is met without an exemption. The agent's own pod has its own fields."""
    found = everything(children=CHILDREN)
    assert {
        "ServiceAccount", "Service", "PodDisruptionBudget", "Deployment", "RoleBinding", "Job", "ControllerRevision",
    } == {raw["kind"] for raw in found}  # fmt: skip
    for raw in found:
        for about in (raw["metadata"], *(one["metadata"] for one in templates(raw))):
            own_pod = about is not raw["metadata"] and raw["metadata"]["name"] == "lab"
            assert own_pod is not ("4711" == about["labels"].get("cost-centre")), raw["metadata"]["name"]
            assert own_pod is not ("clinic" == about.get("annotations", {}).get("example.org/owner"))


def test_resources_reach_every_container_that_idles() -> None:
    """A LimitRange with a minimum of 64Mi is met."""
    for raw in everything(children=CHILDREN):
        for template in templates(raw):
            for container in template["spec"]["containers"]:
                if container["name"].startswith("ready-") or raw["kind"] == "Job":
                    assert CHILDREN["idleResources"] == container["resources"]


def test_an_agent_that_sets_none_of_it_is_rendered_as_before() -> None:
    """Nor is its record another one."""
    assert "children" not in installed().deployment["metadata"]["annotations"]["agents.medplum.com/applied-spec"]
    assert all(
        "annotations" not in raw["metadata"]
        for raw in everything()
        if raw["kind"] == "Job" or "-backup-" in raw["metadata"]["name"]
    )


@pytest.mark.parametrize("field", ["labels", "annotations"])
def test_a_change_of_metadata_replaces_no_agent(field: str) -> None:
    """Only the objects are written."""
    cluster = installed("5.1.15")
    [before] = cluster.pods
    cluster.edit(children={field: CHILDREN[field]}).settle()
    assert [before] == cluster.pods
    assert "Deployment" in cluster.writes[-5:]
    assert () == cluster.plan().actions


def test_the_operator_s_own_labels_win() -> None:
    """They select."""
    found = everything(children={"labels": {"team": "x"}})
    assert {"medplum-agent-operator"} == {raw["metadata"]["labels"]["app.kubernetes.io/managed-by"] for raw in found}
