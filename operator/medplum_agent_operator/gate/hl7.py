"""The little of HL7 v2 that the gate reads: whose message a frame is (MSH-10), and which one an answer is about (MSA-1, MSA-2).

Used by `conversation`. Bytes in, bytes out: nothing is decoded, no charset assumed, and nothing else of a message is looked at,
but for a log at DEBUG (MSH-9).
Source: HL7 v2.5.1 chapter 2: 2.5.3 (separators), 2.9 (acknowledgement), 2.10.3 (batches), 2.15.8 (MSA), 2.15.9 (MSH).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

Bytes = bytes | bytearray

_HEADERS: Final = (b"MSH", b"FHS", b"BHS")
_TYPE: Final = 8
_CONTROL_ID: Final = 9  # MSH-1 is the separator itself, so MSH-2 stands at index 1
_COMMIT: Final = frozenset({b"CA", b"CE", b"CR"})
_LONGEST_HEADER: Final = 4096
"""Bytes of a segment that are looked at: an MSH beyond this has no id for us."""

_MOST_IDS: Final = 256
"""Messages of one frame whose ids are known: a frame of 16 MiB may hold millions, and nobody else is served while they are looked at."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer says of itself.

    Attributes:
        about: the control id that it answers (MSA-2); None where it names none.
        commit: whether it only says that the message was accepted (MSA-1 CA, CE or CR); the application's answer comes later.
    """

    about: bytes | None
    commit: bool


def has_header(frame: Bytes) -> bool:
    r"""Whether a frame begins as a message, batch or file does. One that does not poisons a connection to an agent before 5.0.0.

    In UTF-16 each letter has a zero byte beside it.

    >>> has_header(b"\x0bMSH|^~\\&|\x1c\r"), has_header(b"\x0bPID|1\x1c\r"), has_header(b"\x0b\x1c\r")
    (True, False, False)
    """
    return frame[1:8].replace(b"\0", b"").startswith(_HEADERS)


def control_ids(frame: Bytes) -> frozenset[bytes]:
    r"""Return the control ids of the messages in a frame, usually one; of a batch, those of the first 256. Empty ones do not count.

    >>> control_ids(b"\x0bMSH|^~\\&|A|B|C|D|20260101||ADT^A01|4711|P|2.5\rPID|1\r\x1c\r")
    frozenset({b'4711'})
    """
    fields = (_fields(frame, at) for at in islice(_segments(frame, b"MSH"), _MOST_IDS))
    return frozenset(found[_CONTROL_ID] for found in fields if len(found) > _CONTROL_ID and found[_CONTROL_ID])


def describe(frame: Bytes) -> str:
    r"""Type and control id of a frame's first message, for the log at DEBUG and nowhere else.

    >>> describe(b"\x0bMSH|^~\\&|A|B|C|D|20260101||ADT^A01|4711|P|2.5\rPID|1||NAME\r\x1c\r")
    'ADT^A01 4711'
    """
    for at in _segments(frame, b"MSH"):
        fields = [*_fields(frame, at), *[b""] * (_CONTROL_ID + 1)]
        return f"{fields[_TYPE].decode(errors='replace')} {fields[_CONTROL_ID].decode(errors='replace')}"
    return "a message without an MSH"


def answer_of(frame: Bytes) -> Answer:
    r"""Read whom an answer is about.

    >>> answer_of(b"\x0bMSH|^~\\&|A|B|C|D|20260101||ACK|1|P|2.5\rMSA|CA|4711\x1c\r")
    Answer(about=b'4711', commit=True)
    """
    for at in _segments(frame, b"MSA"):
        _, code, about, *_ = *_fields(frame, at), b"", b"", b""
        return Answer(about or None, code in _COMMIT)
    return Answer(None, commit=False)


def _segments(frame: Bytes, name: bytes) -> Iterator[int]:
    """Where segments of a name begin: after the 0B, or after a CR or (as some devices write) LF."""
    at = frame.find(name)
    while at > 0:
        if frame[at - 1] in b"\x0b\r\n":
            yield at
        at = frame.find(name, at + len(name))


def _fields(frame: Bytes, at: int) -> list[bytes]:
    """Split a segment by the character that follows its name."""
    line = bytes(frame[at : at + _LONGEST_HEADER]).splitlines()[0].removesuffix(b"\x1c")
    separator = line[3:4]
    return line.split(separator) if separator else [line]
