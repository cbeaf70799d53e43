"""Another release of the operator replaces no pod: what it renders differently waits. Upgrade, downgrade, and during a handoff."""

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
CHANGED = {
    "core/objects/agent_pod.py": ("GRACE_AFTER_DRAIN_SECONDS: Final = 10", "GRACE_AFTER_DRAIN_SECONDS: Final = 11"),
    "core/objects/gate_pod.py": ("GRACE_SECONDS: Final = 25", "GRACE_SECONDS: Final = 26"),
    "core/rollout/template_in_force.py": ("REVISION: Final = 1", "REVISION: Final = 2"),
}
"""What the next release renders differently for the pods of the agent and of its gate."""


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """This package with some changes."""
    shutil.copytree(ROOT / PACKAGE, tmp_path / "next" / Path(PACKAGE).name)
    for name, (before, after) in CHANGED.items():
        path = tmp_path / "next" / Path(PACKAGE).name / name
        text = path.read_text()
        assert 1 <= text.count(before)
        path.write_text(text.replace(before, after, 1))
    return tmp_path / "next"


BEFORE_REVISIONS = "dba2e25a315be1adc8d5b250e625adeda74b0fc3"
"""The last commit whose memory was annotations of the Deployment (docs/adr/0032)."""


@pytest.fixture(params=["HEAD~1", BEFORE_REVISIONS], ids=["the previous commit", "before revisions"])
def earlier_commit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The package of an earlier commit."""
    found = subprocess.run(
        ["git", "rev-parse", "--verify", f"{request.param}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        pytest.skip(f"commit {request.param} is not here")
    archive = subprocess.run(
        ["git", "archive", found.stdout.strip(), PACKAGE], cwd=ROOT, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=archive, check=True)
    return tmp_path / "operator"


def uids(world: World) -> list[str]:
    """The uids of all pods of the agent and of its gate."""
    gates = world.read("pods", "-l", "agents.medplum.com/gate-of=front-desk")["items"]
    return sorted(pod["metadata"]["uid"] for pod in [*world.pods(), *gates])


def grace(world: World) -> list[int]:
    """The termination grace periods of agent and gate, in seconds."""
    names = ("front-desk", "front-desk-gate")
    templates = [world.read("deployment", name)["spec"]["template"]["spec"] for name in names]
    return [int(template["terminationGracePeriodSeconds"]) for template in templates]


def converged(world: World) -> None:
    """Wait until the agent's gate serves and the operator is at rest."""
    world.wait_for_phase("Running")
    world.wait(
        lambda: world.read("deployment", "front-desk-gate")["status"].get("availableReplicas") == 2, "the gate serves"
    )


def test_the_next_release_replaces_no_pod_until_the_next_change(world: World, next_release: Path) -> None:
    """Agent and gate keep running; status says which update is pending. The agent's next change includes it; the gate waits for its own change."""
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


def test_drift_is_repaired_to_the_template_that_was_applied(world: World, next_release: Path) -> None:
    """A change by hand under the next release leads back to the old template, not to the new one."""
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
def test_a_handoff_of_one_release_is_completed_by_another(world: World, next_release: Path, onto: str) -> None:
    """The first is killed during it; the other completes it with one entry in history, and replaces no pod on its own."""
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
def test_upgrade_from_an_earlier_commit_and_back(world: World, earlier_commit: Path, middle: bool) -> None:  # noqa: FBT001
    """On this commit's CRD: the operator of an earlier commit, of this one, of the earlier one again, and of this one. No pod changes."""
    world.operators[-1].stop()
    world.start_operator(source=earlier_commit)
    world.apply(agent_manifest(gate={"enabled": True}))
    converged(world)
    for source, version in ((None, "5.1.15"), (earlier_commit, "5.1.16"), (None, "5.1.17")):
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
