"""When a live object still is what we would apply: a difference that is none must cost no write, and none must be missed."""

from __future__ import annotations

from typing import Any

import pytest

from medplum_agent_operator.api.annotations import TEMPLATE_HASH
from medplum_agent_operator.core.objects.agent_pod import render_pod_template
from medplum_agent_operator.core.objects.children import APPLIED_HASH, render_supporting
from medplum_agent_operator.core.observed.drift import (
    applied_fields,
    as_stored,
    fingerprint,
    first_difference,
    first_drift,
)
from tests.support.builders import parsed

HELD = {
    "f:spec": {
        "f:containers": {
            'k:{"name":"agent"}': {
                ".": {},
                "f:args": {},
                "f:env": {'k:{"name":"A"}': {".": {}, "f:valueFrom": {"f:ref": {}}}},
                "f:image": {},
            },
        },
        "f:limits": {"f:cpu": {}},
    }
}

DRIFT = [
    pytest.param({"image": "b"}, None, id="a field that is ours: the API server's own doing"),
    pytest.param(
        {"image": "b", "command": ["x"]}, "spec.containers[name=agent].command[0]", id="beside it one that is not"
    ),
    pytest.param({"args": ["b"]}, None, id="a plain list is held as a whole"),
    pytest.param({"args": []}, None, id="its length too"),
    pytest.param({"args": ["a", "b"]}, None, id="one more"),
    pytest.param(
        {"env": [{"name": "A", "valueFrom": {"ref": {"key": "b"}}}]},
        None,
        id="what is held as a whole has nothing below it",
    ),
    pytest.param({"env": []}, None, id="an item that is ours and is not there"),
    pytest.param({"env": [{"name": "A", "value": "x"}]}, None, id="another way of filling it"),
]


@pytest.mark.parametrize(("changed", "found"), DRIFT)
def test_drift_is_what_somebody_else_changed(changed: dict[str, Any], found: str | None) -> None:
    """What is ours and is otherwise the API server keeps so: to apply it once more leads to the same."""
    ours = {"name": "agent", "image": "a", "args": ["a"], "env": [{"name": "A", "valueFrom": {"ref": {"key": "a"}}}]}
    applied = {**ours, **({"command": ["a"]} if "command" in changed else {})}
    live = {**applied, **changed}
    assert found == first_drift({"spec": {"containers": [applied]}}, {"spec": {"containers": [live]}}, HELD)
    before, now = {"spec": {"containers": [applied]}}, {"spec": {"containers": [live]}}
    assert None is not first_drift(before, now, {})
    assert before == as_stored(before, now, {})
    stored = as_stored(before, now, HELD)
    assert found == first_difference(stored, now)
    assert before == {"spec": {"containers": [applied]}}, "nothing is changed in place"
    assert applied.get("command") == stored["spec"]["containers"][0].get("command")


@pytest.mark.parametrize(
    ("key", "item", "other", "held"),
    [
        ("volumeMounts", {"name": "a", "mountPath": "/a", "readOnly": False}, {"readOnly": True}, '{"mountPath":"/a"}'),
        ("ports", {"name": "a", "port": 1, "nodePort": 2}, {"nodePort": 3}, '{"port":1,"protocol":"TCP"}'),
        (
            "topologySpreadConstraints",
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "x"},
            {"maxSkew": 2},
            '{"topologyKey":"zone","whenUnsatisfiable":"x"}',
        ),
    ],
)
def test_an_item_is_known_by_all_its_keys(key: str, item: dict[str, Any], other: dict[str, Any], held: str) -> None:
    """By those of the list-map, which may be others than its name."""
    (changed,) = other
    fields: dict[str, Any] = {f"f:{key}": {f"k:{held}": {".": {}, f"f:{changed}": {}}}}
    applied, live = {key: [item]}, {key: [{**item, **other}]}
    assert None is first_drift(applied, live, fields)
    assert live == as_stored(applied, live, fields)
    assert None is not first_drift(applied, live, {f"f:{key}": {'k:{"name":"b"}': {f"f:{changed}": {}}}})


def test_of_two_that_are_alike_the_right_one_is_kept() -> None:
    """By its place."""
    applied, live = {"args": ["a", "a", "b"]}, {"args": ["a", "x", "b"]}
    assert live == as_stored(applied, live, {"f:args": {}})


