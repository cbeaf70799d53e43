"""Fields of the pod template that somebody co-owns: reported, removed with the next rollout, and never a reason to replace a pod."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from medplum_agent_operator.api.annotations import MANAGED_BY
from medplum_agent_operator.core.observed.foreign_fields import (
    of_pod_spec,
    removal,
    with_foreign_fields_only,
    with_own_leftovers,
    without_foreign_ownership,
)
from medplum_agent_operator.slim import slim
from tests.support.builders import agent
from tests.support.ports import Stage
from tests.support.simulated_cluster.admission import AdmittingCluster, fields_v1
from tests.support.simulated_cluster.situations import QUICK

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.builders import Raw

TWO = [{"name": "adt", "port": 2575}, {"name": "lab", "port": 2576}]


def installed(version: str = "5.1.14", **spec: Any) -> AdmittingCluster:
    """A cluster in which an agent with two channels serves."""
    cluster = AdmittingCluster(agent(version, **{"handoff": QUICK, "channels": TWO, **spec}))
    cluster.settle()
    return cluster


def pod(cluster: AdmittingCluster) -> Raw:
    """The live pod template's spec."""
    found: Raw = cluster.deployment["spec"]["template"]["spec"]
    return found


async def at_rest(stage: Stage) -> None:
    """Run passes and controllers until the agent serves."""
    for _ in range(40):
        stage.watch()
        await stage.one_pass()
        stage.simulated.tick()


def rendered(cluster: AdmittingCluster) -> Raw:
    """The pod template as the operator rendered it."""
    recorded = cluster.observe().deployment
    assert recorded is not None
    assert recorded.applied_template is not None
    return dict(recorded.applied_template.template)


def nothing(spec: Raw) -> None:
    """Apply it as it is."""
    del spec


def select_ssd(spec: Raw) -> None:
    """Set a node selector, as an undo does that brings back an old spec."""
    spec["template"]["spec"]["nodeSelector"] = {"disk": "ssd"}


async def test_what_kubectl_co_owns_goes_with_the_rollout_that_removes_it() -> None:
    """The whole Deployment was applied by kubectl once; then a channel is removed: its probe container and port go, by one write of the template."""
    cluster = installed()
    cluster.edit_as("kubectl", nothing)
    stage = Stage(cluster)
    cluster.edit(channels=TWO[:1])
    await at_rest(stage)
    assert ["agent"] == [one["name"] for one in pod(cluster)["containers"]]
    assert [2575] == [one["containerPort"] for one in pod(cluster)["containers"][0]["ports"]]
    assert ["patch Deployment", "apply Deployment"] == [one for one in stage.writes if one.endswith(" Deployment")]
    assert "ForeignFields" not in stage.reasons


async def test_a_field_that_kubectl_left_is_reported_and_goes_with_the_next_rollout() -> None:
    """No pod is replaced for it, the finding comes once with manager and command, and rest costs no write."""
    cluster = installed()
    cluster.edit_as("kubectl-rollout", select_ssd).settle(operator=False)
    stage, pods = Stage(cluster), {one.name for one in cluster.pods}
    await at_rest(stage)
    [event] = [event for event in stage.cluster.events if event["reason"] == "ForeignFields"]
    assert event["message"].startswith("kubectl-rollout has set a field of the pod template that the spec does not")
    plan = cluster.status.plan or ""
    assert '\'{"spec":{"template":{"spec":{"nodeSelector":null}}}}\'' in plan.splitlines()[-1]
    assert ("True", pods) == (cluster.condition("Ready")[0], {one.name for one in cluster.pods})
    writes = list(stage.writes)
    await at_rest(stage)
    assert writes == stage.writes
    cluster.edit(version="5.1.15")
    await at_rest(stage)
    assert "nodeSelector" not in pod(cluster)
    assert "pod template" not in (cluster.status.plan or "")


