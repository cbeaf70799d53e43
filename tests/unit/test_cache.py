"""What the watches have seen: never older than what is known, and complete after a LIST."""

from __future__ import annotations

import json
from typing import Any

import pytest

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.cache import Cache, Strings
from medplum_agent_operator.core.observed.model import Key
from medplum_agent_operator.core.observed.nodes import Node
from medplum_agent_operator.core.observed.pods import Pod
from medplum_agent_operator.handlers import keys_of, unheard
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
    """A cache that has seen these."""
    cache = Cache()
    for raw in objects:
        cache.put(KIND, raw)
    return cache


def version_of(cache: Cache, name: str = "lab") -> str | None:
    """The resource version that is known."""
    found = cache.get(KIND, "clinic", name)
    return None if found is None else found["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    ("first", "then", "kept"),
    [
        pytest.param(one("9"), one("10"), "10", id="a newer state replaces an older one: 10 is more than 9"),
        pytest.param(one("10"), one("9"), "10", id="an older state is ignored"),
        pytest.param(one("10"), one("10"), "10", id="the same state stays"),
        pytest.param(one("10"), one("9", uid="2"), "9", id="a new object of that name counts, whatever its number"),
    ],
)
def test_the_newest_state_stays(first: dict[str, Any], then: dict[str, Any], kept: str) -> None:
    """A watch that is behind our own write does not bring back the state before it."""
    assert kept == version_of(cached(first, then))


@pytest.mark.parametrize(
    ("known", "then", "news"),
    [
        pytest.param([], one("10"), True, id="an object that was not known"),
        pytest.param([one("10")], one("11"), True, id="a newer state"),
        pytest.param([one("10")], one("10"), False, id="the very state that our own write was answered with"),
        pytest.param([one("10")], one("9"), False, id="an older state"),
        pytest.param([one("10")], one("9", uid="2"), True, id="a new object of that name"),
    ],
)
def test_only_what_is_news_needs_a_look(known: list[dict[str, Any]], then: dict[str, Any], *, news: bool) -> None:
    """A watch that tells of what is known already leads to no pass."""
    assert news is cached(*known).put(KIND, then)


def test_the_state_of_what_has_no_resource_version_is_always_news() -> None:
    """Where an order cannot be told, looking once too often is right."""
    cache = cached(one(""))
    assert cache.put(KIND, one(""))


def test_a_deleted_object_is_forgotten() -> None:
    """DELETED of the object that is known; the second time it is no news."""
    cache = cached(one("10"))
    assert cache.drop(KIND, one("11"))
    assert not cache.drop(KIND, one("11"))
    assert cache.get(KIND, "clinic", "lab") is None


def test_a_pod_that_had_ended_is_kept_with_its_last_words_until_the_next_list() -> None:
    """When its agent ended comes with DELETED at the latest, and the pass comes after that. It is news, and it is no leak."""
    cache = Cache()
    cache.put("Pod", versioned(pod(ready_since=NOW, terminating=True), "10"))
    assert cache.drop("Pod", versioned(pod(phase="Succeeded", ended_at=NOW, terminating=True), "11"))
    (kept,) = cache.labelled("Pod", "clinic", "agents.medplum.com/agent", "lab")
    assert (True, NOW) == (Pod.read(kept).finished, Pod.read(kept).ports_closed_since)
    cache.replace("Pod", None, [], as_of="12")
    assert [] == cache.names("Pod")


def test_a_pod_that_was_removed_while_it_ran_is_forgotten() -> None:
    """By force, or with its node: nothing is known of its end, and what is gone must not count as running."""
    cache = Cache()
    cache.put("Pod", versioned(pod(ready_since=NOW), "10"))
    assert cache.drop("Pod", versioned(pod(ready_since=NOW, terminating=True), "11"))
    assert [] == cache.names("Pod")


def test_a_late_delete_of_an_old_object_does_not_drop_the_new_one() -> None:
    """A new one of that name has taken its place meanwhile."""
    cache = cached(one("10"), one("12", uid="2"))
    assert not cache.drop(KIND, one("11"))
    assert "12" == version_of(cache)


