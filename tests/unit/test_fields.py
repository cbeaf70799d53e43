"""A Deployment is created, not applied, so that no late first write overwrites it; what we created is then owned as if we had applied it."""

from __future__ import annotations

from typing import Any

import pytest

from medplum_agent_operator.core.fields import as_applied
from medplum_agent_operator.errors import ConflictError
from tests.simulated_cluster import SimulatedCluster, installed
from tests.unit.ports import Stage

OURS = {"manager": "medplum-agent-operator", "operation": "Update", "fieldsV1": {"f:spec": {}}}
APPLIED = {**OURS, "operation": "Apply"}
STATUS = {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status"}
KUBECTL = {"manager": "kubectl", "operation": "Update"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([STATUS, OURS], [STATUS, APPLIED], id="created by us"),
        pytest.param([KUBECTL, APPLIED], None, id="applied by us"),
        pytest.param([OURS, APPLIED], [APPLIED], id="both: what was applied counts"),
        pytest.param([{**OURS, "subresource": "status"}], None, id="a status that we wrote"),
        pytest.param([], None, id="not known"),
    ],
)
def test_what_was_created_is_owned_as_if_applied(before: list[Any], after: list[Any] | None) -> None:
    """Others' entries stay as they are."""
    assert after == as_applied({"metadata": {"managedFields": before}})


async def test_a_deployment_that_was_made_meanwhile_is_not_overwritten() -> None:
    """Between the look and the creation a successor was quicker: refused, and the pass ends to begin anew."""
    stage = Stage(SimulatedCluster())
    stage.cluster.faults["create Deployment"] = [ConflictError("it exists", status=409, reason="AlreadyExists")]
    with pytest.raises(ConflictError):
        await stage.one_pass()
    assert "Deployment" not in stage.cluster.simulated.objects


async def test_what_an_operator_that_was_killed_had_created_is_taken_over_before_the_next_write() -> None:
    """Killed between the creation and its note: the next write of anybody's begins with it, bound to what was read."""
    cluster = installed("5.1.14")
    cluster.deployment["metadata"]["managedFields"] = [OURS]
    stage = Stage(cluster.edit(version="5.1.15"))
    await stage.one_pass()
    assert ["patch Deployment", "apply Deployment"] == [one for one in stage.writes if "Deployment" in one]
    [(_, patch)] = [one for one in stage.cluster.patches if one[0] == "Deployment"]
    assert [APPLIED] == patch["metadata"]["managedFields"]
