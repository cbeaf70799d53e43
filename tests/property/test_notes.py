"""Valid notes of the operator, changed in one place by somebody: what does not fit counts as absent, and no pass ends by a bug.

`INPUTS=20000 python -m pytest tests/property/test_notes.py` makes up so many new ones.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.inputs import json_values
from tests.support.simulated_cluster import SimulatedCluster, changing, installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INPUTS = int(os.environ.get("INPUTS", "0"))
CHOSEN = settings(
    max_examples=INPUTS or 8,
    derandomize=not INPUTS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
NOTES = ("record", "spec", "template", "before")
GONE = "somebody removed it"
BROKEN: tuple[Any, ...] = (
    GONE,
    None,
    {},
    [],
    [{}],
    [[]],
    [None],
    {"name": {}},
    True,
    -1,
    10**30,
    1e300,
    float("inf"),
    float("nan"),
    "",
    "\ud800",
    "\u0000",
    "x",
    "12e",
    "5.1.15",
    "9999-12-31T23:59:59.999999Z",
    "0001-01-01T00:00:00+14:00",
    "2026-01-01T00:00:00",
)
"""Values that stand for a field's type, its range, its characters and its absence."""
Path = tuple["str | int", ...]


def handed_over() -> SimulatedCluster:
    """5.1.16 replaces 5.1.15 and never gets ready: its deadline and the rollback come later."""
    return changing("5.1.15", "5.1.16")


def stopped_first() -> SimulatedCluster:
    """4.2.3 replaces 5.1.15, approved, and never gets ready."""
    return changing("5.1.15", "4.2.3", approval="4.2.3 CHG-1")


def rolled_back() -> SimulatedCluster:
    """5.1.16 failed and is latched."""
    cluster = changing("5.1.15", "5.1.16")
    for _ in range(90):
        cluster.tick()
        cluster.reconcile()
    assert cluster.record.failed is not None
    return cluster


SITUATIONS: dict[str, Callable[[], SimulatedCluster]] = {
    "at rest": installed,
    "in a handoff": handed_over,
    "in a recreate": stopped_first,
    "rolled back": rolled_back,
}


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a JSON value, its root too."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from paths(part, (*path, key))


def changed(value: Any, path: Path, other: Any) -> Any:
    """The same value, with another one in one place."""
    if not path:
        return None if other is GONE else other
    step, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    if not rest and other is GONE:
        del copy[step]  # type: ignore[arg-type]
    else:
        copy[step] = changed(copy[step], tuple(rest), other)  # type: ignore[index]
    return copy


def part_of(cluster: SimulatedCluster, note: str) -> Any:
    """A part of the revision in force; None if it has none. After a rollback, what was active before is stored as the same."""
    before = cluster.memory.notes.before
    if note == "before":
        return None if before is None else before.dump()
    return cluster.revisions[cluster.in_force]["data"].get(note)


def played(situation: str, note: str, path: Path, other: Any, *, version: str | None) -> None:
    """Change one place in one note, then go on to the end of every deadline. The cluster asserts I1 and I2 at every turn."""
    cluster = SITUATIONS[situation]()
    known = part_of(cluster, note)
    if known is None:
        return
    cluster.remember(**{note: changed(known, path, other)})
    if version is not None:
        cluster.edit(version=version)
    try:
        for _ in range(80):
            cluster.tick()
            cluster.reconcile()
    except AssertionError as broken:
        # Another valid template in the note is what a rollback then leads to: that is no bug of reading.
        if note != "before" or "I3 is broken" not in str(broken):
            raise
    assert 2 >= len(cluster.running)


@CHOSEN
@given(st.data(), st.sampled_from(sorted(SITUATIONS)), st.sampled_from(NOTES))
def test_a_valid_note_that_is_changed_in_one_place_ends_no_pass(data: st.DataObject, situation: str, note: str) -> None:
    """Wherever it is changed, and to whatever: the pass goes on, the rollback's too."""
    cluster = SITUATIONS[situation]()
    known = part_of(cluster, note)
    if known is None:
        return
    path = data.draw(st.sampled_from(list(paths(known))))
    other = data.draw(st.one_of(st.sampled_from(BROKEN), json_values))
    played(situation, note, path, other, version=data.draw(st.sampled_from([None, "5.1.16", "5.1.17", "4.2.3"])))


CONTAINER: Path = ("template", "spec", "containers", 0)


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize(
    ("note", "path", "other"),
    [
        pytest.param("template", (*CONTAINER, "image"), "\ud800", id="half a character"),
        pytest.param("template", (*CONTAINER, "name"), {}, id="a name that is none"),
        pytest.param("template", (*CONTAINER, "resources"), {"limits": {"cpu": "12e"}}, id="a quantity that is none"),
        pytest.param("before", ("applied", *CONTAINER, "image"), "\ud800", id="half a character, rolled back to"),
        pytest.param("before", ("applied", *CONTAINER, "name"), {}, id="a name that is none, rolled back to"),
        pytest.param("before", ("spec", "version"), "x", id="a version that is none, rolled back to"),
        pytest.param("spec", ("version",), "x", id="a version that is none"),
        pytest.param("record", ("startedAt",), "9999-12-31T23:59:59.999999Z", id="the end of time"),
        pytest.param("record", ("startedAt",), "0001-01-01T00:00:00+14:00", id="the beginning of time"),
    ],
)
def test_what_ended_passes_once(situation: str, note: str, path: Path, other: Any) -> None:
    """The inputs of the trials, in each situation."""
    played(situation, note, path, other, version=None)