def test_dropping_what_is_not_known_is_nothing() -> None:
    """A delete may come twice."""
    cache = cached()
    cache.drop(KIND, one("1"))
    assert [] == cache.names(KIND)


def test_a_list_finds_what_a_watch_lost() -> None:
    """What is not in it has gone, and is told so that somebody looks; what is new in it is known."""
    cache = cached(one("10"), one("11", name="old"))
    gone = cache.replace(KIND, None, [one("10"), one("13", name="new")], as_of="20")
    assert ["old"] == [raw["metadata"]["name"] for raw in gone]
    assert {("clinic", "lab"), ("clinic", "new")} == set(cache.names(KIND))


def test_what_is_newer_than_the_list_stays() -> None:
    """Made or changed while the LIST was under way."""
    cache = cached(one("10"), one("21", name="young"))
    assert [] == cache.replace(KIND, None, [one("9")], as_of="20")
    assert ("10", "21") == (version_of(cache), version_of(cache, "young"))


def test_a_list_of_one_namespace_says_nothing_of_others() -> None:
    """And nothing of other kinds."""
    cache = cached(one("10"), one("11", namespace="other"))
    cache.put("Pod", one("5"))
    gone = cache.replace(KIND, "clinic", [], as_of="20")
    assert ["clinic"] == [raw["metadata"]["namespace"] for raw in gone]
    assert [("other", "lab")] == cache.names(KIND)
    assert [("clinic", "lab")] == cache.names("Pod")


def test_objects_are_found_by_label_within_their_namespace() -> None:
    """As the pods of one agent are."""
    cache = cached(
        one("1", name="a", agent="lab"),
        one("2", name="b", agent="rad"),
        one("3", name="c", namespace="other", agent="lab"),
    )
    assert ["a"] == [raw["metadata"]["name"] for raw in cache.labelled(KIND, "clinic", "agent", "lab")]


def test_of_a_pod_only_what_decisions_read_is_kept() -> None:
    """A pod reads the same from the cache as from the cluster, and takes a fraction of the memory."""
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


def test_managed_fields_are_kept_only_where_they_are_read() -> None:
    """They are most of an object's size; only a MedplumAgent's metadata tell something by them (who approved)."""
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


def test_equal_short_strings_are_kept_once() -> None:
    """Names of fields, labels and values are the same in a hundred agents; long ones are as good as never."""

    def text(short: str) -> dict[str, Any]:
        return json.loads(json.dumps({**one("1"), "spec": {"a field": [short, short * 50, 1, None]}}))  # type: ignore[no-any-return]

    first, second = text("a value"), {**text("a value"), "metadata": one("1", name="ward", uid="2")["metadata"]}
    cache = cached(first, second)
    lab, ward = cache.get(KIND, "clinic", "lab"), cache.get(KIND, "clinic", "ward")
    assert lab == first
    assert ward == second
    keys = [next(iter(raw["spec"])) for raw in (lab, ward)]
    values = [raw["spec"]["a field"] for raw in (lab, ward)]
    assert keys[0] is keys[1]
    assert values[0][0] is values[1][0]
    assert values[0][1] is not values[1][1]


def test_not_every_string_there_ever_was_is_remembered() -> None:
    """Uids and times come and go."""
    strings = Strings()
    kept = strings.once("kept")
    assert strings.once(json.loads(json.dumps("kept"))) is kept
    strings.once([str(number) for number in range(10_000)])
    assert len(strings) < 10_000


def node(version: str, *, cordoned: bool = False, ready: str = "True", **noise: Any) -> dict[str, Any]:
    """A node at a resource version, with as much noise as kubelets make."""
    return {
        "kind": "Node",
        "metadata": {"name": "node-1", "uid": "n-1", "resourceVersion": version, "labels": {"zone": "a"}, **noise},
        "spec": {"podCIDR": "10.0.0.0/24"} | ({"unschedulable": True} if cordoned else {}),
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": version}],
            "images": [{"names": ["x" * 100]}],
        },
    }


