"""Strategies for what people may write: any JSON that the CRD's schema lets through, and any text where a text may stand.

The schema is the committed CRD's, without its CEL rules: what those would refuse comes through here, so the operator meets more than in
a cluster. Read by `test_inputs` and by the same test on a real API server.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

CRD: Final = Path(__file__).parents[2] / "crds" / "medplumagents.yaml"
SCHEMA: Final[dict[str, Any]] = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
HOSTILE: Final = (
    "",
    " ",
    "\n",
    "x\nclientSecret=stolen",
    "a=b",
    "$(CLIENT_SECRET)",
    "$(id)",
    "`id`",
    "'; id; '",
    '"',
    "\\",
    "{{ .Values }}",
    "%s%n",
    "\u0000",
    "\u202e",
    "4.2.3",
    "5.1.15",
    "-1",
    "..",
    "../../etc/passwd",
    "é" * 40,
    "x" * 5000,
)
"""Texts that have broken other programs."""

texts: Final = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=30))
json_values: Final = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
"""Anything at all."""


def values_of(
    schema: dict[str, Any], *, good: dict[str, st.SearchStrategy[Any]], path: str = ""
) -> st.SearchStrategy[Any]:
    """Values that a schema lets through. `good`: for some paths, values that mean something, drawn fifteen times out of sixteen."""
    found = _values_of(schema, good=good, path=path)
    if path not in good:
        return found
    return st.integers(0, 15).flatmap(lambda lot: good[path] if lot else found)


def _values_of(schema: dict[str, Any], *, good: dict[str, st.SearchStrategy[Any]], path: str) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return st.one_of(st.integers(0, 2**31), st.sampled_from(["250m", "1Gi", "0.5", "x", ""]))
    made: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
        "object": lambda: _objects(schema, good=good, path=path),
        "array": lambda: st.lists(
            values_of(schema["items"], good=good, path=f"{path}[]"),
            min_size=schema.get("minItems", 0),
            max_size=min(schema.get("maxItems", 3), 3),
        ),
        "string": lambda: _strings(schema),
        "integer": lambda: st.integers(schema.get("minimum", -(2**31)), schema.get("maximum", 2**31)),
        "boolean": lambda: st.booleans(),  # noqa: PLW0108 - as it stands it has no types
        "number": lambda: st.floats(allow_nan=False, allow_infinity=False),
    }
    make = made.get(str(schema.get("type")))
    return json_values if make is None else make()


def _objects(schema: dict[str, Any], *, good: dict[str, st.SearchStrategy[Any]], path: str) -> st.SearchStrategy[Any]:
    if "properties" not in schema:
        inner = schema.get("additionalProperties")
        value = values_of(inner, good=good, path=f"{path}{{}}") if isinstance(inner, dict) else json_values
        return st.dictionaries(texts, value, max_size=3)
    required = set(schema.get("required", ()))
    fields = {
        name: values_of(field, good=good, path=f"{path}.{name}".lstrip("."))
        for name, field in schema["properties"].items()
    }
    return st.fixed_dictionaries(
        {name: value for name, value in fields.items() if name in required},
        optional={name: value for name, value in fields.items() if name not in required},
    )


def _strings(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    if "pattern" in schema:
        return st.from_regex(re.compile(schema["pattern"]), fullmatch=True)
    longest, shortest = schema.get("maxLength", 10_000), schema.get("minLength", 0)
    return texts.filter(lambda text: shortest <= len(text) <= longest)


VERSIONS: Final = st.sampled_from(["4.2.3", "4.2.4", "5.1.14", "5.1.15", "5.1.15-abc1234"])
GOOD: Final[dict[str, st.SearchStrategy[Any]]] = {
    "version": VERSIONS,
    "server": st.just({"baseUrl": "https://api.medplum.com/", "agentId": "a", "credentialsSecretRef": {"name": "lab"}}),
    "channels": st.sampled_from(
        [[{"name": "adt", "port": 2575}], [{"name": "a", "port": 1}, {"name": "b", "port": 2}]]
    ),
    "maintenanceWindows": st.sampled_from([[], [{"schedule": "* * * * *", "duration": "1m"}]]),
    "podTemplate": st.just({}),
    "image": st.just({"repository": "registry.example.org/medplum-agent"}),
}
specs: Final = values_of(SCHEMA["properties"]["spec"], good=GOOD)
statuses: Final = st.one_of(values_of(SCHEMA["properties"]["status"], good={}), json_values)
