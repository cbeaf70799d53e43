"""The client of the API server: which bytes it sends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import kopf
import pytest
import yaml

from medplum_agent_operator.adapters.kube import Kube, as_yaml
from medplum_agent_operator.errors import ClusterError

if TYPE_CHECKING:
    from pathlib import Path

AMBULANCE = "\U0001f691"
TEXTS = [
    pytest.param(f"4.2.3 CHG-1 {AMBULANCE}", id="emoji"),
    pytest.param("\U0001d518 \U0010ffff", id="the ends of the other planes"),
    pytest.param("Übergabe, 引き継ぎ", id="the basic plane"),
    pytest.param("\x00\t\n\x1b\x7f\x80\x85\x9f", id="controls"),
    pytest.param("\u2028\u2029\ufeff\ufffe\uffff", id="separators and marks"),
    pytest.param(f"a\\ud83d {AMBULANCE} \\\\u0000", id="text that looks like an escape"),
]


class Client:
    """Stands in for the library's client: keeps what it is told to send."""

    def __init__(self) -> None:
        self.sent: list[tuple[dict[str, str], Any]] = []

    async def param_serialize(self, method: str, path: str, *, header_params: Any, **_: Any) -> Any:
        """Return method, URL and headers."""
        return method, path, header_params, None, None

    async def call_api(self, method: str, url: str, headers: dict[str, str], *, body: Any, **_: Any) -> Any:
        """Answer with an empty object."""
        assert (method, url) == ("PATCH", "/api/v1/namespaces/clinic/services/lab")
        self.sent.append((headers, body))
        return Answer()


class Answer:
    """An empty object."""

    status = 200

    async def read(self) -> bytes:
        """Return the body."""
        return b"{}"


@pytest.mark.parametrize("text", TEXTS)
async def test_an_apply_is_yaml_whatever_the_text(text: str) -> None:
    """A change ticket with an emoji: the API server reads an apply as YAML, which knows no pairs of surrogates."""
    client = Client()
    kube = Kube(client, timeout_seconds=1)  # type: ignore[arg-type] # two of its methods
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "lab", "namespace": "clinic", "annotations": {text: text}},
    }
    await kube.apply(body, resource_version="7")
    [(headers, sent)] = client.sent
    assert "application/apply-patch+yaml; charset=utf-8" == headers["Content-Type"]
    assert {text: text} == json.loads(sent)["metadata"]["annotations"]
    assert json.loads(sent) == yaml.safe_load(sent.decode())


def test_a_lone_surrogate_is_replaced() -> None:
    """It is no character: neither UTF-8 nor YAML has it."""
    assert {"text": "a\ufffdb"} == yaml.safe_load(as_yaml({"text": "a\ud83db"}).decode())


async def test_a_proxy_in_the_environment_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One rule for requests and watches: neither goes through HTTPS_PROXY, whatever NO_PROXY says."""
    config = tmp_path / "config"
    cluster = {"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    users = [{"name": "u", "user": {"token": "t"}}]
    config.write_text(
        yaml.safe_dump({"clusters": [cluster], "contexts": [context], "users": users, "current-context": "c"})
    )
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:2")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    async with Kube.connect(timeout_seconds=5, user_agent="test") as client:
        with pytest.raises(ClusterError, match=r"127\.0\.0\.1:1 "):
            await client.get("Service", "clinic", "lab")
    assert not kopf.OperatorSettings().networking.trust_env
