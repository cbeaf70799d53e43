"""What the client of the API server makes of refusals, and of a kubeconfig that is none."""

from __future__ import annotations

import asyncio
import doctest
import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from medplum_agent_operator import errors
from medplum_agent_operator.adapters import rights
from medplum_agent_operator.adapters.kube import Kube, load_configuration
from medplum_agent_operator.errors import RefusedError, StartupError
from medplum_agent_operator.gate.__main__ import _run
from medplum_agent_operator.gate.flags import parse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from types import ModuleType

    from kubernetes.aio.client import ApiClient


@pytest.mark.parametrize("module", [errors, rights])
def test_examples(module: ModuleType) -> None:
    """The examples in docstrings hold."""
    failed, tried = doctest.testmod(module)
    assert (0, True) == (failed, tried > 0)


class Refusing:
    """An API client that is answered with 403 and this message."""

    def __init__(self, message: str | None) -> None:
        self._message = message
        self.status = 403

    async def param_serialize(self, method: str, path: str, **_: Any) -> tuple[Any, ...]:
        """Return the request as it is."""
        return method, path, {}, None, None

    async def call_api(self, *_: Any, **__: Any) -> Refusing:
        """Answer."""
        return self

    async def read(self) -> bytes:
        """Return a Status, or no JSON at all."""
        if self._message is None:
            return b""
        return json.dumps({"kind": "Status", "reason": "Forbidden", "message": self._message}).encode()


def body(kind: str, version: str) -> dict[str, Any]:
    """An object of the namespace clinic."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "lab", "namespace": "clinic"}}


NAME = "The operator's account needs the right to "


@pytest.mark.parametrize(
    ("request_", "right"),
    [
        (
            lambda kube: kube.apply(body("Deployment", "apps/v1"), resource_version=None),
            "create and patch deployments.apps in namespace clinic.",
        ),
        (
            lambda kube: kube.apply(body("Service", "v1"), resource_version="7"),
            "create and patch services in namespace clinic.",
        ),
        (
            lambda kube: kube.merge_patch("MedplumAgent", "clinic", "lab", {}, subresource="status"),
            "patch medplumagents/status.agents.medplum.com in namespace clinic.",
        ),
        (lambda kube: kube.create(body("Event", "v1")), "create events in namespace clinic."),
        (lambda kube: kube.get("Pod", "clinic", "lab"), "get pods in namespace clinic."),
        (lambda kube: kube.list("Pod", None), "list pods in the whole cluster."),
        (lambda kube: kube.list("Node", None), "list nodes in the whole cluster."),
    ],
    ids=["first write", "later write", "status", "create", "get", "list", "nodes"],
)
@pytest.mark.parametrize("message", ['deployments.apps "lab" is forbidden: ', 'x "lab" is forbidden: <nil>', "", None])
async def test_a_missing_right_is_named_where_the_api_server_names_none(
    request_: Callable[[Kube], Awaitable[object]], right: str, message: str | None
) -> None:
    """As in Kubernetes 1.30: verb, resource and namespace."""
    with pytest.raises(RefusedError) as fault:
        await request_(Kube(cast("ApiClient", Refusing(message)), timeout_seconds=1))
    assert str(fault.value).endswith(f". {NAME}{right}") or str(fault.value).endswith(f"403. {NAME}{right}")


@pytest.mark.parametrize(
    "message",
    [
        'pods is forbidden: User "operator" cannot list resource "pods" in API group "" in the namespace "clinic"',
        'deployments.apps "lab" is forbidden: exceeded quota: small, requested: 1',
        'admission webhook "policy.example.org" denied the request: forbidden.',
    ],
)
async def test_the_api_server_s_own_reason_is_enough(message: str) -> None:
    """It is not drowned by a right that may not be missing; and it ends as a sentence, because others follow."""
    with pytest.raises(RefusedError) as fault:
        await Kube(cast("ApiClient", Refusing(message)), timeout_seconds=1).list("Pod", "clinic")
    assert str(fault.value).endswith(f"{message.removesuffix('.')}.")


BROKEN = [
    pytest.param(b"", id="empty"),
    pytest.param(b"hello", id="a word"),
    pytest.param(b"[]", id="a list"),
    pytest.param(b"x: [", id="no YAML"),
    pytest.param(b"\xff\xfe\x00", id="no text"),
    pytest.param(b"current-context: a", id="no contexts"),
    pytest.param(b"current-context: a\ncontexts: 7\nclusters: []\nusers: []\n", id="contexts that are none"),
    pytest.param(
        b"current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n"
        b"clusters: [{name: c, cluster: {server: 'https://h', certificate-authority-data: '!'}}]\nusers: [{name: u, user: {}}]\n",
        id="a certificate that is none",
    ),
]


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kubeconfig of this test."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_kubeconfig_ends_the_start_with_sentences(kubeconfig: Path, content: bytes) -> None:
    """What is wrong, a full stop, and what to do."""
    kubeconfig.write_bytes(content)
    with pytest.raises(
        StartupError, match=r"(?s)^No cluster found: .*\S\. Set KUBECONFIG, or run the operator in a pod"
    ):
        asyncio.run(load_configuration())


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_kubeconfig_ends_the_gate_with_sentences(
    kubeconfig: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """One log line, no traceback, exit code 1."""
    kubeconfig.write_bytes(content)
    flags = parse(["--namespace", "clinic", "--service", "lab", "--channel", "adt:HL7:0", "--http-port", "0"])
    assert 1 == asyncio.run(_run(flags))
    assert ". Run the gate in a pod with a ServiceAccount, or set KUBECONFIG." in caplog.messages[-1]
    assert not caplog.records[-1].exc_info


def test_the_gate_s_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Without the flags that a gate needs."""
    with pytest.raises(SystemExit) as end:
        parse(["--version"])
    assert (0, True) == (end.value.code, capsys.readouterr().out.startswith("medplum-agent-gate "))
