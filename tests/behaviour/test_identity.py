"""One identity, one agent, across objects and namespaces: the second is refused, the first is unaffected, and the refusal ends automatically."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.audit import READS, USER, resource, writes_of_the_operator
from tests.support.world import agent_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.world import World

HERE, THERE = "https://api.medplum.com/", "https://other.example.org/"
PAIRS = 10


def agent(name: str, *, id_of: str = "front-desk", url: str = HERE, **spec: Any) -> dict[str, Any]:
    """A MedplumAgent with the identity of the agent with another name."""
    manifest = agent_manifest(name, **spec)
    manifest["spec"]["server"] |= {"agentId": f"id-of-{id_of}", "baseUrl": url}
    return manifest


def parts(world: World, name: str = "front-desk") -> list[tuple[str, int]]:
    """Values that change with any write of an agent's Deployment or with a new pod."""
    deployment, pods = world.deployment(name), world.pods(name)
    return [
        (deployment["metadata"]["resourceVersion"], deployment["metadata"]["generation"]),
        *((pod["metadata"]["uid"], 0) for pod in pods),
    ]


def refused(world: World, name: str) -> str:
    """Wait until an agent is refused because its identity is taken. Returns the message."""
    plan: str = world.wait_for_phase("Failed", name=name)["plan"]
    assert ["IdentityTaken"] * 2 == [world.condition(kind, name)["reason"] for kind in ("Ready", "Stalled")]
    return plan


def test_second_agent_of_an_identity_is_refused_until_the_first_is_deleted(world: World) -> None:
    """The message names the holder. The second gets no child, and the first gets no write. After the first is deleted, the second is installed."""
    world.install("4.2.3")
    world.wait(lambda: world.events("RolloutCompleted"), "the last Event of the installation")
    before, since = parts(world), datetime.now(UTC)
    world.apply(agent("back-office", version="4.2.3", url="https://API.medplum.com:443"))
    plan = refused(world, "back-office")
    assert f"belongs to MedplumAgent {world.namespace}/front-desk." in plan
    assert "This MedplumAgent is not installed and serves no devices." in plan
    [event] = world.wait(lambda: world.events("IdentityTaken", "back-office"), "the Event")
    assert ("Warning", plan.splitlines()[0]) == (event["type"], event["message"])
    assert "back-office" not in world.kubectl("get", "deployment,service,pdb,serviceaccount,pods", "-o", "name")
    assert before == parts(world)
    assert ["create events", "patch medplumagents/status"] == sorted(writes_of_the_operator(world, since))

    world.kubectl("delete", "mpa", "front-desk", "--timeout=30s")
    # The garbage collector discovers a new CRD within half a minute.
    world.wait_for_phase("Running", "4.2.3", "back-office", seconds=90)
    [started] = world.recorder.served_from.keys() - {uid for uid, _ in before}
    [stopped] = world.recorder.served_until
    assert world.recorder.served_until[stopped] <= world.recorder.served_from[started]


def test_edit_that_would_take_over_a_running_identity_is_refused(world: World) -> None:
    """Even if the edited agent is older: both keep running. After the edit is reverted, all is as before."""
    world.install()
    world.apply(agent("back-office", url=THERE))
    world.wait_for_phase("Running", "5.1.14", "back-office")
    before = parts(world), parts(world, "back-office")
    world.patch({"server": {"baseUrl": THERE}, "version": "5.1.15"})
    plan = refused(world, "front-desk")
    assert f"belongs to MedplumAgent {world.namespace}/back-office." in plan
    assert f'set spec.server.baseUrl back to "{HERE}"' in plan
    assert "True" == world.condition("Available")["status"]
    assert before == (parts(world), parts(world, "back-office"))
    world.patch({"server": {"baseUrl": HERE}, "version": "5.1.14"})
    world.wait_for_phase("Running", "5.1.14")
    assert before == (parts(world), parts(world, "back-office"))


