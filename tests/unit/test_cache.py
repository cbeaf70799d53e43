"""The cache of the watches: never older than a known state, and complete after a LIST."""

from __future__ import annotations

import json
from typing import Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.annotations import AGENT_LABEL
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.observed.nodes import Node
from medplum_agent_operator.core.observed.pods import Pod
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.handlers import keys_of, kinds_without_events
from medplum_agent_operator.slim import StringPool
from tests.support.builders import NOW, container_status, pod

KIND = "Deployment"


def one(version: str, *, name: str = "lab", namespace: str = "clinic", uid: str = "1", **labels: str) -> dict[str, Any]:
    """An object at a resource version."""
    metadata = {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": version, "labels": labels}
    return {"metadata": metadata}


def versioned(raw: dict[str, Any], version: str) -> dict[str, Any]:
    """An object with a resource version."""
    return {**raw, "metadata": {**raw["metadata"], "resourceVersion": version}}


def cached(*objects: dict[str, Any]) -> Cache:
    """A cache with these objects."""
    cache = Cache()
    for raw in objects:
        cache.put(KIND, raw)
    return cache


def version_of(cache: Cache, name: str = "lab") -> str | None:
    """The resource version in the cache."""
    found = cache.get(KIND, "clinic", name)
    return None if found is None else found["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    ("first", "then", "kept"),
    [
        pytest.param(one("9"), one("10"), "10", id="a newer state replaces an older one: 10 is more than 9"),
        pytest.param(one("10"), one("9"), "10", id="an older state is ignored"),
        pytest.param(one("10"), one("10"), "10", id="the same state stays"),
        pytest.param(
            one("10"), one("9", uid="2"), "9", id="a new object of that name replaces it, despite a lower version"
        ),
    ],
)
def test_the_newest_state_stays(first: dict[str, Any], then: dict[str, Any], kept: str) -> None:
    """A watch that lags behind our own write does not restore the state before it."""
    assert kept == version_of(cached(first, then))


@pytest.mark.parametrize(
    ("known", "then", "changed"),
    [
        pytest.param([], one("10"), True, id="an unknown object"),
        pytest.param([one("10")], one("11"), True, id="a newer state"),
        pytest.param([one("10")], one("10"), False, id="the answer to our own write"),
        pytest.param([one("10")], one("9"), False, id="an older state"),
        pytest.param([one("10")], one("9", uid="2"), True, id="a new object of that name"),
    ],
)
def test_only_a_new_state_needs_a_pass(known: list[dict[str, Any]], then: dict[str, Any], *, changed: bool) -> None:
    """A watch event with a known state leads to no pass."""
    assert changed is cached(*known).put(KIND, then)


def test_a_state_without_a_resource_version_is_always_new() -> None:
    """If the order is unknown, one pass too many is right."""
    cache = cached(one(""))
    assert cache.put(KIND, one(""))


def test_a_deleted_object_leaves_the_cache() -> None:
    """At its DELETED event; the second one changes nothing."""
    cache = cached(one("10"))
    assert cache.drop(KIND, one("11"))
    assert not cache.drop(KIND, one("11"))
    assert cache.get(KIND, "clinic", "lab") is None


def test_a_pod_that_had_ended_stays_with_its_final_state_until_the_next_list() -> None:
    """The time of its end may arrive only with DELETED, and the pass comes after that. It needs a pass, and it does not leak."""
    cache = Cache()
    cache.put("Pod", versioned(pod(ready_since=NOW, terminating=True), "10"))
    assert cache.drop("Pod", versioned(pod(phase="Succeeded", ended_at=NOW, terminating=True), "11"))
    (kept,) = cache.labelled("Pod", "clinic", "agents.medplum.com/agent", "lab")
    assert (True, NOW) == (Pod.read(kept).finished, Pod.read(kept).ports_closed_since)
    cache.replace("Pod", None, [], as_of="12")
    assert [] == cache.names("Pod")


def test_a_pod_that_was_removed_while_it_ran_leaves_the_cache() -> None:
    """By force, or with its node: its end is unknown, and a deleted pod must not count as running."""
    cache = Cache()
    cache.put("Pod", versioned(pod(ready_since=NOW), "10"))
    assert cache.drop("Pod", versioned(pod(ready_since=NOW, terminating=True), "11"))
    assert [] == cache.names("Pod")


def test_a_late_delete_of_an_old_object_does_not_drop_the_new_one() -> None:
    """A new object has that name by now."""
    cache = cached(one("10"), one("12", uid="2"))
    assert not cache.drop(KIND, one("11"))
    assert "12" == version_of(cache)


def test_dropping_what_is_not_known_is_nothing() -> None:
    """A delete may come twice."""
    cache = cached()
    cache.drop(KIND, one("1"))
    assert [] == cache.names(KIND)


def test_a_list_finds_what_a_watch_lost() -> None:
    """An object that is not in it is removed, and returned so that its agent gets a pass; a new one is added."""
    cache = cached(one("10"), one("11", name="old"))
    gone = cache.replace(KIND, None, [one("10"), one("13", name="new")], as_of="20")
    assert ["old"] == [raw["metadata"]["name"] for raw in gone]
    assert {("clinic", "lab"), ("clinic", "new")} == set(cache.names(KIND))


def test_objects_newer_than_the_list_stay() -> None:
    """They were created or changed during the LIST."""
    cache = cached(one("10"), one("21", name="young"))
    assert [] == cache.replace(KIND, None, [one("9")], as_of="20")
    assert ("10", "21") == (version_of(cache), version_of(cache, "young"))


def test_a_list_of_one_namespace_does_not_affect_others() -> None:
    """Nor other kinds."""
    cache = cached(one("10"), one("11", namespace="other"))
    cache.put("Pod", one("5"))
    gone = cache.replace(KIND, "clinic", [], as_of="20")
    assert ["clinic"] == [raw["metadata"]["namespace"] for raw in gone]
    assert [("other", "lab")] == cache.names(KIND)
    assert [("clinic", "lab")] == cache.names("Pod")


def test_objects_are_found_by_label_within_their_namespace() -> None:
    """For example the pods of one agent."""
    cache = cached(
        one("1", name="a", **{AGENT_LABEL: "lab"}),
        one("2", name="b", **{AGENT_LABEL: "rad"}),
        one("3", name="c", namespace="other", **{AGENT_LABEL: "lab"}),
    )
    assert ["a"] == [raw["metadata"]["name"] for raw in cache.labelled(KIND, "clinic", AGENT_LABEL, "lab")]
    cache.put(KIND, one("4", name="a", **{AGENT_LABEL: "rad"}))
    cache.drop(KIND, one("5", name="b"))
    assert [] == cache.labelled(KIND, "clinic", AGENT_LABEL, "lab")
    assert ["a"] == [raw["metadata"]["name"] for raw in cache.labelled(KIND, "clinic", AGENT_LABEL, "rad")]


def test_of_a_pod_only_the_fields_that_decisions_read_are_cached() -> None:
    """A pod reads the same from the cache as from the cluster, with a fraction of the memory."""
    containers = [container_status("agent", ready=True)]
    raw = pod("5.1.15", image="agent:5.1.15", ready_since=NOW, containers=containers)
    raw["spec"] |= {"nodeName": "node-1", "volumes": [{"name": "work", "emptyDir": {}}]}
    raw["spec"]["containers"][0]["env"] = [{"name": "HOME", "value": "/"}]
    cache = Cache()
    cache.put("Pod", raw)
    kept = cache.get("Pod", raw["metadata"]["namespace"], raw["metadata"]["name"])
    assert kept is not None
    assert Pod.read(raw) == Pod.read(kept)
    assert {"nodeName": "node-1", "containers": [{"name": "agent", "image": "agent:5.1.15"}]} == kept["spec"]


def test_managed_fields_are_cached_only_for_an_agent_s_metadata() -> None:
    """They are most of an object's size. Only those of a MedplumAgent's metadata are read: they show who approved."""
    raw = one("1")
    approved: dict[str, Any] = {"f:metadata": {"f:annotations": {"f:agents.medplum.com/force-downgrade": {}}}}
    raw["metadata"]["managedFields"] = [
        {"manager": "kubectl-annotate", "fieldsV1": {**approved, "f:spec": {"f:version": {}}}},
        {"manager": "medplum-agent-operator", "subresource": "status", "fieldsV1": {"f:status": {"f:phase": {}}}},
        {"manager": "somebody"},
    ]
    cache = cached(raw)
    cache.put("MedplumAgent", raw)
    child, agent = cache.get(KIND, "clinic", "lab"), cache.get("MedplumAgent", "clinic", "lab")
    assert child is not None
    assert agent is not None
    assert "managedFields" not in child["metadata"]
    assert [{"manager": "kubectl-annotate", "fieldsV1": approved}] == agent["metadata"]["managedFields"]
    assert 3 == len(raw["metadata"]["managedFields"])


def test_equal_short_strings_are_interned() -> None:
    """Field names, labels and values are the same in a hundred agents; long strings rarely are."""

    def text(short: str) -> dict[str, Any]:
        return json.loads(json.dumps({**one("1"), "spec": {"a field": [short, short * 50, 1, None]}}))  # type: ignore[no-any-return]

    first, second = text("a value"), {**text("a value"), "metadata": one("1", name="ward", uid="2")["metadata"]}
    cache = Cache()
    for raw in (first, second):
        cache.put("MedplumAgent", raw)
    lab, ward = (cache.get("MedplumAgent", "clinic", name) or {} for name in ("lab", "ward"))
    assert lab["spec"] == first["spec"]
    assert ward["spec"] == second["spec"]
    keys = [next(iter(raw["spec"])) for raw in (lab, ward)]
    values = [raw["spec"]["a field"] for raw in (lab, ward)]
    assert keys[0] is keys[1]
    assert values[0][0] is values[1][0]
    assert values[0][1] is not values[1][1]


def test_the_pool_of_strings_is_bounded() -> None:
    """Uids and times come and go."""
    strings = StringPool()
    kept = strings.intern("kept")
    assert strings.intern(json.loads(json.dumps("kept"))) is kept
    strings.intern([str(number) for number in range(10_000)])
    assert len(strings) < 10_000


def node(version: str, *, cordoned: bool = False, ready: str = "True", taint: str = "", **noise: Any) -> dict[str, Any]:
    """A node at a resource version, with the other fields that kubelets write."""
    return {
        "kind": "Node",
        "metadata": {"name": "node-1", "uid": "n-1", "resourceVersion": version, "labels": {"zone": "a"}, **noise},
        "spec": {"podCIDR": "10.0.0.0/24"}
        | ({"unschedulable": True} if cordoned else {})
        | ({"taints": [{"key": "karpenter.sh/disrupted", "effect": taint, "timeAdded": version}]} if taint else {}),
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": version}],
            "images": [{"names": ["x" * 100]}],
        },
    }


