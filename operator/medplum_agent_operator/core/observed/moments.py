"""Moments that other programs wrote: a time that does not parse, or is too far away to calculate with, counts as absent."""

from datetime import datetime
from typing import Any

from medplum_agent_operator.api.base import is_plausible


def moment(text: Any) -> datetime | None:
    """The time in a field of a live object; None if it is absent or no such time.

    >>> moment("9999-12-31T23:59:59Z"), moment("yesterday"), moment(None)
    (None, None, None)
    """
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None and is_plausible(found) else None
