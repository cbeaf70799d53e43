"""What a gate takes at most: connections, in all and from one address, and messages that are large, at once.

Asked by `relay` and `streams`. What is in memory is bounded by four times `SMALL_BYTES` for each connection of a device (a message, a read,
and two of answers that the device does not read) and for each place twice what it is for (there, and its answer back): `MEDIUM_BYTES`, or
the longest message.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SMALL_BYTES: Final = 16_384
"""What a connection may hold without asking; for more it needs a place."""
MEDIUM_BYTES: Final = 262_144
"""What it may hold with a place of the first kind, of which there are some: documents. For more it needs one of the second, too."""


class Connections:
    """Counts the devices' connections."""

    def __init__(self, *, most: int, most_of_one_address: int) -> None:
        self._most = most
        self._most_of_one = most_of_one_address
        self._of: Counter[str] = Counter()
        self._all = 0

    def __len__(self) -> int:
        """How many there are."""
        return self._all

    def refusal(self, address: str) -> str | None:
        """Why another one is not taken, and what to do about it; None where it is."""
        if self._all >= self._most:
            return f"{self._all} devices are connected, and no more are taken (spec.gate.maxConnections)"
        if self._of[address] >= self._most_of_one:
            return (
                f"{self._of[address]} connections come from this address, and no more are taken "
                "(spec.gate.maxConnectionsPerAddress)"
            )
        return None

    def came(self, address: str) -> None:
        """Count one."""
        self._all += 1
        self._of[address] += 1

    def went(self, address: str) -> None:
        """It is over."""
        self._all -= 1
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]


class Places:
    """Places for messages that are larger than what each connection may hold; who comes first is served first.

    A place is kept until the message has its answer, so an agent that is slow to answer keeps all who need one of its kind waiting.
    """

    def __init__(self, number: int) -> None:
        self._free = number
        self._waiting: deque[Callable[[], bool]] = deque()

    def take(self, granted: Callable[[], bool]) -> bool:
        """Take a place, at once if one is free; else `granted` is called when it is there, and answers whether it is still wanted."""
        if self._free:
            self._free -= 1
            return True
        self._waiting.append(granted)
        return False

    def give_back(self) -> None:
        """Free a place: for the first who waits and still wants it."""
        while self._waiting:
            if self._waiting.popleft()():
                return
        self._free += 1


@dataclass(frozen=True, slots=True)
class Tier:
    """A kind of places. Who needs one of a later kind keeps those before it, so that nobody can wait in a circle.

    Attributes:
        above_bytes: from how many bytes on one is needed.
        places: those that there are.
    """

    above_bytes: int
    places: Places


def tiers(*, medium: int, large: int) -> tuple[Tier, ...]:
    """So many places for messages above `SMALL_BYTES`, and so many above `MEDIUM_BYTES`."""
    return Tier(SMALL_BYTES, Places(medium)), Tier(MEDIUM_BYTES, Places(large))