@pytest.mark.parametrize(
    ("then", "changed"),
    [
        pytest.param(node("11"), False, id="a heartbeat"),
        pytest.param(node("11", annotations={"a": "b"}), False, id="an annotation of another tool"),
        pytest.param(node("11", cordoned=True), True, id="a cordon"),
        pytest.param(node("11", taint="NoSchedule"), True, id="a taint that keeps pods away"),
        pytest.param(node("11", taint="NoExecute"), True, id="a taint that ends pods"),
        pytest.param(node("11", taint="PreferNoSchedule"), False, id="a soft taint"),
        pytest.param(node("11", ready="False"), False, id="it is not ready: its pods report that"),
        pytest.param(node("11", ready="Unknown"), True, id="its kubelet stopped reporting"),
        pytest.param(node("9", cordoned=True), False, id="an older state"),
    ],
)
def test_of_a_node_only_a_cordon_and_its_loss_need_a_pass(then: dict[str, Any], *, changed: bool) -> None:
    """Other reports of a kubelet lead to no pass and are not cached. The resource version is, so that the order stays known."""
    cache = Cache()
    assert cache.put("Node", node("10"))
    assert changed is cache.put("Node", then)
    kept = cache.get("Node", "", "node-1")
    assert kept is not None
    assert Node.read(kept) == Node.read(then if then["metadata"]["resourceVersion"] == "11" else node("10"))
    assert {"name", "uid", "resourceVersion"} == set(kept["metadata"])
    assert {"metadata", "spec", "status"} == set(kept)
    assert not cache.put("Node", node("10", cordoned=not Node.read(kept).cordoned)), "older than what is known"


