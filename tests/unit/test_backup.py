"""Before an approved downgrade begins, the active spec and pod template are saved in an immutable object."""

from __future__ import annotations

import json
from typing import Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import MedplumAgent
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Outcome
from medplum_agent_operator.core.objects.agent_pod import render_pod_template
from medplum_agent_operator.core.objects.agent_start import properties_in
from medplum_agent_operator.core.observed.ownership import Ownership, ownership
from medplum_agent_operator.core.observed.rollout_record import AppliedTemplate, LastGood
from medplum_agent_operator.core.rollout.backup import render_backup
from tests.support.builders import NAME, NAMESPACE, agent, parsed, spec_of
from tests.support.simulated_cluster import SimulatedCluster, changing, installed, kinds_of

APPROVAL = "4.2.3 CHG-1"


def approved(before: str = "5.1.15", after: str = "4.2.3", **spec: Any) -> SimulatedCluster:
    """A cluster whose next pass begins a downgrade."""
    return installed(before).annotate(f"{after} CHG-1").edit(version=after, **spec).fetched()


def kinds(cluster: SimulatedCluster) -> list[str]:
    """What a pass would write now, in its order."""
    return kinds_of(cluster.plan())


@pytest.mark.parametrize("after", ["5.1.14", "4.2.3"], ids=["by a handoff", "by stopping first"])
def test_the_backup_is_the_first_thing_that_is_written(after: str) -> None:
    """Before the objects beside the Deployment too, and it replaces no pod."""
    plan = approved(after=after, channels=[{"name": "lab", "port": 1}]).plan()
    assert ("ControllerRevision", "Deployment") == (plan.actions[0].kind, plan.actions[-1].kind)
    assert (True, False) == (plan.actions[0].immutable, plan.actions[0].disruptive)
    assert [] == [action.kind for action in plan.actions[2:] if action.immutable]


@pytest.mark.parametrize(
    "cluster",
    [
        pytest.param(lambda: installed("5.1.14").edit(version="5.1.15"), id="an upgrade"),
        pytest.param(lambda: installed("4.2.3").edit(version="5.1.15").fetched(), id="an upgrade that stops first"),
        pytest.param(lambda: installed("5.1.15").edit(version="4.2.3"), id="a downgrade that nobody approved"),
        pytest.param(
            lambda: installed("5.1.15", downgradePolicy={"approval": "BelowZeroDowntime"}).edit(version="5.1.14"),
            id="a downgrade that needs no approval",
        ),
        pytest.param(lambda: installed("5.1.15").annotate(APPROVAL).edit(version="4.2.3"), id="its image is fetched"),
        pytest.param(lambda: installed("5.1.15").annotate(APPROVAL), id="an approval and no change"),
        pytest.param(lambda: changing("5.1.14", "5.1.15").edit(version="5.1.14"), id="giving up"),
        pytest.param(SimulatedCluster, id="an installation"),
    ],
)
def test_nothing_else_makes_one(cluster: Any) -> None:
    """Only what a person had to agree to, and only when it begins."""
    assert "ControllerRevision" not in kinds(cluster())


def test_it_holds_what_was_active_and_not_what_is_asked_for() -> None:
    """Spec and pod template as applied; what was edited together with the version is not in it."""
    cluster = approved(logging={"level": "DEBUG"})
    template = cluster.deployment["spec"]["template"]
    held = cluster.plan().actions[0].body["data"]
    spec = held["agent"]["spec"]
    assert ("5.1.15", "INFO") == (spec["version"], spec["logging"]["level"])
    assert template["metadata"] == held["podTemplate"]["metadata"]
    assert "baseUrl=https://api.medplum.com/\n" in held["agentProperties"]


def test_it_holds_a_whole_manifest_and_the_patch_that_gives_a_live_agent_its_spec_back() -> None:
    """The patch first makes sure that it is the right agent; it replaces the spec as a whole and touches nothing else."""
    held = approved().plan().actions[0].body["data"]
    spec = held["agent"]["spec"]
    manifest = held["agent"]
    assert {"name": NAME, "namespace": NAMESPACE} == manifest["metadata"]
    assert spec_of("5.1.15", handoff=spec["handoff"]) == MedplumAgent.parse(agent(**spec)).spec
    assert [
        {"op": "test", "path": "/metadata/name", "value": NAME},
        {"op": "replace", "path": "/spec", "value": spec},
    ] == held["restore"]