def test_identity_is_free_when_its_holder_runs_with_another_server(world: World) -> None:
    """The waiting agent starts automatically, but not before the holder's pod with the previous server has ended."""
    world.install(podTemplate={"annotations": {"sim.medplum.com/terminate-after": "2s"}})
    [old] = world.pods()
    world.apply(agent("back-office"))
    refused(world, "back-office")
    world.patch({"server": {"baseUrl": THERE}})
    world.wait_for_phase("Running", "5.1.14", "back-office")
    world.wait_for_phase("Running", "5.1.14")
    [pod] = world.pods("back-office")
    gone, started = (
        world.recorder.served_until[old["metadata"]["uid"]],
        world.recorder.served_from[pod["metadata"]["uid"]],
    )
    assert gone < started


@pytest.fixture
def elsewhere(empty_world: World) -> Iterator[str]:
    """A second namespace, and an operator that watches both."""
    with empty_world.cluster.namespace() as other:
        empty_world.start_operator("--namespaces", other)
        yield other
        empty_world.operators[-1].kill()


def test_identity_counts_across_namespaces(empty_world: World, elsewhere: str) -> None:
    """An agent in another watched namespace, even with the same name, is refused with the name of the holder, until the holder is deleted."""
    world = empty_world
    world.install()
    before = parts(world)
    manifest = agent("front-desk")
    world.cluster.apply(manifest, namespace=elsewhere)

    def other() -> dict[str, Any]:
        found: dict[str, Any] = world.cluster.read("mpa", "front-desk", "-n", elsewhere).get("status", {})
        return found

    world.wait(lambda: other().get("phase") == "Failed", "the refusal")
    assert f"belongs to MedplumAgent {world.namespace}/front-desk." in other()["plan"]
    assert "" == world.cluster.kubectl("get", "deployments", "-n", elsewhere, "-o", "name").stdout
    assert before == parts(world)
    world.kubectl("delete", "mpa", "front-desk", "--timeout=30s")
    world.wait(lambda: other().get("phase") == "Running", "the other one serves", seconds=90)


def test_of_ten_pairs_created_at_once_one_each_is_installed(world: World) -> None:
    """Of each pair exactly one ever gets a Deployment, and the message to the other names that one."""
    since = datetime.now(UTC)
    at_once = [
        subprocess.Popen(
            [
                str(world.cluster.kubectl_program),
                f"--kubeconfig={world.cluster.kubeconfig}",
                *("--namespace", world.namespace, "create", "-f", "-"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    for side, process in zip("ab", at_once, strict=True):
        agents = [agent(f"pair-{number}-{side}", id_of=f"pair-{number}") for number in range(PAIRS)]
        assert process.stdin is not None
        process.stdin.write(json.dumps({"apiVersion": "v1", "kind": "List", "items": agents}).encode())
    for process in at_once:
        assert process.stdin is not None
        process.stdin.close()
    assert [0, 0] == [process.wait(60) for process in at_once]

    for number in range(PAIRS):
        pair = [f"pair-{number}-a", f"pair-{number}-b"]

        def settled(pair: list[str] = pair) -> list[str] | None:
            phases = {name: world.status(name).get("phase") for name in pair}
            return sorted(pair, key=phases.get) if {"Failed", "Running"} == set(phases.values()) else None  # type: ignore[arg-type]

        second, first = world.wait(settled, f"one of {pair} serves and the other is refused", seconds=60)
        assert f"belongs to MedplumAgent {world.namespace}/{first}." in refused(world, second)
    made = {
        event["objectRef"]["name"]
        for event in world.cluster.audit_events(since)
        if event["user"]["username"] == USER and event["verb"] not in READS and resource(event) == "deployments"
    }
    assert [f"pair-{number}" for number in range(PAIRS)] == sorted(name[:-2] for name in made)
    assert len(made) == len(world.read("deployments")["items"])
