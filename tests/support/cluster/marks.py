"""Which tests need a cluster: the markers `cluster` and `nodes`, and the check that no test forgets its marker.

`tests/conftest.py` sets the markers and announces the running test. Functions that start a cluster or build an image call `require_mark`.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

CLUSTER: Final = "cluster"
NODES: Final = "nodes"
BY_FIXTURE: Final[Mapping[str, str]] = {"needs_cluster": CLUSTER, "needs_nodes": NODES}
"""The marker that each of these fixtures brings. Every fixture of a cluster is built on one of them."""
UNMARKED: Final = "E2E_UNMARKED_TEST"
"""The environment variable that names the running test while it has no marker; programs that it starts inherit it."""


class UnmarkedTestError(Exception):
    """A test without a marker asked for a cluster or an image."""


def marks_for(fixtures: Collection[str]) -> set[str]:
    """Return the markers for a test with these fixtures, direct and indirect.

    >>> marks_for(["tmp_path", "cluster", "needs_cluster"]), marks_for(["tmp_path"])
    ({'cluster'}, set())
    """
    return {mark for fixture, mark in BY_FIXTURE.items() if fixture in fixtures}


@contextmanager
def running(test: str, marks: Collection[str]) -> Iterator[None]:
    """Announce the test for the block, unless one of its markers allows a cluster."""
    if not {CLUSTER, NODES}.isdisjoint(marks):
        yield
        return
    os.environ[UNMARKED] = test
    try:
        yield
    finally:
        os.environ.pop(UNMARKED, None)


def require_mark(mark: str) -> None:
    """Raise UnmarkedTestError where the running test has no marker; outside tests, do nothing."""
    if test := os.environ.get(UNMARKED):
        raise UnmarkedTestError(
            f"{test} needs a cluster or an image but has no marker, so `make check` would start one. "
            f"Use a fixture that brings the marker, or write @pytest.mark.{mark} on the test."
        )