def test_an_event_of_a_node_affects_the_agents_with_a_pod_on_it() -> None:
    """Each of them once, in all namespaces. An object of an agent affects only that agent."""
    cache = Cache()
    here, other = pod(name="lab-1", node="node-1"), pod(name="lab-2", node="node-2")
    far = pod(name="rad-1", node="node-1")
    far["metadata"] |= {"namespace": "other", "labels": {"agents.medplum.com/agent": "rad"}}
    for raw in (here, other, far):
        cache.put("Pod", raw)
    assert {Key("clinic", "lab"), Key("other", "rad")} == keys_of("Node", node("10"), cache)
    assert {Key("clinic", "lab")} == keys_of("Pod", here, cache)
    assert set() == keys_of("Node", {"metadata": {"name": "node-3"}}, cache)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5_000, "{", "null", "[]"])
def test_a_deployment_with_any_annotation_is_cached_and_claims_nothing(text: str) -> None:
    """A user with the right to edit Deployments may set our label and any annotation: no LIST may fail because of it."""
    raw = one("1", name="evil", **{names.AGENT_LABEL: "evil"})
    raw["metadata"]["annotations"] = {names.APPLIED_SPEC: text}
    cache = Cache()
    assert [] == cache.replace(KIND, None, [raw], as_of="1")
    assert [("clinic", "evil")] == cache.names(KIND)
    assert set() == cache.take_competing_agents()


