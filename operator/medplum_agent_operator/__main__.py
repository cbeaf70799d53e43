"""Settings, logging, client, health, queue, Kopf: the only place that starts anything.

`medplum-agent-operator` on the command line. Exit codes: 0 after SIGTERM or SIGINT, 1 when something it needs is gone,
2 when a setting or the cluster does not let it start (with a sentence on stderr).
"""

import asyncio
import platform
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

import kopf

from medplum_agent_operator import handlers
from medplum_agent_operator.adapters.gates import GateReports
from medplum_agent_operator.adapters.health import Probe, serve
from medplum_agent_operator.adapters.kube import Kube
from medplum_agent_operator.cache import Cache
from medplum_agent_operator.core.model import Config, Key
from medplum_agent_operator.errors import ClusterError, ConflictError, RefusedError, StartupError
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


class Operator:
    """A running operator: everything it is made of, and how it ends."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cache = Cache()
        self._stop = asyncio.Event()
        self._watching = asyncio.Event()

    async def run(self) -> int:
        """Run until told to stop. Returns the exit code.

        Raises:
            StartupError: when something that it needs is not there.
        """
        settings = self._settings
        async with AsyncExitStack() as stack:
            kube = await stack.enter_async_context(
                Kube.connect(
                    timeout_seconds=settings.request_timeout_seconds, user_agent=f"medplum-agent-operator/{_version()}"
                )
            )
            gates = GateReports(self._cache)
            reconciler = Reconciler(
                kube,
                self._cache,
                gates,
                config=Config(
                    image_repository=settings.image_repository,
                    nodes_watched=settings.watch_nodes,
                    gate_image=settings.gate_image or await _own_image(kube, settings),
                    namespaces=settings.namespaces,
                ),
                clock=lambda: datetime.now(UTC),
                identity=platform.node(),
            )
            queue = WorkQueue(
                reconciler, on_failure=_tell, workers=settings.workers, timeout_seconds=PASS_TIMEOUT_SECONDS
            )
            resync = Resync(kube, self._cache, queue.add, namespaces=settings.namespaces, nodes=settings.watch_nodes)
            self._catch_signals()
            await _first_look(resync)
            probes = {"/healthz": lambda: _health(queue), "/readyz": lambda: self._readiness(queue)}
            port = await stack.enter_async_context(_listen(probes, settings))
            queue.start()
            stack.push_async_callback(queue.stop, grace_seconds=GRACE_SECONDS)
            # Before Kopf: it cancels, at its end, whatever was started after it.
            for name, work in (
                ("resync", resync.forever(every_seconds=settings.resync_seconds)),
                ("resync of changes", resync.of_changes_forever()),
                ("gates", gates.forever(queue.add)),
            ):
                stack.callback(asyncio.create_task(work, name=name).cancel)
            where = ", ".join(settings.namespaces) or "all namespaces"
            log.info("medplum-agent-operator %s watches %s; health on port %d", _version(), where, port)
            return await self._watch(queue)

    async def _watch(self, queue: WorkQueue) -> int:
        registry = kopf.OperatorRegistry()
        kopf_settings = kopf.OperatorSettings()
        handlers.configure(registry, kopf_settings, request_timeout_seconds=self._settings.request_timeout_seconds)
        handlers.register(registry, self._cache, queue.add, nodes=self._settings.watch_nodes)
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        ready = asyncio.create_task(self._watching.wait(), name="ready")
        watching = asyncio.create_task(
            kopf.operator(
                registry=registry,
                settings=kopf_settings,
                standalone=True,
                # Kopf would ask who the user is, and in an image a user has a number and no name. Its type is not exported.
                identity=platform.node(),  # type: ignore[arg-type]
                clusterwide=not self._settings.namespaces,
                namespaces=self._settings.namespaces,
                ready_flag=self._watching,
                stop_flag=self._stop,
            ),
            name="kopf",
        )
        await asyncio.wait({ready, stop, watching}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
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

    def _readiness(self, queue: WorkQueue) -> list[str]:
        return _health(queue) if self._watching.is_set() else ["The watches have not started yet."]


def _health(queue: WorkQueue) -> list[str]:
    faults = []
    if not queue.alive:
        faults.append("A worker has ended.")
    if queue.oldest_wait_seconds > STUCK_AFTER_SECONDS:
        faults.append(
            f"An agent has been waiting for its turn for {queue.oldest_wait_seconds:.0f} s: the workers hang."
        )
    return faults


@asynccontextmanager
async def _listen(probes: dict[str, Probe], settings: Settings) -> AsyncIterator[int]:
    """Serve health; an address that cannot be bound is a reason not to start, with a sentence."""
    async with AsyncExitStack() as stack:
        try:
            port = await stack.enter_async_context(serve(probes, host=settings.health_host, port=settings.health_port))
        except OSError as fault:
            raise StartupError(
                f"The health address cannot be bound: {fault}. Set --health-host and --health-port."
            ) from fault
        yield port


async def _own_image(kube: Kube, settings: Settings) -> str | None:
    """The image of the operator's own pod; None where it runs in none, or may not look.

    Raises:
        StartupError: when the API server does not say, for now: to go on without an image would be to make no gate until the next start.
    """
    if not settings.pod or not settings.pod_namespace:
        return None
    try:
        pod = await kube.get("Pod", settings.pod_namespace, settings.pod)
    except RefusedError as fault:
        log.warning("no gate can be made: the operator's own image is not known, set --gate-image: %s", fault)
        return None
    except ClusterError as fault:
        raise StartupError(
            f"The operator cannot read its own pod: {fault} Is the API server there? Or set --gate-image."
        ) from fault
    containers = ((pod or {}).get("spec") or {}).get("containers") or [{}]
    image = next((one for one in containers if one.get("name") == "operator"), containers[0]).get("image")
    return str(image) if image else None


async def _first_look(resync: Resync) -> None:
    """Fill the cache before anything is decided. What cannot be read now is a reason not to start, with a sentence."""
    try:
        await resync.once()
    except ClusterError as fault:
        match fault.status:
            case 403 if "/nodes" in str(fault):
                hint = (
                    "Nodes are read so that a node drain hands agents over. Bind the ClusterRole medplum-agent-operator-nodes (manifests/base/rbac.yaml) "
                    "to the service account, or set --no-watch-nodes: then a drain stops an agent and starts it elsewhere."
                )
            case 404:
                hint = "Is the CRD installed? kubectl apply -f crds/medplumagents.yaml"
            case 401 | 403:
                hint = "Does the service account have the rights in manifests/base? To watch some namespaces only, set --namespaces."
            case _:
                hint = "Is the API server there, and is it the right one?"
        raise StartupError(f"The operator cannot read what it watches: {fault} {hint}") from fault


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
