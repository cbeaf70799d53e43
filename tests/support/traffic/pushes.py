"""The shape that goes the other way: the server is asked to push, and the device that listens here counts.

`generator` runs it. A push is offered when it is asked for, sent when the server has taken it, acknowledged when it
arrives at the device.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.traffic import hl7
from tests.support.traffic.ledger import Failure, Outcome, Shape
from tests.support.traffic.senders import payload

if TYPE_CHECKING:
    from tests.support.traffic.medplum_server import Server
    from tests.support.traffic.senders import Run


class Pushes:
    """Asks for pushes at a steady rate."""

    def __init__(self, run: Run, server: Server) -> None:
        self._run = run
        self._server = server
        self.remote = ""
        """Where the device listens; known once it does."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._awaited: dict[str, asyncio.Event] = {}

    def wake(self) -> None:
        """Wake up: the run is stopping."""
        self._stop.set()

    def arrived(self, identifier: str) -> None:
        """The listening device has a message."""
        now = self._run.clock()
        if self._run.ledger.arrived(identifier, now) is not None:
            self._run.ledger.answered(identifier, "AA", now, connection=(Shape.PUSH, 0))
        if identifier in self._awaited:
            self._awaited[identifier].set()

    async def run(self) -> None:
        """Ask until the run is stopping, then wait for what is under way."""
        every = 1 / self._run.config.push_per_second
        due = self._run.clock() + every
        sequence = 0
        while not self._run.stopping:
            try:
                async with asyncio.timeout(max(0.0, due - self._run.clock())):
                    await self._stop.wait()
            except TimeoutError:
                due += every
                task = asyncio.create_task(self._push(sequence))
                sequence += 1
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        await asyncio.gather(*self._tasks)

    async def _push(self, sequence: int) -> None:
        ledger, config = self._run.ledger, self._run.config
        identifier = hl7.control_id(config.run, Shape.PUSH, 0, sequence)
        number = ledger.offered(Shape.PUSH, 0, identifier, self._run.clock())
        arrived = self._awaited[identifier] = asyncio.Event()
        attempt = ledger.attempt(number, self._run.clock(), on_the_wire=False)
        body = payload(identifier, Shape.PUSH).decode()
        assert config.agent_id is not None
        taken = await self._server.push(agent_id=config.agent_id, remote=self.remote, body=body, identifier=identifier)
        if not taken:
            now = self._run.clock()
            ledger.ended(attempt, Outcome.REFUSED, now)
            ledger.failed(Failure(now, Shape.PUSH, 0, Outcome.REFUSED, in_hand=True))
            ledger.given_up(number, now)
            del self._awaited[identifier]
            return
        ledger.sent(attempt)
        # After this time a push no longer counts as a pause, but it may still arrive.
        try:
            async with self._run.patience.limit(config.acknowledge_seconds):
                await arrived.wait()
            outcome = Outcome.ACKED
        except TimeoutError:
            outcome = Outcome.TIMEOUT
            ledger.failed(Failure(self._run.clock(), Shape.PUSH, 0, outcome, in_hand=True))
        finally:
            del self._awaited[identifier]
        ledger.ended(attempt, outcome, self._run.clock())
        ledger.given_up(number, self._run.clock())
