"""What a device gets as an answer, and when, by mode and version."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.doubles import hl7 as reader
from tests.support.doubles.agent.acks import Dialect, Hl7Conversation, answer_for_device
from tests.support.doubles.agent.framers import frame
from tests.support.doubles.agent.version import AgentTraits
from tests.support.doubles.stage import hl7


def dialect(version: str, **parameters: str) -> Dialect:
    """How a channel of that version speaks."""
    return Dialect.of(AgentTraits.parse(version), parameters)


def acks(version: str, **parameters: str) -> list[bytes | None]:
    """What is said at once to two messages in one read (or one, for the old framer)."""
    conversation = Hl7Conversation(dialect(version, **parameters), lambda: ("20260101", "1"))
    return [arrival.ack for read in (frame(hl7("A")), frame(hl7("B"))) for arrival in conversation.feed(read)]


@pytest.mark.parametrize(
    ("version", "enhanced", "codes"),
    [
        ("4.1.8", "true", None),
        ("4.1.9", "true", "CA"),
        ("5.1.15", "true", "CA"),
        ("5.0.11", "aa", None),
        ("5.0.12", "aa", "AA"),
        ("5.1.15", "", None),
        ("5.1.15", "yes", None),
    ],
)
def test_what_is_said_on_receipt(version: str, enhanced: str, codes: str | None) -> None:
    """Nothing in original mode, and in a mode that this version does not know; else CA or AA, in order."""
    expected = [
        None
        if codes is None
        else f"\x0bMSH|^~\\&|LAB|H2|ADT|H1|20260101||ACK^A01|1|P|2.5\rMSA|{codes}|{id_}|OK\x1c\r".encode()
        for id_ in "AB"
    ]
    assert expected == acks(version, enhanced=enhanced)


def test_a_message_is_known_by_its_control_id() -> None:
    """MSH-10, also where there are few fields."""
    assert ["A", ""] == [reader.control_id(hl7("A")), reader.control_id("MSH|^~\\&|\rPID|1|2|3|4|5|6|7|8|9")]


ACK = "MSH|^~\\&|\rMSA|AA|other\r"


@pytest.mark.parametrize(
    ("response", "written"),
    [
        ({"statusCode": 200, "body": ACK}, frame(ACK)),
        ({"body": ACK}, frame(ACK)),
        ({"statusCode": 200, "body": "MSH|no MSA at all"}, frame("MSH|no MSA at all")),
        ({"statusCode": 400, "body": ACK}, None),
        ({"statusCode": 500, "body": "failed"}, None),
        ({"statusCode": 200, "body": "not HL7"}, None),
        ({"statusCode": 200}, None),
    ],
)
def test_the_server_s_answer_is_passed_on_unchecked_or_not_at_all(
    response: dict[str, Any], written: bytes | None
) -> None:
    """With any MSA; for an error, or a body that is not HL7, the device gets no answer and never a NAK."""
    assert written == answer_for_device(dialect("5.1.15"), response)
    assert written == answer_for_device(dialect("5.1.15", enhanced="true"), response)


def test_enhanced_aa_swallows_the_server_s_answer() -> None:
    """The device has its AA already."""
    assert None is answer_for_device(dialect("5.1.15", enhanced="aa"), {"statusCode": 200, "body": ACK})


def test_crlf_becomes_cr_up_to_5_0() -> None:
    """The rest of the text stays as it is."""
    text = "MSH|^~\\&|\r\nPID|1\r\n"

    def received(version: str) -> list[str]:
        conversation = Hl7Conversation(dialect(version), lambda: ("", ""))
        return [arrival.text for arrival in conversation.feed(frame(text))]

    assert ["MSH|^~\\&|\rPID|1\r"] == received("5.0.14") == received("4.5.2")
    assert [text] == received("5.1.0")
