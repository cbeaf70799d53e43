"""What the watches have seen: never older than what is known, and complete after a LIST."""

from __future__ import annotations

from typing import Any

import pytest

from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.pods import Pod
from tests.builders import NOW, container_status, pod

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
    assert (True, NOW) == (Pod.read(kept).finished, Pod.read(kept).closed_since)
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
    """They are most of an object's size; only a MedplumAgent's tell something (who approved)."""
    raw = one("1")
    raw["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    cache = cached(raw)
    cache.put("MedplumAgent", raw)
    child, agent = cache.get(KIND, "clinic", "lab"), cache.get("MedplumAgent", "clinic", "lab")
    assert child is not None
    assert agent is not None
    assert "managedFields" not in child["metadata"]
    assert "managedFields" in agent["metadata"]
    assert "managedFields" in raw["metadata"]
