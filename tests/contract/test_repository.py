"""The repository itself: the folder named operator shadows nothing, and the locks are what pyproject.toml asks for."""

from __future__ import annotations

import operator
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUNTIME = ROOT / "requirements.txt"
DEVELOPMENT = ROOT / "requirements-dev.txt"
LOCKS = [RUNTIME, DEVELOPMENT, ROOT / "tests" / "support" / "cluster" / "toolchain" / "requirements-go.txt"]


@dataclass(frozen=True, slots=True)
class Pin:
    """One entry of a lock."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


def pins(lock: Path) -> list[Pin]:
    """The entries of a lock; a package may have one for each kind of machine."""
    lines = [line for line in lock.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = []
    for entry in "\n".join(lines).replace("\\\n", " ").splitlines():
        what, *options = re.split(r"\s+--hash=", entry.strip())
        if what:
            required = Requirement(what)
            (exactly,) = required.specifier
            assert "==" == exactly.operator, f"{what} in {lock.name} is not pinned to one version"
            marker = str(required.marker or "")
            found.append(Pin(canonicalize_name(required.name), exactly.version, marker, tuple(options)))
    return found


def run_at_the_root(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, started in the repository's root as users do, with nothing of ours on its path."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=clean, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_folder_operator_holds_packages_only() -> None:
    """A file in `operator/`, be it `__init__.py`, would make it a module and hide the standard library's."""
    assert [] == [path.name for path in (ROOT / "operator").iterdir() if path.is_file()]
    assert ["medplum_agent_operator"] == [path.parent.name for path in (ROOT / "operator").glob("*/__init__.py")]


def test_python_s_own_operator_module_is_found_from_the_root() -> None:
    """`import operator` gives the standard library's, in an interpreter that is started where the folder is."""
    answer = run_at_the_root("-c", "import operator; operator.itemgetter; print(operator.__file__)")
    assert (0, "") == (answer.returncode, answer.stderr)
    assert operator.__file__ == answer.stdout.strip()


@pytest.mark.parametrize("module", ["kopf", "pytest", "medplum_agent_operator"])
def test_modules_start_from_the_root(module: str) -> None:
    """`python -m …` puts the root first on the path; what imports `operator` on its way must not stumble over the folder."""
    answer = run_at_the_root("-m", module, "--version")
    assert (0, "") == (answer.returncode, answer.stderr)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_pin_has_hashes(lock: Path) -> None:
    """Plain pip installs a lock with --require-hashes: each entry carries SHA-256 sums."""
    found = pins(lock)
    assert found, f"{lock.name} pins nothing"
    assert [] == [pin.name for pin in found if not pin.hashes]
    assert [] == [each for pin in found for each in pin.hashes if not re.fullmatch(r"sha256:[0-9a-f]{64}", each)]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_no_address_in_a_lock(lock: Path) -> None:
    """Where packages come from is the machine's business: no line of a lock names an address or an index."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    assert [] == [
        line for line in lines if re.search(r"https?:|file:|git\+| @ |--(extra-)?index-url|--find-links", line)
    ]


@pytest.mark.parametrize(
    ("lock", "declared"),
    [
        (RUNTIME, PYPROJECT["project"]["dependencies"]),
        (
            DEVELOPMENT,
            [
                *PYPROJECT["project"]["dependencies"],
                *PYPROJECT["dependency-groups"]["dev"],
                *PYPROJECT["build-system"]["requires"],
            ],
        ),
    ],
    ids=["runtime", "development"],
)
def test_locks_fit_the_declared_dependencies(lock: Path, declared: list[str]) -> None:
    """Everything that pyproject.toml asks for is pinned, to a version that it allows. If not: `make lock`."""
    pinned = pins(lock)
    for text in declared:
        required = Requirement(text)
        versions = [pin.version for pin in pinned if pin.name == canonicalize_name(required.name)]
        assert versions, f"{required.name} is not in {lock.name}; run `make lock`"
        unfit = [version for version in versions if not required.specifier.contains(version, prereleases=True)]
        assert [] == unfit, f"{text}; run `make lock`"


def test_development_runs_on_what_is_shipped() -> None:
    """The development lock holds every entry of the runtime lock unchanged: tests run on the versions that users get."""
    assert set() == set(pins(RUNTIME)) - set(pins(DEVELOPMENT))


def test_uv_lock_stays_out_of_git() -> None:
    """A uv.lock holds download addresses, so it is ignored."""
    assert "uv.lock" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_ci_runs_lint_and_then_the_readme_s_test_command() -> None:
    """CI does what a contributor does, and nothing that only CI could do."""
    script = ROOT / ".ci" / "run"
    commands = [line for line in script.read_text(encoding="utf-8").splitlines() if line.startswith("make ")]
    assert ["make lint", "make test"] == commands
    assert os.access(script, os.X_OK)
