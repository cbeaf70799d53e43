"""The checks that block every write, and that nothing is written while one does."""

from __future__ import annotations

import pytest

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.api.status import Phase
from medplum_agent_operator.core.objects.children import name_of
from medplum_agent_operator.core.observed.findings import Severity
from medplum_agent_operator.core.observed.reading import is_garbage_collected
from medplum_agent_operator.core.observed.scope import Config
from medplum_agent_operator.core.plan import make_plan
from medplum_agent_operator.core.policy.checks import first_blocker
from tests.support.builders import CONFIG, NOW, Raw, agent, observed, owned_by, pod, stranger
from tests.support.simulated_cluster import SimulatedCluster, installed
from tests.support.simulated_cluster.apply import copied
from tests.support.simulated_cluster.situations import changing

PAUSED = """\
The operator is paused for this agent, because spec.paused is true.
Impact: {serving} keeps serving devices. The operator makes no changes and repairs no drift.
Fix: None needed while the pause is intended. To end it, run the command; the operator then repairs drift. {pending}
Command: kubectl -n clinic patch medplumagent lab --type=merge -p '{{"spec":{{"paused":false}}}}'"""
PAUSED_ON_A_CORDONED_NODE = """\
The operator is paused for this agent, because spec.paused is true.
Impact: 5.1.15 keeps serving devices. The operator makes no changes and repairs no drift. Node node-1 is cordoned, and a drain of it waits while \
the agent is paused.
Fix: None needed while the pause is intended. To end it, set spec.paused to false; the operator then repairs drift. No edit of the spec is \
waiting. To move the agent off the node during the pause, run the command: a new pod starts on another node before the old one stops; no \
outage is expected.
Command: kubectl -n clinic rollout restart deployment/lab"""
KINDS = ["Deployment", "Service", "PodDisruptionBudget", "ServiceAccount"]


def live(kind: str, raw: Raw) -> dict[str, object]:
    """Keywords of `observed` for one live object."""
    return {"deployment": raw} if kind == "Deployment" else {"children": {kind: raw}}


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_of_our_name_that_is_not_ours_is_never_taken_over(kind: str) -> None:
    """One finding names the object, says that nothing was changed, and how to fix it; the plan has no action."""
    raw = {**stranger(kind), "spec": {"template": {"spec": {}}}}
    seen = observed(agent(), **live(kind, raw))  # type: ignore[arg-type]
    plan = make_plan(seen, config=CONFIG, now=NOW)
    assert (Phase.FAILED, Reason.NAME_TAKEN, ()) == (plan.phase, plan.reason, plan.actions)
    assert (
        f"{kind} {name_of(kind, 'lab')} already exists and does not belong to this MedplumAgent.\n"
        "Cause: An object of that name in namespace clinic has no owner reference to this MedplumAgent.\n"
        "Impact: No agent serves; devices cannot deliver messages. The operator leaves the foreign object alone.\n"
        "Fix: Look at the object with the command. If it is not needed, delete it "
        f"(kubectl -n clinic delete {kind.lower()} {name_of(kind, 'lab')}); the installation then starts automatically. "
        "If another program needs it: delete this MedplumAgent, and create it under another name.\n"
        f"Command: kubectl -n clinic get {kind.lower()} {name_of(kind, 'lab')} -o yaml"
    ) == plan.text
    assert [Severity.WARNING] == [finding.severity for finding in plan.findings]


def test_two_foreign_objects_are_named_together() -> None:
    """A user can fix both at once."""
    seen = observed(agent(), children={"Service": stranger("Service"), "ServiceAccount": stranger("ServiceAccount")})
    blocker = first_blocker(seen)
    assert blocker is not None
    assert "Service lab and ServiceAccount lab" in str(blocker.finding.message)


@pytest.mark.parametrize(
    ("owner", "kind", "name", "reason"),
    [
        pytest.param(
            "agent-0", "MedplumAgent", "lab", Reason.AWAITING_GARBAGE_COLLECTION, id="a deleted namesake's: wait"
        ),
        pytest.param("agent-0", "MedplumAgent", "other", Reason.NAME_TAKEN, id="another MedplumAgent's: foreign"),
        pytest.param("agent-0", "Rollout", "lab", Reason.NAME_TAKEN, id="another kind's of the same name: foreign"),
    ],
)
def test_the_controller_reference_decides_whose_an_object_is(owner: str, kind: str, name: str, reason: Reason) -> None:
    """Our objects have our uid. Objects of a deleted MedplumAgent of our name are removed automatically."""
    service = owned_by(stranger("Service"), owner, kind=kind, name=name)
    plan = make_plan(observed(agent(), children={"Service": service}), config=CONFIG, now=NOW)
    assert (reason, ()) == (plan.reason, plan.actions)


