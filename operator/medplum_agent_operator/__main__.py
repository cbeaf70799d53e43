"""Settings, logging, client, health, queue, Kopf: the only place that starts anything.

`medplum-agent-operator` on the command line. Exit codes: 0 after SIGTERM or SIGINT, 1 when something it needs is gone,
2 when a setting or the cluster does not let it start (with a sentence on stderr).
"""

import asyncio
import platform
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any, Final, TypeVar

import kopf

from medplum_agent_operator import handlers
from medplum_agent_operator.adapters.gates import GateReports
from medplum_agent_operator.adapters.health import serve
from medplum_agent_operator.adapters.kube import Kube
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.observed.model import Config, Key
from medplum_agent_operator.errors import ClusterError, ConflictError, StartupError
from medplum_agent_operator.first_look import Surroundings, look_around, until_answered, until_readable
from medplum_agent_operator.reconcile import Reconciler
from medplum_agent_operator.resync import Resync
from medplum_agent_operator.settings import Settings
from medplum_agent_operator.telemetry import log, set_up_logging
from medplum_agent_operator.workqueue import WorkQueue

PASS_TIMEOUT_SECONDS: Final = 120.0
"""One pass: a handful of requests, each bounded by --request-timeout-seconds."""
STUCK_AFTER_SECONDS: Final = 300.0
"""An agent that waited that long for its turn means that the workers hang."""
GRACE_SECONDS: Final = 1.2
"""What passes in hand get to finish after SIGTERM."""
DEAF_AFTER_SECONDS: Final = 120.0
"""A kind of which no watch has told by then is not watched, if there are objects of it: Kopf looks once at its start which kinds there are."""

T = TypeVar("T")


class _ToldToStopError(Exception):
    """SIGTERM or SIGINT, before the watches began."""


