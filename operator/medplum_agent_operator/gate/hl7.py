"""The few HL7 v2 fields that the gate reads.

Of a message: its control id (MSH-10), and whether it asks for acknowledgements (MSH-15, MSH-16). Of an answer: what it is for
(MSA-1, MSA-2). Used by `delivery`. Bytes in, bytes out: the gate decodes nothing and assumes no charset. It reads no other
field of a message, except the type (MSH-9) for the log at DEBUG.
Source: HL7 v2.5.1 chapter 2: 2.5.3 (separators), 2.9 (acknowledgement), 2.10.3 (batches), 2.15.8 (MSA), 2.15.9 (MSH).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final

Bytes = bytes | bytearray

_CHARSETS: Final = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


def _beginnings(*names: str) -> tuple[bytes, ...]:
    """Return how a frame of these first segments may begin. Agents remove one byte order mark, and nothing else, before they look."""
    return tuple((mark + name).encode(charset) for name in names for charset in _CHARSETS for mark in ("", "\ufeff"))


_HEADERS: Final = _beginnings("MSH")
_BATCH_HEADERS: Final = _beginnings("FHS", "BHS")
_BEFORE_SEGMENT: Final = (b"\x0b", b"\r", b"\n", b"\x0b\xef\xbb\xbf")
_TYPE: Final = 8
_CONTROL_ID: Final = 9  # MSH-1 is the separator itself, so MSH-2 has index 1
_ACCEPT, _APPLICATION = 14, 15
_NOT_ALWAYS: Final = frozenset({b"NE", b"ER", b"SU"})
"""Values of MSH-15 and MSH-16 (table 0155): never, on an error only, on success only."""
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


class Wanted(Enum):
    """Whether a message asks for an answer."""

    YES = "it asks for one, or names no conditions, which means the same"
    PERHAPS = "MSH-15 or MSH-16 allows no answer, and the other one is empty"
    NO = "MSH-15 and MSH-16 both allow no answer"


def has_header(frame: Bytes) -> bool:
    r"""Whether a frame begins like a message that an agent takes. Any other frame breaks a connection to an agent before 5.0.0.

    >>> has_header(b"\x0bMSH|^~\\&|\x1c\r"), has_header(b"\x0b\xef\xbb\xbfMSH|^~\\&|\x1c\r"), has_header(b"\x0bPID|1\x1c\r")
    (True, True, False)
    """
    return frame.startswith(_HEADERS, 1)


def is_batch(frame: Bytes) -> bool:
    r"""Whether a frame begins like a batch or a file of messages, which no agent takes.

    >>> is_batch(b"\x0bFHS|^~\\&|\x1c\r"), is_batch(b"\x0bMSH|^~\\&|\x1c\r")
    (True, False)
    """
    return frame.startswith(_BATCH_HEADERS, 1)


def wanted_answer(frame: Bytes) -> Wanted:
    r"""Return whether a message asks for an answer.

    >>> wanted_answer(b"\x0bMSH|^~\\&|A|B|C|D|20260101||ADT^A01|4711|P|2.5|||NE|NE\rPID|1\r\x1c\r").name
    'NO'
    """
    # In UTF-16 each letter has a zero byte beside it.
    head = bytes(frame[:_MAX_SEGMENT_BYTES]).replace(b"\0", b"")
    at = head.find(b"MSH")
    fields = [*_fields(head, at), *[b""] * (_APPLICATION + 1)] if at > 0 else [b""] * (_APPLICATION + 1)
    conditions = {fields[_ACCEPT].strip().upper(), fields[_APPLICATION].strip().upper()}
    if conditions <= _NOT_ALWAYS:
        return Wanted.NO
    return Wanted.PERHAPS if conditions & _NOT_ALWAYS and b"" in conditions else Wanted.YES


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
    """Yield where segments with this name begin: after the 0B and a byte order mark, or after a CR or LF (some devices write LF)."""
    at = frame.find(name)
    while at > 0:
        if frame[max(at - 4, 0) : at].endswith(_BEFORE_SEGMENT):
            yield at
        at = frame.find(name, at + len(name))


def _fields(frame: Bytes, at: int) -> list[bytes]:
    """Split a segment at the character that follows its name."""
    line = bytes(frame[at : at + _MAX_SEGMENT_BYTES]).splitlines()[0].removesuffix(b"\x1c")
    separator = line[3:4]
    return line.split(separator) if separator else [line]
