"""Polls the gates for their reports and requeues their agents.

Started by `__main__`, beside the resync. It asks every ready gate pod that the watches have seen, and sends no request to the API server.
A gate that does not answer is left out; `core.report.traffic` says what that means.
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
from medplum_agent_operator.core.observed.scope import Key
from medplum_agent_operator.kinds import POD
from medplum_agent_operator.ports import Object
from medplum_agent_operator.telemetry import log

EVERY_SECONDS: Final = 10.0
TIMEOUT_SECONDS: Final = 2.0
LONGEST_ANSWER: Final = 256 * 1024
"""Bytes. The report of a gate with a hundred channels has 20 KiB."""
MAX_CONCURRENT: Final = 20


class Pods(Protocol):
    """The objects that the watches have seen."""

    def with_label(self, kind: str, key: str) -> list[Object]:
        """The objects in all namespaces that have a label with any value."""


class GateReports:
    """The latest reports of every agent's gates."""

    def __init__(self, pods: Pods, *, port: int = HTTP_PORT) -> None:
        """`port`: where gates serve their reports."""
        self._pods = pods
        self._port = port
        self._traffic: dict[Key, Traffic] = {}

    def traffic(self, key: Key) -> Traffic | None:
        """The reports of an agent's gates; None if none were asked."""
        return self._traffic.get(key)

    async def forever(self, add: Callable[[Key], None], *, every_seconds: float = EVERY_SECONDS) -> None:
        """Poll all gates at intervals, and queue each agent with `add` after its gates were asked."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        # Any pod may carry the label of a gate, so answers are not decompressed.
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            while True:
                await asyncio.sleep(every_seconds)
                try:
                    await self._ask_all(session, add)
                except Exception as fault:  # noqa: BLE001 - no fault of a report may end the polling
                    log.error("polling the gates failed because of a bug, trying again", exc_info=fault)

    async def _ask_all(self, session: aiohttp.ClientSession, add: Callable[[Key], None]) -> None:
        gates: dict[Key, list[str]] = defaultdict(list)
        for pod in self._pods.with_label(POD, names.GATE_LABEL):
            metadata, address = pod["metadata"], _address(pod)
            if address is not None:
                gates[Key(metadata["namespace"], metadata["labels"][names.GATE_LABEL])].append(address)
        limit = asyncio.Semaphore(MAX_CONCURRENT)
        reports = await asyncio.gather(
            *(asyncio.gather(*(self._ask(session, limit, one) for one in addresses)) for addresses in gates.values())
        )
        self._traffic = {key: Traffic.read(of_agent) for key, of_agent in zip(gates, reports, strict=True)}
        for key in gates:
            add(key)

    async def _ask(self, session: aiohttp.ClientSession, limit: asyncio.Semaphore, address: str) -> object:
        """The report of one gate; None if it does not answer."""
        host = f"[{address}]" if ":" in address else address
        try:
            async with (
                limit,
                asyncio.timeout(TIMEOUT_SECONDS),
                session.get(f"http://{host}:{self._port}/status", allow_redirects=False) as answer,
            ):
                return json.loads(await _body(answer))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError) as fault:
            log.debug("a gate did not answer: %s", fault or "timeout", extra={"gate": address})
            return None


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    answer.raise_for_status()
    if answer.content_length is None or answer.content_length > LONGEST_ANSWER:
        raise ValueError("the answer is too long, or has no Content-Length")
    return await answer.read()


def _address(pod: Object) -> str | None:
    """The address of a gate pod; None if it is not ready."""
    status = pod.get("status") or {}
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
    address = status.get("podIP")
    return address if ready and isinstance(address, str) and address else None
