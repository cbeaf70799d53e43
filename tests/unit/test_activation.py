"""The activation of the live pod template, compared with the two tables in the docstring of `core/observed/activation.py`."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Final

import pytest

from medplum_agent_operator.core.observed import activation as module
from medplum_agent_operator.core.observed.activation import Activation, Evidence, activation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Row = dict[str, str]
FACTS: Final = ("completed", "rolled out", "earlier pods", "named available", "restarted", "ruled out")
QUESTIONS: Final = ("newer than the last active", "serves alone")
ANSWERS: Final = ("effectively active", "rollback target")
YES_OR_NO: Final = ("yes", "no")


def tables() -> list[list[Row]]:
    """The tables of the docstring: each row by the names of its columns."""
    found: list[list[list[str]]] = [[]]
    for line in (module.__doc__ or "").splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[dict(zip(head, row, strict=True)) for row in rows] for head, _, *rows in filter(None, found)]


BY_EVIDENCE, MEANING = tables()


def first_fit(rows: Sequence[Row], case: Row) -> int:
    """The number of the first row that fits; a `-` fits every value."""
    return next(n for n, row in enumerate(rows) if all(row[name] in {"-", value} for name, value in case.items()))


def cases(names: Sequence[str], values: Iterable[Sequence[str]]) -> list[Row]:
    """All combinations."""
    return [dict(zip(names, each, strict=True)) for each in product(*values)]


EVIDENCE: Final = cases(FACTS, [YES_OR_NO] * len(FACTS))
MEANINGS: Final = cases(("activation", *QUESTIONS), [[each.name for each in Activation], YES_OR_NO, YES_OR_NO])


def shown(case: Row) -> str:
    """The id of a case: its facts."""
    return ", ".join(f"{name}: {value}" for name, value in case.items())


@pytest.mark.parametrize(
    ("rows", "columns", "values"),
    [
        pytest.param(BY_EVIDENCE, (*FACTS, "activation"), {*YES_OR_NO, "-", *Activation.__members__}, id="by evidence"),
        pytest.param(
            MEANING,
            ("activation", *QUESTIONS, *ANSWERS),
            {*YES_OR_NO, "-", *Activation.__members__},
            id="meaning",
        ),
    ],
)
def test_the_tables_have_the_columns_that_these_tests_read(
    rows: list[Row], columns: tuple[str, ...], values: set[str]
) -> None:
    """Without these columns and values the comparison would prove nothing."""
    assert rows
    assert {columns} == {tuple(row) for row in rows}
    assert set() == {cell for row in rows for cell in row.values()} - values


@pytest.mark.parametrize("case", EVIDENCE, ids=shown)
def test_the_evidence_leads_to_the_activation_of_the_first_row_that_fits(case: Row) -> None:
    """All 64 combinations of the six facts."""
    facts: dict[str, Any] = {name.replace(" ", "_"): value == "yes" for name, value in case.items()}
    expected = Activation[BY_EVIDENCE[first_fit(BY_EVIDENCE, case)]["activation"]]
    assert expected is activation(Evidence(**facts))


@pytest.mark.parametrize("case", MEANINGS, ids=shown)
def test_an_activation_means_what_the_first_row_that_fits_says(case: Row) -> None:
    """Each activation with each answer to the two questions."""
    found = Activation[case["activation"]]
    newer, serves_alone = (case[name] == "yes" for name in QUESTIONS)
    row = MEANING[first_fit(MEANING, case)]
    assert tuple(row[name] == "yes" for name in ANSWERS) == (
        found.is_effectively_active(newer=newer, serves_alone=serves_alone),
        found.is_rollback_target(newer=newer, serves_alone=serves_alone),
    )


@pytest.mark.parametrize(
    ("rows", "all_cases"), [pytest.param(BY_EVIDENCE, EVIDENCE, id="by evidence"), pytest.param(MEANING, MEANINGS, id="meaning")]
)  # fmt: skip
def test_every_row_is_reached(rows: list[Row], all_cases: list[Row]) -> None:
    """No row is hidden by the rows before it."""
    assert set(range(len(rows))) == {first_fit(rows, case) for case in all_cases}


@pytest.mark.parametrize("found", Activation)
def test_a_settled_template_became_active(found: Activation) -> None:
    """Settled implies active, and only settled and active templates became active."""
    assert found.settled is (found is Activation.SETTLED)
    assert found.became_active is (found in {Activation.ACTIVE, Activation.SETTLED})