async def test_a_write_that_replaces_no_pod_leaves_it() -> None:
    """Another deadline is applied while an agent before 4.2.4 serves: its pod stays."""
    cluster = installed("4.2.3")
    cluster.edit_as("kubectl", select_ssd).settle()
    stage, pods = Stage(cluster), {one.name for one in cluster.pods}
    cluster.edit(handoff={**QUICK, "progressDeadlineSeconds": 61})
    await at_rest(stage)
    assert (61, pods) == (cluster.deployment["spec"]["progressDeadlineSeconds"], {one.name for one in cluster.pods})
    assert {"disk": "ssd"} == pod(cluster)["nodeSelector"]


async def test_an_operator_that_died_between_the_two_writes_replaces_no_pod() -> None:
    """It has taken the field over, and the user reverts the change: the next operator keeps the field until a rollout."""
    cluster = installed()
    cluster.edit_as("kubectl", select_ssd).settle()
    metadata = cluster.deployment["metadata"]
    body = copy.deepcopy(cluster.deployment)
    body["spec"]["template"] = {**copy.deepcopy(rendered(cluster)), "metadata": {}}
    body["spec"]["template"]["spec"]["schedulerName"] = "other"
    taken = without_foreign_ownership(body, cluster.deployment)
    assert taken is not None
    metadata["managedFields"] = taken
    stage, pods = Stage(cluster), {one.name for one in cluster.pods}
    cluster.edit(handoff={**QUICK, "progressDeadlineSeconds": 61})
    await at_rest(stage)
    assert pods == {one.name for one in cluster.pods}
    assert 61 == cluster.deployment["spec"]["progressDeadlineSeconds"]


def sidecar(spec: Raw) -> None:
    """Add a container."""
    spec["template"]["spec"]["containers"].append({"name": "vector", "image": "vector:1"})


def variable(spec: Raw) -> None:
    """Add a variable to the agent."""
    spec["template"]["spec"]["containers"][0]["env"].append({"name": "STAKATER_LAB", "value": "1"})


def restart(spec: Raw) -> None:
    """Run `kubectl rollout restart`."""
    spec["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("manager", "edit", "found"),
    [
        ("kubectl", nothing, []),
        ("kubectl", select_ssd, ["nodeSelector"]),
        ("kubectl-edit", sidecar, ["containers[name=vector]"]),
        ("kubectl-set", variable, ["containers[name=agent].env[name=STAKATER_LAB]"]),
        ("kustomize-controller", sidecar, ["containers[name=vector]"]),
        ("Reloader", variable, []),
        ("kubectl-rollout", restart, []),
    ],
    ids=["all as it is", "selector", "sidecar", "variable", "GitOps", "a reloader", "a restart"],
)
def test_what_counts(manager: str, edit: Callable[[Raw], None], found: list[str]) -> None:
    """Fields of the pod that the operator does not render; no defaults, no requests for new pods. The cache has them too."""
    cluster = installed()
    applied = rendered(cluster)
    cluster.edit_as(manager, edit)
    live = cluster.deployment
    assert found == [str(one) for one in of_pod_spec(applied, live)]
    assert found == [str(one) for one in of_pod_spec(applied, slim("Deployment", live))]


def test_what_an_admission_policy_adds_belongs_to_nobody() -> None:
    """So it is no foreign field."""
    cluster = installed()
    applied = rendered(cluster)
    pod(cluster)["containers"].append({"name": "istio-proxy", "image": "istio:1"})
    assert () == of_pod_spec(applied, cluster.deployment)


def test_the_cache_keeps_nothing_of_an_untouched_deployment() -> None:
    """The fields of the operator and of the Deployment controller are dropped."""
    cluster = installed()
    entries = cluster.deployment["metadata"]["managedFields"]
    entries.append({"manager": "kube-controller-manager", "subresource": "status", "fieldsV1": {"f:status": {}}})
    assert "managedFields" not in with_foreign_fields_only(cluster.deployment)["metadata"]


