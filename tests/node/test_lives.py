"""The judge of I1 itself: what it reads of the container runtime, and what it finds wrong. Needs no node."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.real_nodes.lives import Life, parse_event, violations

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def life(
    version: str, start: float, end: float | None, *, agent: str = "front-desk", namespace: str = "clinic"
) -> Life:
    """An agent that lived from one second of noon to another."""
    ended = None if end is None else NOON + timedelta(seconds=end)
    return Life(namespace, agent, f"{agent}-1-x", "node-1", version, NOON + timedelta(seconds=start), ended)


@pytest.mark.parametrize(
    ("lives", "found"),
    [
        pytest.param([life("5.1.14", 0, 9), life("5.1.15", 5, None)], 0, id="both hand over: they may overlap"),
        pytest.param(
            [life("5.1.15", 0, 5), life("4.2.3", 5, None)], 0, id="one begins in the moment of the other's end"
        ),
        pytest.param([life("5.1.15", 0, 5.1), life("4.2.3", 5, None)], 1, id="a tenth of a second is too much"),
        pytest.param([life("4.2.3", 0, None), life("5.1.15", 5, 6)], 1, id="the old one never ended"),
        pytest.param([life("4.2.3", 0, None), life("4.2.3", 1, None)], 1, id="two of one old version"),
        pytest.param(
            [life("4.2.3", 0, None), life("4.2.3", 1, None, agent="lab")], 0, id="two agents are two identities"
        ),
        pytest.param(
            [life("4.2.3", 0, None), life("4.2.3", 1, None, namespace="b")], 0, id="two namespaces are two as well"
        ),
        pytest.param([life("4.2.3", 0, 9), life("5.1.14", 5, 8), life("5.1.15", 7, 9)], 2, id="each pair counts"),
    ],
)
def test_what_must_never_be(lives: list[Life], found: int) -> None:
    """Two lives of one agent that overlap although one of them is before 4.2.4."""
    assert found == len(violations(lives))
    assert found == len(violations(reversed(lives)))


@pytest.mark.parametrize(
    "line",
    [
        '2026-11-25 00:54:00.1 +0000 UTC k8s.io /containers/create {"id":"c"}',
        '2026-11-25 00:54:00.1 +0000 UTC other /tasks/start {"container_id":"c"}',
        "",
    ],
)
def test_other_events_say_nothing(line: str) -> None:
    """Only the start and the exit of a task of Kubernetes' own count."""
    assert parse_event(line) is None
