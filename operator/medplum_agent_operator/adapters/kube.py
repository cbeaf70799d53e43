"""Requests to the API server: dicts in, dicts out, every fault mapped to one of `errors`.

Made by `__main__`, used by `reconcile` through its Protocol. Built on `kubernetes.aio`, which does authentication, token
refresh and TLS. It decides nothing and remembers nothing. Besides server-side apply, two places need a merge patch:
to remove a status field regardless of its field manager, and to remove defaulted parameters from a strategy.
"""

import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from medplum_agent_operator.adapters import answers
from medplum_agent_operator.api.annotations import MANAGED_BY
from medplum_agent_operator.errors import (
    ClusterError,
    StartupError,
    UntrustedError,
    sentence,
)
from medplum_agent_operator.kinds import KINDS

FIELD_MANAGER: Final = MANAGED_BY
PAGE_SIZE: Final = 25
"""A page is in memory as text and as objects at the same time, so small pages reduce the peak."""
MAX_CONNECTIONS: Final = 8
"""A pass reads about as many objects at once. Each connection has a TLS buffer of 256 KiB."""

NO_OBJECT: Final = "1"
"""A resource version that no object has. Server-side apply with it creates a missing object and fails (409) if the object exists: a first write
that arrives late must not overwrite the object that a later operator has created.

Source: staging/src/k8s.io/apiserver/pkg/registry/generic/registry/store.go (Update) compares versions only where an object exists; etcd counts from 1, and
the first object that it stores is newer. `tests/behaviour/test_crash_points.py` covers it.
"""

_APPLY: Final = "application/apply-patch+yaml; charset=utf-8"
"""With the charset the client library sends our bytes; without it, it would encode the body itself, as ASCII."""
_MERGE: Final = "application/merge-patch+json"
_DRY_RUN: Final = {"dryRun": "All"}


RESOURCES: Final = KINDS


async def load_configuration() -> Configuration:
    """Find the cluster: by the pod's own service account, else by KUBECONFIG or ~/.kube/config.

    Raises:
        StartupError: when none of them leads to a cluster.
    """
    configuration = Configuration()
    configuration.connection_pool_maxsize = MAX_CONNECTIONS
    # HTTPS_PROXY does not count, as for Kopf's watches and for gates: three clients read it and NO_PROXY in three ways.
    configuration.client_session_kwargs = {"trust_env": False}
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:  # the order of Kopf's own login
            load_incluster_config(client_configuration=configuration)
        else:
            _check_files(os.environ.get("KUBECONFIG", ""))
            await load_kube_config(client_configuration=configuration)
    except Exception as fault:  # the client library checks no file's form: a kubeconfig that is none may raise anything
        raise StartupError(
            f"No cluster found: {sentence(fault)} Set KUBECONFIG, or run the operator in a pod with a service account."
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

    async def _read_credentials(self) -> None:
        """Read the token again after a 401, for the next request. A certificate needs a new connection: the operator is restarted for it."""
        with suppress(StartupError):  # a file that is being replaced: the next 401 reads it
            fresh = await load_configuration()
            self._client.configuration.api_key = fresh.api_key
            self._client.configuration.refresh_api_key_hook = fresh.refresh_api_key_hook

    async def get(self, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        """Read one object; None if it does not exist."""
        try:
            return await self._request("GET", KINDS[kind].path(namespace, name))
        except ClusterError as fault:
            if fault.status == 404:  # noqa: PLR2004 - HTTP's own number
                return None
            raise

    async def list(self, kind: str, namespace: str | None, *, selector: str = "") -> tuple[list[dict[str, Any]], str]:
        """Read all objects of a kind, page by page. Returns them and the resource version of the LIST."""
        found: list[dict[str, Any]] = []
        query = {"limit": str(PAGE_SIZE)} | ({"labelSelector": selector} if selector else {})
        while True:
            page = await self._request("GET", KINDS[kind].path(namespace), query=query)
            # In a LIST, items of built-in kinds have no apiVersion and kind; in watch events and GETs they do.
            type_meta = {"apiVersion": KINDS[kind].api_version, "kind": kind}
            found.extend({**type_meta, **item} for item in page.get("items") or ())
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return found, metadata.get("resourceVersion", "")
            query["continue"] = metadata["continue"]

    async def apply(
        self, body: Mapping[str, Any], *, resource_version: str | None, dry_run: bool = False
    ) -> dict[str, Any]:
        """Apply an object by server-side apply, with the operator's one field manager. Takes over fields that others changed (force).

        Args:
            body: the object as it should be.
            resource_version: of the object that the decision was made on. None if there was no object.
            dry_run: whether the API server only says what it would do.

        Raises:
            ConflictError: when the object has changed since, or exists by now; it is not overwritten.

        Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/
        """
        metadata = {**body["metadata"], "resourceVersion": resource_version or NO_OBJECT}
        path = KINDS[body["kind"]].path(metadata["namespace"], metadata["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true", **(_DRY_RUN if dry_run else {})}
        return await self._request(
            "PATCH", path, query=query, body=as_yaml({**body, "metadata": metadata}), content_type=_APPLY
        )

    async def merge_patch(
        self, kind: str, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> dict[str, Any]:
        """Send a JSON merge patch, which can remove a field."""
        path = KINDS[kind].path(namespace, name, subresource)
        return await self._request(
            "PATCH", path, query={"fieldManager": FIELD_MANAGER}, body=patch, content_type=_MERGE
        )

    async def create(self, body: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Create an object. In a dry run, the API server only says what it would do.

        Raises:
            ConflictError: when an object of that name exists.
        """
        path = KINDS[body["kind"]].path(body["metadata"]["namespace"])
        return await self._request(
            "POST", path, query={"fieldManager": FIELD_MANAGER, **(_DRY_RUN if dry_run else {})}, body=body
        )

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str) -> None:
        """Delete an object, unless another one has its name by now. One that does not exist is no fault."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        try:
            await self._request("DELETE", KINDS[kind].path(namespace, name), body=body)
        except ClusterError as fault:
            if fault.status not in {404, 409}:
                raise

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | bytes | None = None,
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
        except (
            aiohttp.ClientError,
            OSError,
            ConfigException,
        ) as fault:  # the last two come from reading the service account's token
            raise ClusterError(f"{method} {path}: {fault or type(fault).__name__}.") from fault
        if response.status == 401:  # noqa: PLR2004 - HTTP's own number
            await self._read_credentials()
        if response.status >= 400:  # noqa: PLR2004 - HTTP's own number
            raise answers.fault_of(method, path, response.status, content, applies=content_type == _APPLY)
        return answers.object_of(f"{method} {path}", response.status, content)


def as_yaml(body: Mapping[str, Any]) -> bytes:
    r"""Write JSON that is YAML too: the API server reads a server-side apply as YAML.

    JSON escapes a character outside the basic plane, such as an emoji, as two surrogates, which YAML refuses. So those go as UTF-8. All others
    beyond ASCII go as one escape each, because YAML refuses some of them unescaped (C1 controls, U+FEFF). A lone surrogate is no character.

    >>> as_yaml({"text": "\u00e9 \U0001f691"}) == '{"text": "\\u00e9 \U0001f691"}'.encode()
    True
    """
    text = re.sub("[\ud800-\udfff]", "\ufffd", json.dumps(body, ensure_ascii=False))
    return re.sub("[\x7f-\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text).encode()
