"""For all tests: the fixtures of the local cluster, the markers `cluster` and `nodes`, no deadlines on busy machines, no inherited signals.

A test gets its marker from its fixtures. A test that starts a cluster without a fixture must carry the marker itself;
if it forgets, the cluster refuses to start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support.cluster import marks
from tests.support.signals import pass_on_nothing

if TYPE_CHECKING:
    from collections.abc import Generator

pytest_plugins = ["tests.support.cluster.fixtures"]

settings.register_profile("on any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("on any machine")
pass_on_nothing()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that a fixture gives a cluster, before `-m` selects."""
    for item in items:
        for mark in marks.marks_for(getattr(item, "fixturenames", ())):
            item.add_marker(mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Announce the test, so that a cluster refuses to start for one without a marker."""
    with marks.running(item.nodeid, {mark.name for mark in item.iter_markers()}):
        return (yield)
