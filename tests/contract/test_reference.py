"""The field tables of docs/reference/medplumagent.md are generated from the CRD.

After a change of the models run `python -m pytest tests/contract/test_reference.py --force-regen`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from medplum_agent_operator.api.crd import crd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_regressions.file_regression import FileRegressionFixture

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "medplumagent.md"
BEGIN: Final = "<!-- Generated field tables: begin -->\n"
END: Final = "<!-- Generated field tables: end -->\n"
KUBERNETES_SHAPES: Final = {"affinity", "dnsConfig", "hostAliases", "tolerations", "topologySpreadConstraints"}
"""Fields of spec.podTemplate with the shape of Kubernetes' own PodSpec. They have no table on the page."""


def objects(name: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every object with listed fields, parents first, as its path and schema; lists by their items."""
    schema = schema.get("items", schema)
    if "properties" not in schema:
        return
    yield name, schema
    for field, part in schema["properties"].items():
        if field not in KUBERNETES_SHAPES:
            yield from objects(f"{name}.{field}", part)


def shown_type(path: str, schema: Mapping[str, Any]) -> str:
    """Write a field's type as the page shows it, with a link to the table of its fields."""
    if "x-kubernetes-int-or-string" in schema:
        return "quantity"
    if schema["type"] == "array":
        return f"list of {shown_type(path, schema['items'])}"
    if "properties" in schema:
        known = path.rpartition(".")[2] in KUBERNETES_SHAPES
        return "object" if known else f"[object](#{path.replace('.', '').lower()})"
    if "additionalProperties" in schema:
        return f"map to {shown_type(path, schema['additionalProperties'])}"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    return "time" if schema.get("format") == "date-time" else str(schema["type"])


def shown_default(schema: Mapping[str, Any], *, required: bool) -> str:
    """Write a field's default as the page shows it; the defaults of an object stand in its own table."""
    if required:
        return "required"
    default = schema.get("default")
    return "" if default is None or isinstance(default, dict) else f"`{json.dumps(default)}`"


def table(path: str, schema: Mapping[str, Any]) -> str:
    """Write the section of one object: a heading and a row for each field. Only users' fields have defaults."""
    written_by_users = path.startswith("spec")
    columns = ["Field", "Type", *(["Default"] if written_by_users else []), "Meaning"]
    lines = [f"## {path}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name, field in schema["properties"].items():
        default = shown_default(field, required=name in schema.get("required", ()))
        kind = shown_type(f"{path}.{name}", field)
        cells = [f"`{name}`", kind, *([default] if written_by_users else []), field["description"]]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def test_field_tables_match_the_models(file_regression: FileRegressionFixture) -> None:
    """Each field of spec and status has a row with its type, its default and its description, and no other row exists."""
    properties = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    tables = [table(*each) for root in ("spec", "status") for each in objects(root, properties[root])]
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert (BEGIN, END) == (begin, end), "the page has both markers"
    page = "".join((before, BEGIN, "\n", "\n".join(tables), "\n", END, after))
    file_regression.check(page, fullpath=PAGE, encoding="utf-8")
