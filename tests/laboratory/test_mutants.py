"""Explanations match the current code, and the program reports mutants without one. No mutant is created here."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest

from tests.tools.mutations import CORE, MODULES
from tests.tools.mutations.__main__ import judge
from tests.tools.mutations.mutants import ROOT, SURVIVED, Explanation, Mutant, explanations, prepare

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "medplum_agent_operator.core"


@pytest.mark.parametrize("explanation", explanations(), ids=lambda one: f"{one.where}: {one.becomes[:40]}")
def test_an_explanation_is_about_a_function_that_is_mutated(explanation: Explanation) -> None:
    """Of a module that the program mutates, and with a reason."""
    module, _, function = explanation.where.partition(".")
    assert module in MODULES
    source = (ROOT / "operator" / CORE / f"{MODULES[module]}.py").read_text()
    assert f"def {function.rpartition('.')[2]}(" in source
    assert explanation.why.endswith(".")


def test_no_mutant_is_explained_twice() -> None:
    """One reason each."""
    keys = [(one.where, one.becomes) for one in explanations()]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("name", "where"),
    [
        (f"{PREFIX}.policy.approval.x_judge__mutmut_14", "approval.judge"),
        (f"{PREFIX}.policy.verdict.x__not_approved__mutmut_3", "verdict._not_approved"),
        (f"{PREFIX}.policy.windows.xǁMomentǁ__str____mutmut_3", "windows.Moment.__str__"),
    ],
)
def test_a_mutant_is_named_as_readers_name_its_function(name: str, where: str) -> None:
    """Mutmut mangles names."""
    assert where == Mutant(name, SURVIVED).where


KILLED = Mutant(f"{PREFIX}.policy.approval.x_judge__mutmut_1", "killed")
SURVIVOR = Mutant(f"{PREFIX}.policy.approval.x_judge__mutmut_14", SURVIVED, "named = annotation.split(maxsplit=2)[0]")
KNOWN = Explanation("approval.judge", SURVIVOR.becomes, "The first word is the same.")


@pytest.mark.parametrize(
    ("mutants", "known", "code"),
    [
        pytest.param([KILLED], [], 0, id="all killed"),
        pytest.param([KILLED, SURVIVOR], [KNOWN], 0, id="a survivor that is explained"),
        pytest.param([KILLED, SURVIVOR], [], 1, id="one that is not"),
        pytest.param([KILLED], [KNOWN], 1, id="an explanation of none"),
        pytest.param([Mutant(KILLED.name, "not checked")], [], 1, id="one that was not tried"),
        pytest.param([], [], 1, id="no mutant at all"),
    ],
)
def test_nothing_survives_unexplained(
    mutants: list[Mutant], known: list[Explanation], code: int, tmp_path: Path
) -> None:
    """The exit code says so."""
    assert code == judge(mutants, ["approval"], known, tmp_path)


def test_the_copy_is_what_mutmut_wants(tmp_path: Path) -> None:
    """Code in src, and only what is asked for is mutated."""
    prepare(tmp_path, ["approval"])
    settings = tomllib.loads((tmp_path / "pyproject.toml").read_text())["tool"]["mutmut"]
    assert [f"src/{CORE}/policy/approval.py"] == settings["only_mutate"]
    assert (tmp_path / settings["only_mutate"][0]).exists()
    assert all((tmp_path / path).exists() for path in settings["pytest_add_cli_args_test_selection"])