def test_an_owner_that_is_no_controller_makes_nothing_ours() -> None:
    """A mere owner reference of our uid does not count."""
    service = owned_by(stranger("Service"), "agent-1")
    service["metadata"]["ownerReferences"][0]["controller"] = False
    plan = make_plan(observed(agent(), children={"Service": service}), config=CONFIG, now=NOW)
    assert Reason.NAME_TAKEN is plan.reason


def test_waiting_for_garbage_collection_comes_before_everything_else() -> None:
    """The first check of the chain that finds something is reported: leftovers come before foreign objects and a pause."""
    children = {"Service": owned_by(stranger("Service"), "agent-0"), "ServiceAccount": stranger("ServiceAccount")}
    blocker = first_blocker(observed(agent(paused=True), children=children))
    assert blocker is not None
    assert (Phase.INSTALLING, Reason.AWAITING_GARBAGE_COLLECTION) == (blocker.phase, blocker.finding.reason)
    assert Severity.NORMAL is blocker.finding.severity


def test_leftovers_are_named_together() -> None:
    """One message names them all and says that the user need not do anything."""
    children = {kind: owned_by(stranger(kind), "agent-0") for kind in ("Service", "ServiceAccount")}
    blocker = first_blocker(observed(agent(), children=children))
    assert blocker is not None
    message = blocker.finding.message
    assert (
        "Waiting for garbage collection of the Service and ServiceAccount of a deleted MedplumAgent lab."
    ) == message.summary
    assert (
        "None needed; the installation starts automatically when the garbage collector has removed what is left. If that takes longer than some minutes, "
        "run the command and look at metadata.finalizers: the program that set a finalizer has to remove it."
    ) == message.fix
    assert "kubectl -n clinic get service lab -o yaml" == message.command


def test_an_older_agent_waits_for_the_pods_of_a_deleted_namesake() -> None:
    """The message names them and says what to do if one does not end. Pods of its own version or older ones do not block it."""
    pods = [pod(version, name=f"lab-{version}") for version in ("5.1.14", "5.1.15", "4.2.3", "4.2.2", None)]
    plan = make_plan(observed(agent("4.2.3"), pods=pods), config=CONFIG, now=NOW)
    assert (Phase.INSTALLING, Reason.AWAITING_GARBAGE_COLLECTION, ()) == (plan.phase, plan.reason, plan.actions)
    assert (
        "Waiting for pods lab-5.1.14 (5.1.14) and lab-5.1.15 (5.1.15) of a deleted MedplumAgent lab to end before the older 4.2.3 starts.\n"
        "Impact: This MedplumAgent is not installed yet. The old pod may still serve devices until it has ended; then none serves until the new one is "
        "ready.\n"
        "Fix: Look at the pod with the command. None needed if it is Terminating; the installation starts automatically when it has ended. If it is not "
        "Terminating, delete it (kubectl -n clinic delete pod lab-5.1.14 lab-5.1.15); its devices then have no agent until the new one is ready. "
        "If it stays Terminating, repair its node; do not delete it by force, because two agents could then run at once.\n"
        "Command: kubectl -n clinic get pod lab-5.1.14 lab-5.1.15"
    ) == plan.text
    assert [Severity.NORMAL] == [finding.severity for finding in plan.findings]


@pytest.mark.parametrize("version", ["5.1.15", "5.1.16"])
def test_pods_that_are_not_newer_are_not_waited_for(version: str) -> None:
    """For them the strategy is chosen."""
    assert first_blocker(observed(agent(version), pods=[pod("5.1.15"), pod("5.1.16", phase="Failed")])) is None


def test_pods_that_are_newer_than_an_agent_that_is_known_are_for_the_verdict() -> None:
    """Where it is known what was active, or there is a Deployment, going below it is a downgrade."""
    known = agent("4.2.3", status={"lastGoodVersion": "5.1.15"})
    assert first_blocker(observed(known, pods=[pod("5.1.15")])) is None
    assert first_blocker(installed("5.1.15").edit(version="4.2.3").observe()) is None


