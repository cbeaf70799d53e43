"""The shapes of traffic that go to the agent. `generator` starts them; what happened goes to the ledger.

`Device` keeps its connection open (long-lived and slow), `Reconnecting` takes a new one for each message. Both behave
as devices do: what is not acknowledged is sent again, with the same control id, until it is.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.support.traffic import hl7
from tests.support.traffic.connection import Dialler, MllpConnection
from tests.support.traffic.ledger import Failure, Ledger, Outcome, Shape
from tests.support.traffic.window import OnTheWire, Window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.traffic.config import TrafficConfig


class Patience:
    """Time limits that the end of the run shortens: no wait for an answer exceeds it."""

    def __init__(self) -> None:
        self._limits: set[asyncio.Timeout] = set()
        self._latest: float | None = None

    @asynccontextmanager
    async def limit(self, seconds: float) -> AsyncIterator[None]:
        """Raise TimeoutError after so many seconds, or when the run is over."""
        when = asyncio.get_running_loop().time() + seconds
        async with asyncio.timeout_at(when if self._latest is None else min(when, self._latest)) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)

    def end_in(self, seconds: float) -> None:
        """The run is over after so many seconds."""
        self._latest = asyncio.get_running_loop().time() + seconds
        for limit in self._limits:
            limit.reschedule(min(limit.when() or self._latest, self._latest))


MAX_CONCURRENT = 200
"""Messages of the reconnecting shape that may wait at once; beyond that new ones are held back (and counted)."""


@dataclass(slots=True)
class Run:
    """What the senders of one run share: the settings, the record, the clock, and whether it is over."""

    config: TrafficConfig
    ledger: Ledger
    dialler: Dialler
    clock: Callable[[], float]
    finish_by: float | None = None
    """Set when the run is stopping: nothing new, and what is unacknowledged is sent again until then."""
    held_back: int = 0
    patience: Patience = field(default_factory=Patience)

    def end_in(self, seconds: float) -> None:
        """Nothing new from now on; after so many seconds everything that is left is given up."""
        self.finish_by = self.clock() + seconds
        self.patience.end_in(seconds)

    @property
    def stopping(self) -> bool:
        """Whether the run is stopping: no new messages."""
        return self.finish_by is not None

    @property
    def over(self) -> bool:
        """Whether everything that is left is given up."""
        return self.finish_by is not None and self.clock() >= self.finish_by

    def settles(self, code: str) -> bool:
        """Whether an answer with this code means that a message need not be sent again."""
        return code == "AA" or (code == "CA" and not self.config.wait_for_application)


def payload(identifier: str, shape: Shape) -> bytes:
    """A message with this control id."""
    return hl7.message(identifier=identifier, sender=shape.upper(), written_at=f"{datetime.now(UTC):%Y%m%d%H%M%S}")


class Device:
    """A device with one connection: it waits for the ACK of each message, reconnects, sends again."""

    def __init__(self, run: Run, shape: Shape, number: int, *, every: float, first_after: float) -> None:
        self._run = run
        self._shape = shape
        self._number = number
        self._every = every
        self._due = run.clock() + first_after
        self._retry_at = 0.0
        self._dialled_at = 0.0
        self._sequence = 0
        self._window = Window(run.config.pipeline)
        self._connection: MllpConnection | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Send until the run is stopping, then until all is acknowledged or the run is over."""
        while not (self._run.over or (self._run.stopping and self._window.empty)):
            now = self._run.clock()
            if self._window.deadline is not None and now >= self._window.deadline:
                self._broke(Outcome.TIMEOUT)
            self._offer(now)
            if self._connection is not None:
                self._send()
            elif self._dialling is None and now >= self._retry_at:
                self._dialling = asyncio.create_task(self._dial())
            await self._sleep()
        await self._end()

    def wake(self) -> None:
        """Wake up: something has changed."""
        self._wake.set()

    def _offer(self, now: float) -> None:
        while not self._run.stopping and self._window.room and now >= self._due:
            identifier = hl7.control_id(self._run.config.run, self._shape, self._number, self._sequence)
            self._sequence += 1
            self._window.add(self._run.ledger.offered(self._shape, self._number, identifier, now))
            # No catching up after an outage: a burst would hide in its averages what the outage cost.
            self._due = max(self._due + self._every, now)

    def _send(self) -> None:
        if self._run.clock() < self._retry_at:
            return
        while self._connection is not None and (number := self._window.head()) is not None:
            now = self._run.clock()
            attempt = self._run.ledger.attempt(number, now)
            self._window.sent(OnTheWire(number, attempt, now + self._run.config.acknowledge_seconds))
            self._connection.send(payload(self._run.ledger.identifiers[number], self._shape))

    async def _dial(self) -> None:
        connection = MllpConnection(self._on_frame, self._on_lost)
        began = self._dialled_at = self._run.clock()
        failure = await self._run.dialler.dial(connection)
        self._dialling = None
        if failure is not None:
            self._failed(failure, began)
        elif connection.alive:
            self._connection = connection
        self._wake.set()

    def _failed(self, outcome: Outcome, began: float) -> None:
        now = self._run.clock()
        number = self._window.head()
        if number is not None:
            attempt = self._run.ledger.attempt(number, began, on_the_wire=False)
            self._run.ledger.ended(attempt, outcome, now)
        self._run.ledger.failed(
            Failure(now, self._shape, self._number, outcome, in_hand=number is not None, began=_began(outcome, began))
        )
        self._retry_at = now + self._run.config.retry_seconds

    def _on_frame(self, payload: bytes) -> None:
        answer = hl7.answer_of(payload)
        now = self._run.clock()
        if answer is None:
            return
        here = (self._shape, self._number)
        number = self._run.ledger.answered(answer.identifier, answer.code, now, connection=here)
        if number is None or (answer.positive and not self._run.settles(answer.code)):
            return
        entry = self._window.answered(number, done=answer.positive)
        if entry is not None:
            self._run.ledger.ended(entry.attempt, Outcome.ACKED if answer.positive else Outcome.REJECTED, now)
            if not answer.positive:
                self._retry_at = now + self._run.config.retry_seconds
        self._wake.set()

    def _on_lost(self, outcome: Outcome) -> None:
        self._connection = None
        self._broke(outcome)
        self._wake.set()

    def _broke(self, outcome: Outcome) -> None:
        now = self._run.clock()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        lost = self._window.broken()
        for entry in lost:
            self._run.ledger.ended(entry.attempt, outcome, now)
        began = _began(outcome, now - self._run.config.acknowledge_seconds)
        self._run.ledger.failed(Failure(now, self._shape, self._number, outcome, in_hand=bool(lost), began=began))
        # A device reconnects at once; but not in a loop, to somebody who accepts only to close.
        self._retry_at = self._dialled_at + self._run.config.retry_seconds

    async def _sleep(self) -> None:
        now = self._run.clock()
        times = [t for t in (self._window.deadline, self._run.finish_by) if t is not None]
        if not self._run.stopping and self._window.room:
            times.append(self._due)
        if self._dialling is None and now < self._retry_at:
            times.append(self._retry_at)
        self._wake.clear()
        try:
            async with asyncio.timeout(max(0.0, min(times) - now) if times else None):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _end(self) -> None:
        now = self._run.clock()
        for entry in self._window.broken():
            self._run.ledger.ended(entry.attempt, Outcome.ABANDONED, now)
        for number in self._window.drop():
            self._run.ledger.given_up(number, now)
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.gather(self._dialling, return_exceptions=True)
        if self._connection is not None:
            self._connection.close()