@pytest.mark.parametrize(
    ("manager", "operation", "taken"),
    [
        ("kubectl", "Apply", True),
        ("velero-server", "Update", True),
        ("kustomize-controller", "Apply", False),
    ],
)
def test_a_shared_field_is_taken_over(manager: str, operation: str, *, taken: bool) -> None:
    """Not from a program that applies it again and again: each time would replace the pod."""
    live = {"spec": {"ports": [{"port": 2575, "protocol": "TCP"}, {"port": 2576, "protocol": "TCP"}]}}
    entries = [
        {"manager": name, "operation": how, "fieldsV1": fields_v1(live)}
        for name, how in ((MANAGED_BY, "Apply"), (manager, operation))
    ]
    raw = {"kind": "Service", "metadata": {"managedFields": entries}, **live}
    body = {"kind": "Service", "metadata": {}, "spec": {"ports": live["spec"]["ports"][:1]}}
    found = without_foreign_ownership(body, raw)
    assert taken is (found is not None)
    if found is not None:
        [other] = [entry for entry in found if entry["manager"] == manager]
        assert '{"port":2576' not in json.dumps(other).replace("\\", "")
        assert entries[1]["fieldsV1"] == fields_v1(live), "the live object stays as it is"


def test_a_service_keeps_the_port_that_a_person_added() -> None:
    """The operator never rendered it."""
    ours, theirs = {"port": 2575, "protocol": "TCP"}, {"port": 9999, "protocol": "TCP"}
    entries = [
        {"manager": MANAGED_BY, "operation": "Apply", "fieldsV1": fields_v1({"spec": {"ports": [ours]}})},
        {"manager": "kubectl-edit", "operation": "Update", "fieldsV1": fields_v1({"spec": {"ports": [theirs]}})},
    ]
    raw = {"kind": "Service", "metadata": {"managedFields": entries}, "spec": {"ports": [ours, theirs]}}
    assert None is without_foreign_ownership({"kind": "Service", "metadata": {}, "spec": {"ports": [ours]}}, raw)


def test_the_operator_gets_its_entry_if_it_has_none() -> None:
    """As after a restore that dropped the managed fields."""
    cluster = installed()
    cluster.edit_as("kubectl", select_ssd)
    raw = cluster.deployment
    raw["metadata"]["managedFields"] = [e for e in raw["metadata"]["managedFields"] if e["manager"] == "kubectl"]
    body = {**raw, "metadata": {}, "spec": {"template": {"metadata": {"x": "y"}, "spec": {"containers": []}}}}
    found = without_foreign_ownership(body, raw)
    assert found is not None
    assert [MANAGED_BY] == [one["manager"] for one in found if one["manager"] != "kubectl"]


def test_one_patch_removes_several_fields() -> None:
    """Items of lists by their merge key, other fields by null."""
    cluster = installed()
    applied = rendered(cluster)

    def edit(spec: Raw) -> None:
        select_ssd(spec)
        sidecar(spec)
        spec["template"]["spec"]["containers"][0]["ports"].append({"containerPort": 9, "protocol": "TCP"})

    cluster.edit_as("kubectl", edit)
    patch = json.loads(removal(of_pod_spec(applied, cluster.deployment)))["spec"]["template"]["spec"]
    assert None is patch["nodeSelector"]
    assert {"name": "vector", "$patch": "delete"} in patch["containers"]
    assert {"name": "agent", "ports": [{"containerPort": 9, "$patch": "delete"}]} in patch["containers"]


def test_own_leftovers_of_every_form_are_copied() -> None:
    """Items of lists, fields of maps that the operator does not render, and whole fields."""
    live = {
        "containers": [{"name": "agent", "env": [{"name": "A", "value": "1"}]}, {"name": "ready-lab"}],
        "securityContext": {"fsGroup": 1},
        "nodeSelector": {"a": "b"},
    }
    entry = {"manager": MANAGED_BY, "operation": "Apply", "fieldsV1": fields_v1({"spec": {"template": {"spec": live}}})}
    raw = {"metadata": {"managedFields": [entry]}, "spec": {"template": {"spec": live}}}
    template = {"metadata": {}, "spec": {"containers": [{"name": "agent"}]}}
    assert {"metadata": {}, "spec": live} == with_own_leftovers(template, raw)
