"""Which pods the agent has and which of them take connections, as the EndpointSlices of its Service say.

Started by `__main__`; its one task reads and watches for ever and tells the routes. Reads EndpointSlices and nothing else. While the
API server cannot be asked, what it said last holds: devices go on with the agent that they have.
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
LOOK_AGAIN_SECONDS: Final = 60.0
"""How long a watch is believed: one whose connection has died silently tells nothing for ever."""
LOOK_SOON_SECONDS: Final = 2.0
"""The same where the agent has gone, and doubling from there on: devices wait, and it may be back without a word."""
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.5, 10.0


def pods_of(slices: Iterable[EndpointSlice]) -> dict[str, Pods]:
    """For each port's name the pods that are not about to end, by whether they are ready. IPv4 where a pod has both."""
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
            waiting=frozenset(pod for pod, ready in pods.values() if not ready),
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
        tell: Callable[[Mapping[str, Pods]], None],
    ) -> None:
        """`connect` makes a client; `tell` gets the pods of each port's name whenever something has changed."""
        self._connect = connect
        self._namespace = namespace
        self._service = service
        self._tell = tell
        self._heard_at: float | None = None
        self._looking: asyncio.Timeout | None = None
        self._hurried_at = float("-inf")
        self._believed_seconds = LOOK_AGAIN_SECONDS

    @property
    def silent_seconds(self) -> float | None:
        """How long ago the API server was last asked with success; None where it never was."""
        return None if self._heard_at is None else asyncio.get_running_loop().time() - self._heard_at

    def agent_is(self, agent: Life | None) -> None:
        """A listener of a route: where no agent takes connections any more, look again soon."""
        now = asyncio.get_running_loop().time()
        # One that is called ready and refuses goes and comes back with each look.
        if agent is not None or now < self._hurried_at + LOOK_AGAIN_SECONDS:
            return
        self._hurried_at = now
        self._believed_seconds = LOOK_SOON_SECONDS
        soon = now + LOOK_SOON_SECONDS
        looking = self._looking
        if looking is not None and not looking.expired() and soon < (looking.when() or 0):
            looking.reschedule(soon)

    async def follow(self) -> None:
        """Read and watch, for ever; what fails is logged and tried again, with a new client: the cluster's CA may be another by now."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with self._connected() as client:
                    while True:
                        await self._look(client)
                        pause = _FIRST_PAUSE_SECONDS
            except Exception as fault:  # noqa: BLE001 - whatever is wrong with what is read, devices go on with the agent that they have
                known = isinstance(fault, httpx2.HTTPError | OSError | ConfigError)
                log.warning(
                    "EndpointSlices cannot be read, and what they said last holds: %s",
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

    async def _look(self, client: AsyncClient) -> None:
        """Read, and watch for as long as that is believed."""
        seconds = self._believed_seconds
        self._believed_seconds = min(2 * seconds, LOOK_AGAIN_SECONDS)
        with suppress(TimeoutError):
            try:
                async with asyncio.timeout(seconds) as self._looking:
                    await self._read_and_watch(client)
            finally:
                self._looking = None

    async def _read_and_watch(self, client: AsyncClient) -> None:
        listed = client.list(EndpointSlice, namespace=self._namespace, labels={SERVICE: self._service})
        slices = {str(one.metadata.name): one async for one in listed if one.metadata}
        self._heard_at = asyncio.get_running_loop().time()
        self._tell(pods_of(slices.values()))
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
            self._tell(pods_of(slices.values()))
