"""The rules of `docs/style.md` that a machine can check: words that nobody should meet, and sizes that a reader can hold."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "operator" / "medplum_agent_operator"
READ: Final = ("operator", "crds", "docs", "manifests", "*.md", "Makefile", "Dockerfile")
IDIOMS: Final = re.compile(
    r"\b(told|tells?|telling|anew|goes on|go on|going on|by itself|by themselves|whoever|whatever|nobody|somebody else|(?:is|are|was) to be|there (?:is|are) none|"
    r"mend(?:s|ed|ing)?|not so far|had better|looks? again)\b",
    re.IGNORECASE,
)
"""English words in another language's syntax (docs/style.md)."""
LONGEST_MODULE: Final = 250
LONGEST_FUNCTION: Final = 40


def texts() -> Iterator[Path]:
    """Every text file that users and contributors read, but for the page that quotes the idioms."""
    listed = subprocess.run(["git", "ls-files", *READ], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        path = ROOT / name
        if path.suffix != ".svg" and name != "docs/style.md" and path.is_file():
            yield path


def test_no_text_uses_an_idiom_of_the_list() -> None:
    """Active voice, with the actor named, and Kubernetes' own words."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for match in IDIOMS.finditer(line)
    ]
    assert [] == found


def test_a_module_can_be_read_in_one_go() -> None:
    """At most 250 lines."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {} == {str(path): length for path, length in lengths.items() if length > LONGEST_MODULE}


def test_a_function_of_core_fits_on_a_screen() -> None:
    """At most 40 lines, docstring included."""
    too_long = {}
    for path in (PACKAGE / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    too_long[f"{path.relative_to(PACKAGE)}: {node.name}"] = length
    assert {} == too_long
