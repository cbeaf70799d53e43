"""The few HL7 v2 fields that the gate reads: the control id of a message (MSH-10), and what an answer is for (MSA-1, MSA-2).

Used by `delivery`. Bytes in, bytes out: the gate decodes nothing and assumes no charset. It reads no other field of a
message, except the type (MSH-9) for the log at DEBUG.
Source: HL7 v2.5.1 chapter 2: 2.5.3 (separators), 2.9 (acknowledgement), 2.10.3 (batches), 2.15.8 (MSA), 2.15.9 (MSH).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

Bytes = bytes | bytearray

_HEADERS: Final = (b"MSH", b"FHS", b"BHS")
_TYPE: Final = 8
_CONTROL_ID: Final = 9  # MSH-1 is the separator itself, so MSH-2 has index 1
_COMMIT_CODES: Final = frozenset({b"CA", b"CE", b"CR"})
_MAX_SEGMENT_BYTES: Final = 4096
"""How much of a segment the gate reads. A control id behind this limit does not count."""

_MAX_IDS: Final = 256
"""How many messages of one frame the gate reads ids of. A frame of 16 MiB may contain millions, and other devices wait meanwhile."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer is for.

    Attributes:
        about: the control id of the message that it answers (MSA-2); None if it names none.
        commit: whether it is a commit acknowledgement (MSA-1 CA, CE or CR); the application acknowledgement comes later.
    """

    about: bytes | None
    commit: bool


def has_header(frame: Bytes) -> bool:
    r"""Whether a frame begins like a message, batch or file. Any other frame breaks a connection to an agent before 5.0.0.

    In UTF-16 each letter has a zero byte beside it.

    >>> has_header(b"\x0bMSH|^~\\&|\x1c\r"), has_header(b"\x0bPID|1\x1c\r"), has_header(b"\x0b\x1c\r")
    (True, False, False)
    """
    return frame[1:8].replace(b"\0", b"").startswith(_HEADERS)


def control_ids(frame: Bytes) -> frozenset[bytes]:
    r"""Return the control ids of the messages in a frame: usually one, of a batch the first 256. Empty ids do not count.

    >>> control_ids(b"\x0bMSH|^~\\&|A|B|C|D|20260101||ADT^A01|4711|P|2.5\rPID|1\r\x1c\r")
    frozenset({b'4711'})
    """
    fields = (_fields(frame, at) for at in islice(_segments(frame, b"MSH"), _MAX_IDS))
    return frozenset(found[_CONTROL_ID] for found in fields if len(found) > _CONTROL_ID and found[_CONTROL_ID])


def describe(frame: Bytes) -> str:
    r"""Return type and control id of a frame's first message, for the log at DEBUG only.

    >>> describe(b"\x0bMSH|^~\\&|A|B|C|D|20260101||ADT^A01|4711|P|2.5\rPID|1||NAME\r\x1c\r")
    'ADT^A01 4711'
    """
    for at in _segments(frame, b"MSH"):
        fields = [*_fields(frame, at), *[b""] * (_CONTROL_ID + 1)]
        return f"{fields[_TYPE].decode(errors='replace')} {fields[_CONTROL_ID].decode(errors='replace')}"
    return "a message without an MSH"


def answer_of(frame: Bytes) -> Answer:
    r"""Read what an answer is for.

    >>> answer_of(b"\x0bMSH|^~\\&|A|B|C|D|20260101||ACK|1|P|2.5\rMSA|CA|4711\x1c\r")
    Answer(about=b'4711', commit=True)
    """
    for at in _segments(frame, b"MSA"):
        _, code, about, *_ = *_fields(frame, at), b"", b"", b""
        return Answer(about or None, code in _COMMIT_CODES)
    return Answer(None, commit=False)


def _segments(frame: Bytes, name: bytes) -> Iterator[int]:
    """Yield where segments with this name begin: after the 0B, or after a CR or LF (some devices write LF)."""
    at = frame.find(name)
    while at > 0:
        if frame[at - 1] in b"\x0b\r\n":
            yield at
        at = frame.find(name, at + len(name))


def _fields(frame: Bytes, at: int) -> list[bytes]:
    """Split a segment at the character that follows its name."""
    line = bytes(frame[at : at + _MAX_SEGMENT_BYTES]).splitlines()[0].removesuffix(b"\x1c")
    separator = line[3:4]
    return line.split(separator) if separator else [line]
