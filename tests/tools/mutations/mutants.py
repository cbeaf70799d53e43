"""Run mutmut in a copy of the project, and read the outcome of each mutant."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.tools.mutations import CORE, MODULES, TESTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT: Final = Path(__file__).parents[3]
EXPLAINED: Final = Path(__file__).with_name("explained.toml")
COPIED: Final = ("crds", "docs", "manifests", "tests", "pyproject.toml")
SURVIVED: Final = "survived"
UNDECIDED: Final = frozenset({"not checked", "suspicious", "skipped"})


class MutationError(Exception):
    """Mutmut failed."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One small change of the code.

    Attributes:
        name: mutmut's own.
        outcome: `killed`, `survived`, `timeout` and the like.
        becomes: the lines as the mutant has them, without indentation; empty where it was killed.
    """

    name: str
    outcome: str
    becomes: str = ""

    @property
    def where(self) -> str:
        """Module and function, as in the source."""
        *_, module, mangled = self.name.partition("__mutmut_")[0].split(".")
        if "ǁ" in mangled:
            return f"{module}.{mangled.removeprefix('xǁ').replace('ǁ', '.')}"
        return f"{module}.{mangled.removeprefix('x_')}"

    @property
    def module(self) -> str:
        """The module's name."""
        return self.where.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a mutant makes no difference."""

    where: str
    becomes: str
    why: str

    def fits(self, mutant: Mutant) -> bool:
        """Whether it explains this mutant."""
        return (self.where, self.becomes) == (mutant.where, mutant.becomes)


def explanations(path: Path = EXPLAINED) -> tuple[Explanation, ...]:
    """Return all explanations."""
    return tuple(Explanation(**entry) for entry in tomllib.loads(path.read_text())["mutant"])


def prepare(folder: Path, modules: Iterable[str]) -> None:
    """Copy the project, so that mutmut can change it. Mutmut expects code in `src`, so `operator` has that name there."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    shutil.copytree(ROOT / "operator", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    settings: Mapping[str, list[str]] = {
        "source_paths": ["src/medplum_agent_operator"],
        "only_mutate": [f"src/{CORE}/{MODULES[name]}.py" for name in modules],
        "pytest_add_cli_args_test_selection": list(TESTS),
        "pytest_add_cli_args": ["-p", "no:xdist", "-p", "no:cacheprovider", "-o", "timeout=0"],
        "also_copy": [f"{name}/" for name in COPIED if (ROOT / name).is_dir()],
    }
    with (folder / "pyproject.toml").open("a") as file:
        file.write("\n[tool.mutmut]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))


def run(folder: Path, log: Path, *, processes: int) -> None:
    """Create and test all mutants; each survivor takes some seconds.

    Raises:
        MutationError: the tests fail without any mutant, or mutmut itself does.
    """
    with log.open("wb") as file:
        done = subprocess.run(
            [*_mutmut(), "run", "--max-children", str(processes)],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise MutationError(f"mutmut ended with exit code {done.returncode}; see {log}")


def found(folder: Path) -> list[Mutant]:
    """Return the outcome of every mutant."""
    lines = _told(folder, "results", "--all", "true").splitlines()
    pairs = [line.strip().rsplit(": ", 1) for line in lines if ": " in line]
    return [Mutant(name, outcome, _becomes(folder, name) if outcome == SURVIVED else "") for name, outcome in pairs]


def _becomes(folder: Path, name: str) -> str:
    diff = _told(folder, "show", name)
    return " ".join(line.strip() for line in re.findall(r"(?m)^\+(?!\+\+ )(.*)$", diff))


def _told(folder: Path, *arguments: str) -> str:
    done = subprocess.run([*_mutmut(), *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MutationError(f"mutmut {' '.join(arguments)}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _mutmut() -> list[str]:
    return [sys.executable, "-m", "mutmut"]
