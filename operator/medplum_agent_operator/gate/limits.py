"""The gate's limits on connections: how many it accepts, in total and per address, and which one gives way to another.

`sockets` asks here for each new connection. The places are few and any device may take them. So at a limit the connection
that needs its place least gives way: one that only waits for what may never come, one that never sent a message, and at the
total limit one of the address, or of the channel, that has most. `budget` limits the bytes.
"""

from collections import OrderedDict
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, Protocol

SMALL_BYTES: Final = 16_384
"""What a connection may buffer without bytes of the budget.

Each connection may use four times this: a message, a read, and two for answers that the device does not read.
"""
TINY_BYTES: Final = 128
"""A read of fewer bytes costs more than it is worth: it is charged to the device's address (`pace`)."""
SILENT_SECONDS: Final = 60.0
"""For how long a connection that never sent a message has its place to itself, also where its own address is at the limit."""

TOTAL_REFUSAL: Final = "as many devices are connected as the limit allows (spec.gate.maxConnections)"
ADDRESS_REFUSAL: Final = (
    "as many connections come from this address as the limit allows (spec.gate.maxConnectionsPerAddress)"
)


class Standing(IntEnum):
    """How much a connection needs its place. The lowest gives way first."""

    DONE = 0
    """The device sends nothing more, and no message of it is left to send: it waits for an answer, or for the end."""
    SILENT = 1
    """It never sent a message."""
    SPOKE = 2
    """It sent a message. The one whose last message is oldest gives way first."""


class Occupant(Protocol):
    """A device's connection."""

    address: str

    @property
    def channel_name(self) -> str:
        """The channel that it belongs to."""

    def give_way(self) -> None:
        """Close at once: another connection gets the place."""


class _Crowd:
    """Connections by standing, in the order in which they got it."""

    def __init__(self) -> None:
        self._members: tuple[OrderedDict[Occupant, float], ...] = tuple(OrderedDict() for _ in Standing)
        self.size = 0

    def add(self, one: Occupant, standing: Standing, now: float) -> None:
        self._members[standing][one] = now
        self.size += 1

    def discard(self, one: Occupant, standing: Standing) -> None:
        del self._members[standing][one]
        self.size -= 1

    def in_order(self) -> Iterator[Occupant]:
        """Yield the connections, the one that needs its place least first."""
        return (one for members in self._members for one in members)

    def waste(self, now: float) -> Occupant | None:
        """Return a connection that wastes its place: it is done, or was silent for `SILENT_SECONDS`."""
        done = next(iter(self._members[Standing.DONE]), None)
        if done is not None:
            return done
        silent = next(iter(self._members[Standing.SILENT].items()), None)
        return silent[0] if silent is not None and now >= silent[1] + SILENT_SECONDS else None


class Connections:
    """Gives the places for devices' connections."""

    def __init__(self, *, limit: int, limit_per_address: int) -> None:
        self._limit = limit
        self._limit_per_address = limit_per_address
        self._all = _Crowd()
        self._addresses: dict[str, _Crowd] = {}
        self._channels: dict[str, _Crowd] = {}
        self._standings: dict[Occupant, Standing] = {}

    def __len__(self) -> int:
        """Return the number of connections that have a place."""
        return self._all.size

    def refusal(self, address: str, channel_name: str, now: float) -> str | None:
        """Return why another connection would be refused, with the setting to change; None if it would get a place."""
        return self._decide(address, channel_name, now)[0]

    def admit(self, one: Occupant, now: float) -> str | None:
        """Give a new connection a place and return None; else return why it is refused.

        `now`: seconds of a monotonic clock, here and below.
        """
        refusal, leaver = self._decide(one.address, one.channel_name, now)
        if refusal is not None:
            return refusal
        if leaver is not None:
            self.remove(leaver)
            leaver.give_way()
        self._standings[one] = Standing.SILENT
        for crowd in self._crowds(one):
            crowd.add(one, Standing.SILENT, now)
        return None

    def stands(self, one: Occupant, standing: Standing, now: float) -> None:
        """Note how much a connection needs its place. One that has no place any more gets none."""
        before = self._standings.get(one)
        if before is None:
            return
        self._standings[one] = standing
        for crowd in self._crowds(one):
            crowd.discard(one, before)
            crowd.add(one, standing, now)

    def remove(self, one: Occupant) -> None:
        """Take the place of a connection, if it has one."""
        standing = self._standings.pop(one, None)
        if standing is None:
            return
        for crowd in self._crowds(one):
            crowd.discard(one, standing)
        for crowds, name in ((self._addresses, one.address), (self._channels, one.channel_name)):
            if not crowds[name].size:
                del crowds[name]

    def _crowds(self, one: Occupant) -> tuple[_Crowd, _Crowd, _Crowd]:
        return (
            self._all,
            self._addresses.setdefault(one.address, _Crowd()),
            self._channels.setdefault(one.channel_name, _Crowd()),
        )

    def _decide(self, name: str, channel_name: str, now: float) -> tuple[str | None, Occupant | None]:
        """Return why a connection of an address is refused, and who gives way to it."""
        address = self._addresses.get(name) or _Crowd()
        if address.size >= self._limit_per_address:
            leaver = address.waste(now)
            return (ADDRESS_REFUSAL if leaver is None else None), leaver
        if self._all.size >= self._limit:
            leaver = self._leaver(address, channel_name, now)
            return (TOTAL_REFUSAL if leaver is None else None), leaver
        return None, None

    def _leaver(self, address: _Crowd, channel_name: str, now: float) -> Occupant | None:
        """Return who gives way at the total limit: one of the fullest address, one that wastes its place, one of the fullest channel."""
        fullest = max(self._addresses.values(), key=_size)
        if fullest.size > address.size + 1:
            return next(fullest.in_order())
        if (wasting := address.waste(now) or self._all.waste(now)) is not None:
            return wasting
        channel, fullest = self._channels.get(channel_name) or _Crowd(), max(self._channels.values(), key=_size)
        return next(fullest.in_order()) if fullest.size > channel.size + 1 else None


def _size(crowd: _Crowd) -> int:
    return crowd.size
