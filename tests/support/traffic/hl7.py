"""The little HL7 v2 that traffic needs: write a message, read a control id, read an acknowledgement. No I/O.

A parser for all of HL7 would be a dependency, and the generator must run in a bare Python container.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

POSITIVE: Final = frozenset({"AA", "CA"})
"""MSA-1 values that acknowledge: AA in original mode, CA (on receipt) and then AA in enhanced mode."""

_SEPARATORS: Final = "|^~\\&"


def control_id(run: str, shape: str, connection: int, sequence: int) -> str:
    """Name a message. HL7 before 2.7 allows 20 characters in MSH-10.

    >>> control_id("a1b2c3", "long-lived", 3, 42)
    'a1b2c3L003-0000042'
    """
    return f"{run}{shape[0].upper()}{connection:03d}-{sequence:07d}"


def message(*, identifier: str, sender: str, written_at: str) -> bytes:
    """An ADT^A01 for a patient who does not exist."""
    lines = (
        f"MSH{_SEPARATORS}|TRAFFIC|{sender}|MEDPLUM|TEST|{written_at}||ADT^A01^ADT_A01|{identifier}|P|2.5.1",
        f"EVN|A01|{written_at}",
        "PID|1||TEST-0001^^^TRAFFIC^MR||TRAFFIC^TEST||19700101|U",
        "PV1|1|O",
    )
    return ("\r".join(lines) + "\r").encode()


def identifier_of(payload: bytes) -> str | None:
    """MSH-10 of a message; None if it is missing.

    >>> identifier_of(message(identifier="a1", sender="slow", written_at="20260101000000"))
    'a1'
    >>> identifier_of(b"PID|1") is None
    True
    """
    header = _segment(payload, "MSH")
    # MSH-1 is the separator itself: MSH-10 is the tenth field counted from it, the ninth of the split.
    return header[9] if header is not None and len(header) > 9 and header[9] else None


def acknowledgement(payload: bytes, code: str, *, identifier: str) -> bytes:
    """What a device answers to a message that was pushed to it."""
    lines = (f"MSH{_SEPARATORS}|DEVICE|TRAFFIC|MEDPLUM|TEST|||ACK|{identifier}|P|2.5.1",)
    return ("\r".join((*lines, f"MSA|{code}|{identifier_of(payload) or ''}")) + "\r").encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """What MSA says: a code (AA, AE, AR, CA, CE, CR) for a control id."""

    code: str
    identifier: str

    @property
    def positive(self) -> bool:
        """Whether the receiver took the message."""
        return self.code in POSITIVE


def answer_of(payload: bytes) -> Answer | None:
    r"""Read an acknowledgement; None when it is none. With or without a CR at its end: agents send both.

    >>> answer_of(b"MSH|^~\\&|A\rMSA|CA|a1")
    Answer(code='CA', identifier='a1')
    """
    fields = _segment(payload, "MSA")
    return Answer(fields[1], fields[2]) if fields is not None and len(fields) > 2 else None


def _segment(payload: bytes, name: str) -> list[str] | None:
    for line in payload.decode("utf-8", errors="replace").replace("\n", "\r").split("\r"):
        if line.startswith(f"{name}|"):
            return line.split("|")
    return None