def test_what_is_not_there_any_more_is_left_out() -> None:
    """A policy may take a field or an item away."""
    applied = {"a": 1, "b": 2, "c": [{"name": "x"}, {"name": "y"}]}
    live = {"a": 1, "c": [{"name": "y"}]}
    fields: dict[str, Any] = {"f:b": {}, "f:c": {'k:{"name":"x"}': {}}}
    assert live == as_stored(applied, live, fields)


def test_an_amount_that_is_ours_may_be_kept_otherwise() -> None:
    """500u of a CPU is kept as a whole milli."""
    applied, live = {"spec": {"limits": {"cpu": "500u"}}}, {"spec": {"limits": {"cpu": "1m"}}}
    assert None is first_drift(applied, live, HELD)
    assert "spec.limits.cpu" == first_drift(applied, live, {"f:spec": {"f:limits": {"f:memory": {}}}})
    assert "spec.limits.cpu" == first_difference(applied, live)


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        pytest.param({}, True, id="ours"),
        pytest.param({"manager": "kubectl"}, False, id="somebody else's"),
        pytest.param({"operation": "Update"}, False, id="by an update"),
        pytest.param({"subresource": "status"}, False, id="of status"),
        pytest.param({"fieldsV1": None}, False, id="without fields"),
    ],
)
def test_what_is_ours_is_what_we_applied(entry: dict[str, Any], *, found: bool) -> None:
    """Of all entries that one."""
    ours = {"manager": "us", "operation": "Apply", "fieldsV1": {"f:spec": {}}}
    raw = {
        "metadata": {
            "managedFields": [{"manager": "x", "operation": "Apply", "fieldsV1": {"f:x": {}}}, {**ours, **entry}]
        }
    }
    assert ({"f:spec": {}} if found else {}) == applied_fields(raw, "us")
    assert {} == applied_fields({"metadata": {"managedFields": None}}, "us")


EQUAL = [
    pytest.param({"a": 1}, {"a": 1, "b": 2}, id="the live object may hold more"),
    pytest.param({"a": {}}, {}, id="an empty map may be absent"),
    pytest.param({"a": []}, {}, id="an empty list may be absent"),
    pytest.param({"a": None}, {}, id="nothing may be absent"),
    pytest.param({"a": {}}, {"a": None}, id="an empty map may be null"),
    pytest.param({"a": []}, {"a": None}, id="an empty list may be null"),
    pytest.param({"limits": {"cpu": "0.5"}}, {"limits": {"cpu": "500m"}}, id="half a CPU is 500m"),
    pytest.param({"limits": {"cpu": 2}}, {"limits": {"cpu": "2"}}, id="a number is its text"),
    pytest.param({"requests": {"memory": "1024Mi"}}, {"requests": {"memory": "1Gi"}}, id="1024Mi is 1Gi"),
    pytest.param({"requests": {"memory": "1e9"}}, {"requests": {"memory": "1G"}}, id="1e9 is 1G"),
    pytest.param(
        [{"name": "a", "x": 1}, {"name": "b"}],
        [{"name": "b", "y": 2}, {"name": "a", "x": 1}],
        id="items are found by name, in any order",
    ),
    pytest.param(
        [{"containerPort": 1}],
        [{"containerPort": 1, "protocol": "TCP"}, {"containerPort": 2}],
        id="others may add items with another name",
    ),
    pytest.param(["a", "b"], ["a", "b"], id="plain items in the same order"),
]

