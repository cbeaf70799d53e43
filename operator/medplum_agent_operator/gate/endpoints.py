"""The agent's pods and which of them are ready, from the EndpointSlices of its Service.

`__main__` starts one task that lists and watches EndpointSlices, and passes the pods to the routes. It reads nothing else.
While the API server does not answer, the last known pods stay valid: devices keep their agent.
Source: https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#conditions
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

import httpx2
from lightkube import AsyncClient
from lightkube.core.exceptions import ConfigError
from lightkube.resources.discovery_v1 import EndpointSlice

from medplum_agent_operator.gate.routes import Life, Pod, Pods
from medplum_agent_operator.telemetry import log

SERVICE: Final = "kubernetes.io/service-name"
RELIST_SECONDS: Final = 60.0
"""How long a watch runs before the next list. A watch whose connection died silently would never report anything."""
EARLY_RELIST_SECONDS: Final = 2.0
"""The same after the current agent stopped, then doubled each time: devices wait, and the watch may miss that an agent is back."""
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.5, 10.0


def pods_of(slices: Iterable[EndpointSlice]) -> dict[str, Pods]:
    """Return the pods that are not terminating, by port name. A pod with both address families counts with its IPv4 address."""
    found: dict[str, dict[str, tuple[Pod, bool]]] = {}
    for one in sorted(slices, key=lambda one: str(one.addressType)):  # IPv4 before IPv6
        for endpoint in one.endpoints or ():
            conditions, target = endpoint.conditions, endpoint.targetRef
            if target is None or (conditions and conditions.terminating):
                continue
            ready = not conditions or conditions.ready is not False  # absent counts as true, says the API
            for port in one.ports or ():
                if port.port and endpoint.addresses:
                    pod = Pod(str(target.name), endpoint.addresses[0], port.port)
                    found.setdefault(str(port.name), {}).setdefault(pod.name, (pod, ready))
    return {
        port: Pods(
            ready=frozenset(pod for pod, ready in pods.values() if ready),
            not_ready=frozenset(pod for pod, ready in pods.values() if not ready),
        )
        for port, pods in found.items()
    }


class Endpoints:
    """Follows the EndpointSlices of one Service."""

    def __init__(
        self,
        connect: Callable[[], AsyncClient],
        *,
        namespace: str,
        service: str,
        on_pods: Callable[[Mapping[str, Pods]], None],
    ) -> None:
        """`connect`: makes a client; `on_pods`: called with the pods by port name after each list and each watch event."""
        self._connect = connect
        self._namespace = namespace
        self._service = service
        self._on_pods = on_pods
        self._listed_at: float | None = None
        self._watch_timeout: asyncio.Timeout | None = None
        self._early_relist_at = float("-inf")
        self._watch_seconds = RELIST_SECONDS

    @property
    def seconds_since_list(self) -> float | None:
        """How long ago the last successful list was; None before the first one."""
        return None if self._listed_at is None else asyncio.get_running_loop().time() - self._listed_at

    def agent_is(self, agent: Life | None) -> None:
        """A route has another current agent. If it has none any more, list again soon."""
        now = asyncio.get_running_loop().time()
        # An agent that is reported ready but refuses connections comes and goes with each list: do not list early each time.
        if agent is not None or now < self._early_relist_at + RELIST_SECONDS:
            return
        self._early_relist_at = now
        self._watch_seconds = EARLY_RELIST_SECONDS
        soon = now + EARLY_RELIST_SECONDS
        timeout = self._watch_timeout
        if timeout is not None and not timeout.expired() and soon < (timeout.when() or 0):
            timeout.reschedule(soon)

    async def follow(self) -> None:
        """List and watch until cancelled. Each failure is logged and retried with a new client, as the cluster's CA may have changed."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with self._connected() as client:
                    while True:
                        await self._list_and_watch(client)
                        pause = _FIRST_PAUSE_SECONDS
            except Exception as fault:  # noqa: BLE001 - neither a failure of the API server nor a bug here may cost devices their connections
                known = isinstance(fault, httpx2.HTTPError | OSError | ConfigError)
                log.warning(
                    "cannot read EndpointSlices, using the last known pods: %s",
                    fault,
                    exc_info=None if known else fault,
                )
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LAST_PAUSE_SECONDS)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncClient]:
        client = self._connect()
        try:
            yield client
        finally:
            await client.close()

    async def _list_and_watch(self, client: AsyncClient) -> None:
        """List once, then watch until the next list is due."""
        seconds = self._watch_seconds
        self._watch_seconds = min(2 * seconds, RELIST_SECONDS)
        with suppress(TimeoutError):
            try:
                async with asyncio.timeout(seconds) as self._watch_timeout:
                    await self._follow_once(client)
            finally:
                self._watch_timeout = None

    async def _follow_once(self, client: AsyncClient) -> None:
        listed = client.list(EndpointSlice, namespace=self._namespace, labels={SERVICE: self._service})
        slices = {str(one.metadata.name): one async for one in listed if one.metadata}
        self._listed_at = asyncio.get_running_loop().time()
        self._on_pods(pods_of(slices.values()))
        watched = client.watch(
            EndpointSlice,
            namespace=self._namespace,
            labels={SERVICE: self._service},
            resource_version=listed.resourceVersion,
        )
        async for event, one in watched:
            name = str(one.metadata.name) if one.metadata else ""
            if event == "DELETED":
                slices.pop(name, None)
            else:
                slices[name] = one
            self._on_pods(pods_of(slices.values()))