class Reconnecting:
    """A new connection for each message, at a steady rate, even if earlier messages failed."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()

    def wake(self) -> None:
        """Wake up: the run is stopping."""
        self._stop.set()

    async def run(self) -> None:
        """Begin messages until the run is stopping, then wait for those that are under way."""
        every = 1 / self._run.config.reconnecting_per_second
        due = self._run.clock() + every
        sequence = 0
        while not self._run.stopping:
            await self._pause(due - self._run.clock())
            now = self._run.clock()
            while due <= now and not self._run.stopping:
                due += every
                if len(self._tasks) >= MAX_CONCURRENT:
                    self._run.held_back += 1
                    continue
                task = asyncio.create_task(self._deliver(sequence))
                sequence += 1
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        await asyncio.gather(*self._tasks)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._stop.wait()
        except TimeoutError:
            return

    async def _deliver(self, sequence: int) -> None:
        identifier = hl7.control_id(self._run.config.run, Shape.RECONNECTING, 0, sequence)
        number = self._run.ledger.offered(Shape.RECONNECTING, 0, identifier, self._run.clock())
        while await self._attempt(number, identifier) is not Outcome.ACKED:
            if self._run.over:
                self._run.ledger.given_up(number, self._run.clock())
                return
            await asyncio.sleep(self._run.config.retry_seconds)

    async def _attempt(self, number: int, identifier: str) -> Outcome:
        ledger, began = self._run.ledger, self._run.clock()
        attempt = ledger.attempt(number, began, on_the_wire=False)
        outcome = await self._exchange(attempt, identifier)
        now = self._run.clock()
        ledger.ended(attempt, outcome, now)
        if outcome not in {Outcome.ACKED, Outcome.REJECTED, Outcome.ABANDONED}:
            ledger.failed(Failure(now, Shape.RECONNECTING, 0, outcome, in_hand=True, began=_began(outcome, began)))
        return outcome

    async def _exchange(self, attempt: int, identifier: str) -> Outcome:
        exchange = _Exchange(self._run, identifier)
        connection = MllpConnection(exchange.on_frame, exchange.on_lost)
        failure = await self._run.dialler.dial(connection)
        if failure is not None:
            return failure
        if connection.send(payload(identifier, Shape.RECONNECTING)):
            self._run.ledger.sent(attempt)
        try:
            async with self._run.patience.limit(self._run.config.acknowledge_seconds):
                return await exchange.ended
        except TimeoutError:
            return Outcome.ABANDONED if self._run.over else Outcome.TIMEOUT
        finally:
            connection.close()


class _Exchange:
    """One message on a connection of its own, until something settles it."""

    def __init__(self, run: Run, identifier: str) -> None:
        self._run = run
        self._identifier = identifier
        self.ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def on_frame(self, payload: bytes) -> None:
        answer = hl7.answer_of(payload)
        if answer is None or self.ended.done():
            return
        if answer.identifier != self._identifier:
            self._run.ledger.strays += 1
            return
        now = self._run.clock()
        self._run.ledger.answered(self._identifier, answer.code, now, connection=(Shape.RECONNECTING, 0))
        if not answer.positive:
            self.ended.set_result(Outcome.REJECTED)
        elif self._run.settles(answer.code):
            self.ended.set_result(Outcome.ACKED)

    def on_lost(self, outcome: Outcome) -> None:
        if not self.ended.done():
            self.ended.set_result(outcome)


def _began(outcome: Outcome, began: float) -> float | None:
    """When what failed began, where that is long before it is noticed."""
    return began if outcome is Outcome.TIMEOUT else None