def test_it_is_the_agent_s_own_and_ordered() -> None:
    """Garbage collection deletes it with the agent, labels name the agent and the version, and a later backup has a higher revision."""
    cluster = approved()
    body = cluster.plan().actions[0].body
    assert Ownership.OURS is ownership(body, cluster.observe().agent)
    labels = body["metadata"]["labels"]
    assert (NAME, "5.1.15", "medplum-agent-operator") == (
        labels[names.AGENT_LABEL],
        labels[names.VERSION_LABEL],
        labels[names.MANAGED_BY_LABEL],
    )
    assert cluster.agent["metadata"]["generation"] == body["revision"]


def test_nothing_of_the_secret_can_be_in_it() -> None:
    """It is made of the spec and of the pod template, where credentials come by reference alone; no right to read Secrets exists."""
    body = approved().plan().actions[0].body
    (container,) = body["data"]["podTemplate"]["spec"]["containers"]
    credentials = {one["name"]: one for one in container["env"] if one["name"].startswith("CLIENT_")}
    assert {"CLIENT_ID", "CLIENT_SECRET"} == set(credentials)
    assert {("name", "valueFrom")} == {tuple(one) for one in credentials.values()}
    assert {("secretKeyRef",)} == {tuple(one["valueFrom"]) for one in credentials.values()}
    assert "clientSecret" not in body["data"]["agentProperties"]
    assert "clientId" not in body["data"]["agentProperties"]


def test_it_is_named_in_the_record_in_status_in_history_and_in_the_event() -> None:
    """All places where somebody looks for it."""
    cluster = approved()
    plan = cluster.reconcile()
    (name,) = cluster.backups
    assert name == cluster.record.backup
    assert f"The backup is ControllerRevision {name}." in plan.message.rollout
    (event,) = [found for found in plan.findings if found.reason is Reason.DOWNGRADE_APPROVED]
    assert event.message.summary.endswith(f"Backup: {name}.")
    cluster.tick(2)
    cluster.reconcile()
    assert cluster.status.rollout is not None
    assert name == cluster.status.rollout.backup
    cluster.settle()
    assert [name, None] == [entry.backup for entry in cluster.status.history]


def test_a_second_look_leads_to_the_same_backup() -> None:
    """Nothing of the moment is in its name."""
    cluster = approved()
    first = cluster.plan().actions[0].body
    cluster.tick(30)
    assert first == cluster.plan().actions[0].body


@pytest.mark.parametrize("killed_after", range(5))
def test_killed_at_any_write_the_next_operator_goes_on_with_the_same_backup(killed_after: int) -> None:
    """One backup, one approval that is spent, and history as if nobody had died."""
    cluster = approved().dies_at_each_pass(after=killed_after, passes=3).settle()
    (name,) = cluster.backups
    assert (["4.2.3"], name) == (cluster.running, cluster.record.backup)
    assert [("4.2.3", Outcome.COMPLETED, name), ("5.1.15", Outcome.COMPLETED, None)] == [
        (entry.to, entry.outcome, entry.backup) for entry in cluster.status.history
    ]
    assert ("4.2.3 CHG-1",) == cluster.status.spent_approvals


def test_each_downgrade_has_its_own() -> None:
    """Down, up and down again: two backups, the later one with the higher revision; the first is as it was."""
    cluster = approved().settle().edit(version="5.1.15").settle()
    ((name, first),) = cluster.backups.items()
    before = json.dumps(first)
    cluster.annotate("4.2.3 CHG-2").edit(version="4.2.3").settle()
    earlier, later = cluster.backups.values()
    assert earlier["revision"] < later["revision"]
    assert before == json.dumps(cluster.backups[name])
    assert later["metadata"]["name"] == cluster.status.history[0].backup


def test_other_settings_in_the_middle_keep_the_backup() -> None:
    """It is still the same downgrade."""
    cluster = changing("5.1.15", "4.2.3", approval=APPROVAL)
    (name,) = cluster.backups
    cluster.edit(logging={"level": "DEBUG"}).fetched().reconcile()
    assert ([name], name) == (list(cluster.backups), cluster.record.backup)


