"""Log lines about devices: a few for each address, no matter what a device does and how often.

The relays and connections report here. The first line of a kind is written at once, with the device's address. Each further
one is counted, and a minute later one line has the numbers.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from medplum_agent_operator.gate.effects import Kind
from medplum_agent_operator.telemetry import log

LINES: Final = 4
"""Lines about one address in a period, without the one at its end: fewer than ten in any minute."""
PERIOD_SECONDS: Final = 60.0
ADDRESSES: Final = 200
"""Addresses with lines of their own in one period. All others share one."""
OTHERS: Final = "other addresses"

WORTH_A_LINE: Final = {
    Kind.JUNK: "dropped a byte outside any message",
    Kind.EMPTY: "dropped a frame without an HL7 header",
    Kind.BATCH: "dropped a batch or a file of messages (BHS, FHS), as no agent takes one",
    Kind.CUT: "dropped a message that was not completed",
    Kind.UNANSWERED: "a message got no answer in time",
    Kind.UNDELIVERED: "lost a message: the device has disconnected, and no agent was ready in time",
    Kind.DROPPED: "a message went to no agent before the connection was closed",
    Kind.MISSED: "an application acknowledgement did not arrive, because its link was closed",
}
"""What happens on a connection that stays open, and has to be found by the device's address. Each says one of what its `Count` counts."""


@dataclass(slots=True)
class _Lines:
    written: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    level: int = logging.INFO


class DeviceLog:
    """Writes the lines."""

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        """`call_later`: calls back after so many seconds."""
        self._call_later = call_later
        self._addresses: dict[str, _Lines] = {}

    def note(self, address: str, text: str, *, number: int = 1, reason: str = "", level: int = logging.INFO) -> None:
        """Log what happened to a device, or count it. `text`: one of few, without numbers; `number`: how often it happened."""
        if not self._addresses:
            self._call_later(PERIOD_SECONDS, self._summarise)
        if address not in self._addresses and len(self._addresses) >= ADDRESSES:
            address = OTHERS
        lines = self._addresses.setdefault(address, _Lines())
        if text in lines.written or len(lines.written) >= LINES:
            lines.counts[text] += number
            lines.level = max(lines.level, level)
            return
        lines.written.add(text)
        log.log(
            level, "%s", _counted(number, text), extra={"device": address, **({"reason": reason} if reason else {})}
        )

    def _summarise(self) -> None:
        addresses, self._addresses = self._addresses, {}
        for address, lines in addresses.items():
            if lines.counts:
                counts = "; ".join(f"{number} x {text}" for text, number in lines.counts.most_common())
                log.log(lines.level, "in the last minute also: %s", counts, extra={"device": address})


def _counted(number: int, text: str) -> str:
    return text if number == 1 else f"{number} x {text}"
