"""Requests to the API server: dicts in, dicts out, every fault mapped to one of `errors`.

Made by `__main__`, used by `reconcile` through its Protocol. Built on `kubernetes.aio`, which brings authentication, token
refresh and TLS. It decides nothing and remembers nothing. A merge patch is needed beside server-side apply in two places:
where a field has to become absent whoever owns it (status), and to free a strategy from defaulted parameters.
"""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from medplum_agent_operator.api.agent import GROUP, KIND, PLURAL, VERSION
from medplum_agent_operator.api.annotations import MANAGED_BY
from medplum_agent_operator.errors import ClusterError, ConflictError, RefusedError, StartupError, UntrustedError

FIELD_MANAGER: Final = MANAGED_BY
PAGE_SIZE: Final = 25
"""A page is held in memory as text and as objects at once: small ones keep the peak low."""
MAX_CONNECTIONS: Final = 8
"""A pass reads about as many objects at once; each connection has a TLS buffer of 256 KiB."""

NO_OBJECT: Final = "1"
"""A resource version that no object has. Server-side apply with it creates what is not there, and is refused (409) where something is: a first write
that comes late must not overwrite what a successor has made meanwhile.

Source: staging/src/k8s.io/apiserver/pkg/registry/generic/registry/store.go (Update) compares versions only where an object exists; etcd counts from 1, and
the first object that it stores is newer. `tests/behaviour/test_crash_points.py` plays it.
"""

_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Resource:
    """Where objects of a kind live in the API."""

    api_version: str
    plural: str

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """The URL path of one object, of a namespace's objects, or of all."""
        root = "/api/" if "/" not in self.api_version else "/apis/"
        where = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{self.api_version}{where}/{self.plural}" + "".join(
            f"/{part}" for part in (name, subresource) if part
        )


RESOURCES: Final[Mapping[str, Resource]] = MappingProxyType(
    {
        KIND: Resource(f"{GROUP}/{VERSION}", PLURAL),
        "Deployment": Resource("apps/v1", "deployments"),
        "Service": Resource("v1", "services"),
        "PodDisruptionBudget": Resource("policy/v1", "poddisruptionbudgets"),
        "ServiceAccount": Resource("v1", "serviceaccounts"),
        "RoleBinding": Resource("rbac.authorization.k8s.io/v1", "rolebindings"),
        "Pod": Resource("v1", "pods"),
        "Event": Resource("v1", "events"),
        "Node": Resource("v1", "nodes"),
        "Job": Resource("batch/v1", "jobs"),
        "ControllerRevision": Resource("apps/v1", "controllerrevisions"),
    }
)


async def load_configuration() -> Configuration:
    """Find the cluster: the pod's own service account, else KUBECONFIG or ~/.kube/config.

    Raises:
        StartupError: when neither leads to a cluster.
    """
    configuration = Configuration()
    configuration.connection_pool_maxsize = MAX_CONNECTIONS
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:  # the same order as Kopf's own login
            load_incluster_config(client_configuration=configuration)
        else:
            _check_files(os.environ.get("KUBECONFIG", ""))
            await load_kube_config(client_configuration=configuration)
    except (ConfigException, OSError) as fault:
        raise StartupError(
            f"No cluster to work on: {fault} Set KUBECONFIG, or run the operator in a pod with a service account."
        ) from fault
    return configuration


def _check_files(kubeconfig: str) -> None:
    missing = [part for part in kubeconfig.split(os.pathsep) if part and not Path(part).exists()]
    if missing:
        raise StartupError(f"KUBECONFIG names {', '.join(missing)}, which does not exist.")