def test_a_kind_with_objects_but_without_watch_events_is_found() -> None:
    """Kopf never watches a kind that the API server did not list at the start."""
    cache = Cache()
    ours = one("1", **{names.AGENT_LABEL: "lab"})
    for kind, raw in (("Pod", pod()), (KIND, ours), ("Service", one("1")), ("Node", node("1"))):
        cache.put(kind, raw)  # the watch of Services does not select this one
    assert [KIND, "Node"] == kinds_without_events(cache, {"Pod"}, nodes=True)
    assert [KIND] == kinds_without_events(cache, {"Pod", "Service"}, nodes=False)
    assert [] == kinds_without_events(cache, {"Pod", KIND, "Node"}, nodes=True)


def test_an_object_that_was_deleted_during_a_list_stays_deleted() -> None:
    """The LIST began before and contains it; no later event would remove it."""
    cache = Cache()
    cache.put("Pod", versioned(pod(name="old"), "7"))
    cache.drop("Pod", versioned(pod(name="old"), "101"))
    cache.replace("Pod", None, [versioned(pod(name="old"), "7")], as_of="100")
    assert [] == cache.names("Pod")
    other = versioned(pod(name="old"), "102")
    other["metadata"]["uid"] = "another of that name"
    cache.replace("Pod", None, [other], as_of="102")
    assert [("clinic", "old")] == cache.names("Pod")


def test_final_states_outlive_a_list_during_a_rollout() -> None:
    """But not a LIST of all kinds."""
    ended = versioned(pod(name="old", phase="Failed"), "7")
    cache = Cache()
    cache.put("Pod", ended)
    cache.drop("Pod", ended)
    cache.replace("Pod", None, [], as_of="9", ended=False)
    assert [("clinic", "old")] == cache.names("Pod")
    cache.replace("Pod", None, [], as_of="9")
    assert [] == cache.names("Pod")


def large(number: int, *, owner: str | None = None) -> dict[str, Any]:
    """A ServiceAccount with our label and 250 KB of annotations, as a user makes it who may create ServiceAccounts."""
    raw = one("1", name=f"sa-{number}", uid=f"sa-{number}", **{AGENT_LABEL: "lab", "more": "x" * 60})
    raw["metadata"]["annotations"] = {"text": "x" * 250_000}
    owners: list[dict[str, Any]] = [
        {"kind": "MedplumAgent", "name": f"other-{n}", "uid": f"other-{n}"} for n in range(100)
    ]
    if owner is not None:
        owners.append({"kind": "MedplumAgent", "name": "lab", "uid": owner, "controller": True})
    raw["metadata"]["ownerReferences"] = owners
    return raw


@pytest.mark.parametrize("owner", [None, "forged"])
def test_of_what_no_medplumagent_owns_only_the_nameplate_is_cached(owner: str | None) -> None:
    """Six hundred ServiceAccounts of 250 KB took the memory of the operator, and so of all tenants. An owner that does not exist does not help."""
    cache = Cache()
    cache.put("MedplumAgent", one("1", uid="agent-1"))
    for kind in ("ServiceAccount", "Service", "PodDisruptionBudget", "RoleBinding", KIND, "ControllerRevision"):
        cache.replace(kind, None, [large(number, owner=owner) for number in range(600)], as_of="1")
        assert 600 == len(cache.names(kind))
        for _, name in cache.names(kind):
            assert len(json.dumps(cache.get(kind, "clinic", name))) < 600


def test_what_becomes_known_as_owned_is_cached_whole() -> None:
    """Its MedplumAgent is seen later than it."""
    cache, mine = Cache(), large(1, owner="agent-1")
    cache.put("ServiceAccount", mine)
    assert "annotations" not in (cache.get("ServiceAccount", "clinic", "sa-1") or {})["metadata"]
    cache.put("MedplumAgent", one("1", uid="agent-1"))
    cache.put("ServiceAccount", mine)
    assert (
        mine["metadata"]["annotations"]
        == (cache.get("ServiceAccount", "clinic", "sa-1") or {})["metadata"]["annotations"]
    )
    assert not cache.put("ServiceAccount", mine)


@pytest.mark.parametrize("kind", ["Pod", "Job", "MedplumAgent"])
def test_of_agents_pods_and_jobs_only_the_marks_that_are_read_are_cached(kind: str) -> None:
    """Users may add labels and annotations, as large as objects may be. The manifest that kubectl stores in one is not read either."""
    raw = {**pod(), "kind": kind}
    raw["metadata"] |= {"uid": "1", "resourceVersion": "1"}
    raw["metadata"]["annotations"] |= {"text": "x" * 250_000, names.FORCE_DOWNGRADE: "4.2.3"}
    raw["metadata"]["labels"] |= {f"label-{number}": "x" * 60 for number in range(1000)}
    cache = Cache()
    cache.put(kind, raw)
    found = cache.get(kind, "clinic", "lab-1") or {}
    assert {names.TEMPLATE_HASH, names.FORCE_DOWNGRADE} == set(found["metadata"]["annotations"])
    assert {names.AGENT_LABEL, names.VERSION_LABEL} == set(found["metadata"]["labels"])
