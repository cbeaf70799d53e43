"""The namespace of one run: its agent, its user, and its operators, each behind a proxy.

Made by `Clinics`, which has what all runs share: the administrator's access, the watches, the session with the API server.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tests.support.crash_points.access import AGENTS, CORE, WATCHED, Access, administrator, of
from tests.support.crash_points.witness import NAME, Witness
from tests.support.http_proxy import HttpProxy, Interceptor, http_proxy, upstream_session
from tests.support.operator_process import NAMESPACE, SERVICE_ACCOUNT, OperatorProcess, start_operator
from tests.support.world import FORCE, GATE_IMAGE, agent_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import aiohttp

    from tests.support.cluster import Cluster

PATIENCE_SECONDS = 60.0


@dataclass
class Clinic:
    """A namespace with one MedplumAgent."""

    clinics: Clinics
    namespace: str
    witness: Witness
    stack: AsyncExitStack
    operators: list[OperatorProcess] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    patience_seconds: float = PATIENCE_SECONDS
    """How long the user waits for one step."""
    started: dict[int, float] = field(default_factory=dict)
    """When each operator became ready, by process id."""
    on_step: Callable[[], None] = lambda: None
    """Called before each step of the user."""

    # Operators.

    async def start_operator(self, interceptor: Interceptor | None = None, *arguments: str) -> HttpProxy:
        """Start an operator behind its own proxy, and wait until it is ready."""
        shared = self.clinics
        proxy = await self.stack.enter_async_context(
            http_proxy(shared.access.server, shared.upstream, shared.kubeconfig, interceptor or Interceptor())
        )
        await self.start_behind(proxy.kubeconfig, *arguments)
        return proxy

    async def start_behind(self, kubeconfig: Path, *arguments: str) -> None:
        """Start an operator with this kubeconfig, and wait until it is ready."""
        log = self.clinics.folder / f"{self.namespace}-{len(self.operators)}.log"
        flags = ("--namespaces", self.namespace, "--gate-image", GATE_IMAGE, *arguments)
        operator = start_operator(kubeconfig, log, *flags)
        self.operators.append(operator)
        await asyncio.to_thread(operator.wait_until_ready, 60)
        self.started[operator.process.pid] = time.monotonic()

    def kill(self) -> None:
        """Send SIGKILL to every running operator."""
        for operator in self.operators:
            if operator.process.poll() is None:
                operator.kill()

    @property
    def log(self) -> str:
        """The logs of all operators of this run."""
        return "".join(operator.log.read_text() for operator in self.operators)

    # What a user does.

    async def apply(self, version: str, **spec: Any) -> None:
        """Create the agent."""
        self.on_step()
        await self.access.create(of(self.namespace, f"{AGENTS}/medplumagents"), agent_manifest(NAME, version, **spec))

    async def patch(self, **spec: Any) -> None:
        """Change the spec."""
        self.on_step()
        await self.access.patch(self._agent, {"spec": spec})

    async def approve(self, text: str) -> None:
        """Approve a downgrade."""
        self.on_step()
        await self.access.patch(self._agent, {"metadata": {"annotations": {FORCE: text}}}, manager="kubectl-annotate")

    async def annotate(self, **marks: str) -> None:
        """Set annotations that the operator ignores."""
        await self.access.patch(self._agent, {"metadata": {"annotations": marks}})

    async def delete(self) -> None:
        """Delete the agent."""
        await self.access.request("DELETE", self._agent, {"propagationPolicy": "Background"})

    async def cordon(self, node: str) -> None:
        """Cordon a node."""
        await self.access.patch(f"{CORE}/nodes/{node}", {"spec": {"unschedulable": True}})

    @property
    def access(self) -> Access:
        """The administrator's access."""
        return self.clinics.access

    @property
    def _agent(self) -> str:
        return of(self.namespace, f"{AGENTS}/medplumagents", NAME)

    async def until(self, question: Callable[[Witness], object], what: str, *, seconds: float | None = None) -> None:
        """Wait until `question` is true of the witness."""
        seconds = seconds or self.patience_seconds
        deadline = time.monotonic() + seconds
        while not question(self.witness):
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds:.0f} s\n{self.witness.status}\n{self.log[-5000:]}")
            self.clinics.check()
            await asyncio.sleep(0.05)


@dataclass
class Clinics:
    """The shared parts of all runs."""

    cluster: Cluster
    folder: Path
    access: Access
    upstream: aiohttp.ClientSession
    kubeconfig: Path
    watches: list[asyncio.Task[None]] = field(default_factory=list)
    witnesses: dict[str, Witness] = field(default_factory=dict)

    def see(self, event: dict[str, Any]) -> None:
        """Pass an event to the witness of its namespace."""
        raw = event["object"]
        if witness := self.witnesses.get(raw.get("metadata", {}).get("namespace", "")):
            witness.see(event)

    def check(self) -> None:
        """Fail if a watch of the harness has ended."""
        for task in self.watches:
            if task.done():
                task.result()

    @classmethod
    @asynccontextmanager
    async def open(cls, cluster: Cluster, folder: Path) -> AsyncIterator[Self]:
        """Connect and start the watches."""
        async with AsyncExitStack() as stack:
            # TLS connections need some turns of the loop to close.
            stack.push_async_callback(asyncio.sleep, 0.3)
            access = await stack.enter_async_context(administrator(cluster))
            upstream = await stack.enter_async_context(upstream_session(access.anonymous))
            kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, SERVICE_ACCOUNT)
            clinics = cls(cluster, folder, access, upstream, kubeconfig)
            begun = [asyncio.Event() for _ in WATCHED]
            clinics.watches = [
                asyncio.create_task(access.watch(path, clinics.see, begun=event))
                for path, event in zip(WATCHED, begun, strict=True)
            ]
            try:
                while not all(event.is_set() for event in begun):
                    clinics.check()
                    await asyncio.sleep(0.05)
                yield clinics
            finally:
                for task in clinics.watches:
                    task.cancel()
                await asyncio.gather(*clinics.watches, return_exceptions=True)

    @asynccontextmanager
    async def clinic(self, prefix: str = "crash") -> AsyncIterator[Clinic]:
        """Create a namespace. At the end its operators are killed and it is deleted, without waiting."""
        namespace = f"{prefix}-{secrets.token_hex(4)}"
        await self.access.create(f"{CORE}/namespaces", {"metadata": {"name": namespace}})
        nodes: list[str] = []
        try:
            async with self.within(namespace) as clinic:
                nodes = clinic.nodes
                yield clinic
        finally:
            await self.access.request("DELETE", f"{CORE}/namespaces/{namespace}", accept=(404, 409))
            for node in nodes:
                await self.access.request("DELETE", f"{CORE}/nodes/{node}", accept=(404,))

    @asynccontextmanager
    async def within(self, namespace: str) -> AsyncIterator[Clinic]:
        """Use an existing namespace without an agent. At the end its operators are killed."""
        self.witnesses[namespace] = Witness()
        async with AsyncExitStack() as stack:
            clinic = Clinic(self, namespace, self.witnesses[namespace], stack)
            try:
                yield clinic
            finally:
                clinic.kill()
                del self.witnesses[namespace]
