"""`Traffic`: starts the shapes, stops them, and gives the report. Tests, benches and `__main__` use it.

async with Traffic(TrafficConfig("127.0.0.1", 2575)) as traffic:
    traffic.mark("patch applied")
    ...
traffic.report, traffic.series
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Final, Self

from tests.support.traffic import report, series, snapshot
from tests.support.traffic.connection import Dialler
from tests.support.traffic.device import ListeningDevice
from tests.support.traffic.ledger import Ledger, Shape
from tests.support.traffic.medplum_server import ControlApi, Server, ServerAwayError
from tests.support.traffic.pushes import Pushes
from tests.support.traffic.report import Report, Timeline
from tests.support.traffic.senders import Device, Reconnecting, Run
from tests.support.traffic.snapshot import Since

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from tests.support.traffic.config import TrafficConfig
    from tests.support.traffic.series import Series
    from tests.support.traffic.snapshot import Snapshot

POLL_SECONDS: Final = 1.0
TICK_SECONDS: Final = 0.05


class Traffic:
    """One run of traffic. `start`, then `stop`; or `async with`."""

    def __init__(
        self, config: TrafficConfig, *, server: Server | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self.ledger = Ledger()
        self._clock = clock
        self._server = server or (ControlApi(config.server_url) if config.server_url else None)
        self._marks: list[tuple[str, float]] = []
        self._device: ListeningDevice | None = None
        self._background: list[asyncio.Task[None]] = []
        self._stall = 0.0
        self._server_failures = 0
        self._asked_at = 0.0
        self._last = (0.0, 0)
        self._report: Report | None = None
        self._series: Series | None = None

    @property
    def report(self) -> Report:
        """What came of it, once it has stopped."""
        assert self._report is not None, "the traffic has not stopped yet"
        return self._report

    @property
    def series(self) -> Series:
        """The same over time."""
        assert self._series is not None, "the traffic has not stopped yet"
        return self._series

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin. A source address that is not this machine's is an error at once, not a message that fails."""
        for source in self.config.sources:
            _check_source(source)
        config = self.config
        self._cpu = time.process_time()
        self._started = self._clock()
        self._anchor = time.time() - self._started
        self._last = (self._started, 0)
        self._since = Since("start", self._started)
        dialler = Dialler(config.host, config.port, config.sources, config.connect_seconds)
        self._run = Run(config, self.ledger, dialler, self._clock)
        self._senders: list[Device | Reconnecting | Pushes] = [*self._devices()]
        if config.reconnecting_per_second:
            self._senders.append(Reconnecting(self._run))
        if config.push_per_second:
            assert self._server is not None
            pushes = Pushes(self._run, self._server)
            self._device = ListeningDevice(pushes.arrived)
            port = await self._device.start(config.listen_host, config.listen_port)
            pushes.remote = f"mllp://{config.push_host or config.listen_host}:{port}"
            self._senders.append(pushes)
        self._running = [asyncio.create_task(sender.run()) for sender in self._senders]
        self._background = [asyncio.create_task(self._watch_itself())]
        if self._server is not None:
            self._background.append(asyncio.create_task(self._ask_regularly(self._server)))

    async def stop(self) -> Report:
        """Send nothing new, send again what is unacknowledged, wait for what must still arrive, and count."""
        if self._report is not None:
            return self._report
        self._run.end_in(self.config.finish_seconds)
        for sender in self._senders:
            sender.wake()
        try:
            await asyncio.gather(*self._running)
            ended = self._clock()
            for task in self._background:
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)
            if self._server is not None:
                await self._settle(self._server, ended)
        finally:
            for task in (*self._running, *self._background):
                task.cancel()
            if self._device is not None:
                await self._device.stop()
        self._count(ended)
        return self.report

    def mark(self, name: str) -> None:
        """Note that something happens now. Report and live line count from mark to mark."""
        now = self._clock()
        self._marks.append((name, now))
        self._since = Since(name, now, len(self.ledger.identifiers), self.ledger.acknowledged_count)

    def snapshot(self) -> Snapshot:
        """How it goes, since the latest mark."""
        now = self._clock()
        then, before = self._last
        self._last = (now, self.ledger.acknowledged_count)
        rate = (self.ledger.acknowledged_count - before) / (now - then) if now > then else 0.0
        asked_at = self._asked_at if self._server else None
        return snapshot.take(self.ledger, since=self._since, now=now, per_second=rate, asked_at=asked_at)

    def _devices(self) -> list[Device]:
        config, run = self.config, self._run
        every = 1 / config.long_lived_per_second
        devices = [
            Device(run, Shape.LONG_LIVED, n, every=every, first_after=every * n / config.long_lived_connections)
            for n in range(config.long_lived_connections)
        ]
        every = config.slow_every_seconds
        return devices + [
            Device(run, Shape.SLOW, n, every=every, first_after=every * n / config.slow_connections)
            for n in range(config.slow_connections)
        ]

    async def _ask(self, server: Server) -> None:
        asked_at = self._clock()
        try:
            arrivals = await server.arrivals()
        except ServerAwayError:
            self._server_failures += 1
            return
        self._asked_at = asked_at
        for arrival in arrivals:
            at = asked_at if arrival.at is None else arrival.at - self._anchor
            self.ledger.arrived(arrival.identifier, at)

    async def _ask_regularly(self, server: Server) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self._ask(server)

    async def _settle(self, server: Server, ended: float) -> None:
        patience = self._clock() + self.config.settle_seconds
        await self._ask(server)
        # A record that was last read before the end proves nothing about what arrived.
        while (self.ledger.missing or self._asked_at < ended) and self._clock() < patience:
            await asyncio.sleep(0.2)
            await self._ask(server)

    async def _watch_itself(self) -> None:
        while True:
            before = self._clock()
            await asyncio.sleep(TICK_SECONDS)
            self._stall = max(self._stall, self._clock() - before - TICK_SECONDS)

    def _count(self, ended: float) -> None:
        config = self.config
        timeline = Timeline(self._started, ended, self._anchor, tuple(self._marks))
        known = self._asked_at >= ended
        generator = report.Generator(
            longest_stall_seconds=round(self._stall, 4),
            cpu_seconds=round(time.process_time() - self._cpu, 2),
            held_back=self._run.held_back,
            strays=self.ledger.strays,
            foreign_arrivals=self.ledger.foreign_arrivals,
            server_failures=self._server_failures,
        )
        target = f"{config.host}:{config.port}"
        self._report = report.build(
            self.ledger, timeline, generator, run=config.run, target=target, arrivals_known=known
        )
        self._series = series.build(self.ledger, timeline, run=config.run, arrivals_known=known)


def _check_source(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise ValueError(f"{address} is not an address of this machine: {error.strerror}") from error
