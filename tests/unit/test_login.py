"""A 401 ends nothing: the credentials are read again, for the watches and for requests."""

from __future__ import annotations

import asyncio
from typing import Any

import kopf
import pytest
from kopf._cogs.structs.credentials import Vault, VaultKey
from kubernetes.aio.client import Configuration

from medplum_agent_operator import startup_checks
from medplum_agent_operator.adapters import kube
from medplum_agent_operator.errors import ClusterError
from medplum_agent_operator.handlers import Login

SAME = kopf.ConnectionInfo(server="https://127.0.0.1:6443", token="t")


class Sleep:
    """Sleeps for no time, and remembers."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def __call__(self, seconds: float) -> None:
        """Remember a pause."""
        self.pauses.append(seconds)


async def test_kopf_accepts_the_same_credentials_after_a_401() -> None:
    """Its vault refuses what equals one of the last three that got a 401; then Kopf would end."""
    sleep, vault = Sleep(), Vault()
    login = Login(lambda **_: SAME, sleep=sleep)
    for _ in range(8):
        info = await login()
        assert info is not None
        await vault.populate({"login": info})
        key, item = vault.select()
        assert SAME.token == item.info.token  # type: ignore[attr-defined] # it is a ConnectionInfo
        refused = asyncio.create_task(vault.invalidate(VaultKey(key), item.info))
        await vault.wait_for_emptiness()
        refused.cancel()
    assert [1.0, 2.0, 5.0, 10.0, 10.0, 10.0, 10.0] == sleep.pauses


async def test_credentials_that_cannot_be_read_are_read_again() -> None:
    """A kubeconfig that is being replaced."""
    sleep = Sleep()
    answers: list[kopf.LoginError | kopf.ConnectionInfo] = [kopf.LoginError("a"), kopf.LoginError("b"), SAME]

    def read(**_: Any) -> kopf.ConnectionInfo:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    found = await Login(read, sleep=sleep)()
    assert found is not None
    assert ("t", [1.0, 2.0]) == (found.token, sleep.pauses)


async def test_a_start_waits_for_credentials_that_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """401 is no reason to exit: the API server may not be able to check the token yet."""
    monkeypatch.setattr(startup_checks, "PAUSES_SECONDS", (0.0,))
    refused = ClusterError("Unauthorized", status=401)
    answers: list[ClusterError | str] = [refused, refused, refused, "facts"]

    async def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert "facts" == await startup_checks.retry_until_answered(ask)


class Unauthorized:
    """An answer of an API server that does not know the token."""

    status = 401

    async def read(self) -> bytes:
        """Return the body."""
        return b'{"reason": "Unauthorized", "message": "Unauthorized"}'


class Client:
    """Stands in for the library's client."""

    def __init__(self) -> None:
        self.configuration = Configuration()
        self.configuration.api_key = {"BearerToken": "old"}

    async def param_serialize(self, method: str, path: str, **_: Any) -> Any:
        """Return method, URL and headers."""
        return method, path, {}, None, None

    async def call_api(self, *_: Any, **__: Any) -> Any:
        """Answer each request alike."""
        return Unauthorized()


async def test_a_request_after_a_401_has_the_token_that_is_there_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that was rotated before its time: the file is read again."""
    fresh = Configuration()
    fresh.api_key = {"BearerToken": "new"}

    async def load() -> Configuration:
        return fresh

    monkeypatch.setattr(kube, "load_configuration", load)
    client = Client()
    with pytest.raises(ClusterError) as refused:
        await kube.Kube(client, timeout_seconds=1).get("Service", "clinic", "lab")  # type: ignore[arg-type] # two of its methods
    assert 401 == refused.value.status
    assert {"BearerToken": "new"} == client.configuration.api_key