class Operator:
    """A running operator: everything it is made of, and how it ends."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cache = Cache()
        self._queue: WorkQueue | None = None
        self._background: list[asyncio.Task[None]] = []
        self._heard: set[str] = set()
        """The kinds of which a watch has told something."""
        self._watching_since: float | None = None
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Run until told to stop. Returns the exit code.

        Raises:
            StartupError: when something that it needs is not there.
        """
        self._catch_signals()
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(self._listen())
            log.info("medplum-agent-operator %s starts; health on port %d", _version(), port)
            try:
                return await self._run(stack)
            except _ToldToStopError:
                return 0

    async def _run(self, stack: AsyncExitStack) -> int:
        settings = self._settings
        agent, timeout_seconds = f"medplum-agent-operator/{_version()}", settings.request_timeout_seconds
        kube = await stack.enter_async_context(Kube.connect(timeout_seconds=timeout_seconds, user_agent=agent))
        where = await self._unless_stopped(until_answered(partial(look_around, kube, settings)))
        gates = GateReports(self._cache)
        queue = self._queue_of(kube, gates, where)
        resync = Resync(kube, self._cache, queue.add, namespaces=where.namespaces, nodes=settings.watch_nodes)
        # The cache is filled before anything is decided.
        await self._unless_stopped(until_answered(resync.once))
        queue.start()
        self._queue = queue
        stack.push_async_callback(queue.stop, grace_seconds=GRACE_SECONDS)
        # Before Kopf: it cancels, at its end, whatever was started after it.
        self._begin(stack, "resync", resync.forever(every_seconds=settings.resync_seconds))
        self._begin(stack, "resync of changes", resync.of_changes_forever())
        self._begin(stack, "gates", gates.forever(queue.add))
        if where.left_out:
            self._begin(stack, "left out", self._stop_when_readable(kube, where.left_out))
        log.info("watching %s", ", ".join(where.namespaces) or "all namespaces")
        return await self._watch(queue, where.namespaces)

    def _queue_of(self, kube: Kube, gates: GateReports, where: Surroundings) -> WorkQueue:
        settings = self._settings
        reconciler = Reconciler(
            kube,
            self._cache,
            gates,
            config=Config(
                image_repository=settings.image_repository,
                nodes_watched=settings.watch_nodes,
                gate_image=settings.gate_image or where.own_image,
                namespaces=where.namespaces,
            ),
            clock=lambda: datetime.now(UTC),
            identity=platform.node(),
        )
        return WorkQueue(reconciler, on_failure=_tell, workers=settings.workers, timeout_seconds=PASS_TIMEOUT_SECONDS)

    def _begin(self, stack: AsyncExitStack, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Do something in the background until the end of the block."""
        task = asyncio.create_task(work, name=name)
        self._background.append(task)
        stack.callback(task.cancel)

    async def _stop_when_readable(self, kube: Kube, left_out: tuple[str, ...]) -> None:
        await until_readable(kube, left_out, every_seconds=self._settings.resync_seconds)
        self._stop.set()

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for it.

        Raises:
            _ToldToStopError: when told to stop before it is done.
        """
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _ToldToStopError
            return await task
        finally:
            task.cancel()
            stop.cancel()

    async def _watch(self, queue: WorkQueue, namespaces: tuple[str, ...]) -> int:
        registry = kopf.OperatorRegistry()
        kopf_settings = kopf.OperatorSettings()
        handlers.configure(registry, kopf_settings, request_timeout_seconds=self._settings.request_timeout_seconds)
        handlers.register(registry, self._cache, queue.add, nodes=self._settings.watch_nodes, heard=self._heard)
        begun = asyncio.Event()
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        ready = asyncio.create_task(begun.wait(), name="ready")
        watching = asyncio.create_task(
            kopf.operator(
                registry=registry,
                settings=kopf_settings,
                standalone=True,
                # Kopf would ask who the user is, and in an image a user has a number and no name. Its type is not exported.
                identity=platform.node(),  # type: ignore[arg-type]
                clusterwide=not namespaces,
                namespaces=namespaces,
                ready_flag=begun,
                stop_flag=self._stop,
            ),
            name="kopf",
        )
        await asyncio.wait({ready, stop, watching}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if begun.is_set():
            self._watching_since = asyncio.get_running_loop().time()
        # Kopf has put its own signal handlers in place; with them it would take 5 s to end.
        self._catch_signals()
        await asyncio.wait({stop, watching}, return_when=asyncio.FIRST_COMPLETED)
        if self._stop.is_set():
            log.info("stopping: passes in hand are finished, nothing new is begun")
            await queue.stop(grace_seconds=GRACE_SECONDS)
            await asyncio.wait({watching}, timeout=0.3)
            watching.cancel()
            await asyncio.wait({watching}, timeout=0.3)
            return 0
        fault = watching.exception()
        log.error("the watches ended: %s", fault or "Kopf stopped by itself")
        return 1

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[int]:
        """Serve health; an address that cannot be bound is a reason not to start, with a sentence."""
        settings, probes = self._settings, {"/healthz": self._liveness, "/readyz": self._readiness}
        async with AsyncExitStack() as stack:
            try:
                port = await stack.enter_async_context(
                    serve(probes, host=settings.health_host, port=settings.health_port)
                )
            except OSError as fault:
                raise StartupError(
                    f"The health address cannot be bound: {fault}. Set --health-host and --health-port."
                ) from fault
            yield port

    def _readiness(self) -> list[str]:
        return ["The watches have not started yet."] if self._watching_since is None else self._liveness()

    def _liveness(self) -> list[str]:
        """What is wrong and would be mended by starting again."""
        faults = [] if self._queue is None else _health(self._queue)
        faults += [f"The task {task.get_name()} has ended." for task in self._background if task.done()]
        since, now = self._watching_since, asyncio.get_running_loop().time()
        if since is not None and now - since > DEAF_AFTER_SECONDS:
            deaf = handlers.unheard(self._cache, self._heard, nodes=self._settings.watch_nodes)
            faults += [f"No watch has told of any {kind}, and there are some." for kind in deaf]
        return faults


def _health(queue: WorkQueue) -> list[str]:
    faults = [] if queue.alive else ["A worker has ended."]
    if queue.oldest_wait_seconds > STUCK_AFTER_SECONDS:
        faults.append(
            f"An agent has been waiting for its turn for {queue.oldest_wait_seconds:.0f} s: the workers hang."
        )
    return faults


def _tell(key: Key, fault: Exception, pause: float) -> None:
    """Log a failed pass: a lost race is ordinary, a fault of the cluster a warning, anything else a bug with its trace."""
    extra = {"agent": str(key)}
    match fault:
        case ConflictError():
            log.debug("changed meanwhile, looking again in %.1f s: %s", pause, fault, extra=extra)
        case ClusterError() | TimeoutError():
            log.warning("trying again in %.1f s: %s", pause, fault or "the pass took too long", extra=extra)
        case _:
            log.error("a pass failed by a bug; trying again in %.1f s", pause, exc_info=fault, extra=extra)


def _version() -> str:
    return version("medplum-agent-operator")


async def _serve(settings: Settings) -> int:
    return await Operator(settings).run()


def main() -> None:
    """The console script."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"medplum-agent-operator {_version()}\n")
        return
    try:
        settings = Settings.load(sys.argv[1:])
        set_up_logging(as_json=settings.log_format == "json", level=settings.log_level)
        code = asyncio.run(_serve(settings))
    except StartupError as fault:
        sys.stderr.write(f"medplum-agent-operator cannot start.\n{fault}\n")
        sys.exit(2)
    sys.exit(code)


if __name__ == "__main__":
    main()
