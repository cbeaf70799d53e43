"""What happened to every message and every attempt, in arrays of numbers. Senders write it, the report reads it.

No clock and no socket: the caller gives the time. 100,000 messages take about 10 MB. Times are seconds on the caller's
monotonic clock; NaN stands for "never".
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from tests.support.traffic.pauses import Pauses

NEVER = math.nan


class Shape(StrEnum):
    """How a sender behaves. The first letter is part of the control id."""

    RECONNECTING = "reconnecting"
    LONG_LIVED = "long-lived"
    SLOW = "slow"
    PUSH = "push"


SHAPES = tuple(Shape)
DEVICE_SHAPES = (Shape.RECONNECTING, Shape.LONG_LIVED, Shape.SLOW)
"""Those that send to the agent. Pushes go the other way and have figures of their own."""


class Outcome(IntEnum):
    """How an attempt ended."""

    PENDING = 0
    ACKED = 1
    REJECTED = 2
    """A negative acknowledgement: AE, AR, CE, CR."""
    REFUSED = 3
    """The connection was refused."""
    UNREACHABLE = 4
    """No route, or no name: an error of the network before any connection."""
    RESET = 5
    """The connection broke by RST."""
    CLOSED = 6
    """The other side closed (FIN) while the acknowledgement was awaited, or while nothing was."""
    TIMEOUT = 7
    """No acknowledgement, or no connection, in time."""
    ABANDONED = 8
    """The run was over."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that went wrong on a connection, with a message in hand or without."""

    at: float
    shape: Shape
    connection: int
    outcome: Outcome
    in_hand: bool
    """Whether a message was waiting for its acknowledgement."""
    began: float | None = None
    """For a time-out: when what was waited for began."""

    @property
    def counts_at(self) -> float:
        """When the failure began: a time-out is noticed many seconds later."""
        return self.at if self.began is None else self.began


class Ledger:
    """The record of one run."""

    def __init__(self) -> None:
        self.identifiers: list[str] = []
        self.numbers: dict[str, int] = {}
        self.shapes = array("B")
        self.connections = array("H")
        self.offered_at = array("d")
        self.acknowledged_at = array("d")
        """The first positive answer of any kind."""
        self.application_at = array("d")
        """The first AA: equal to the former in original mode, later in enhanced mode."""
        self.given_up_at = array("d")
        self.sends = array("H")
        self.attempt_message = array("I")
        self.attempt_at = array("d")
        self.attempt_ended_at = array("d")
        self.attempt_outcome = array("B")
        self.failures: list[Failure] = []
        self.rejections: list[tuple[float, int]] = []
        self.strays = 0
        """Answers for a message that this connection did not send: somebody mixed up two devices."""
        self.pauses = {shape: Pauses() for shape in SHAPES}
        self.overall = Pauses()
        self.acknowledged_count = 0
        self.arrivals = array("H")
        """How often each message arrived at the server (at the device, for pushes)."""
        self.repeats: list[tuple[float, int]] = []
        """When which message arrived once more."""
        self.missing: dict[int, float] = {}
        """Acknowledged, not arrived yet: number and time of the acknowledgement. What remains of it is lost."""
        self.foreign_arrivals = 0

    def offered(self, shape: Shape, connection: int, identifier: str, at: float) -> int:
        """A device has a new message to send. Returns its number."""
        number = len(self.identifiers)
        self.identifiers.append(identifier)
        self.numbers[identifier] = number
        self.shapes.append(SHAPES.index(shape))
        self.connections.append(connection)
        self.offered_at.append(at)
        self.acknowledged_at.append(NEVER)
        self.application_at.append(NEVER)
        self.given_up_at.append(NEVER)
        self.sends.append(0)
        self.arrivals.append(0)
        for pauses in self._clocks(shape):
            pauses.offered(at)
        return number

    def attempt(self, number: int, at: float, *, on_the_wire: bool = True) -> int:
        """A try begins: the message is written, or a connection for it is asked for. Returns the attempt's number."""
        self.attempt_message.append(number)
        self.attempt_at.append(at)
        self.attempt_ended_at.append(NEVER)
        self.attempt_outcome.append(Outcome.PENDING)
        if on_the_wire:
            self.sends[number] += 1
        return len(self.attempt_message) - 1

    def sent(self, attempt: int) -> None:
        """An attempt that began with a connection has put its message on the wire."""
        self.sends[self.attempt_message[attempt]] += 1

    def ended(self, attempt: int, outcome: Outcome, at: float) -> None:
        """An attempt is over. The first end counts."""
        if self.attempt_outcome[attempt] == Outcome.PENDING:
            self.attempt_outcome[attempt] = outcome
            self.attempt_ended_at[attempt] = at

    def failed(self, failure: Failure) -> None:
        """A connection could not be made, or broke."""
        self.failures.append(failure)

    def answered(self, identifier: str, code: str, at: float, *, connection: tuple[Shape, int]) -> int | None:
        """An answer came in on a connection. Returns the number of the message it is about, None for a stray."""
        number = self.numbers.get(identifier)
        if number is None or (SHAPES[self.shapes[number]], self.connections[number]) != connection:
            self.strays += 1
            return None
        match code:
            case "CA":
                self._acknowledged(number, at)
            case "AA":
                self._acknowledged(number, at)
                if math.isnan(self.application_at[number]):
                    self.application_at[number] = at
            case _:
                self.rejections.append((at, number))
        return number

    def arrived(self, identifier: str, at: float) -> int | None:
        """The server has a message. Returns its number, None when it is not one of this run."""
        number = self.numbers.get(identifier)
        if number is None:
            self.foreign_arrivals += 1
            return None
        self.arrivals[number] += 1
        self.missing.pop(number, None)
        if self.arrivals[number] > 1:
            self.repeats.append((at, number))
        return number

    def given_up(self, number: int, at: float) -> None:
        """No device will send this message again."""
        if math.isnan(self.acknowledged_at[number]) and math.isnan(self.given_up_at[number]):
            self.given_up_at[number] = at
            for pauses in self._clocks(SHAPES[self.shapes[number]]):
                pauses.given_up(at)

    def acknowledged(self, number: int) -> bool:
        """Whether a message has been acknowledged in any way."""
        return not math.isnan(self.acknowledged_at[number])

    def _acknowledged(self, number: int, at: float) -> None:
        if self.acknowledged(number):
            return
        self.acknowledged_at[number] = at
        self.acknowledged_count += 1
        if self.arrivals[number] == 0:
            self.missing[number] = at
        # One that was given up waits no longer; its late answer is still an answer.
        if math.isnan(self.given_up_at[number]):
            for pauses in self._clocks(SHAPES[self.shapes[number]]):
                pauses.acknowledged(at)

    def _clocks(self, shape: Shape) -> tuple[Pauses, ...]:
        return (self.pauses[shape],) if shape is Shape.PUSH else (self.pauses[shape], self.overall)
