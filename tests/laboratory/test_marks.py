"""A test that needs a cluster carries a marker; one that has none gets no cluster."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest

from tests.support.cluster import local_cluster, marks
from tests.support.cluster.images import image
from tests.support.cluster.marks import UnmarkedTestError
from tests.support.cluster.real import cluster_with_nodes
from tests.support.operator_process import ROOT
from tests.tools.demo.run import play
from tests.tools.demo.terminal import Terminal, screen

HERE = "test_marks.py::test_a_test_without_a_marker_gets_no_cluster"


def test_a_test_without_a_marker_gets_no_cluster() -> None:
    """The message names the test and the marker that is missing."""
    with pytest.raises(UnmarkedTestError, match=rf"{HERE} needs a cluster .* @pytest\.mark\.cluster"), local_cluster():
        pass
    with (
        pytest.raises(UnmarkedTestError, match=rf"{HERE} needs a cluster .* @pytest\.mark\.nodes"),
        cluster_with_nodes(),
    ):
        pass
    with pytest.raises(UnmarkedTestError, match=rf"{HERE} needs a cluster or an image"):
        image("operator")


def test_neither_does_a_program_that_it_starts() -> None:
    """Whether it runs in the test's process or in one of its own."""
    with pytest.raises(UnmarkedTestError):
        play(Terminal(screen()), ())
    command = [sys.executable, "-m", "tests.support.cluster"]
    started = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (1, "") == (started.returncode, started.stdout)
    assert "test_neither_does_a_program_that_it_starts" in started.stderr
    assert "@pytest.mark.cluster" in started.stderr


@pytest.mark.parametrize(
    ("fixtures", "expected"),
    [
        (["tmp_path"], set()),
        (["cluster", "namespace", "needs_cluster"], {"cluster"}),
        (["node_cluster", "clinic", "needs_nodes"], {"nodes"}),
        (["cluster"], set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_marker_follows_from_the_fixtures(fixtures: list[str], expected: set[str]) -> None:
    """Not from their names: a unit test may have a fixture `cluster` of its own."""
    assert expected == marks.marks_for(fixtures)


def test_without_the_markers_no_test_of_a_cluster_is_left() -> None:
    """`-m "not cluster and not nodes"`, as `make check` has it, deselects every test that uses a cluster's fixture."""
    collected = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-m", "not cluster and not nodes"),
            *("tests/behaviour/test_changes.py", "tests/node", "tests/gate/test_program.py"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    left = {line.partition("::")[0] for line in collected.stdout.splitlines() if "::" in line}
    assert {"tests/gate/test_program.py", "tests/node/test_lives.py", "tests/node/test_requirements.py"} == left


def test_outside_of_tests_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make demo` needs no marker."""
    monkeypatch.delenv(marks.UNMARKED)
    marks.require_mark(marks.CLUSTER)


def test_examples() -> None:
    """The examples in docstrings hold."""
    failed, tried = doctest.testmod(marks)
    assert (0, True) == (failed, tried > 0)
