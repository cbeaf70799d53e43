"""The three things that the stand-ins need to know of an HL7 v2 message: is it one, what is its id, what does its ACK look like.

Used by both stand-ins and by the tests. Why no library: `hl7` has had no release since 2022; `hl7apy` is alive (1.4.0b1,
2026) but takes 20 ms for a message of four segments and 150 ms to import, where the agent has to pass 500 messages a second
and to listen 400 ms after its start. Nothing here looks deeper than the first segment and MSA.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

CONTENT_TYPE: Final = "x-application/hl7-v2+er7"
_SEGMENT_END: Final = re.compile("[\r\n]+")
_TEXTS: Final = {"AA": "OK", "CA": "Commit Accept"}


def is_hl7(text: str) -> bool:
    """Whether the agent takes it for a message: it begins with `MSH`, and that is all that is asked."""
    return text.startswith("MSH")


def separator(text: str) -> str:
    """The message's own field separator, MSH-1: the character behind `MSH`."""
    return text[3:4] if is_hl7(text) and text[3:4] else "|"


def fields(text: str, segment: str) -> list[str]:
    """The fields of the first segment of that name, so that `[9]` is MSH-10 and `[2]` is MSA-2; empty if the segment is missing."""
    mark = separator(text)
    for line in _SEGMENT_END.split(text):
        if line.startswith(f"{segment}{mark}"):
            return line.split(mark)
    return []


def field(text: str, segment: str, index: int) -> str:
    """One field by its place in the line, or an empty string."""
    found = fields(text, segment)
    return found[index] if index < len(found) else ""


def control_id(text: str) -> str:
    """MSH-10. Only the first line is looked at, since messages may be long."""
    end = min((at for at in (text.find("\r"), text.find("\n")) if at >= 0), default=len(text))
    found = text[:end].split(separator(text), 10)
    return found[9] if len(found) > 9 else ""


def acknowledgement(text: str, code: str, *, at: datetime) -> str:
    r"""An ACK as upstream builds it, agent and bots alike: there is no CR behind the last segment.

    Sender and receiver change places. MSH-10 is the time in milliseconds since the epoch, so two ACKs of one millisecond
    have the same one. MSH-11 is always `P`.

    >>> from datetime import UTC, datetime
    >>> at = datetime(2026, 1, 1, 12, 0, 0, 7000, tzinfo=UTC)
    >>> acknowledgement("MSH|^~\\&|ADT|H1|LAB|H2|1||ADT^A01|M1|T|2.5", "CA", at=at)
    'MSH|^~\\&|LAB|H2|ADT|H1|20260101120000.7||ACK^A01|1767268800007|P|2.5\rMSA|CA|M1|Commit Accept'
    """
    asked = fields(text, "MSH")
    mark, part = separator(text), text[4:5] or "^"
    version = asked[11] if len(asked) > 11 else "2.5.1"
    asked += [""] * (12 - len(asked))
    _, trigger, structure, *_ = [*asked[8].split(part), "", ""]
    kind = part.join(["ACK", *([trigger] if trigger else []), *(["ACK"] if trigger and structure else [])])
    milliseconds = at.microsecond // 1000
    stamp = f"{at:%Y%m%d%H%M%S}" + (f".{milliseconds}" if milliseconds else "")
    number = str(int(at.timestamp()) * 1000 + milliseconds)
    sender, receiver = (asked[2], asked[3]), (asked[4], asked[5])
    header = mark.join(["MSH", text[4:8], *receiver, *sender, stamp, "", kind, number, "P", version])
    return f"{header}\r{mark.join(['MSA', code, asked[9], _TEXTS[code]])}"
