"""The administrator's requests to the API server without a process per call, and one set of watches for all namespaces.

Used by `clinic`. A call of kubectl costs a tenth of a second of CPU, and each of its watches a process: too much for hundreds of namespaces.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from tests.support.cluster import Cluster

CORE: Final = "/api/v1"
APPS: Final = "/apis/apps/v1"
AGENTS: Final = "/apis/agents.medplum.com/v1alpha1"
_ENDLESS: Final = aiohttp.ClientTimeout(total=None)
WATCHED: Final = (f"{CORE}/pods", f"{APPS}/replicasets", f"{APPS}/deployments", f"{AGENTS}/medplumagents")


def of(namespace: str, collection: str, name: str = "") -> str:
    """The path of a collection in a namespace, or of one object in it."""
    group, _, plural = collection.rpartition("/")
    return f"{group}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


@dataclass(frozen=True, slots=True)
class Access:
    """Requests as the administrator."""

    server: str
    session: aiohttp.ClientSession
    anonymous: ssl.SSLContext
    """Trusts the API server and presents no certificate: a certificate would take precedence over a token."""

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        kind: str = "application/json",
        accept: tuple[int, ...] = (),
        manager: str = "",
    ) -> dict[str, Any]:
        """Send one request. A status that is neither 2xx nor in `accept` raises RuntimeError."""
        headers = {"Content-Type": kind}
        data = None if body is None else json.dumps(body)
        query = {"fieldManager": manager} if manager else {}
        async with self.session.request(
            method, f"{self.server}{path}", data=data, headers=headers, params=query
        ) as answer:
            text = await answer.text()
            if answer.status >= 300 and answer.status not in accept:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:1000]}")
        found: dict[str, Any] = json.loads(text)
        return found

    async def create(self, collection: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object."""
        return await self.request("POST", collection, body)

    async def patch(self, path: str, body: Mapping[str, Any], *, manager: str = "kubectl-patch") -> dict[str, Any]:
        """Merge-patch an object."""
        return await self.request("PATCH", path, body, kind="application/merge-patch+json", manager=manager)

    async def items(self, path: str) -> list[dict[str, Any]]:
        """Read all objects of a collection."""
        found: list[dict[str, Any]] = (await self.request("GET", path))["items"]
        return found

    async def watch(self, path: str, see: Callable[[dict[str, Any]], None], *, begun: asyncio.Event) -> None:
        """Call `see` with every event of a collection, existing objects first. If the watch ends, the harness is broken: RuntimeError."""
        query = {"watch": "1", "timeoutSeconds": "7200"}
        while not begun.is_set():
            async with self.session.get(f"{self.server}{path}", params=query, timeout=_ENDLESS) as answer:
                if answer.status == 429:  # the CRD was created seconds ago
                    await asyncio.sleep(0.2)
                    continue
                answer.raise_for_status()
                begun.set()
                await _read_lines(answer, see)
        raise RuntimeError(f"the harness's own watch of {path} ended")


async def _read_lines(answer: aiohttp.ClientResponse, see: Callable[[dict[str, Any]], None]) -> None:
    rest = b""
    async for chunk in answer.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            see(json.loads(line))


def _context(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(
        cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
        if "certificate-authority-data" in cluster
        else None
    )
    if "client-certificate-data" in user:
        with tempfile.TemporaryDirectory() as folder:
            pair = Path(folder) / "pair.pem"
            pair.touch(mode=0o600)
            pair.write_bytes(
                base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"])
            )
            context.load_cert_chain(pair)
    return context


@asynccontextmanager
async def administrator(cluster: Cluster) -> AsyncIterator[Access]:
    """Open access as the user of the cluster's kubeconfig."""
    raw = cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", "--output", "json").stdout
    config = json.loads(raw)
    where, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
    connector = aiohttp.TCPConnector(ssl=_context(where, user), limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        yield Access(where["server"], session, _context(where, {}))
