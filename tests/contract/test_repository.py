"""The repository itself: the folder named operator shadows nothing, and the locks are what pyproject.toml asks for."""

from __future__ import annotations

import contextlib
import doctest
import json
import operator
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUNTIME = ROOT / "requirements.txt"
DEVELOPMENT = ROOT / "requirements-dev.txt"
LOCKS = [
    RUNTIME,
    DEVELOPMENT,
    ROOT / "tests" / "support" / "cluster" / "toolchain" / "requirements-go.txt",
    ROOT / "tests" / "gate" / "peers" / "requirements.txt",
]
NPM_LOCK = ROOT / "tests" / "gate" / "peers" / "package-lock.json"


LOCK_FILES = {lock.relative_to(ROOT) for lock in LOCKS}


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


def test_the_npm_lock_has_hashes_and_no_address() -> None:
    """Where each package came from, which npm adds, is the machine's business."""
    text = NPM_LOCK.read_text(encoding="utf-8")
    packages = {name: one for name, one in json.loads(text)["packages"].items() if name}
    assert [] == [name for name, one in packages.items() if not one.get("integrity", "").startswith("sha512-")]
    assert [] == re.findall(r'"resolved"|https?:', text)


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


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file in which the project speaks about itself."""
    folders = ("operator", "crds", "manifests", "docs", "tests", ".ci", ".github", ".devcontainer")
    files = [*(file for folder in folders for file in (ROOT / folder).rglob("*")), *ROOT.iterdir()]
    for file in sorted(file for file in files if file.is_file() and "__pycache__" not in file.parts):
        with contextlib.suppress(UnicodeDecodeError):
            yield file.relative_to(ROOT), file.read_text(encoding="utf-8")


def test_the_version_stands_in_pyproject_toml_alone() -> None:
    """Code asks the installed package, images get a build argument: a release changes one line.

    The changelog and measurements name the version that they are about. Locks name versions of other projects.
    """
    version = re.compile(rf"(?<![\w.]){re.escape(PYPROJECT['project']['version'])}(?![\w.])")
    copies = [
        f"{file}:{number}: {line.strip()}"
        for file, text in texts()
        if file.name not in {"CHANGELOG.md", "package-lock.json", "go.mod", "go.sum"} and file not in LOCK_FILES
        for number, line in enumerate(text.splitlines(), start=1)
        if version.search(line) and not line.startswith("Versions: ")
    ]
    assert [f'pyproject.toml:7: version = "{PYPROJECT["project"]["version"]}"'] == copies


MAKE_TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))


def steps(workflow: Path) -> list[dict[str, Any]]:
    """The steps of all jobs."""
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def named_in(command: str) -> set[str]:
    """The files of the checkout and the make targets that a shell command names and that do not exist.

    >>> sorted(named_in("make lint no-such-target PYTHON=python && .ci/run && .ci/no-such-file"))
    ['.ci/no-such-file', 'make no-such-target']
    """
    targets = {
        word
        for words in re.findall(r"\bmake ((?:[\w=-]+ ?)+)", command)
        for word in words.split()
        if "=" not in word and not word.startswith("-")
    }
    files = set(re.findall(r"(?<![\w/~.$])(?:\.ci|\.venv/bin|tests|manifests|operator)/[\w./-]+", command))
    return {f"make {word}" for word in targets - MAKE_TARGETS} | {file for file in files if not exists(file)}


def exists(file: str) -> bool:
    """Whether a file is there; for a program in .venv, whether a locked package brings it."""
    if file.startswith(".venv/bin/"):
        program = {"lint-imports": "import-linter", "python": "pytest"}.get(Path(file).name, Path(file).name)
        return canonicalize_name(program) in {pin.name for pin in pins(DEVELOPMENT)}
    return (ROOT / file).exists()


def test_examples() -> None:
    """The examples of this module hold."""
    failed, tried = doctest.testmod(sys.modules[__name__])
    assert (0, True) == (failed, tried > 0)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_is_there(workflow: Path) -> None:
    """Each job has a time limit, each action a tag, and each command names files and make targets that exist."""
    parsed = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    assert {"contents": "read"} == parsed["permissions"]
    assert all({"runs-on", "timeout-minutes", "steps"} <= job.keys() for job in parsed["jobs"].values())
    found = steps(workflow)
    assert [] == [step["uses"] for step in found if not re.fullmatch(r"[\w./-]+@v\d+", step.get("uses", "a/b@v1"))]
    assert set() == {name for step in found for name in named_in(step.get("run", ""))}
    patterns = re.findall(r"hashFiles\('([^']+)'\)", workflow.read_text(encoding="utf-8"))
    assert [] == [pattern for pattern in patterns if not list(ROOT.glob(pattern))]


def test_ci_runs_ci_run() -> None:
    """What stands behind every merge is `.ci/run`."""
    assert any(".ci/run" in step.get("run", "") for workflow in WORKFLOWS for step in steps(workflow))


def test_dependabot_looks_where_dependencies_are() -> None:
    """Each folder that pins something is watched, and each watched folder exists."""
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text(encoding="utf-8"))["updates"]
    watched = {
        (update["package-ecosystem"], folder)
        for update in updates
        for folder in update.get("directories", [update.get("directory")])
    }
    toolchain = ROOT / "tests" / "support" / "cluster" / "toolchain"
    assert watched == {
        ("pip", "/"),
        ("pip", "/tests/support/cluster/toolchain"),
        ("npm", "/tests/gate/peers"),
        ("github-actions", "/"),
        ("docker", "/"),
        ("docker", "/manifests/agent-image"),
        *(("gomod", f"/{module.parent.relative_to(ROOT)}") for module in toolchain.glob("*/go.mod")),
    }
    assert [] == [folder for _, folder in watched if not (ROOT / folder.removeprefix("/")).is_dir()]


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.y*ml")), ids=lambda path: path.name
)
def test_an_issue_form_is_one(form: Path) -> None:
    """GitHub shows a form only if it has a name, a description, and fields with ids of their own and labels."""
    parsed = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "labels", "body"} == parsed.keys()
    fields = [field for field in parsed["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"]["label"] for field in fields)


def test_a_bug_report_comes_with_what_is_needed() -> None:
    """What a maintainer would ask for first: the plan, the object, the versions."""
    form = (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yaml").read_text(encoding="utf-8")
    fields = {field.get("id"): field for field in yaml.safe_load(form)["body"]}
    for required in ("plan", "object", "versions"):
        assert fields[required]["validations"]["required"]
    assert "status.plan" in fields["plan"]["attributes"]["label"]
    assert "kubectl get mpa NAME -n NAMESPACE -o yaml" in fields["object"]["attributes"]["description"]


def test_hooks_run_the_tools_of_make_lint_and_download_nothing() -> None:
    """pre-commit has local hooks only, and they run the programs that `make lint` runs."""
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    hooks = [hook for repo in repos for hook in repo["hooks"]]
    assert {"local"} == {repo["repo"] for repo in repos}
    assert {"system"} == {hook["language"] for hook in hooks}
    assert set() == {name for hook in hooks for name in named_in(hook["entry"])}
    (lint,) = re.findall(r"^lint:.*\n\t@(.*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    programs = {command.split()[0].removeprefix("$(BIN)/") for command in lint.split(" && ")}
    assert programs == {Path(hook["entry"].split()[0]).name for hook in hooks}


def test_the_development_container_starts_by_a_make_target() -> None:
    """devcontainer.json is valid JSON and names targets that exist."""
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert set() == named_in(container["postCreateCommand"])
