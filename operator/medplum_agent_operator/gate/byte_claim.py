"""What one connection asks of the budget of memory: the bytes that it holds, and those that it waits for. No I/O.

`effect_runner` has one claim for each device. `budget` decides.
"""

from typing import Protocol

from medplum_agent_operator.gate.budget import Budget


class Claimant(Protocol):
    """The connection that a claim belongs to."""

    address: str

    @property
    def channel_name(self) -> str:
        """The channel that it belongs to."""

    @property
    def wants_bytes(self) -> bool:
        """Whether the connection can still use bytes."""

    @property
    def receiving(self) -> bool:
        """Whether it waits for its device: for the rest of a message that it reads, or for the device to read an answer."""

    def bytes_awaited(self) -> None:
        """The bytes are not free: the connection must not read more."""

    def bytes_not_needed(self) -> None:
        """The claim waits no longer, because the connection buffers less now."""

    def bytes_granted(self) -> None:
        """The bytes that the claim waited for belong to it now."""

    def forget_sent(self) -> None:
        """Drop the copy of a message that an agent has completely, and adjust the claim."""

    def too_slow(self) -> None:
        """The device sends, or reads, too slowly while others wait: close the connection."""


class ByteClaim:
    """The bytes that one connection holds, and those that it waits for."""

    __slots__ = ("_budget", "grown", "held", "slow_checks", "user", "waits", "wanted")

    def __init__(self, budget: Budget, user: Claimant) -> None:
        self._budget = budget
        self.user = user
        self.held = 0
        self.wanted = 0
        self.waits = False
        """Whether it waits for bytes: then the connection must not read."""
        self.grown = 0
        """How many bytes arrived, or were given back, since the last check."""
        self.slow_checks = 0

    def adjust(self, buffered_bytes: int) -> None:
        """Hold as many bytes as the connection buffers above what is free, or wait for them. Negative numbers count as none."""
        wanted = max(buffered_bytes, 0)
        if wanted == self.held and not self.waits:
            return
        budget = self._budget
        self.grown += abs(wanted - self.held)
        if wanted > self.held:
            self.wanted = wanted
            waits = not budget.take(self, wanted)
            if waits and not self.waits:
                self.waits = True
                self.user.bytes_awaited()
            elif self.waits and not waits:
                self._stop_waiting()
            return
        budget.give_back(self, wanted)
        if self.waits:
            self._stop_waiting()
        budget.serve()

    def granted(self) -> None:
        """The budget gave the bytes that the claim waited for."""
        self.waits = False
        self.user.bytes_granted()

    def release(self) -> None:
        """Give everything back: the connection is closed."""
        self._budget.stop_waiting(self)
        self.waits = False
        if self.held:
            self._budget.give_back(self, 0)
        self._budget.serve()

    def _stop_waiting(self) -> None:
        self._budget.stop_waiting(self)
        self.waits = False
        self.user.bytes_not_needed()