def test_paused_means_hands_off() -> None:
    """Neither a change of version nor drift is acted on while `spec.paused` is true, and both are when it is false again."""
    cluster = installed("5.1.14").edit(paused=True, version="5.1.15")
    cluster.deployment["spec"]["replicas"] = 3
    cluster.deployment["metadata"]["resourceVersion"] = "999"
    plan = cluster.plan()
    assert (Phase.PAUSED, Reason.PAUSED, ()) == (plan.phase, plan.reason, plan.actions)
    assert (
        PAUSED.format(serving="5.1.14", pending="The waiting edit of the spec is then applied; no outage is expected.")
        == plan.text
    )
    assert [Severity.NORMAL] == [finding.severity for finding in plan.findings]
    assert cluster.edit(paused=False).plan().actions


def test_a_pause_says_that_a_drain_waits() -> None:
    """On a cordoned node, with the command that moves the agent. Once the node is uncordoned, the message is the usual one."""
    cluster = installed("5.1.15").cordon("node-1").edit(paused=True)
    assert PAUSED_ON_A_CORDONED_NODE == cluster.plan().text
    assert PAUSED.format(serving="5.1.15", pending="No edit of the spec is waiting.") == cluster.uncordon().plan().text


def test_pausing_alone_changes_nothing_when_it_ends() -> None:
    """`paused` is about the operator, not the agent: it leaves no trace in the Deployment."""
    cluster = installed("5.1.15").edit(paused=True).settle()
    writes = [kind for kind in cluster.writes if kind != "status"]
    cluster.edit(paused=False).settle()
    assert writes == [kind for kind in cluster.writes if kind != "status"]
    assert Phase.RUNNING is cluster.status.phase


def test_nothing_begins_while_the_deployment_is_paused() -> None:
    """`kubectl rollout pause`: Kubernetes would replace no pod, and an approval would be used for nothing."""
    cluster = installed("5.1.15").annotate("4.2.3 CHG-1").edit(version="4.2.3")
    cluster.deployment["spec"]["paused"] = True
    plan = cluster.plan()
    assert (Phase.PAUSED, Reason.PAUSED, ()) == (plan.phase, plan.reason, plan.actions)
    assert plan.text == (
        "Deployment lab is paused (kubectl rollout pause), so no change of the agent can roll out.\n"
        "Impact: 5.1.15 keeps serving devices. The operator makes no changes and repairs no drift.\n"
        "Fix: Resume the Deployment with the command; the operator then repairs drift. The waiting edit of the spec is then applied. If it replaces the "
        "pod, 5.1.15 stops before 4.2.3 starts; devices cannot deliver messages until 4.2.3 has opened its ports.\n"
        "Command: kubectl -n clinic rollout resume deployment/lab"
    )
    assert [Severity.WARNING] == [finding.severity for finding in plan.findings]
    cluster.deployment["spec"]["paused"] = False
    assert cluster.plan().actions


def test_nothing_stands_in_the_way_of_our_own() -> None:
    """Objects that we own block nothing."""
    assert first_blocker(installed().observe()) is None


BLOCKS = ["PodDisruptionBudget", "Service", "ServiceAccount", "finalizer", "fault"]


def blocked(cluster: SimulatedCluster, how: str) -> SimulatedCluster:
    """Something stops the spec, and nothing about the agent's own Deployment is wrong."""
    if how == "finalizer":
        cluster.agent["metadata"] |= {
            "deletionTimestamp": "2026-09-01T12:00:00Z",
            "finalizers": ["backup.example.org/keep"],
        }
    elif how == "fault":
        cluster.agent["spec"]["channels"] = "none"
    else:
        cluster.objects[how]["metadata"]["ownerReferences"] = []
    cluster.count += 1
    return cluster


