"""One connection to the agent, beside those for devices: it finds the agent when nobody is known, and shows the agent that a gate is there.

Started by `__main__`, one for each channel. The kubelet looks once a second whether an agent's ports are open, and what it finds has a
way through the API server: meanwhile messages would wait for an agent that is there. What is tried is what the kubelet tries
(https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/): a connection, and nothing is sent.

On a channel of messages the connection is kept for as long as the route leads there. So an agent that is about to end has a connection of each
gate that has not heard of it yet, and its drain can end when there is none (`core.gate.DRAIN`); and that an agent has gone is noticed even
when no device sends.
"""

import asyncio
import errno
from contextlib import suppress
from typing import Final

from medplum_agent_operator.gate.routes import Life, Pod, Route

KNOCK_SECONDS: Final = 0.1
"""Between two rounds."""
AGAIN_SECONDS: Final = 1.0
"""Before the next connection to an agent that closed the last one, or could not be reached, and has not gone."""
OPEN_SECONDS: Final = 1.0
"""How long a port may take to open, as the kubelet has it: one whose node is gone answers nothing."""
LEAVE_SECONDS: Final = 2.0


class Knocker:
    """Knocks at the agent of one route, and stays in the door."""

    def __init__(self, route: Route, *, stays: bool) -> None:
        """`stays`: whether the connection is kept."""
        self._route = route
        self._stays = stays
        self._changed = asyncio.Event()
        self._leaving: set[asyncio.Task[None]] = set()
        route.listen(self)

    def agent_is(self, agent: Life | None) -> None:  # noqa: ARG002 - the route is asked again
        """Another agent is the one to talk to, or none is."""
        self._changed.set()

    async def run(self) -> None:
        """Find the agent whenever there is none, and keep a connection to the one that there is."""
        while True:
            self._changed.clear()
            agent = self._route.agent
            if agent is None:
                for pod in self._route.candidates:
                    await self._find(pod)
                pause: float | None = KNOCK_SECONDS
            else:
                pause = await self._stay(agent) if self._stays else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def _find(self, pod: Pod) -> None:
        connection = await self._open(pod)
        if connection is None:
            return
        self._route.takes_connections(pod)
        self._leave(*connection)

    async def _stay(self, agent: Life) -> float:
        """Stay for as long as the route leads there and the agent does not close. Returns how long to wait then."""
        connection = await self._open(agent.pod)
        if connection is None:
            return AGAIN_SECONDS
        self._route.met(agent)
        loop = asyncio.get_running_loop()
        began = loop.time()
        reader, writer = connection
        closed = asyncio.create_task(_read_out(reader))
        moved = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({closed, moved}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
            moved.cancel()
            await asyncio.wait({closed, moved})
            self._leave(reader, writer)
        # A process that ends closes its connections first, and its port perhaps last.
        return KNOCK_SECONDS if loop.time() - began > AGAIN_SECONDS else AGAIN_SECONDS

    async def left(self) -> None:
        """Wait until connections that were left are closed; `run` was cancelled before."""
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _open(self, pod: Pod) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                return await asyncio.open_connection(pod.address, pod.port)
        except OSError as fault:  # TimeoutError is one
            if fault.errno == errno.ECONNREFUSED:
                self._route.refused(pod)
            return None

    def _leave(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """By FIN, and only after everything was read: a reset ends a whole agent that listens on a byte-stream port."""

        async def leave() -> None:
            with suppress(OSError):
                writer.write_eof()
                async with asyncio.timeout(LEAVE_SECONDS):
                    await _read_out(reader)
            writer.close()

        task = asyncio.create_task(leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


async def _read_out(reader: asyncio.StreamReader) -> None:
    """Read until the other side has closed; what it says is nobody's."""
    with suppress(OSError):
        while await reader.read(4096):
            pass