DIFFERENT = [
    pytest.param({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b", id="another value, by its path"),
    pytest.param({"a": {"b": 1}}, {"a": {}}, "a.b", id="a missing key"),
    pytest.param({"a": {"b": 1}}, {}, "a", id="a missing map"),
    pytest.param({"a": {"b": 1}}, {"a": "text"}, "a", id="a text instead of a map"),
    pytest.param({"a": [1]}, {"a": "1"}, "a", id="a text instead of a list"),
    pytest.param({"a": False}, {}, "a", id="a missing false is not empty"),
    pytest.param({"a": 0}, {}, "a", id="a missing zero is not empty"),
    pytest.param({"limits": {"cpu": "0.5"}}, {"limits": {"cpu": "600m"}}, "limits.cpu", id="another amount"),
    pytest.param({"limits": {"cpu": "0.5"}}, {"limits": {}}, "limits.cpu", id="a missing amount"),
    pytest.param({"limits": {"cpu": "0.5"}}, {"limits": None}, "limits.cpu", id="no amounts at all"),
    pytest.param(
        {"c": [{"name": "a", "x": 1}]}, {"c": [{"name": "a", "x": 2}]}, "c[name=a].x", id="a named item changed"
    ),
    pytest.param(
        {"c": [{"name": "a", "x": 1}]}, {"c": [{"name": "b", "x": 1}]}, "c[name=a]", id="a named item missing"
    ),
    pytest.param({"args": ["a", "b"]}, {"args": ["b", "a"]}, "args[0]", id="plain items in another order"),
    pytest.param({"args": ["a"]}, {"args": ["a", "b"]}, "args", id="plain items: one more"),
    pytest.param({"args": ["a"]}, {"args": []}, "args", id="plain items: one less"),
]


@pytest.mark.parametrize(("desired", "live"), EQUAL)
def test_what_is_the_same_to_kubernetes_is_no_difference(desired: Any, live: Any) -> None:
    """Server defaults, other managers' fields, other spellings of one amount and empty things cost no write."""
    assert first_difference(desired, live) is None


@pytest.mark.parametrize(("desired", "live", "path"), DIFFERENT)
def test_a_difference_is_told_by_its_path(desired: Any, live: Any, path: str) -> None:
    """The first place that differs is named, for the log and the Event."""
    assert path == first_difference(desired, live)


@pytest.mark.parametrize(
    "items",
    [
        pytest.param(
            [{"key": "dedicated", "effect": "NoSchedule"}, {"key": "dedicated", "effect": "NoExecute"}],
            id="two tolerations of one taint key, with different effects",
        ),
        pytest.param(
            [{"key": "zone", "operator": "Exists"}, {"key": "zone", "operator": "NotIn", "values": ["b"]}],
            id="two requirements on one label",
        ),
        pytest.param(
            [{"ip": "10.0.0.1", "hostnames": ["a"]}, {"ip": "10.0.0.1", "hostnames": ["b"]}],
            id="two lines for one host address",
        ),
        pytest.param([{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}], id="one port, two protocols"),
    ],
)
def test_a_list_never_differs_from_itself(items: list[dict[str, Any]]) -> None:
    """Items that share a key are still told apart: a difference that is none would replace the pod for ever."""
    assert first_difference({"list": items}, {"list": [dict(item) for item in items]}) is None


def test_one_of_two_items_with_the_same_key_changed() -> None:
    """Such a change is seen whichever of the two it is."""
    desired = [{"key": "k", "effect": "NoSchedule"}, {"key": "k", "effect": "NoExecute"}]
    for place in (0, 1):
        live = [dict(item) for item in desired]
        live[place]["effect"] = "PreferNoSchedule"
        assert first_difference(desired, live) is not None


def test_a_field_that_is_no_longer_rendered_shows_in_the_fingerprint_of_the_object() -> None:
    """The live object may hold more, so what we have stopped rendering is noticed by the fingerprint alone."""
    before = render_supporting(*_agent_and_spec(service={"annotations": {"lb": "internal"}}), protected=True)["Service"]
    after = render_supporting(*_agent_and_spec(), protected=True)["Service"]
    assert f"metadata.annotations.{APPLIED_HASH}" == first_difference(after, before)


def test_a_field_that_is_no_longer_rendered_shows_in_the_fingerprint_of_the_template() -> None:
    """The same for the pod template."""
    before = _template(podTemplate={"priorityClassName": "high"})
    assert f"metadata.annotations.{TEMPLATE_HASH}" == first_difference(_template(), before)


def test_a_fingerprint_does_not_hang_on_the_order_of_keys() -> None:
    """Sixteen hex digits, of what is said and not of how it is written down."""
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert 16 == len(fingerprint({}))


def _agent_and_spec(**fields: Any) -> tuple[Any, Any]:
    agent = parsed(**fields)
    return agent, agent.spec


def _template(**fields: Any) -> dict[str, Any]:
    agent = parsed(**fields)
    return render_pod_template(agent, agent.spec, image="agent:5.1.15")