@pytest.mark.parametrize(
    ("then", "news"),
    [
        pytest.param(node("11"), False, id="a heartbeat"),
        pytest.param(node("11", annotations={"a": "b"}), False, id="somebody's annotation"),
        pytest.param(node("11", cordoned=True), True, id="a cordon"),
        pytest.param(node("11", ready="False"), False, id="it is not ready: its pods tell"),
        pytest.param(node("11", ready="Unknown"), True, id="its kubelet is not heard of"),
        pytest.param(node("9", cordoned=True), False, id="an older state"),
    ],
)
def test_of_a_node_only_a_cordon_and_that_it_is_lost_are_news(then: dict[str, Any], *, news: bool) -> None:
    """What a kubelet reports all the time leads to no pass, and is not kept; the age is, so that order stays known."""
    cache = Cache()
    assert cache.put("Node", node("10"))
    assert news is cache.put("Node", then)
    kept = cache.get("Node", "", "node-1")
    assert kept is not None
    assert Node.read(kept) == Node.read(then if then["metadata"]["resourceVersion"] == "11" else node("10"))
    assert {"name", "uid", "resourceVersion"} == set(kept["metadata"])
    assert {"metadata", "spec", "status"} == set(kept)
    assert not cache.put("Node", node("10", cordoned=not Node.read(kept).cordoned)), "older than what is known"


def test_an_event_of_a_node_is_about_the_agents_with_a_pod_on_it() -> None:
    """Those, each once, in whatever namespace; an object of an agent is about that agent alone."""
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
def test_a_deployment_of_anybody_s_making_is_kept_and_claims_nothing(text: str) -> None:
    """Whoever may edit Deployments may give one our label and any note: no LIST with it in it may fail."""
    raw = one("1", name="evil", **{names.AGENT_LABEL: "evil"})
    raw["metadata"]["annotations"] = {names.APPLIED_SPEC: text}
    cache = Cache()
    assert [] == cache.replace(KIND, None, [raw], as_of="1")
    assert [("clinic", "evil")] == cache.names(KIND)
    assert set() == cache.take_rivals()


def test_a_kind_of_which_there_are_objects_and_no_watch_has_told_is_known() -> None:
    """Kopf leaves out, for good, what the API server did not list among its kinds at the start."""
    cache = Cache()
    for kind, raw in (("Pod", pod()), (KIND, one("1")), ("Node", node("1"))):
        cache.put(kind, raw)
    assert [KIND, "Node"] == unheard(cache, {"Pod"}, nodes=True)
    assert [KIND] == unheard(cache, {"Pod", "Service"}, nodes=False)
    assert [] == unheard(cache, {"Pod", KIND, "Node"}, nodes=True)


def test_what_was_deleted_while_a_list_was_on_its_way_does_not_come_back() -> None:
    """The LIST began before, and tells of it; nobody would ever take it out again."""
    cache = Cache()
    cache.put("Pod", versioned(pod(name="old"), "7"))
    cache.drop("Pod", versioned(pod(name="old"), "101"))
    cache.replace("Pod", None, [versioned(pod(name="old"), "7")], as_of="100")
    assert [] == cache.names("Pod")
    other = versioned(pod(name="old"), "102")
    other["metadata"]["uid"] = "another of that name"
    cache.replace("Pod", None, [other], as_of="102")
    assert [("clinic", "old")] == cache.names("Pod")


def test_last_words_outlive_a_list_of_what_changes_wait_for() -> None:
    """Not the LIST of everything."""
    ended = versioned(pod(name="old", phase="Failed"), "7")
    cache = Cache()
    cache.put("Pod", ended)
    cache.drop("Pod", ended)
    cache.replace("Pod", None, [], as_of="9", ended=False)
    assert [("clinic", "old")] == cache.names("Pod")
    cache.replace("Pod", None, [], as_of="9")
    assert [] == cache.names("Pod")
