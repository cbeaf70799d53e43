"""The gate's budget of memory: who may buffer how many bytes of large messages. No I/O.

Each connection has one claim (`byte_claim`) and reports what it buffers above what is free. What fits is given at once, while no
address has more than half of the shared bytes, and no channel more than three quarters: so one of them that misbehaves leaves
the others room. What does not fit waits, and is not read meanwhile.

One claim at a time may go beyond the shares, up to the longest message: without that, messages that arrive together could
wait for each other's bytes for ever. While a claim waits, the budget takes back what it can: the copy of a message that an
agent has already, and the bytes of a message that arrives too slowly.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from medplum_agent_operator.gate.byte_claim import ByteClaim

ADDRESS_SHARE: Final = 1 / 2
CHANNEL_SHARE: Final = 3 / 4
CHECK_SECONDS: Final = 0.25
"""How often the budget looks for bytes to take back while a claim waits."""
SLOW_CHECKS: Final = 12
"""After so many checks in a row below the least rate, a message is too slow: three seconds, which a lost packet may cost."""
LEAST_RATE: Final = 16_384
"""Bytes per second that a message must arrive with while another one waits for its bytes."""
LEAST_RATE_BEYOND: Final = 262_144
"""The same for the one claim that went beyond the shares."""


class Budget:
    """The bytes, and who waits for some."""

    def __init__(self, *, shared_bytes: int, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        """`call_later`: calls back after so many seconds."""
        self._shared_bytes = shared_bytes
        self._call_later = call_later
        self._used = 0
        self._by_address: Counter[str] = Counter()
        self._by_channel: Counter[str] = Counter()
        self._holders: OrderedDict[ByteClaim, None] = OrderedDict()
        self._waiting: dict[str, OrderedDict[ByteClaim, None]] = {}
        self._beyond: ByteClaim | None = None
        self._checking = False

    def used_by(self, channel: str) -> int:
        """Return how many bytes a channel uses."""
        beyond = self._beyond
        extra = 0 if beyond is None or beyond.user.channel_name != channel else beyond.held
        return self._by_channel[channel] + extra

    def waiting_in(self, channel: str) -> int:
        """Return how many connections of a channel wait for bytes."""
        return sum(claim.user.channel_name == channel for claims in self._waiting.values() for claim in claims)

    @property
    def _number_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def take(self, claim: "ByteClaim", wanted: int) -> bool:
        """Give a claim bytes, so that it holds `wanted`. False: it has to wait for them."""
        if self._given(claim, wanted):
            return True
        if claim.waits:
            return False
        self._forget_sent()
        if self._given(claim, wanted) or (not self._waiting and self._goes_beyond(claim, wanted)):
            return True
        self._waiting.setdefault(claim.user.address, OrderedDict())[claim] = None
        if not self._checking:
            self._checking = True
            for holder in self._holders:
                holder.slow_checks = holder.grown = 0
            self._call_later(CHECK_SECONDS, self._check)
        return False

    def give_back(self, claim: "ByteClaim", held: int) -> None:
        """Take bytes back from a claim, so that it holds `held`."""
        if claim is not self._beyond:
            self._count(claim, held - claim.held)
        elif self._fits(claim, held):
            self._beyond = None
            self._count(claim, held)
        claim.held = held
        if not held:
            self._holders.pop(claim, None)

    def stop_waiting(self, claim: "ByteClaim") -> None:
        """Remove a claim from those that wait."""
        address = claim.user.address
        claims = self._waiting.get(address)
        if claims is not None and claims.pop(claim, self) is None and not claims:
            del self._waiting[address]

    def serve(self) -> None:
        """Give free bytes to claims that wait, those of the address with the fewest bytes first."""
        while (claim := self._next()) is not None:
            self.stop_waiting(claim)
            claim.granted()

    def _next(self) -> "ByteClaim | None":
        """Give one claim what it waits for and return it; None if nothing fits."""
        first = None
        for address in sorted(self._waiting, key=lambda address: self._by_address[address]):
            claim = next(iter(self._waiting[address]))
            if not claim.user.wants_bytes:
                # Its connection is closed, and releases it in a moment.
                continue
            if self._given(claim, claim.wanted):
                return claim
            first = first or claim
        return first if first is not None and self._goes_beyond(first, first.wanted) else None

    def _given(self, claim: "ByteClaim", wanted: int) -> bool:
        """Give bytes if they fit."""
        extra = wanted - claim.held
        if claim is not self._beyond:
            if not self._fits(claim, extra):
                return False
            self._count(claim, extra)
        claim.held = wanted
        self._holders[claim] = None
        return True

    def _fits(self, claim: "ByteClaim", extra: int) -> bool:
        user, shared = claim.user, self._shared_bytes
        return (
            self._used + extra <= shared
            and self._by_address[user.address] + extra <= shared * ADDRESS_SHARE
            and self._by_channel[user.channel_name] + extra <= shared * CHANNEL_SHARE
        )

    def _goes_beyond(self, claim: "ByteClaim", wanted: int) -> bool:
        """Let a claim go beyond the shares, unless another one does."""
        if self._beyond is not None:
            return False
        self._count(claim, -claim.held)
        self._beyond = claim
        claim.slow_checks = claim.grown = 0
        return self._given(claim, wanted)

    def _count(self, claim: "ByteClaim", extra: int) -> None:
        self._used += extra
        for counter, name in ((self._by_address, claim.user.address), (self._by_channel, claim.user.channel_name)):
            counter[name] += extra
            if not counter[name]:
                del counter[name]

    def _forget_sent(self) -> None:
        for claim in list(self._holders):
            claim.user.forget_sent()

    def _check(self) -> None:
        """While claims wait: take back what others do not need, and close connections that are too slow."""
        self._checking = bool(self._waiting)
        if not self._checking:
            return
        self._forget_sent()
        waiting = self._number_waiting
        for claim in self._slow():
            if self._number_waiting < waiting:
                break
            claim.user.too_slow()
        self.serve()
        self._call_later(CHECK_SECONDS, self._check)

    def _slow(self) -> "list[ByteClaim]":
        """Return the claims that are too slow, those of the address with most bytes first. None of a lighter address than all that wait."""
        lightest = min((self._by_address[address] for address in self._waiting), default=0)
        found = []
        for claim in self._holders:
            least = LEAST_RATE_BEYOND if claim is self._beyond else LEAST_RATE
            slow = claim.user.receiving and not claim.waits and claim.grown < least * CHECK_SECONDS
            claim.slow_checks = claim.slow_checks + 1 if slow else 0
            claim.grown = 0
            if claim.slow_checks >= SLOW_CHECKS and self._weight(claim) >= lightest:
                found.append(claim)
        return sorted(found, key=self._weight, reverse=True)

    def _weight(self, claim: "ByteClaim") -> int:
        return self._by_address[claim.user.address] + (claim.held if claim is self._beyond else 0)
