"""The core promise: a downgrade without an approval changes nothing and explains everything, and an approval is valid once."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.world import FORCE, child

if TYPE_CHECKING:
    from tests.support.world import World

COMMAND = '--overwrite agents.medplum.com/force-downgrade="4.2.3"'


def untouched(world: World) -> tuple[Any, ...]:
    """The values that a refusal must not change."""
    pods = [(pod["metadata"]["uid"], pod["metadata"]["resourceVersion"]) for pod in world.pods()]
    versions = [
        world.read(kind, child(kind))["metadata"]["resourceVersion"] for kind in ("deployment", "service", "pdb")
    ]
    return pods, versions


def refused(world: World) -> dict[str, Any]:
    """Let 5.1.15 serve, ask for 4.2.3 and wait for the refusal. Returns the status."""
    world.install("5.1.15")
    world.set_version("4.2.3")
    return world.wait_for_phase("AwaitingApproval")


def test_refusal_changes_nothing_and_says_what_to_do(world: World) -> None:
    """Deployment, Service, budget and pods keep their resourceVersions; status, condition, Event and log say the same."""
    world.install("5.1.15")
    before = untouched(world)
    world.set_version("4.2.3")
    status = world.wait_for_phase("AwaitingApproval")
    assert before == untouched(world)
    plan = status["plan"]
    for part in (
        "from 5.1.15 to 4.2.3",
        "compete for identity, PID file and ports",
        "5.1.15 stops before 4.2.3 starts",
        "devices cannot deliver messages until 4.2.3 has opened its ports",
        "Every later upgrade from 4.2.3 has such an outage too",
        "durable queue",
        "Run the command in an off-peak hour, or set spec.maintenanceWindows first",
        "Save the JSON of the Agent and its Endpoints from Medplum to a file",
        "messages arrive",
        f"kubectl annotate medplumagent front-desk -n {world.namespace} {COMMAND}",
    ):
        assert part in plan
    condition = world.condition("ApprovalRequired")
    summary, *_, command = plan.splitlines()
    assert command.startswith("Command: kubectl annotate")
    assert ("True", "DowngradeNotApproved", summary) == (condition["status"], condition["reason"], condition["message"])
    [event] = world.wait(lambda: world.events("DowngradeNotApproved"), "the Event")
    assert ("Warning", summary) == (event["type"], event["message"])
    assert '"reason": "DowngradeNotApproved"' in world.log
    states = {kind: world.condition(kind)["status"] for kind in ("Ready", "Available", "Reconciling", "Stalled")}
    assert {"Ready": "False", "Available": "True", "Reconciling": "False", "Stalled": "False"} == states


def test_command_in_the_message_works_as_it_stands(world: World) -> None:
    """The command from `plan`, copied into a shell, approves the downgrade."""
    plan = refused(world)["plan"]
    program, *arguments = shlex.split(plan[plan.index("kubectl annotate") :])
    assert "kubectl" == program
    world.cluster.kubectl(*arguments)
    world.wait_for_phase("Running", "4.2.3")


@pytest.mark.parametrize(
    ("value", "reason", "says"),
    [
        ("true", "ApprovalMalformed", "It must begin with the target version, 4.2.3"),
        ("yes please, 4.2.3", "ApprovalMalformed", "must begin with the target version"),
        ("4.2.2 CHG-1", "ApprovalForOtherTarget", "approves 4.2.2, but spec.version asks for 4.2.3"),
        ("4.2.30", "ApprovalForOtherTarget", "approves 4.2.30"),
        ("4.2.3 " + "x" * 200_000, None, ""),
    ],
    ids=["true", "sentence", "other version", "prefix is not equality", "200 KB are fine"],
)
def test_other_values_are_answered_with_the_right_one(world: World, value: str, reason: str | None, says: str) -> None:
    """A value that does not approve changes nothing, and the answer says what to write instead."""
    refused(world)
    before = untouched(world)
    if reason is None:
        patch = f'{{"metadata":{{"annotations":{{"{FORCE}":"{value}"}}}}}}'
        world.kubectl("patch", "mpa", "front-desk", "--type=merge", "--patch-file=/dev/stdin", input=patch)
        assert len(world.wait_for_phase("Running", "4.2.3")["history"][0]["approval"]["text"]) <= 256
        return
    world.approve(value)
    world.wait(lambda: world.condition("ApprovalRequired")["reason"] == reason, reason)
    assert says in world.status()["plan"]
    assert before == untouched(world)


def test_approval_counts_once(world: World) -> None:
    """After a downgrade and an upgrade the same text approves nothing. Another text does; the same text set again does not."""
    refused(world)
    world.approve("4.2.3 CHG-1")
    world.wait_for_phase("Running", "4.2.3")
    world.set_version("5.1.15")
    world.wait_for_phase("Running", "5.1.15")
    world.set_version("4.2.3")
    world.wait_for_phase("AwaitingApproval")
    assert "ApprovalSpent" == world.condition("ApprovalRequired")["reason"]
    world.kubectl("annotate", "mpa", "front-desk", f"{FORCE}-")

    def taken_off() -> bool:
        return bool("DowngradeNotApproved" == world.condition("ApprovalRequired")["reason"])

    world.wait(taken_off, "the operator saw it taken off")
    world.approve("4.2.3 CHG-1")
    world.wait(lambda: not taken_off(), "the operator saw it put back")
    assert "ApprovalSpent" == world.condition("ApprovalRequired")["reason"]
    world.wait(lambda: 2 <= told_as_spent(world), "an Event tells of each time")
    world.approve("4.2.3 CHG-2")
    assert ["4.2.3 CHG-1", "4.2.3 CHG-2"] == world.wait_for_phase("Running", "4.2.3")["spentApprovals"]


def told_as_spent(world: World) -> int:
    """How many times Events say that the approval is spent, counted as `kubectl describe` shows them."""
    return sum(event["count"] for event in world.events("ApprovalSpent"))


def test_approval_may_have_any_text(world: World) -> None:
    """An emoji and controls that YAML does not print: the record on the Deployment has the text as it was written."""
    refused(world)
    text = "4.2.3 CHG-1 \U0001f691 \u2028 \x7f \x85 \ufeff"
    world.approve(text)
    world.wait_for_phase("Running", "4.2.3")
    record = world.deployment()["metadata"]["annotations"]["agents.medplum.com/rollout"]
    assert text == json.loads(record)["approval"]


def test_reverting_the_version_ends_the_refusal(world: World) -> None:
    """spec.version is set back to the active version: Running, and no agent restarted."""
    refused(world)
    pods = [pod["metadata"]["uid"] for pod in world.pods()]
    world.set_version("5.1.15")
    world.wait_for_phase("Running", "5.1.15")
    assert pods == [pod["metadata"]["uid"] for pod in world.pods()]


def test_pod_that_dies_during_a_refusal_is_replaced_by_the_active_version(world: World) -> None:
    """I2: the Deployment is unchanged, so its controller creates a pod with 5.1.15."""
    refused(world)
    world.kubectl("delete", "pod", "-l", "agents.medplum.com/agent=front-desk")
    world.wait(lambda: world.condition("Available")["status"] == "True" and len(world.pods()) == 1, "a new pod")
    assert "5.1.15" == world.pods()[0]["metadata"]["labels"]["agents.medplum.com/version"]


def test_drift_is_repaired_to_the_active_version_during_a_refusal(world: World) -> None:
    """A Service, and even the Deployment, is deleted while 4.2.3 is refused: both are created again, with 5.1.15."""
    refused(world)
    world.kubectl("delete", "service", "front-desk")
    world.wait(lambda: world.kubectl("get", "service", "front-desk", "--ignore-not-found"), "the Service again")
    world.kubectl("delete", "deployment", "front-desk")
    world.wait(lambda: world.kubectl("get", "deployment", "front-desk", "--ignore-not-found"), "the Deployment again")
    assert "5.1.15" == world.deployment()["spec"]["template"]["metadata"]["labels"]["agents.medplum.com/version"]
    world.wait(lambda: world.condition("Available")["status"] == "True", "serving")
    assert "AwaitingApproval" == world.status()["phase"]
