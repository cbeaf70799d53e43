"""A fight with another writer over a field: the first repairs come at once, later ones after growing pauses, and a Warning names both."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from medplum_agent_operator.api.agent import KIND
from medplum_agent_operator.api.annotations import REFRESH
from medplum_agent_operator.memory import FORGOTTEN_AFTER, WRITES_AT_ONCE
from tests.support.ports import Stage
from tests.support.simulated_cluster import installed

FIELD = {"f:spec": {"f:type": {}, "f:replicas": {}}, "f:metadata": {"f:labels": {"f:agents.medplum.com/agent": {}}}}


def meddle(stage: Stage, kind: str, value: Any, field: str = "type", manager: str = "argocd") -> None:
    """Let another program set a field of the spec."""
    raw = stage.simulated.objects[kind]
    raw["spec"][field] = value
    raw["metadata"]["managedFields"] = [{"manager": manager, "operation": "Update", "fieldsV1": FIELD}]
    stage.simulated._touch(raw)
    stage.watch()


async def fight(stage: Stage, seconds: int, step: int = 1, **how: Any) -> list[int]:
    """Let another program answer each repair of the Service within `step` seconds. Returns when the operator repaired it."""
    repaired = []
    for second in range(0, seconds, step):
        meddle(stage, "Service", "NodePort", **how)
        before = stage.writes.count("apply Service")
        await stage.one_pass()
        if stage.writes.count("apply Service") > before:
            repaired.append(second)
        stage.simulated.now += timedelta(seconds=step)
    return repaired


async def test_the_pauses_of_a_fight_grow() -> None:
    """At once a few times, then after 5, 10, 20 seconds and so on."""
    stage = Stage(installed())
    assert [0, 1, 2, 3, 8, 18, 38, 78] == await fight(stage, 150)


async def test_a_pause_grows_to_five_minutes() -> None:
    """And no more."""
    stage = Stage(installed())
    repaired = await fight(stage, 1500, step=10)
    assert 300 == repaired[-1] - repaired[-2]


async def test_a_fight_is_reported_once() -> None:
    """One Warning with field and manager; while nothing is repaired no Event says so, and the plan has it as a notice."""
    stage = Stage(installed())
    repaired = await fight(stage, 60)
    [event] = [event for event in stage.cluster.events if event["reason"] == "FieldContested"]
    assert ("Warning", "argocd changes Service lab (spec.type) again and again.") == (event["type"], event["message"])
    assert event["message"] in (stage.simulated.status.plan or "")
    assert len(repaired) == stage.reasons.count("DriftRepaired")
    assert ("True", "Serving") == stage.simulated.condition("Ready")


async def test_a_pause_ends_with_a_pass() -> None:
    """Nobody changes anything meanwhile: the pass asks to be repeated when the pause ends."""
    stage = Stage(installed())
    await fight(stage, WRITES_AT_ONCE)
    meddle(stage, "Service", "NodePort")
    assert 4.0 == await stage.one_pass()
    stage.simulated.now += timedelta(seconds=4)
    await stage.one_pass()
    assert "ClusterIP" == stage.simulated.objects["Service"]["spec"]["type"]


async def test_a_second_operator_is_named() -> None:
    """It has the same field manager, so the field is ours by name and not by value."""
    stage = Stage(installed())
    await fight(stage, 10, manager="medplum-agent-operator")
    [event] = [event for event in stage.cluster.events if event["reason"] == "FieldContested"]
    assert event["message"].startswith("medplum-agent-operator changes Service lab (spec.type)")


async def test_a_second_agent_is_removed_at_once() -> None:
    """An autoscaler with two replicas: no pause, because the server sends each message to both agents. The Warning comes."""
    stage = Stage(installed())
    for _ in range(8):
        meddle(stage, "Deployment", 2, field="replicas", manager="kube-controller-manager")
        await stage.one_pass()
        assert 1 == stage.simulated.deployment["spec"]["replicas"]
        stage.simulated.now += timedelta(seconds=15)
    assert 1 == stage.reasons.count("FieldContested")


async def test_another_program_that_deletes_an_object_is_answered_after_pauses() -> None:
    """A fight without a field."""
    stage = Stage(installed())
    created = 0
    for _ in range(20):
        stage.simulated.objects.pop("PodDisruptionBudget", None)
        stage.watch()
        await stage.one_pass()
        created += "PodDisruptionBudget" in stage.simulated.objects
        stage.simulated.now += timedelta(seconds=1)
    assert WRITES_AT_ONCE + 2 == created
    [event] = [event for event in stage.cluster.events if event["reason"] == "FieldContested"]
    assert event["message"].startswith(
        "Another program deletes PodDisruptionBudget lab-moves-by-handoff again and again."
    )


async def test_a_pod_template_that_somebody_changes_is_not_replaced_at_once_for_ever() -> None:
    """Each repair replaces the agent: after a pause the plan says why."""
    stage = Stage(installed())
    rollouts = 0
    for _ in range(12):
        raw = stage.simulated.deployment
        raw["spec"]["template"]["spec"]["containers"][0]["image"] = "x.example.org/agent:1"
        raw["metadata"]["managedFields"] = []
        stage.simulated._touch(raw)
        stage.watch()
        before = stage.writes.count("apply Deployment")
        await stage.one_pass()
        rollouts += stage.writes.count("apply Deployment") - before
        stage.simulated.now += timedelta(seconds=1)
    assert rollouts <= WRITES_AT_ONCE + 2
    assert ("False", "FieldContested") == stage.simulated.condition("Ready")


@pytest.mark.parametrize("after", ["calm", "another value", "deleted"])
async def test_a_fight_is_forgotten(after: str) -> None:
    """After half an hour without a repair; when the operator itself wants something else; when the agent is deleted."""
    stage = Stage(installed())
    await fight(stage, WRITES_AT_ONCE + 1)
    if after == "calm":
        stage.simulated.now += FORGOTTEN_AFTER
    elif after == "another value":
        stage.simulated.edit(service={"annotations": {"a": "b"}})
    else:
        stage.seen.replace(KIND, None, [], as_of="999999999")
        await stage.one_pass()
    meddle(stage, "Service", "NodePort")
    await stage.one_pass()
    assert "ClusterIP" == stage.simulated.objects["Service"]["spec"]["type"]


async def test_a_user_who_edits_to_and_fro_fights_with_nobody() -> None:
    """Each edit of the spec is applied at once, however often the same value comes back."""
    stage = Stage(installed())
    for number in range(4 * WRITES_AT_ONCE):
        wanted = ("Evict", "Handoff")[number % 2]
        stage.simulated.edit(handoff={"onNodeDrain": wanted})
        stage.watch()
        await stage.one_pass()
        budget = stage.simulated.objects["PodDisruptionBudget"]["spec"]
        assert (0, 1)[wanted == "Handoff"] == budget.get("minAvailable", 0), number
        stage.simulated.now += timedelta(seconds=1)
    assert "FieldContested" not in stage.reasons


async def test_a_write_that_pauses_leaves_no_revisions() -> None:
    """The record changes too while another program fights over a field of the Deployment: the revision waits for the write that names it."""
    stage = Stage(installed())
    stage.simulated.mark(REFRESH, "now")
    for second in range(12):
        meddle(stage, "Deployment", 700, field="progressDeadlineSeconds")
        if second:
            stage.simulated.mark(REFRESH, f"now {second}")
            stage.watch()
        before = stage.writes.count("apply Deployment")
        created = stage.writes.count("create ControllerRevision")
        await stage.one_pass()
        assert (
            stage.writes.count("create ControllerRevision") - created == stage.writes.count("apply Deployment") - before
        )
        stage.simulated.now += timedelta(seconds=1)
    assert stage.writes.count("apply Deployment") < 12