class Kube:
    """A client of one cluster."""

    def __init__(self, client: ApiClient, *, timeout_seconds: float) -> None:
        self._client = client
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    @classmethod
    @asynccontextmanager
    async def connect(cls, *, timeout_seconds: float, user_agent: str) -> AsyncIterator[Self]:
        """Open a client and close it at the end."""
        async with ApiClient(await load_configuration()) as client:
            client.user_agent = user_agent
            yield cls(client, timeout_seconds=timeout_seconds)

    async def get(self, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        """Read one object; None where there is none."""
        try:
            return await self._request("GET", RESOURCES[kind].path(namespace, name))
        except ClusterError as fault:
            if fault.status == 404:  # noqa: PLR2004 - HTTP's own number
                return None
            raise

    async def list(self, kind: str, namespace: str | None, *, selector: str = "") -> tuple[list[dict[str, Any]], str]:
        """Read all objects of a kind, page by page. Returns them and the resource version of that moment."""
        found: list[dict[str, Any]] = []
        query = {"limit": str(PAGE_SIZE)} | ({"labelSelector": selector} if selector else {})
        while True:
            page = await self._request("GET", RESOURCES[kind].path(namespace), query=query)
            # Items of built-in kinds come without what they are; watches and GETs tell it.
            what = {"apiVersion": RESOURCES[kind].api_version, "kind": kind}
            found.extend({**what, **item} for item in page.get("items") or ())
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return found, metadata.get("resourceVersion", "")
            query["continue"] = metadata["continue"]

    async def apply(self, body: Mapping[str, Any], *, resource_version: str | None) -> dict[str, Any]:
        """Server-side apply under the operator's one field manager, taking conflicting fields back.

        Args:
            body: the object as it should be.
            resource_version: of the object that the decision was made on; if it has changed since, nothing is written
                (ConflictError). None where there was no object: one that is there by now is not overwritten either.

        Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/
        """
        metadata = {**body["metadata"], "resourceVersion": resource_version or NO_OBJECT}
        path = RESOURCES[body["kind"]].path(metadata["namespace"], metadata["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._request("PATCH", path, query=query, body={**body, "metadata": metadata}, content_type=_APPLY)

    async def merge_patch(
        self, kind: str, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> dict[str, Any]:
        """JSON merge patch: the way to make a field absent."""
        path = RESOURCES[kind].path(namespace, name, subresource)
        return await self._request(
            "PATCH", path, query={"fieldManager": FIELD_MANAGER}, body=patch, content_type=_MERGE
        )

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object; ConflictError where one of that name exists."""
        path = RESOURCES[body["kind"]].path(body["metadata"]["namespace"])
        return await self._request("POST", path, query={"fieldManager": FIELD_MANAGER}, body=body)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        try:
            _, url, headers, _, _ = await self._client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                auth_settings=["BearerToken"],
            )
            response = await self._client.call_api(method, url, headers, body=body, _request_timeout=self._timeout)
            content = await response.read()
        except TimeoutError as fault:
            raise ClusterError(
                f"{method} {path}: the API server did not answer within {self._timeout.total:g} s."
            ) from fault
        except aiohttp.ClientSSLError as fault:
            raise UntrustedError(f"{method} {path}: {fault}.") from fault
        except (aiohttp.ClientError, OSError, ConfigException) as fault:  # the last two: of the service account's token
            raise ClusterError(f"{method} {path}: {fault or type(fault).__name__}.") from fault
        if response.status >= 400:  # noqa: PLR2004 - HTTP's own number
            raise _fault(f"{method} {path}", response.status, content)
        return _object(f"{method} {path}", response.status, content)


def _object(what: str, status: int, content: bytes) -> dict[str, Any]:
    """What a call was answered with; an answer that is no object is not the API server's."""
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ClusterError(
            f"{what} was answered with {status} and no Kubernetes object: {content[:300].decode(errors='replace')}"
        )
    return found


def _fault(what: str, status: int, content: bytes) -> ClusterError:
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):  # of whoever stands in between
        answer = {}
    reason, message = answer.get("reason", ""), answer.get("message") or content[:300].decode(errors="replace")
    text = f"{what} was answered with {status} {reason}: {message}"
    match status:
        case 409:
            return ConflictError(text, status=status, reason=reason)
        case 400 | 403 | 413 | 415 | 422:
            return RefusedError(text, status=status, reason=reason)
        case _:
            return ClusterError(text, status=status, reason=reason)