@pytest.mark.parametrize("how", BLOCKS)
def test_what_stops_the_spec_does_not_stop_a_rollback(how: str) -> None:
    """A downgrade fails while it holds: the agent that was active comes back, and the fault is still reported first."""
    cluster = blocked(changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1"), how).wait_for_deadline()
    assert ("4.2.3", ["5.1.15"]) == (cluster.record.rolled_back_from, cluster.running)
    assert Phase.FAILED is cluster.status.phase
    written = len(cluster.writes)
    cluster.settle().tick(600)
    assert written == len(cluster.settle().writes), "at rest there is no write"


@pytest.mark.parametrize("how", BLOCKS)
def test_what_stops_the_spec_does_not_stop_a_move_off_a_node(how: str) -> None:
    """The node is drained, and the agent has to leave it."""
    cluster = blocked(installed("5.1.15"), how).cordon("node-1").settle()
    assert {"node-2"} == {each.node for each in cluster.pods}


@pytest.mark.parametrize("how", BLOCKS)
def test_what_stops_the_spec_does_not_stop_a_repair_and_no_change_begins(how: str) -> None:
    """The image was edited by hand and is put back; the version that the spec asks for waits."""
    cluster = installed("5.1.14")
    cluster.edit(version="5.1.15")
    blocked(cluster, how).edit_template(lambda t: t["spec"]["containers"][0].update(image="example.org/other:5.1.14"))
    cluster.settle()
    assert ("5.1.14", ["5.1.14"]) == (cluster.applied_version, cluster.running)
    assert "example.org/other" not in cluster.deployment["spec"]["template"]["spec"]["containers"][0]["image"]


def test_a_foreign_child_is_never_written() -> None:
    """Neither while the agent is rolled back, nor while it moves."""
    cluster = blocked(changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1"), "Service")
    cluster.objects["Service"]["spec"]["ports"] = []
    before = copied(cluster.objects["Service"])
    cluster.wait_for_deadline()
    assert before == cluster.objects["Service"]
    assert "still repaired, rolled back and moved off cordoned nodes" in (cluster.status.plan or "")


def test_nothing_is_created_again_for_a_deleted_agent() -> None:
    """The program behind the finalizer, or a person, removes its children one after the other."""
    cluster = blocked(installed("5.1.15"), "finalizer").delete("Service").settle()
    assert "Service" not in cluster.objects
    plan = cluster.delete("Deployment").plan()
    assert (Reason.BEING_DELETED, ()) == (plan.reason, plan.actions)
    assert "finalizer backup.example.org/keep keeps it" in plan.text


@pytest.mark.parametrize("finalizer", ["foregroundDeletion", "orphan"])
def test_garbage_collection_is_not_disturbed(finalizer: str) -> None:
    """Beside another finalizer too."""
    raw = blocked(installed("5.1.15"), "finalizer").agent
    assert not is_garbage_collected(raw)
    raw["metadata"]["finalizers"].append(finalizer)
    assert is_garbage_collected(raw)


def test_what_failed_stays_latched_while_the_spec_cannot_be_read() -> None:
    """The same spec as before is no other spec."""
    cluster = changing("5.1.14", "5.1.15").wait_for_deadline()
    spec = copied(cluster.agent["spec"])
    blocked(cluster, "fault").settle()
    cluster.agent["spec"] = spec
    cluster.count += 1
    rollouts = list(cluster.books.rollouts)
    assert rollouts == cluster.settle().books.rollouts


def test_an_object_of_another_agent_is_not_to_be_deleted() -> None:
    """`lab` and `lab-gate`: names that collide. The other one's running Deployment is not to be deleted or renamed."""
    raw = owned_by({**stranger("Deployment"), "spec": {"template": {"spec": {}}}}, "agent-7", name="lab-gate")
    plan = make_plan(observed(agent(gate={"enabled": True}), children={"GateDeployment": raw}), config=CONFIG, now=NOW)
    assert (Reason.NAME_TAKEN, ()) == (plan.reason, plan.actions)
    assert "It belongs to MedplumAgent lab-gate." in plan.text
    assert (
        "Fix: Do not delete the object: the other MedplumAgent needs it. Save this MedplumAgent with the command. "
        "Then delete this MedplumAgent, and create it under another name." in plan.text
    )


def test_a_lost_default_image_repository_does_not_stop_a_rollback() -> None:
    """The operator was started again without its setting: what was active needs none, because its template is recorded."""
    cluster = changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1")
    cluster.config = Config()
    cluster.wait_for_deadline()
    assert ("4.2.3", ["5.1.15"]) == (cluster.record.rolled_back_from, cluster.running)
