"""The client of the API server: which bytes it sends."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from medplum_agent_operator.adapters.kube import Kube, as_yaml

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
