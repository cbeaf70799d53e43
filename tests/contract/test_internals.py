"""The internal docs name files, commands and settings of the tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "internals").glob("*.md"))

_COMMAND = re.compile(r"(?:^ {4}|`)(?:\w+=\S+ )*((?:\.venv/bin/)?(?:python|make)\b[^`\n]*)", re.MULTILINE)
_PATH = re.compile(r"\b((?:tests|operator|docs|manifests)/[\w./-]*\w)")
_MODULE = re.compile(r"-m (tests\.[\w.]+)")


def text(page: Path) -> str:
    """Return a page's text."""
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_path_exists(page: Path) -> None:
    """A path below `tests`, `operator`, `docs` or `manifests` names a file or folder of the project."""
    paths = set(_PATH.findall(text(page)))
    assert [] == sorted(path for path in paths if not (ROOT / path).exists())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_exists(page: Path) -> None:
    """A command names a target of the Makefile, or a program or test file of `tests`."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    unknown = []
    for command in _COMMAND.findall(text(page)):
        if command.startswith("make "):
            unknown += [] if command.split()[1] in targets else [command]
        for module in _MODULE.findall(command):
            path = ROOT / module.replace(".", "/")
            unknown += [] if path.is_dir() or path.with_suffix(".py").is_file() else [command]
    assert [] == unknown


def test_the_commands_are_found() -> None:
    """The search above finds commands in blocks and in sentences."""
    found = _COMMAND.findall("    A=1 .venv/bin/python -m tests.tools.bench\n`make bench`\n`STEPS=1 python -m x`\n")
    assert [".venv/bin/python -m tests.tools.bench", "make bench", "python -m x"] == found
