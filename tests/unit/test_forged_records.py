"""Who may edit Deployments forges what the operator remembers: nothing forged becomes a pod or a decision, and each change is reported.

`tests/behaviour/test_forged_records.py` does some of it on a real API server, with the rights of the role `edit`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.observed.revision import Memory, Revision
from tests.support.simulated_cluster import SimulatedCluster, changing, installed
from tests.support.simulated_cluster.apply import copied

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.builders import Raw

    Forge = Callable[[SimulatedCluster], None]

EVIL = "registry.example.org/evil"
OLD_TEMPLATE, OLD_STATE = f"{names.DOMAIN}/applied-template", f"{names.DOMAIN}/last-good"


def marks(cluster: SimulatedCluster) -> dict[str, str]:
    """The annotations of the live Deployment."""
    found: dict[str, str] = cluster.deployment["metadata"]["annotations"]
    return found


def evil(template: Raw) -> Raw:
    """A pod template with another image, and the rights of its node."""
    template = copied(template)
    template["spec"]["containers"][0]["image"] = f"{EVIL}:5.1.15"
    template["spec"]["hostPID"] = True
    return template


def setting(name: str, text: str | None) -> Forge:
    """Set or remove an annotation."""

    def forge(cluster: SimulatedCluster) -> None:
        if text is None:
            marks(cluster).pop(name, None)
        else:
            marks(cluster)[name] = text

    return forge


def in_record(**parts: Any) -> Forge:
    """Change the record."""

    def forge(cluster: SimulatedCluster) -> None:
        marks(cluster)[names.ROLLOUT] = json.dumps({**json.loads(marks(cluster)[names.ROLLOUT]), **parts})

    return forge


def in_spec(**parts: Any) -> Forge:
    """Change the applied spec."""

    def forge(cluster: SimulatedCluster) -> None:
        marks(cluster)[names.APPLIED_SPEC] = json.dumps({**json.loads(marks(cluster)[names.APPLIED_SPEC]), **parts})

    return forge


def old_annotations(cluster: SimulatedCluster) -> None:
    """Templates in the annotations of releases before revisions."""
    template = {"revision": 1, "template": evil(cluster.deployment["spec"]["template"])}
    marks(cluster)[OLD_TEMPLATE] = json.dumps(template)
    spec = json.loads(marks(cluster)[names.APPLIED_SPEC])
    marks(cluster)[OLD_STATE] = json.dumps({"spec": spec, "applied": template})


def as_an_older_release(cluster: SimulatedCluster) -> None:
    """The same, and no revision is named: as if an older release had written all of it."""
    old_annotations(cluster)
    in_spec(image={"repository": EVIL})(cluster)
    marks(cluster).pop(names.REVISION, None)


def of_another_agent(cluster: SimulatedCluster) -> None:
    """A ControllerRevision with another owner."""
    forged = copied(cluster.revisions[max(cluster.revisions)])
    forged["metadata"]["name"] = "lab-r99-0123456789"
    forged["metadata"]["ownerReferences"][0]["uid"] = "another"
    forged["data"]["template"]["template"] = evil(forged["data"]["template"]["template"])
    cluster.revisions[forged["metadata"]["name"]] = forged
    marks(cluster)[names.REVISION] = forged["metadata"]["name"]


def without_owner(cluster: SimulatedCluster) -> None:
    """A ControllerRevision without an owner, and no revision is named."""
    of_another_agent(cluster)
    cluster.revisions["lab-r99-0123456789"]["metadata"].pop("ownerReferences")


def undone(cluster: SimulatedCluster) -> None:
    """`kubectl rollout undo`: template and annotations of the first ReplicaSet."""
    first = min(cluster.revisions)
    notes = Memory.of(
        cluster.agent,
        cluster.status.model_copy(update={"revision": first}),
        deployment={**cluster.deployment, "metadata": {"annotations": {names.REVISION: first}}},
        revisions=[cluster.revisions[first]],
    ).notes
    assert notes.template is not None
    assert notes.record is not None
    marks(cluster).update({names.REVISION: first, names.ROLLOUT: notes.record.dump()})
    cluster.edit_template(lambda template: template.update(copied(dict(notes.template.template))))  # type: ignore[union-attr]


FORGERIES: dict[str, Forge] = {
    "no revision": setting(names.REVISION, None),
    "an empty revision": setting(names.REVISION, ""),
    "a revision that does not exist": setting(names.REVISION, "lab-r99-0123456789"),
    "the first revision": lambda cluster: setting(names.REVISION, min(cluster.revisions))(cluster),
    "a name with a huge number": setting(names.REVISION, f"lab-r{'9' * 5000}-0123456789"),
    "a revision of another agent": of_another_agent,
    "a revision without an owner": without_owner,
    "no record": setting(names.ROLLOUT, None),
    "a broken record": setting(names.ROLLOUT, "{"),
    "a nested record": setting(names.ROLLOUT, "[" * 100_000),
    "a record of a lower version": in_record(to="4.0.0", change="Upgrade"),
    "a record that comes from a lower version": in_record(**{"from": "4.0.0"}),
    "a record with an approval": in_record(approval="4.2.3", change="Downgrade"),
    "a record that began later": in_record(startedAt="2026-12-31T00:00:00Z"),
    "a record that began at the end of time": in_record(startedAt="9999-12-31T23:59:59Z"),
    "a record with a failure": in_record(
        failed={"version": "5.1.15", "spec": "0", "reason": "CrashLoop", "message": "forged"}
    ),
    "a record with other requests": in_record(revision=99, restartMark="forged", refresh="forged", now="4.2.3"),
    "no spec": setting(names.APPLIED_SPEC, None),
    "a broken spec": setting(names.APPLIED_SPEC, "{"),
    "a spec of a lower version": in_spec(version="4.0.0"),
    "a spec with another image": in_spec(image={"repository": EVIL}),
    "a spec in the node's network": in_spec(podTemplate={"hostNetwork": True}),
    "a spec of another server": in_spec(server={"baseUrl": f"https://{EVIL}/", "agentId": "evil"}),
    "all of it gone": lambda cluster: marks(cluster).clear(),
    "annotations of an older release": as_an_older_release,
    "kubectl rollout undo": undone,
}
SITUATIONS: dict[str, Callable[[], SimulatedCluster]] = {
    "at rest": lambda: installed("5.1.14").edit(version="5.1.15").settle(),
    "a refused downgrade": lambda: installed("5.1.14").edit(version="5.1.15").settle().edit(version="4.2.3").settle(),
    "a handoff": lambda: changing("5.1.15", "5.1.16"),
    "a recreate": lambda: changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1"),
    "a failed change": lambda: changing("5.1.15", "5.1.16").wait_for_deadline(),
}


def assert_nothing_forged(cluster: SimulatedCluster) -> None:
    """No pod, and no object of the operator, has anything of it."""
    templates = [pod.template for pod in cluster.pods]
    templates += [raw["spec"]["template"] for raw in cluster.objects.values() if "template" in raw.get("spec", {})]
    for template in templates:
        assert EVIL not in json.dumps(template)
        assert not template["spec"].get("hostPID")
        assert not template["spec"].get("hostNetwork")


def versions(cluster: SimulatedCluster) -> set[str]:
    """The versions that run."""
    return {pod.version.text for pod in cluster.pods}


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("forgery", FORGERIES)
def test_nothing_forged_becomes_a_pod_or_a_decision(forgery: str, situation: str) -> None:
    """The same versions run as without the forgery, a Warning reports it, and the record is as it was. I1 and I2 are asserted at each step."""
    cluster, undisturbed = SITUATIONS[situation](), SITUATIONS[situation]()
    FORGERIES[forgery](cluster)
    cluster.count += 1
    if forgery == "kubectl rollout undo":
        cluster.books.used.clear()  # an approved downgrade that was undone by hand is made again, with its approval
    told = len(cluster.told)
    for one in (cluster, undisturbed):
        one.settle(seconds=400)
        assert_nothing_forged(one)
    assert Reason.RECORD_RESTORED in [finding.reason for finding in cluster.told[told:]]
    assert (undisturbed.applied_version, undisturbed.status.phase) == (cluster.applied_version, cluster.status.phase)
    assert versions(undisturbed) == versions(cluster)
    assert () == cluster.memory.altered
    assert cluster.in_force == cluster.status.revision
    assert undisturbed.status.spent_approvals == cluster.status.spent_approvals
    for one in (cluster, undisturbed):
        one.edit(version="4.1.12").settle(seconds=400)
        assert_nothing_forged(one)
    assert versions(undisturbed) == versions(cluster), "an unapproved downgrade"


HAND_OVER = {
    **{name: forge for name, forge in FORGERIES.items() if "revision" not in name and name != "kubectl rollout undo"},
    "templates with another image": old_annotations,
    "all parts with another image": as_an_older_release,
}


@pytest.mark.parametrize("situation", ["at rest", "a refused downgrade", "a failed change"])
@pytest.mark.parametrize("forgery", HAND_OVER)
def test_nothing_forged_before_the_hand_over_becomes_a_pod_or_a_decision(forgery: str, situation: str) -> None:
    """Forged before the first operator with revisions comes: no pod is replaced, and no downgrade begins without an approval.

    The record of a failed change is not believed if `status` does not confirm it. The change, which the user's spec asks for, is then tried again.
    """
    cluster = SITUATIONS[situation]().as_before_revisions()
    HAND_OVER[forgery](cluster)
    cluster.count += 1
    before = {pod.name for pod in cluster.pods}
    cluster.settle(seconds=400)
    assert before <= {pod.name for pod in cluster.pods}
    cluster.edit(version="4.1.12").settle(seconds=400)
    assert_nothing_forged(cluster)
    more = {pod.version.text for pod in cluster.pods if pod.name not in before}
    assert more <= ({"5.1.16"} if situation == "a failed change" else set())
    assert Reason.DOWNGRADE_NOT_APPROVED in [finding.reason for finding in cluster.told]


@pytest.mark.parametrize("how", ["the version", "the server"])
def test_a_live_template_that_was_made_to_fit_a_forged_spec_is_not_rendered_from_it(how: str) -> None:
    """Before the hand-over, somebody forges the applied spec, and the fingerprint of the live template to that of the evil one."""
    cluster = installed("5.1.15", image={"repository": "registry.example.org/agent"}).edit(version="4.2.3").settle()
    wicked = installed("5.1.15", image={"repository": EVIL})
    cluster.as_before_revisions()
    marks(cluster)[names.APPLIED_SPEC] = marks(wicked)[names.APPLIED_SPEC]
    known = wicked.deployment["spec"]["template"]["metadata"]["annotations"][names.TEMPLATE_HASH]
    cluster.edit_template(lambda template: template["metadata"]["annotations"].update({names.TEMPLATE_HASH: known}))
    cluster.settle()
    if how == "the server":
        cluster.restart_pods().settle()
    assert_nothing_forged(cluster)


def test_only_ten_revisions_stay() -> None:
    """The oldest are deleted; the one in force stays."""
    cluster = installed("5.1.1")
    for patch in range(2, 20):
        cluster.edit(version=f"5.1.{patch}").settle()
    assert 10 == len(cluster.revisions)
    assert "5.1.19" == cluster.revisions[cluster.in_force]["data"]["spec"]["version"]
    assert len(cluster.writes) == len(cluster.settle().writes)


def test_a_revision_that_a_crash_left_unused_is_never_believed() -> None:
    """The operator was killed after it created the revision, and the change was withdrawn: the next revision has a higher number."""
    cluster = installed("5.1.14").edit(version="5.1.15")
    cluster.dies_at_each_pass(after=1, passes=1)
    (unused,) = set(cluster.revisions) - {cluster.in_force}
    cluster.edit(version="5.1.14").settle()
    assert Revision.read(cluster.revisions[cluster.in_force]).number > Revision.read(cluster.revisions[unused]).number  # type: ignore[union-attr]
    marks(cluster)[names.REVISION] = unused
    cluster.count += 1
    assert ("5.1.14", {"5.1.14"}) == (cluster.settle().applied_version, versions(cluster))


@pytest.mark.parametrize("lost", ["status", "the name", "both", "the revision"])
def test_what_is_lost_is_found_again(lost: str) -> None:
    """No pod is replaced, and a refused downgrade stays refused."""
    cluster = installed("5.1.14").edit(version="5.1.15").settle().edit(version="4.2.3").settle()
    before = [pod.name for pod in cluster.pods]
    if lost in {"status", "both"}:
        cluster.agent["status"].pop("revision")
    if lost in {"the name", "both"}:
        marks(cluster).pop(names.REVISION)
    if lost == "the revision":
        cluster.revisions.clear()
    cluster.count += 1
    cluster.settle()
    assert before == [pod.name for pod in cluster.pods]
    assert cluster.in_force == cluster.status.revision
    assert cluster.in_force in cluster.revisions
    assert "DowngradeNotApproved" == cluster.condition("Ready")[1]


def test_a_long_spec_has_no_copy_on_the_deployment() -> None:
    """All annotations of an object may have 256 KiB; the revision has the spec."""
    cluster = installed("5.1.14", podTemplate={"annotations": {"example.org/text": "x" * 200_000}})
    assert names.APPLIED_SPEC not in marks(cluster)
    assert sum(map(len, marks(cluster).values())) < 10_000
    cluster.edit(version="5.1.15").settle()
    assert ({"5.1.15"}, ()) == (versions(cluster), cluster.memory.altered)
