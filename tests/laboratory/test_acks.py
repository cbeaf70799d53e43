"""What a device gets as an answer, and when, by mode and version."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.doubles import hl7 as reader
from tests.support.doubles.agent.acks import Dialect, Hl7Conversation, answer_for_device
from tests.support.doubles.agent.framers import frame
from tests.support.doubles.agent.version import AgentTraits
from tests.support.doubles.stage import hl7

NOON = datetime(2026, 1, 1, 12, 0, 0, 7000, tzinfo=UTC)


def dialect(version: str, **parameters: str) -> Dialect:
    """How a channel of that version speaks."""
    return Dialect.of(AgentTraits.parse(version), parameters)


def acks(version: str, **parameters: str) -> list[bytes | None]:
    """What is said at once to two messages in one read (or one, for the old framer)."""
    conversation = Hl7Conversation(dialect(version, **parameters), lambda: NOON)
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
    """Nothing in original mode, and in a mode that this version does not know; else CA or AA, in order.

    MSH-10 of these is the time, so two of one millisecond have the same.
    """
    said = {"CA": "Commit Accept", "AA": "OK"}.get(codes or "")
    expected = [
        None
        if codes is None
        else f"\x0bMSH|^~\\&|LAB|H2|ADT|H1|20260101120000.7||ACK^A01|1767268800007|P|2.5\rMSA|{codes}|{id_}|{said}\x1c\r".encode()
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


@pytest.mark.parametrize(
    ("header", "begins", "ends"),
    [
        (
            "MSH|^~\\&|A|B|C|D|1||ADT^A01^ADT_A01|M1|T",
            "MSH|^~\\&|C|D|A|B|",
            "||ACK^A01^ACK|1767268800007|P|2.5.1\rMSA|AA|M1|OK",
        ),
        ("MSH|^~\\&|A|B|C|D|1||ORU|M1|P|", "MSH|^~\\&|C|D|A|B|", "||ACK|1767268800007|P|\rMSA|AA|M1|OK"),
        ("MSH|^~\\&#|A|B|C|D|1||ADT^A01|M1|P|2.8", "MSH|^~\\&|C|D|A|B|", "||ACK^A01|1767268800007|P|2.8\rMSA|AA|M1|OK"),
        ("MSH#*~\\&#A#B#C#D#1##ADT*A01#M1#P#2.5", "MSH#*~\\&#C#D#A#B#", "##ACK*A01#1767268800007#P#2.5\rMSA#AA#M1#OK"),
        ("MSH", "MSH||||||", "||ACK|1767268800007|P|2.5.1\rMSA|AA||OK"),
    ],
    ids=["structure", "no trigger", "five encoding characters", "other separators", "nothing but MSH"],
)
def test_acknowledgements_of_other_headers(header: str, begins: str, ends: str) -> None:
    """As upstream builds them."""
    ack = reader.acknowledgement(header, "AA", at=NOON)
    assert (begins, ends) == (ack[: len(begins)], ack[len(begins) :].removeprefix("20260101120000.7"))
    assert "M1" in ends or header == "MSH"


def test_any_run_of_line_ends_becomes_one_cr_up_to_5_0() -> None:
    """In both directions; the rest of the text stays as it is."""
    text = "MSH|^~\\&|\r\nPID|1\r\rPV1\n"

    def received(version: str) -> list[str]:
        conversation = Hl7Conversation(dialect(version), lambda: NOON)
        return [arrival.text for arrival in conversation.feed(frame(text))]

    rebuilt = "MSH|^~\\&|\rPID|1\rPV1\r"
    assert [rebuilt] == received("5.0.14") == received("4.5.2")
    assert [text] == received("5.1.0")
    assert frame(rebuilt) == answer_for_device(dialect("5.0.14"), {"body": text})
    assert frame(text) == answer_for_device(dialect("5.1.0"), {"body": text})
