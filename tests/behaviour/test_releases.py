"""Another release of the operator replaces no pod: what it would render otherwise waits. Up, down, and in the middle of a handoff."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster import Behaviour, simulate
from tests.support.world import GATE_IMAGE, agent_manifest

if TYPE_CHECKING:
    from tests.support.world import World

ROOT = Path(__file__).parents[2]
PACKAGE = "operator/medplum_agent_operator"
REFRESH = "agents.medplum.com/refresh"
OTHERWISE = {
    "core/objects/agent_pod.py": ("GRACE_AFTER_DRAIN_SECONDS: Final = 10", "GRACE_AFTER_DRAIN_SECONDS: Final = 11"),
    "core/objects/gate_pod.py": ("GRACE_SECONDS: Final = 25", "GRACE_SECONDS: Final = 26"),
    "core/rollout/template_in_force.py": ("REVISION: Final = 1", "REVISION: Final = 2"),
}
"""What the next release renders otherwise, of the agent's pods and of its gate's."""


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """This package with some changes."""
    shutil.copytree(ROOT / PACKAGE, tmp_path / "next" / Path(PACKAGE).name)
    for name, (before, after) in OTHERWISE.items():
        path = tmp_path / "next" / Path(PACKAGE).name / name
        text = path.read_text()
        assert 1 <= text.count(before)
        path.write_text(text.replace(before, after, 1))
    return tmp_path / "next"


@pytest.fixture
def previous_commit(tmp_path: Path) -> Path:
    """The package of the commit before this one."""
    found = subprocess.run(["git", "rev-parse", "HEAD~1"], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("there is no commit before this one here")
    archive = subprocess.run(
        ["git", "archive", found.stdout.strip(), PACKAGE], cwd=ROOT, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=archive, check=True)
    return tmp_path / "operator"


def uids(world: World) -> list[str]:
    """Every pod of the agent and of its gate."""
    gates = world.read("pods", "-l", "agents.medplum.com/gate-of=front-desk")["items"]
    return sorted(pod["metadata"]["uid"] for pod in [*world.pods(), *gates])


def grace(world: World) -> list[int]:
    """The agent's and the gate's time to end, in seconds."""
    names = ("front-desk", "front-desk-gate")
    templates = [world.read("deployment", name)["spec"]["template"]["spec"] for name in names]
    return [int(template["terminationGracePeriodSeconds"]) for template in templates]


def converged(world: World) -> None:
    """Wait until the agent's gate serves and nothing is left to do."""
    world.wait_for_phase("Running")
    world.wait(
        lambda: world.read("deployment", "front-desk-gate")["status"].get("availableReplicas") == 2, "the gate serves"
    )


def test_the_next_release_replaces_no_pod_until_the_next_change(world: World, next_release: Path) -> None:
    """Agent and gate run on; status says what waits; the agent's own change takes it along, the gate waits for its own."""
    world.install(gate={"enabled": True})
    converged(world)
    before, lasting = uids(world), grace(world)
    world.operators[-1].stop()
    world.start_operator(source=next_release)
    waits = world.wait(lambda: world.status().get("waitingForNextChange"), "what waits")
    assert "the agent's pod (spec.terminationGracePeriodSeconds) and its gate's pods (" in waits
    assert before == uids(world)
    world.set_version("5.1.15")
    world.wait_for_phase("Running", "5.1.15")
    assert [lasting[0] + 1, lasting[1]] == grace(world)
    world.kubectl("annotate", "mpa", "front-desk", f"{REFRESH}=the gate too")
    world.wait(lambda: [lasting[0] + 1, lasting[1] + 1] == grace(world), "the gate as the next release builds it")
    world.wait(lambda: "waitingForNextChange" not in world.status(), "nothing waits")


def test_drift_is_put_back_to_what_was_applied_by_whichever_release(world: World, next_release: Path) -> None:
    """A hand-made change under the next release leads to the old template, not to the new one."""
    world.install(gate={"enabled": True})
    converged(world)
    lasting = grace(world)
    world.operators[-1].stop()
    world.start_operator(source=next_release)
    world.kubectl("set", "image", "deployment/front-desk", "agent=registry.example.org/medplum-agent:5.1.13")
    world.wait(lambda: world.events("DriftRepaired") or world.events("HandingOff"), "the repair")
    world.wait_for_phase("Running", "5.1.14")
    assert lasting == grace(world)


@pytest.mark.parametrize("onto", ["next", "back"])
def test_a_handoff_that_one_release_began_is_ended_by_another(world: World, next_release: Path, onto: str) -> None:
    """Killed in the middle; the other release finishes it with one entry in history, and replaces no pod of its own accord."""
    first, second = (None, next_release) if onto == "next" else (next_release, None)
    world.operators[-1].stop()
    world.start_operator(source=first)
    world.install()
    slow = simulate(Behaviour.SLOW_READY, ready_after="3s", terminate_after="700ms")
    world.patch({"version": "5.1.15", "podTemplate": {"annotations": slow}})
    world.wait(lambda: len(world.pods()) == 2, "both pods")
    world.operators[-1].kill()
    both = uids(world)
    world.start_operator(source=second)
    world.wait_for_phase("Running", "5.1.15")
    assert set(uids(world)) <= set(both)
    assert ["5.1.15", "5.1.14"] == [entry["to"] for entry in world.status()["history"]]


@pytest.mark.parametrize("middle", [False, True], ids=["at rest", "in the middle of a handoff"])
def test_up_from_the_commit_before_and_back(world: World, previous_commit: Path, middle: bool) -> None:  # noqa: FBT001
    """On this commit's CRD: the previous commit's operator, this one's, the previous one's again; each leaves the pods as they are."""
    world.operators[-1].stop()
    world.start_operator(source=previous_commit)
    world.apply(agent_manifest(gate={"enabled": True}))
    converged(world)
    for source, version in ((None, "5.1.15"), (previous_commit, "5.1.16")):
        if middle:
            slow = simulate(Behaviour.SLOW_READY, ready_after="3s", terminate_after="700ms")
            world.patch({"version": version, "podTemplate": {"annotations": slow}})
            world.wait(lambda: len(world.pods()) == 2, "both pods")
        pods = uids(world)
        world.operators[-1].stop()
        world.start_operator(source=source)
        world.wait_for_phase("Running", version if middle else "5.1.14")
        world.wait(lambda: len(world.pods()) == 1, "one pod")
        assert set(uids(world)) <= set(pods)
    assert GATE_IMAGE in world.kubectl("get", "deployment", "front-desk-gate", "-o", "yaml")
