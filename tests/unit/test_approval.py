"""The approval annotation: what it approves, what it does not, and how a wrong one is corrected."""

from __future__ import annotations

import hashlib

import pytest

from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.policy.approval import LONGEST_TEXT, MOST_SPENT, Approval, judge, stored_form
from tests.support.builders import v

TARGET = v("4.2.3")
LONG = "4.2.3 " + "x" * 200_000


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("4.2.3", id="the bare target"),
        pytest.param("4.2.3 CHG-1042", id="the target and a ticket"),
        pytest.param("4.2.3\tCHG-1042", id="a tab between them"),
        pytest.param("4.2.3\nCHG-1042, agreed by night shift", id="a line break between them"),
        pytest.param("  4.2.3 CHG-1042  ", id="spaces around it"),
        pytest.param(LONG, id="200 kB of reasons"),
    ],
)
def test_a_text_that_begins_with_the_target_approves(text: str) -> None:
    """Exactly the target, alone or followed by any text, approves; the text is what history keeps."""
    approval = judge(text, target=TARGET, spent=())
    assert (True, Reason.DOWNGRADE_APPROVED, stored_form(text), "") == (
        approval.granted,
        approval.reason,
        approval.text,
        approval.correction,
    )


@pytest.mark.parametrize(
    ("text", "reason", "correction"),
    [
        pytest.param(None, Reason.DOWNGRADE_NOT_APPROVED, "", id="no annotation"),
        pytest.param("", Reason.DOWNGRADE_NOT_APPROVED, "", id="an empty annotation"),
        pytest.param(" \t\n", Reason.DOWNGRADE_NOT_APPROVED, "", id="only white space"),
        pytest.param("true", Reason.APPROVAL_MALFORMED, "must begin with the target version, 4.2.3", id="true"),
        pytest.param(
            "CHG-1042 4.2.3", Reason.APPROVAL_MALFORMED, "says 'CHG-1042'", id="the ticket before the version"
        ),
        pytest.param(
            "v4.2.3", Reason.APPROVAL_MALFORMED, "must begin with the target version, 4.2.3", id="a v in front"
        ),
        pytest.param(
            "4.2", Reason.APPROVAL_MALFORMED, "must begin with the target version, 4.2.3", id="half a version"
        ),
        pytest.param(
            "4.2.3,",
            Reason.APPROVAL_MALFORMED,
            "must begin with the target version, 4.2.3",
            id="a comma after the version",
        ),
        pytest.param(
            "4.2.2",
            Reason.APPROVAL_FOR_OTHER_TARGET,
            "approves 4.2.2, but spec.version asks for 4.2.3",
            id="another version",
        ),
        pytest.param(
            "4.2.30", Reason.APPROVAL_FOR_OTHER_TARGET, "approves 4.2.30", id="a version that only begins alike"
        ),
        pytest.param(
            "4.2.3-abc1234", Reason.APPROVAL_FOR_OTHER_TARGET, "exactly its target", id="another build of the target"
        ),
    ],
)
def test_any_other_text_does_not_approve_and_is_corrected(text: str | None, reason: Reason, correction: str) -> None:
    """The reason says what is wrong with the text, and the correction names the right value."""
    approval = judge(text, target=TARGET, spent=())
    assert (False, reason) == (approval.granted, approval.reason)
    assert correction in approval.correction
    assert bool(correction) is bool(approval.correction)


def test_a_text_counts_once() -> None:
    """The same string never approves a second downgrade, and the correction asks for another text."""
    approval = judge("4.2.3 CHG-1042", target=TARGET, spent=["4.2.3 CHG-1042"])
    correction = (
        "The text '4.2.3 CHG-1042' of the annotation has already approved a downgrade, and each text counts once. "
        "Approve this one with another text, such as a new change ticket."
    )
    assert Approval(False, Reason.APPROVAL_SPENT, "4.2.3 CHG-1042", correction) == approval  # noqa: FBT003 - granted


def test_when_no_more_texts_can_be_told_apart_none_approves() -> None:
    """A full list of used texts approves nothing, until somebody removes the annotation, which empties the list."""
    spent = [f"4.2.3 CHG-{number}" for number in range(MOST_SPENT)]
    assert judge("4.2.3 new", target=TARGET, spent=spent[1:]).granted
    full = judge("4.2.3 new", target=TARGET, spent=spent)
    correction = (
        f"{MOST_SPENT} approvals have been used since the annotation was last removed, and the operator accepts no more. "
        "Remove the annotation agents.medplum.com/force-downgrade, then set it again."
    )
    assert Approval(False, Reason.APPROVAL_SPENT, "4.2.3 new", correction) == full  # noqa: FBT003 - granted


@pytest.mark.parametrize(
    ("text", "reason"), [("true", Reason.APPROVAL_MALFORMED), ("4.2.2", Reason.APPROVAL_FOR_OTHER_TARGET)]
)
def test_a_text_that_does_not_count_is_part_of_the_answer(text: str, reason: Reason) -> None:
    """Status shows the text that did not count."""
    approval = judge(f"{text} CHG-1", target=TARGET, spent=())
    assert (reason, f"{text} CHG-1") == (approval.reason, approval.text)


def test_another_text_for_the_same_target_counts_although_one_was_spent() -> None:
    """A text is spent, not a target."""
    assert judge("4.2.3 CHG-1043", target=TARGET, spent=["4.2.3 CHG-1042", "4.2.3"]).granted


def test_a_very_long_text_is_spent_too() -> None:
    """The stored form of 200 kB recognises the same 200 kB, and only them."""
    remembered = [judge(LONG, target=TARGET, spent=()).text]
    assert LONGEST_TEXT == len(remembered[0])
    assert remembered[0].endswith(f"… sha256:{hashlib.sha256(LONG.encode()).hexdigest()[:32]}")
    assert Reason.APPROVAL_SPENT is judge(LONG, target=TARGET, spent=remembered).reason
    assert judge(LONG + "y", target=TARGET, spent=remembered).granted


def test_the_correction_of_a_wrong_value_of_200_kb_is_short() -> None:
    """No annotation makes the correction unreadable."""
    approval = judge("x" * 200_000, target=TARGET, spent=())
    assert Reason.APPROVAL_MALFORMED is approval.reason
    assert len(approval.correction) < 250


@pytest.mark.parametrize(("length", "shown"), [(64, "x" * 64), (65, "x" * 64 + "…")])
def test_a_long_word_is_shown_in_part(length: int, shown: str) -> None:
    """The first 64 characters, then an ellipsis."""
    assert f"says '{shown}'," in judge("x" * length, target=TARGET, spent=()).correction


@pytest.mark.parametrize("length", [LONGEST_TEXT - 1, LONGEST_TEXT])
def test_an_ordinary_text_is_kept_word_for_word(length: int) -> None:
    """Up to the limit nothing is cut."""
    assert "x" * length == stored_form("x" * length)
