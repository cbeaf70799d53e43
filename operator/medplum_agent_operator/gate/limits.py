"""The gate's limits: how many connections it accepts, in total and per address, and how many large messages it buffers at once.

`device_connection` and `sockets` ask here. These limits bound the memory. Each device connection may use four times
`SMALL_BYTES`: a message, a read, and two for answers that the device does not read. Each slot may use twice its size, once for
the message and once for its answer: `MEDIUM_BYTES`, or the longest message.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

SMALL_BYTES: Final = 16_384
"""What a connection may buffer without a slot."""
MEDIUM_BYTES: Final = 262_144
"""What a connection may buffer with a slot of the first tier (documents). Above this it needs a slot of the second tier too."""


class Connections:
    """Counts the devices' connections."""

    def __init__(self, *, limit: int, limit_per_address: int) -> None:
        self._limit = limit
        self._limit_per_address = limit_per_address
        self._by_address: Counter[str] = Counter()
        self._total = 0

    def __len__(self) -> int:
        """Return the number of connections."""
        return self._total

    def refusal(self, address: str) -> str | None:
        """Return why another connection from this address is refused, with the setting to change; None if it is accepted."""
        if self._total >= self._limit:
            return f"{self._total} devices are connected, which is the limit (spec.gate.maxConnections)"
        if self._by_address[address] >= self._limit_per_address:
            return (
                f"{self._by_address[address]} connections come from this address, which is the limit "
                "(spec.gate.maxConnectionsPerAddress)"
            )
        return None

    def add(self, address: str) -> None:
        """Count a new connection."""
        self._total += 1
        self._by_address[address] += 1

    def remove(self, address: str) -> None:
        """Count a connection as closed."""
        self._total -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


class Slots:
    """Slots for messages that are larger than a connection may buffer without one. First come, first served.

    A connection occupies its slot until the message has its answer. A slow agent therefore delays every message that needs a
    slot of the same tier.
    """

    def __init__(self, number: int) -> None:
        self._free = number
        self._waiting: deque[Callable[[], bool]] = deque()

    def acquire(self, granted: Callable[[], bool]) -> bool:
        """Acquire a free slot and return True; else return False and call `granted` later, which returns whether it still wants the slot."""
        if self._free:
            self._free -= 1
            return True
        self._waiting.append(granted)
        return False

    def release(self) -> None:
        """Release a slot. The first waiter that still wants it gets it."""
        while self._waiting:
            if self._waiting.popleft()():
                return
        self._free += 1


@dataclass(frozen=True, slots=True)
class Tier:
    """The slots for one size of message. A connection acquires tiers in ascending order, so no deadlock is possible.

    Attributes:
        above_bytes: a connection that buffers more than this needs a slot.
        slots: the slots of this tier.
    """

    above_bytes: int
    slots: Slots


def make_tiers(*, medium: int, large: int) -> tuple[Tier, ...]:
    """Make `medium` slots for messages above `SMALL_BYTES`, and `large` slots for messages above `MEDIUM_BYTES`."""
    return Tier(SMALL_BYTES, Slots(medium)), Tier(MEDIUM_BYTES, Slots(large))


class SlotUser(Protocol):
    """The connection that a claim belongs to."""

    @property
    def wants_slots(self) -> bool:
        """Whether the connection can still use a slot."""

    def slot_awaited(self) -> None:
        """A slot is not free: the connection must not read more."""

    def slot_not_needed(self) -> None:
        """The claim waits no longer, because the connection buffers less now."""

    def slot_granted(self) -> None:
        """The slot that the claim waited for is free now and belongs to the connection."""


class SlotClaim:
    """The slots that one connection occupies, and the one that it waits for."""

    __slots__ = ("_occupied", "_tiers", "_user", "waiting_for")

    def __init__(self, tiers: Sequence[Tier], user: SlotUser) -> None:
        """`tiers`: in ascending order."""
        self._tiers = tiers
        self._user = user
        self._occupied: list[Slots] = []
        self.waiting_for: Slots | None = None
        """The slots of the tier that it waits for; None if it does not wait."""

    def adjust(self, buffered_bytes: int) -> None:
        """Occupy one slot of each tier that `buffered_bytes` needs, in ascending order, and release the others."""
        tiers = self._tiers
        wanted = sum(buffered_bytes > tier.above_bytes for tier in tiers)
        while len(self._occupied) > wanted:
            self._occupied.pop().release()
        if self.waiting_for is not None and len(self._occupied) >= wanted:
            self.waiting_for = None
            self._user.slot_not_needed()
        while len(self._occupied) < wanted and self.waiting_for is None:
            slots = tiers[len(self._occupied)].slots
            if slots.acquire(partial(self.grant, slots)):
                self._occupied.append(slots)
            else:
                self.waiting_for = slots
                self._user.slot_awaited()

    def grant(self, slots: Slots) -> bool:
        """Occupy a slot that another connection has released. Returns False if this connection does not wait for it any more."""
        if self.waiting_for is not slots or not self._user.wants_slots:
            return False
        self.waiting_for = None
        self._occupied.append(slots)
        self._user.slot_granted()
        return True

    def release(self) -> None:
        """Release all slots: the connection is closed."""
        while self._occupied:
            self._occupied.pop().release()
