"""The wheel and the source distribution, as somebody gets them who has no checkout."""

from __future__ import annotations

import ast
import email
import re
import subprocess
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING, Final

import pytest

from tests.contract.test_docs import ROOT

if TYPE_CHECKING:
    from email.message import Message
    from pathlib import Path

PACKAGE: Final = ROOT / "operator" / "medplum_agent_operator"
_PATH: Final = re.compile(r"(?<![\w/.:-])(?:docs|crds|manifests|tests)/[\w./-]*\w")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both from this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, capture_output=True
    )
    return folder


def metadata(distributions: Path) -> Message:
    """What an index shows."""
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_the_source_distribution_has_everything_that_git_has(distributions: Path) -> None:
    """The README's commands need the Dockerfile, the locks, the Makefile and the tests."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout")
    (source,) = distributions.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    assert [] == sorted(tracked - held)
    assert {"PKG-INFO"} >= {
        name for name in held - tracked if (ROOT / name).is_dir() is False and not (ROOT / name).exists()
    }


def test_the_index_s_page_has_no_link_that_leads_nowhere(distributions: Path) -> None:
    """Its links are absolute, and there are project URLs."""
    found = metadata(distributions)
    text = str(found.get_payload())
    assert "medplum-agent-gate" in text
    assert [] == [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    assert found.get_all("Project-URL")


def test_a_sentence_that_names_a_file_of_the_sources_says_so() -> None:
    """Who has the package or the image has no `manifests/base`: "in the operator's sources" follows each such path."""
    lost = []
    for module in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(module.read_text("utf-8"))
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        } | {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                lost += [
                    f"{module.name}: {found[0]}"
                    for found in _PATH.finditer(node.value)
                    if not re.match(r",? in the operator's sources", node.value[found.end() :])
                ]
    assert [] == lost
