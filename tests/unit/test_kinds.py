"""The table of kinds: every kind has one row, and the modules that read it find what they need there."""

from __future__ import annotations

import doctest

import pytest

from medplum_agent_operator import kinds
from medplum_agent_operator.core.objects.children import CHILDREN
from medplum_agent_operator.kinds import AWAITED, KINDS, watched


def test_examples() -> None:
    """The examples in the docstrings are right."""
    failed, tried = doctest.testmod(kinds)
    assert (0, True) == (failed, tried > 0)


def test_every_child_of_an_agent_is_watched_by_our_label() -> None:
    """Drift of a child leads to a pass, and the children of others are not cached."""
    assert {kind for kind, _ in CHILDREN.values()} <= {kind.name for kind in watched(nodes=False) if kind.selector}


@pytest.mark.parametrize(("nodes", "expected"), [(True, 10), (False, 9)])
def test_nodes_are_watched_only_if_the_setting_says_so(*, nodes: bool, expected: int) -> None:
    """They are the one kind outside namespaces, and need a ClusterRole of their own."""
    found = [kind.name for kind in watched(nodes=nodes)]
    assert (expected, nodes) == (len(found), "Node" in found)
    assert ["Node"] == [kind.name for kind in KINDS.values() if not kind.namespaced]


def test_what_rollouts_wait_for_is_watched() -> None:
    """In the order in which the resync lists them."""
    assert ["Deployment", "Pod", "Job"] == [kind.name for kind in AWAITED]
    assert all(kind.watched and kind.namespaced for kind in AWAITED)


def test_the_kinds_that_are_only_written_are_not_watched() -> None:
    """Nothing would ever remove them from the cache."""
    assert ["Event"] == [kind.name for kind in KINDS.values() if not kind.watched]


@pytest.mark.parametrize(
    ("kind", "namespace", "name", "subresource", "expected"),
    [
        ("Node", None, "node-1", "", "/api/v1/nodes/node-1"),
        ("Pod", "clinic", "", "", "/api/v1/namespaces/clinic/pods"),
        (
            "MedplumAgent",
            "clinic",
            "lab",
            "status",
            "/apis/agents.medplum.com/v1alpha1/namespaces/clinic/medplumagents/lab/status",
        ),
    ],
)
def test_paths(kind: str, namespace: str | None, name: str, subresource: str, expected: str) -> None:
    """As the API server knows them."""
    assert expected == KINDS[kind].path(namespace, name, subresource)


def test_children_are_selected_by_a_label_of_our_own_domain() -> None:
    """A policy that rewrites `app.kubernetes.io/managed-by` takes no child out of its watch."""
    selectors = {KINDS[kind].selector for kind, _ in CHILDREN.values()} | {KINDS["Job"].selector}
    assert {"agents.medplum.com/agent", "agents.medplum.com/fetches-for"} == selectors
