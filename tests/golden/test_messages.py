"""Every text for people, compared with a file that somebody reads in the diff: `tests/golden/messages.txt`.

`python -m pytest tests/golden --force-regen` writes it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from medplum_agent_operator.api.reasons import Reason
from tests.support.texts import CHAPTERS, Text

if TYPE_CHECKING:
    from pytest_regressions.file_regression import FileRegressionFixture

FILE: Final = Path(__file__).parent / "messages.txt"
LONGEST_SUMMARY: Final = 120
NO_TEXT_OF_ITS_OWN: Final = {
    Reason.SETTLED: "conditions that are False have it, without a message",
    Reason.NO_APPROVAL_NEEDED: "the same",
    Reason.GATES_UNREACHABLE: "the condition Forwarding, and a block of its own in the plan",
    Reason.FORWARDING: "the condition Forwarding, when all is well",
    Reason.CREDENTIALS_REFUSED: "tests/unit/test_diagnosis.py: the container's own words",
    Reason.PORT_NOT_READY: "the cause of a failed rollout",
}
TEXTS: Final = {chapter: tuple(texts()) for chapter, texts in CHAPTERS.items()}


def _block(text: Text) -> str:
    events = "".join(f"\n  event: {event}" for event in text.events)
    body = "\n".join(f"    {line}" if line else "" for line in text.body.split("\n"))
    return f"## {text.title}\n  {text.about}{events}\n\n{body}\n"


def test_every_text_is_as_it_was_read(file_regression: FileRegressionFixture) -> None:
    """A change of words is seen in the diff."""
    chapters = (f"# {name}\n\n" + "\n".join(map(_block, texts)) for name, texts in TEXTS.items())
    file_regression.check("\n".join(chapters), fullpath=FILE)


def test_every_reason_has_a_text() -> None:
    """Or a reason why it has none."""
    told = {reason for texts in TEXTS.values() for text in texts for reason in text.reasons}
    assert set(Reason) == told | set(NO_TEXT_OF_ITS_OWN)


def test_a_first_line_is_short_enough_for_an_event() -> None:
    """Conditions and Events carry it alone, and `kubectl get events` shows it on one line."""
    first = [text.body.split("\n", 1)[0] for texts in TEXTS.values() for text in texts]
    assert [] == [line for line in first if len(line) > LONGEST_SUMMARY]


def test_a_command_is_the_last_line_of_its_block() -> None:
    """So that it can be copied whole."""
    for texts in TEXTS.values():
        for text in texts:
            for block in text.body.split("\n\n"):
                commands = [n for n, line in enumerate(block.split("\n")) if line.startswith("Command: ")]
                assert commands in ([], [len(block.split("\n")) - 1]), text.title
