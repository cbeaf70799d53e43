"""The agents that the bench creates and changes, through one persistent client that the audit log can identify.

kubectl would start a process and ask for the API's discovery at each change: that would be measured too.
"""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from kubernetes import config
from kubernetes.client import ApiClient, Configuration, CustomObjectsApi

from medplum_agent_operator.api.agent import API_VERSION, GROUP, KIND, PLURAL, VERSION
from medplum_agent_operator.api.annotations import FORCE_DOWNGRADE
from tests.support.cluster import simulate
from tests.tools.bench.audit import BENCH_AGENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.cluster import Cluster

AT_ONCE: Final = 16
"""Threads that write a burst, each with its own connection."""
LOOK_SECONDS: Final = 0.5


class Fleet:
    """Agents `agent-000`, `agent-001` and so on in one namespace, whose pods become ready, and end, within 200 ms."""

    def __init__(self, api: CustomObjectsApi, namespace: str, size: int, *, gates: bool = False) -> None:
        self._api = api
        self._namespace = namespace
        self._gates = gates
        self.names: Sequence[str] = [f"agent-{number:03}" for number in range(size)]

    @classmethod
    @contextmanager
    def connect(cls, cluster: Cluster, namespace: str, size: int, *, gates: bool = False) -> Iterator[Self]:
        """Open the client."""
        configuration = Configuration()
        config.load_kube_config(str(cluster.kubeconfig), client_configuration=configuration)
        configuration.connection_pool_maxsize = AT_ONCE
        client = ApiClient(configuration)
        client.user_agent = BENCH_AGENT
        with client:
            yield cls(CustomObjectsApi(client), namespace, size, gates=gates)

    def create(self, version: str) -> None:
        """Create every agent at once."""
        self._at_once(lambda name: self._create(name, version))

    def change(self, name: str, version: str, *, approval: str | None = None) -> None:
        """Change an agent's version by one PATCH, with or without the approval of a downgrade."""
        body = {"metadata": {"annotations": {FORCE_DOWNGRADE: approval}}, "spec": {"version": version}}
        self._api.patch_namespaced_custom_object(
            *self._place, name, body, field_manager=BENCH_AGENT, _content_type="application/merge-patch+json"
        )

    def change_all(self, version: str) -> None:
        """Change every agent at once."""
        self._at_once(lambda name: self.change(name, version))

    def wait_until_settled(self, *, seconds: float, tick: Callable[[], None]) -> None:
        """Wait until every agent serves the version in its spec, and its status says so.

        Raises:
            TimeoutError: naming an agent that does not.
        """
        deadline = time.monotonic() + seconds
        while unsettled := [item for item in self._list() if not _settled(item)]:
            if time.monotonic() > deadline:
                first = unsettled[0]
                raise TimeoutError(
                    f"{len(unsettled)} agents are not settled after {seconds:.0f} s, such as {first['metadata']['name']}: "
                    f"{first.get('status', {}).get('plan', 'no status')}"
                )
            tick()
            time.sleep(LOOK_SECONDS)

    @property
    def _place(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self._namespace, PLURAL

    def _at_once(self, write: Callable[[str], None]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(write, self.names))

    def _create(self, name: str, version: str) -> None:
        body = render_agent(name, version, gate=self._gates)
        self._api.create_namespaced_custom_object(*self._place, body, field_manager=BENCH_AGENT)

    def _list(self) -> list[dict[str, Any]]:
        # From the API server's cache, which costs the machine little.
        found: Any = self._api.list_namespaced_custom_object(*self._place, resource_version="0")
        items: list[dict[str, Any]] = found["items"]
        return items


def render_agent(name: str, version: str, *, gate: bool = False) -> dict[str, Any]:
    """Return the sample agent; every second one has minReadySeconds and drainSeconds of 1."""
    pause = int(name[-1]) % 2
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {
            "version": version,
            "image": {"repository": "registry.example.org/medplum-agent"},
            "server": {
                "baseUrl": "https://api.medplum.com/",
                "agentId": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
                "credentialsSecretRef": {"name": name},
            },
            "channels": [{"name": "adt", "port": 2575}, {"name": "dicom", "port": 4242, "protocol": "DICOM"}],
            "gate": {"enabled": gate},
            "handoff": {"minReadySeconds": pause, "drainSeconds": pause},
            "podTemplate": {"annotations": simulate(ready_after="200ms", terminate_after="200ms")},
        },
    }


def _settled(item: dict[str, Any]) -> bool:
    status, wanted = item.get("status", {}), item["spec"]["version"]
    return (
        status.get("phase") == "Running"
        and status.get("activeVersion") == wanted
        and status.get("observedGeneration") == item["metadata"]["generation"]
        and "rollout" not in status
        and any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))
    )
