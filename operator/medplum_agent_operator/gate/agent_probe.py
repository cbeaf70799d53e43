"""One connection from a channel to the agent, besides those for devices. It finds a new agent early, and shows the agent that a gate is there.

`__main__` starts one probe for each channel. The kubelet checks an agent's ports once a second, and its result reaches the gate
through the API server. Without the probe, messages would wait meanwhile. The probe checks what the kubelet checks
(https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/): it connects and sends nothing.

On an HL7 channel the probe stays connected to the current agent. So a stopping agent has a connection from each gate that has not
left it yet, and its drain can end when no connection remains (`DRAIN` in `core.objects.gate_pod`). The gate also notices that an
agent has stopped when no device sends.
"""

import asyncio
import errno
from contextlib import suppress
from typing import Final

from medplum_agent_operator.gate.routes import Life, Pod, Route

PROBE_SECONDS: Final = 0.1
"""Pause between two attempts to find an agent."""
RECONNECT_SECONDS: Final = 1.0
"""Pause before the next connection to a current agent that closed the last one early, or that could not be reached."""
CONNECT_SECONDS: Final = 1.0
"""How long a port may take to accept, like the kubelet's time-out. A pod whose node is lost answers nothing."""
CLOSE_SECONDS: Final = 2.0
"""How long the agent may take to close after the probe's FIN."""


class AgentProbe:
    """Finds the current agent of one route, and stays connected to it if asked to."""

    def __init__(self, route: Route, *, stays_connected: bool) -> None:
        self._route = route
        self._stays_connected = stays_connected
        self._changed = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        route.subscribe(self)

    def agent_is(self, agent: Life | None) -> None:  # noqa: ARG002 - `run` reads the route
        """Another agent is the current one, or no agent is (None)."""
        self._changed.set()

    async def run(self) -> None:
        """Probe the candidates while there is no current agent; else stay connected to it. Runs until it is cancelled."""
        while True:
            self._changed.clear()
            agent = self._route.agent
            if agent is None:
                for pod in self._route.candidates:
                    await self._try(pod)
                pause: float | None = PROBE_SECONDS
            else:
                pause = await self._stay_connected(agent) if self._stays_connected else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def _try(self, pod: Pod) -> None:
        connection = await self._connect(pod)
        if connection is None:
            return
        self._route.candidate_opened(pod)
        self._close(*connection)

    async def _stay_connected(self, agent: Life) -> float:
        """Stay connected until another agent is the current one, or until this one closes. Returns the seconds to pause afterwards."""
        connection = await self._connect(agent.pod)
        if connection is None:
            return RECONNECT_SECONDS
        self._route.connected(agent)
        loop = asyncio.get_running_loop()
        began = loop.time()
        reader, writer = connection
        closed = asyncio.create_task(_read_to_end(reader))
        moved = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({closed, moved}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
            moved.cancel()
            await asyncio.wait({closed, moved})
            self._close(reader, writer)
        # A process that exits closes its connections first, and its port perhaps last.
        return PROBE_SECONDS if loop.time() - began > RECONNECT_SECONDS else RECONNECT_SECONDS

    async def wait_closed(self) -> None:
        """Wait until all connections are closed. Cancel `run` first."""
        if self._closing:
            await asyncio.wait(self._closing)

    async def _connect(self, pod: Pod) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await asyncio.open_connection(pod.address, pod.port)
        except OSError as fault:  # TimeoutError is one
            if fault.errno == errno.ECONNREFUSED:
                self._route.connection_refused(pod)
            return None

    def _close(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Close in the background: send FIN, and read everything first. A reset would end an agent that listens on a byte-stream port."""

        async def close() -> None:
            with suppress(OSError):
                writer.write_eof()
                async with asyncio.timeout(CLOSE_SECONDS):
                    await _read_to_end(reader)
            writer.close()

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _read_to_end(reader: asyncio.StreamReader) -> None:
    """Read until the other side closes, and drop the bytes."""
    with suppress(OSError):
        while await reader.read(4096):
            pass
