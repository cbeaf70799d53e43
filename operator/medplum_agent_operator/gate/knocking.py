"""Trying the ports of pods while the route leads to no agent: that one has opened is known at once, and not a second later.

Started by `__main__`, one for each channel. The kubelet looks once a second whether an agent's ports are open, and what it finds has a
way through the API server: meanwhile messages would wait for an agent that is there. What is tried is what the kubelet tries
(https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/): a connection, and nothing is sent.
"""

import asyncio
import errno
from contextlib import suppress
from typing import Final

from medplum_agent_operator.gate.routes import Life, Pod, Route
from medplum_agent_operator.telemetry import log

KNOCK_SECONDS: Final = 0.1
"""Between two rounds."""
OPEN_SECONDS: Final = 1.0
"""How long a port may take to open, as the kubelet has it: one whose node is gone answers nothing."""
LEAVE_SECONDS: Final = 2.0


class Knocker:
    """Finds the agent of one route while that has none."""

    def __init__(self, route: Route, *, channel: str) -> None:
        self._route = route
        self._channel = channel
        self._missing = asyncio.Event()
        route.listen(self)
        self.agent_is(route.agent)

    def agent_is(self, agent: Life | None) -> None:
        """The route has found one, or leads to nobody."""
        if agent is None:
            self._missing.set()
        else:
            self._missing.clear()

    async def run(self) -> None:
        """Knock for ever, whenever there is no agent."""
        while True:
            await self._missing.wait()
            for pod in self._route.candidates:
                await self._try(pod)
            await asyncio.sleep(KNOCK_SECONDS)

    async def _try(self, pod: Pod) -> None:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                reader, writer = await asyncio.open_connection(pod.address, pod.port)
        except OSError as fault:  # TimeoutError is one
            if fault.errno == errno.ECONNREFUSED:
                self._route.refused(pod)
            return
        if pod in self._route.candidates:
            log.info("%s: %s takes connections", self._channel, pod.name)
            self._route.takes_connections(pod)
        # By FIN, and only after everything was read: a reset ends a whole agent that listens on a byte-stream port.
        with suppress(OSError):
            writer.write_eof()
            async with asyncio.timeout(LEAVE_SECONDS):
                while await reader.read(4096):
                    pass
        writer.close()
