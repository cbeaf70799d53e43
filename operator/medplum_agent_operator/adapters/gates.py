"""Asking gates how it goes: one small page of each, from time to time, and then a look at their agent.

Started by `__main__`, beside the resync. What is asked is where the watches saw ready pods of gates; what cannot be asked is left out, and
`core.traffic` says what that means. No request goes to the API server.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Final, Protocol

import aiohttp

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.core.objects.gate_pod import HTTP_PORT
from medplum_agent_operator.core.observed.gate_reports import Traffic
from medplum_agent_operator.core.observed.model import Key
from medplum_agent_operator.ports import Object
from medplum_agent_operator.telemetry import log

EVERY_SECONDS: Final = 10.0
TIMEOUT_SECONDS: Final = 2.0
LONGEST_ANSWER: Final = 256 * 1024
"""Bytes; a gate with a hundred channels tells 20 KiB."""
AT_ONCE: Final = 20


class Pods(Protocol):
    """What the watches have seen."""

    def with_label(self, kind: str, key: str) -> list[Object]:
        """Objects of every namespace that have a label, whatever its value."""


class GateReports:
    """What every agent's gates told when they were last asked."""

    def __init__(self, pods: Pods, *, port: int = HTTP_PORT) -> None:
        """`port`: that gates tell it on."""
        self._pods = pods
        self._port = port
        self._traffic: dict[Key, Traffic] = {}

    def traffic(self, key: Key) -> Traffic | None:
        """What an agent's gates told; None where there were none to be asked."""
        return self._traffic.get(key)

    async def forever(self, add: Callable[[Key], None], *, every_seconds: float = EVERY_SECONDS) -> None:
        """Ask all of them from time to time. `add`: asks for a look at an agent, after its gates were asked."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        # What is asked is whatever calls itself a gate: nothing that it sends is unpacked.
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            while True:
                await asyncio.sleep(every_seconds)
                try:
                    await self._ask_all(session, add)
                except Exception as fault:  # noqa: BLE001 - whatever is wrong with what gates tell, agents go on being looked after
                    log.error("gates could not be asked, by a bug; trying again", exc_info=fault)

    async def _ask_all(self, session: aiohttp.ClientSession, add: Callable[[Key], None]) -> None:
        gates: dict[Key, list[str]] = defaultdict(list)
        for pod in self._pods.with_label("Pod", names.GATE_LABEL):
            metadata, address = pod["metadata"], _address(pod)
            if address is not None:
                gates[Key(metadata["namespace"], metadata["labels"][names.GATE_LABEL])].append(address)
        places = asyncio.Semaphore(AT_ONCE)
        told = await asyncio.gather(
            *(asyncio.gather(*(self._ask(session, places, one) for one in addresses)) for addresses in gates.values())
        )
        self._traffic = {key: Traffic.read(reports) for key, reports in zip(gates, told, strict=True)}
        for key in gates:
            add(key)

    async def _ask(self, session: aiohttp.ClientSession, places: asyncio.Semaphore, address: str) -> object:
        """What one gate tells; None where it does not."""
        host = f"[{address}]" if ":" in address else address
        try:
            async with (
                places,
                asyncio.timeout(TIMEOUT_SECONDS),
                session.get(f"http://{host}:{self._port}/status", allow_redirects=False) as answer,
            ):
                return json.loads(await _body(answer))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError) as fault:
            log.debug("a gate could not be asked: %s", fault or "it took too long", extra={"gate": address})
            return None


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    answer.raise_for_status()
    if answer.content_length is None or answer.content_length > LONGEST_ANSWER:
        raise ValueError("its answer is too long, or does not say how long it is")
    return await answer.read()


def _address(pod: Object) -> str | None:
    """Where to ask a gate; None where it takes no connections."""
    status = pod.get("status") or {}
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
    address = status.get("podIP")
    return address if ready and isinstance(address, str) and address else None
