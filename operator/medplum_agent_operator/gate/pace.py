"""How much work without use a device may cause: empty frames, bytes outside frames, a message in many tiny reads. No I/O.

`device_connection` reports such work. Each address has an account of it that fills up with time. A connection whose address
has used up its account is not read until its turn comes, so its floods slow down itself, and no other device.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

UNITS_PER_SECOND: Final = 2_000
"""Units of work that an address may cause each second: dropped items, tiny reads, connections. One takes some 5 to 100 microseconds.

A device that sends byte by byte loses nothing: while it is not read, its bytes arrive together.
"""
UNITS_AT_ONCE: Final = 2_000
CHANNEL_TIMES: Final = 5
"""How much more than one address all devices of a channel may cause."""
TURN_SECONDS: Final = 0.01
"""How often connections that wait get turns."""
TURNS: Final = 8
"""How many of them get one each time."""
FORGET_SECONDS: Final = 1.0
"""How often accounts that are full are closed."""

Resume = Callable[[], None]


class _Account:
    def __init__(self, now: float, times: int) -> None:
        self.times = times
        self.units: float = UNITS_AT_ONCE * times
        self.filled_at = now
        self.waiting: deque[Resume] = deque()

    def fill(self, now: float) -> None:
        more = (now - self.filled_at) * UNITS_PER_SECOND * self.times
        self.units = min(UNITS_AT_ONCE * self.times, self.units + more)
        self.filled_at = now

    @property
    def full(self) -> bool:
        return self.units >= UNITS_AT_ONCE * self.times and not self.waiting


class Pace:
    """The accounts of all addresses."""

    def __init__(
        self, *, clock: Callable[[], float], call_later: Callable[[float, Callable[[], None]], object]
    ) -> None:
        """`clock`: returns seconds; `call_later`: calls back after so many seconds."""
        self._clock = clock
        self._call_later = call_later
        self._accounts: dict[str, _Account] = {}
        self._queue: OrderedDict[str, None] = OrderedDict()
        """Addresses with a connection that waits, in the order of their next turn."""
        self._forgetting = False

    def __len__(self) -> int:
        """Return the number of accounts. One that is full is closed."""
        return len(self._accounts)

    def charge(self, address: str, units: int, *, channel: str = "") -> bool:
        """Charge an address, and a channel if given, with work. Returns whether an account is used up: then the connection must wait for a turn."""
        accounts = [self._account(address)]
        if channel:
            accounts.append(self._account(f"channel {channel}", CHANNEL_TIMES))
        for account in accounts:
            account.units -= units
        return any(account.units < 0 for account in accounts)

    def wait(self, address: str, resume: Resume) -> None:
        """Call `resume` when it is the connection's turn."""
        self._account(address).waiting.append(resume)
        if not self._queue:
            self._call_later(TURN_SECONDS, self._take_turns)
        self._queue.setdefault(address)

    def _account(self, name: str, times: int = 1) -> _Account:
        now = self._clock()
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = _Account(now, times)
            if not self._forgetting:
                self._forgetting = True
                self._call_later(FORGET_SECONDS, self._forget)
        else:
            account.fill(now)
        return account

    def _take_turns(self) -> None:
        """Give turns, one address after the other, those excepted whose account is used up."""
        now, left = self._clock(), TURNS
        skipped = 0
        while left and skipped < len(self._queue):
            address, _ = self._queue.popitem(last=False)
            account = self._accounts[address]
            account.fill(now)
            self._queue[address] = None
            if account.units < 0:
                skipped += 1
                continue
            skipped, left = 0, left - 1
            account.waiting.popleft()()
            if not account.waiting:
                del self._queue[address]
        if self._queue:
            self._call_later(TURN_SECONDS, self._take_turns)

    def _forget(self) -> None:
        """Close accounts that are full."""
        now = self._clock()
        for address, account in list(self._accounts.items()):
            account.fill(now)
            if account.full:
                del self._accounts[address]
        self._forgetting = bool(self._accounts)
        if self._forgetting:
            self._call_later(FORGET_SECONDS, self._forget)
