"""The program `medplum-agent-operator`: reads the settings, then starts and stops everything else.

Only this module starts anything: logging, client, health server, queue, background tasks, Kopf. Exit codes: 0 after SIGTERM or SIGINT,
1 when the watches end, 2 when a setting or the cluster prevents the start (with a sentence on stderr).
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
from medplum_agent_operator.core.observed.scope import Config, Key
from medplum_agent_operator.errors import ClusterError, ConflictError, StartupError
from medplum_agent_operator.probes import Probes
from medplum_agent_operator.reconcile import Reconciler
from medplum_agent_operator.resync import Resync
from medplum_agent_operator.settings import Settings
from medplum_agent_operator.startup_checks import StartupFacts, read_facts, retry_until_answered, wait_until_readable
from medplum_agent_operator.telemetry import log, set_up_logging
from medplum_agent_operator.workqueue import WorkQueue

PASS_TIMEOUT_SECONDS: Final = 120.0
"""Longest time of one pass: a handful of requests, each bounded by --request-timeout-seconds."""
GRACE_SECONDS: Final = 1.2
"""How long current passes may take to finish after SIGTERM."""

T = TypeVar("T")


class _StoppedError(Exception):
    """SIGTERM or SIGINT arrived before the watches began."""


class Operator:
    """A running operator: its parts, their start and their end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cache = Cache()
        self._probes = Probes(self._cache, nodes=settings.watch_nodes)
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Run until a signal stops it. Returns the exit code.

        Raises:
            StartupError: when a setting or the cluster prevents the start.
        """
        self._catch_signals()
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(self._listen())
            log.info("medplum-agent-operator %s starts; health on port %d", _version(), port)
            try:
                return await self._run(stack)
            except _StoppedError:
                return 0

    async def _run(self, stack: AsyncExitStack) -> int:
        settings = self._settings
        agent, timeout_seconds = f"medplum-agent-operator/{_version()}", settings.request_timeout_seconds
        kube = await stack.enter_async_context(Kube.connect(timeout_seconds=timeout_seconds, user_agent=agent))
        facts = await self._unless_stopped(retry_until_answered(partial(read_facts, kube, settings)))
        gates = GateReports(self._cache)
        queue = self._make_queue(kube, gates, facts)
        resync = Resync(kube, self._cache, queue.add, namespaces=facts.namespaces, nodes=settings.watch_nodes)
        # Fill the cache before the first decision.
        await self._unless_stopped(retry_until_answered(resync.once))
        queue.start()
        self._probes.queue = queue
        stack.push_async_callback(queue.stop, grace_seconds=GRACE_SECONDS)
        # Start these before Kopf, which cancels at its end all tasks that were started after it.
        self._begin(stack, "resync", resync.forever(every_seconds=settings.resync_seconds))
        self._begin(stack, "resync of rollouts", resync.of_rollouts_forever())
        self._begin(stack, "gates", gates.forever(queue.add))
        if facts.left_out:
            self._begin(stack, "left-out namespaces", self._stop_when_readable(kube, facts.left_out))
        log.info("watching %s", ", ".join(facts.namespaces) or "all namespaces")
        return await self._watch(queue, facts.namespaces)

    def _make_queue(self, kube: Kube, gates: GateReports, facts: StartupFacts) -> WorkQueue:
        settings = self._settings
        reconciler = Reconciler(
            kube,
            self._cache,
            gates,
            config=Config(
                image_repository=settings.image_repository,
                nodes_watched=settings.watch_nodes,
                eviction_taints=settings.eviction_taints,
                gate_image=settings.gate_image or facts.own_image,
                namespaces=facts.namespaces,
                limits=settings.limits,
            ),
            clock=lambda: datetime.now(UTC),
            identity=platform.node(),
        )
        return WorkQueue(
            reconciler, on_failure=_log_failure, workers=settings.workers, timeout_seconds=PASS_TIMEOUT_SECONDS
        )

    def _begin(self, stack: AsyncExitStack, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run a task in the background until the stack closes."""
        task = asyncio.create_task(work, name=name)
        self._probes.background.append(task)
        stack.callback(task.cancel)

    async def _stop_when_readable(self, kube: Kube, left_out: tuple[str, ...]) -> None:
        await wait_until_readable(kube, left_out, every_seconds=self._settings.resync_seconds)
        self._stop.set()

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for some work, and return its result.

        Raises:
            _StoppedError: when a signal arrives before the work is done.
        """
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _StoppedError
            return await task
        finally:
            task.cancel()
            stop.cancel()

    async def _watch(self, queue: WorkQueue, namespaces: tuple[str, ...]) -> int:
        registry = kopf.OperatorRegistry()
        kopf_settings = kopf.OperatorSettings()
        handlers.configure(registry, kopf_settings, request_timeout_seconds=self._settings.request_timeout_seconds)
        handlers.register(
            registry, self._cache, queue.add, nodes=self._settings.watch_nodes, seen=self._probes.kinds_seen
        )
        begun = asyncio.Event()
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        ready = asyncio.create_task(begun.wait(), name="ready")
        watching = asyncio.create_task(
            kopf.operator(
                registry=registry,
                settings=kopf_settings,
                standalone=True,
                # Without it Kopf looks up the name of the user, and in an image the user has only a number. The type is not exported.
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
            self._probes.watching_since = asyncio.get_running_loop().time()
        # Kopf has installed its own signal handlers; with those, stopping takes 5 s.
        self._catch_signals()
        await asyncio.wait({stop, watching}, return_when=asyncio.FIRST_COMPLETED)
        if self._stop.is_set():
            log.info("stopping: finishing current passes, starting no new ones")
            await queue.stop(grace_seconds=GRACE_SECONDS)
            await asyncio.wait({watching}, timeout=0.3)
            watching.cancel()
            await asyncio.wait({watching}, timeout=0.3)
            return 0
        fault = watching.exception()
        log.error("the watches ended: %s", fault or "Kopf stopped")
        return 1

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[int]:
        """Serve health until the end of the block. Yields the port.

        Raises:
            StartupError: when the address cannot be bound.
        """
        settings, probes = self._settings, {"/healthz": self._probes.liveness, "/readyz": self._probes.readiness}
        async with AsyncExitStack() as stack:
            try:
                port = await stack.enter_async_context(
                    serve(probes, host=settings.health_host, port=settings.health_port)
                )
            except OSError as fault:
                raise StartupError(
                    f"The health server cannot bind its address: {fault}. Set --health-host and --health-port."
                ) from fault
            yield port


def _log_failure(key: Key, fault: Exception, pause: float) -> None:
    """Log a failed pass. A conflict is ordinary, a fault of the cluster is a warning, any other fault is a bug and gets its traceback."""
    extra = {"agent": str(key)}
    match fault:
        case ConflictError():
            log.debug("an object was changed meanwhile, requeued in %.1f s: %s", pause, fault, extra=extra)
        case ClusterError() | TimeoutError():
            log.warning(
                "the pass failed, trying again in %.1f s: %s", pause, fault or "the pass took too long", extra=extra
            )
        case _:
            log.error("a pass failed by a bug; trying again in %.1f s", pause, exc_info=fault, extra=extra)


def _version() -> str:
    return version("medplum-agent-operator")


async def _serve(settings: Settings) -> int:
    return await Operator(settings).run()


def main() -> None:
    """Run the console script."""
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
