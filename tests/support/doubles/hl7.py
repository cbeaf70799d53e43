"""The three things that the stand-ins need to know of an HL7 v2 message: is it one, what is its id, what does its ACK look like.

Used by both stand-ins and by the tests. Why no library: `hl7` has had no release since 2022; `hl7apy` is alive (1.4.0b1,
2026) but takes 20 ms for a message of four segments and 150 ms to import, where the agent has to pass 500 messages a second
and to listen 400 ms after its start. Nothing here looks deeper than the first segment and MSA.
"""

from __future__ import annotations

import re
from typing import Final

CONTENT_TYPE: Final = "x-application/hl7-v2+er7"
_SEGMENT_END: Final = re.compile("[\r\n]+")


def is_hl7(text: str) -> bool:
    """Whether the agent takes it for a message: it begins with `MSH|`, and that is all that is asked."""
    return text.startswith("MSH|")


def fields(text: str, segment: str) -> list[str]:
    """The fields of the first segment of that name, so that `[9]` is MSH-10 and `[2]` is MSA-2; empty if the segment is missing."""
    for line in _SEGMENT_END.split(text):
        if line.startswith(f"{segment}|"):
            return line.split("|")
    return []


def field(text: str, segment: str, index: int) -> str:
    """One field by its place in the line, or an empty string."""
    found = fields(text, segment)
    return found[index] if index < len(found) else ""


def control_id(text: str) -> str:
    """MSH-10. Only the first line is looked at, since messages may be long."""
    end = min((at for at in (text.find("\r"), text.find("\n")) if at >= 0), default=len(text))
    found = text[:end].split("|", 10)
    return found[9] if len(found) > 9 else ""


def acknowledgement(text: str, code: str, *, stamp: str, number: str) -> str:
    r"""An ACK as the agent builds it: sender and receiver change places, and there is no CR behind the last segment.

    >>> acknowledgement("MSH|^~\\&|ADT|H1|LAB|H2|1||ADT^A01|M1|P|2.5", "CA", stamp="20260101120000", number="7")
    'MSH|^~\\&|LAB|H2|ADT|H1|20260101120000||ACK^A01|7|P|2.5\rMSA|CA|M1|OK'
    """
    asked = fields(text, "MSH")
    asked += [""] * (12 - len(asked))
    trigger = asked[8].split("^")[1:2]
    kind = "^".join(["ACK", *trigger])
    header = "|".join(
        ["MSH", asked[1], asked[4], asked[5], asked[2], asked[3], stamp, "", kind, number, asked[10] or "P", asked[11]]
    )
    return f"{header}\rMSA|{code}|{asked[9]}|OK"
