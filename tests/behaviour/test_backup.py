"""The active version before an approved downgrade can be restored with kubectl alone, by the commands in the guide."""

from __future__ import annotations

import json
import os
import re
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.core.observed.rollout_record import AppliedTemplate, LastGood
from medplum_agent_operator.core.rollout.backup import render_backup
from tests.support.audit import writes_of_the_operator
from tests.support.cluster import Behaviour, simulate
from tests.support.operator_process import ROOT
from tests.support.world import FORCE, QUICK, agent_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from medplum_agent_operator.api.spec import MedplumAgentSpec
    from tests.support.world import World

SHOWN = "front-desk-backup-0123456789"
"""The backup in the guide's examples."""
CREDENTIALS = {"clientId": "3c5e-the-client-id", "clientSecret": "f00d-the-client-secret"}


def from_the_guide(what: str) -> str:
    """The one command in the how-to page that contains these words."""
    blocks = re.findall(r"^```sh\n(.+?)^```", (ROOT / "docs/how-to/roll-back.md").read_text(), re.MULTILINE | re.DOTALL)
    (command,) = [block for block in blocks if what in block]
    return str(command)


def run(world: World, command: str, backup: str, folder: Path) -> str:
    """Run a command of the guide in a shell, unchanged except for the namespace and the name of the backup."""
    cluster = world.cluster
    (folder / "kubectl").unlink(missing_ok=True)
    (folder / "kubectl").symlink_to(cluster.kubectl_program)
    done = subprocess.run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            command.replace("-n clinic", f"-n {world.namespace}").replace(SHOWN, backup),
        ],
        env=os.environ
        | {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "KUBECONFIG": str(cluster.kubeconfig),
            "KUBECACHEDIR": str(cluster.folder / "kubectl-cache"),
            "KUBERC": "off",
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


def install_labelled(world: World, **spec: Any) -> dict[str, Any]:
    """Install 5.1.15 client-side, with a label and an annotation of the user, and with credentials. Returns the agent."""
    world.kubectl(
        "create", "secret", "generic", "front-desk", *(f"--from-literal={k}={v}" for k, v in CREDENTIALS.items())
    )
    wanted = agent_manifest(version="5.1.15", **spec)
    wanted["metadata"] |= {"labels": {"team": "integration"}, "annotations": {"example.org/contact": "ward 3"}}
    world.apply(wanted)
    world.wait_for_phase("Running", "5.1.15")
    return world.agent()


def change_by(world: World, tool: str, before: dict[str, Any]) -> None:
    """Ask for 4.2.3 with other settings, approved in the same step, by one tool or another."""
    changed: dict[str, Any] = {
        "version": "4.2.3",
        "image": {"repository": "registry.example.org/medplum-agent", "tag": "4.2.3-debian"},
        "logging": {"channelLevel": "ERROR"},
        "service": {"labels": {"for": "4.2.3"}},
    }
    if tool == "patch":
        world.patch(changed)
        world.approve("4.2.3 CHG-1042")
        return
    wanted = agent_manifest(**changed)
    wanted["metadata"] |= {"labels": before["metadata"]["labels"], "annotations": {FORCE: "4.2.3 CHG-1042"}}
    options = [] if tool == "apply" else ["--server-side", "--force-conflicts"]
    world.kubectl("apply", *options, "-f", "-", input=json.dumps(wanted))


def meaning(agent: dict[str, Any]) -> MedplumAgentSpec:
    """The spec of an agent. A backup has the defaults of channels, which the API server leaves out of lists."""
    return MedplumAgent.parse(agent).spec


def as_asked_for(world: World) -> dict[str, Any]:
    """The live pod template without the annotations that identify the change that made it."""
    template: dict[str, Any] = world.deployment()["spec"]["template"]
    own = {names.STOPPED_FIRST, names.TEMPLATE_HASH}
    annotations = {key: value for key, value in template["metadata"]["annotations"].items() if key not in own}
    return {**template, "metadata": {**template["metadata"], "annotations": annotations}}


@pytest.mark.parametrize("tool", ["apply", "server-side apply", "patch"])
def test_the_command_in_the_guide_restores_the_spec(world: World, tmp_path: Path, tool: str) -> None:
    """The same, for every tool that had changed it. Nothing else of the agent changes, and it needs no approval."""
    before = install_labelled(world)
    template = as_asked_for(world)
    change_by(world, tool, before)
    world.wait_for_phase("Running", "4.2.3")
    changed = world.agent()
    backup = changed["status"]["history"][0]["backup"]

    listed = run(world, from_the_guide("-L agents.medplum.com/version"), backup, tmp_path)
    assert [backup, "5.1.15"] == [listed.splitlines()[1].split()[0], listed.split()[-1]]
    run(world, from_the_guide(".data.restore"), backup, tmp_path)

    world.wait_for_phase("Running", "5.1.15")
    after = world.agent()
    assert meaning(before) == meaning(after)
    for part in ("labels", "annotations", "uid"):
        assert changed["metadata"][part] == after["metadata"][part]
    assert template == as_asked_for(world)
    assert ("5.1.15", "Recreate", None) == tuple(
        after["status"]["history"][0].get(key) for key in ("to", "strategy", "backup")
    )


def test_the_backup_is_written_first_and_named_in_the_event(world: World) -> None:
    """It is the first write, is owned by the agent, and contains nothing of the Secret."""
    install_labelled(world)
    since = datetime.now(UTC)
    world.set_version("5.1.14")
    world.wait_for_phase("AwaitingApproval")
    assert [] == world.backups()
    world.approve("5.1.14 CHG-7")
    world.wait_for_phase("Running", "5.1.14")
    writes = [
        w for w in writes_of_the_operator(world, since) if not w.startswith(("patch medplumagents", "create events"))
    ]
    assert ["create controllerrevisions"] * 2 + ["patch deployments"] == writes[:3]
    (backup,) = world.backups()
    name = backup["metadata"]["name"]
    assert name == world.status()["history"][0]["backup"]
    (event,) = world.events("DowngradeApproved")
    assert event["message"].endswith(f"Backup: {name}.")
    (owner,) = backup["metadata"]["ownerReferences"]
    assert (world.agent()["metadata"]["uid"], True) == (owner["uid"], owner["controller"])
    assert [] == [secret for secret in CREDENTIALS.values() if secret in json.dumps(backup)]


def test_a_backup_is_immutable_and_is_deleted_with_its_agent(world: World) -> None:
    """The API server refuses a change even by an administrator; garbage collection deletes the backup."""
    world.install("5.1.15")
    world.set_version("5.1.14")
    world.approve("5.1.14")
    world.wait_for_phase("Running", "5.1.14")
    backup = world.status()["history"][0]["backup"]
    patch = json.dumps({"data": {"agent": {"spec": {"version": "5.1.13"}}}})
    refused = world.cluster.kubectl(
        "-n", world.namespace, "patch", "controllerrevision", backup, "--type=merge", "-p", patch, check=False
    )
    assert "field is immutable" in refused.stderr
    world.kubectl("delete", "mpa", "front-desk")
    world.wait(lambda: world.kubectl("get", "controllerrevisions", "-o", "name") == "", "the backup's end")


@pytest.mark.parametrize("how", [["create"], ["apply"], ["apply", "--server-side"]], ids=" ".join)
def test_a_backup_recreates_a_deleted_agent(world: World, tmp_path: Path, how: list[str]) -> None:
    """The manifest in the backup is one that kubectl accepts, and the spec is the same as before."""
    before = install_labelled(world)
    world.set_version("5.1.14")
    world.approve("5.1.14")
    world.wait_for_phase("Running", "5.1.14")
    run(world, from_the_guide("> front-desk.json"), world.status()["history"][0]["backup"], tmp_path)
    world.kubectl("delete", "mpa", "front-desk")
    world.wait(lambda: world.pods() == [], "the agent's end")
    world.kubectl(*how, "-f", str(tmp_path / "front-desk.json"))
    world.wait_for_phase("Running", "5.1.15")
    assert meaning(before) == meaning(world.agent())


def test_restoring_an_unchanged_agent_changes_nothing(empty_world: World) -> None:
    """With every field of the full sample set, and with empty maps that have a meaning, generation stays the same."""
    (sample,) = yaml.safe_load_all((ROOT / "manifests/samples/agent-full.yaml").read_text())
    sample["metadata"] = {"name": "front-desk"}
    sample["spec"]["podTemplate"]["topologySpreadConstraints"] = [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    ]
    empty_world.apply(sample)
    before = empty_world.agent()
    agent = MedplumAgent.parse(before)
    held = render_backup(agent, LastGood(agent.spec, AppliedTemplate(1, {"spec": {"containers": []}})))["data"]
    empty_world.kubectl("patch", "mpa", "front-desk", "--type=json", "-p", json.dumps(held["restore"]))
    after = empty_world.agent()
    assert (before["spec"], before["metadata"]["generation"]) == (after["spec"], after["metadata"]["generation"])


def test_a_backup_of_another_agent_is_refused(world: World) -> None:
    """The patch first tests the name."""
    world.apply(agent_manifest(version="5.1.15"), agent_manifest("back-office", "5.1.15"))
    for name in ("front-desk", "back-office"):
        world.wait_for_phase("Running", "5.1.15", name)
    world.set_version("5.1.14")
    world.approve("5.1.14")
    world.wait_for_phase("Running", "5.1.14")
    backup = world.status()["history"][0]["backup"]
    patch = world.kubectl("get", "controllerrevision", backup, "-o", "jsonpath={.data.restore}")
    refused = world.cluster.kubectl(
        "-n", world.namespace, "patch", "mpa", "back-office", "--type=json", "-p", patch, check=False
    )
    assert 0 != refused.returncode
    assert "id-of-back-office" == world.agent("back-office")["spec"]["server"]["agentId"]


def test_a_downgrade_whose_backup_cannot_be_written_does_not_begin(world: World) -> None:
    """A quota refuses the backup: no agent stops, the plan reports the cause, and the approval stays valid. Then the downgrade resumes automatically."""
    world.install("5.1.15")
    (old,) = world.pods()
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"count/controllerrevisions.apps": "0"}},
    }
    world.apply(quota)
    world.wait(lambda: "used" in world.read("quota", "none").get("status", {}), "the quota in force")
    world.set_version("5.1.14")
    world.approve("5.1.14 CHG-7")
    status = world.wait_for_phase("Failed")
    assert (
        "The approved downgrade from 5.1.15 to 5.1.14 does not start: its backup cannot be written." in status["plan"]
    )
    assert "The operator stopped no agent" in status["plan"]
    assert "exceeded quota" in status["plan"]
    assert ("True", "WriteRefused") == tuple(world.condition("Stalled")[key] for key in ("status", "reason"))
    assert ("5.1.15", [], None) == tuple(status.get(key) for key in ("activeVersion", "spentApprovals", "rollout"))
    assert [old["metadata"]["uid"]] == [pod["metadata"]["uid"] for pod in world.pods()]
    world.kubectl("delete", "quota", "none")
    world.wait_for_phase("Running", "5.1.14", seconds=90)


def test_a_retry_of_a_failed_downgrade_finds_its_backup(world: World) -> None:
    """The operator creates it once more, the API server answers that it exists, and the downgrade begins."""
    quick = {"minReadySeconds": 0, "drainSeconds": 1, "progressDeadlineSeconds": 4}
    world.install("5.1.15", handoff=quick)
    world.patch({"version": "5.1.14", "podTemplate": {"annotations": QUICK | simulate(Behaviour.NEVER_READY)}})
    for text in ("5.1.14 CHG-1", "5.1.14 CHG-2"):
        world.approve(text)

        def failed(text: str = text) -> bool:
            status = world.status()
            used = [entry["approval"]["text"] for entry in status.get("history", ()) if "approval" in entry]
            return status["phase"] == "Failed" and text in used

        world.wait(failed, f"the downgrade of {text} taken back")
    names = [entry.get("backup") for entry in world.status()["history"] if "approval" in entry]
    assert [names[0], names[0]] == names
    (backup,) = world.backups()
    assert names[0] == backup["metadata"]["name"]