def test_another_target_in_the_middle_keeps_the_backup() -> None:
    """What was active is still the same; approved anew, nothing is written twice."""
    cluster = changing("5.1.15", "5.1.13", approval="5.1.13 CHG-1")
    (name,) = cluster.backups
    cluster.annotate("4.2.3 CHG-2").edit(version="4.2.3").fetched().settle()
    assert ([name], ["4.2.3"]) == (list(cluster.backups), cluster.running)
    assert [name, name, None] == [entry.backup for entry in cluster.status.history]


def test_in_the_middle_of_an_upgrade_that_never_became_active_it_holds_what_was() -> None:
    """5.1.14 active, 5.1.15 on its way: to 4.2.3 is a downgrade from 5.1.14."""
    cluster = changing("5.1.14", "5.1.15").annotate(APPROVAL).edit(version="4.2.3").fetched()
    cluster.reconcile()
    (backup,) = cluster.backups.values()
    assert "5.1.14" == backup["data"]["agent"]["spec"]["version"]
    assert "5.1.14" == backup["data"]["podTemplate"]["metadata"]["labels"][names.VERSION_LABEL]


def test_a_downgrade_that_failed_keeps_its_backup_in_history_and_its_way_back_has_none() -> None:
    """The way back brings what the Deployment's own note holds."""
    cluster = changing("5.1.15", "4.2.3", approval=APPROVAL).wait_for_deadline()
    (name,) = cluster.backups
    assert [None, name, None] == [entry.backup for entry in cluster.status.history]


def test_another_try_of_it_is_the_same_backup() -> None:
    """The same spec that asks for it, the same content."""
    cluster = changing("5.1.15", "4.2.3", approval=APPROVAL).wait_for_deadline()
    (name,) = cluster.backups
    cluster.mend().annotate("4.2.3 CHG-2").settle()
    assert ([name], ["4.2.3"]) == (list(cluster.backups), cluster.running)
    assert name == cluster.status.history[0].backup


@pytest.mark.parametrize("how", ["no Deployment", "a broken note"])
def test_without_a_previous_state_there_is_no_backup_and_the_event_says_so(how: str) -> None:
    """The operator invents nothing, and the approved downgrade goes ahead."""
    cluster = installed("5.1.15")
    if how == "no Deployment":
        cluster.delete("Deployment")
    else:
        cluster.as_before_revisions().deployment["metadata"]["annotations"][names.APPLIED_SPEC] = "{"
    cluster.annotate(APPROVAL).edit(version="4.2.3")
    plan = cluster.fetched().plan()
    assert not [action for action in plan.actions if "-backup-" in action.name]
    (event,) = [found for found in plan.findings if found.reason is Reason.DOWNGRADE_APPROVED]
    assert event.message.summary.endswith("There is no backup: the cluster has no previous state.")


def test_an_older_release_s_deployment_is_kept_as_the_api_server_has_it() -> None:
    """No note of the template as rendered: then the live one is what was active."""
    cluster = approved().as_before_revisions()
    body = cluster.plan().actions[0].body
    assert cluster.deployment["spec"]["template"] == body["data"]["podTemplate"]


def test_the_text_of_agent_properties_is_read_back_from_the_template() -> None:
    """As the agent reads it, including a dollar sign, without credentials; empty if the template has none."""
    server = {"baseUrl": "https://api.medplum.com/$x/", "agentId": "a-1", "credentialsSecretRef": {"name": "lab"}}
    one = parsed("4.2.3", server=server)
    lines = properties_in(render_pod_template(one, one.spec, image="agent")).splitlines()
    assert ["baseUrl=https://api.medplum.com/$x/", "agentId=a-1"] == lines[:2]
    assert [] == [line for line in lines if line.startswith("client")]
    assert "" == properties_in({"spec": {"containers": [{"name": "agent"}]}})
    assert "" == properties_in({"spec": {"containers": []}})


def test_another_agent_of_the_same_name_has_another_backup() -> None:
    """The uid is in the name's fingerprint."""
    spec = spec_of("5.1.15")
    good = LastGood(spec, AppliedTemplate(1, render_pod_template(parsed(), spec, image="agent")))
    raw = agent("4.2.3")
    made = {
        render_backup(MedplumAgent.parse({**raw, "metadata": {**raw["metadata"], "uid": uid}}), good)["metadata"][
            "name"
        ]
        for uid in ("agent-1", "agent-2")
    }
    assert 2 == len(made)
