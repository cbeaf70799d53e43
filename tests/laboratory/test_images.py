"""The images themselves: what the operator's image is and does, and the recipe for an agent's."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster.images import ImageError, image
from tests.support.cluster.images.build import make
from tests.support.cluster.images.buildah import Build, Buildah
from tests.support.cluster.images.catalogue import OPERATOR, ROOT, FromDockerfile
from tests.support.cluster.images.oci import Layout, file_digest
from tests.support.cluster.images.packages import IMAGE_PROGRAMS, what_is_missing
from tests.support.cluster.toolchain.build import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

FAULT = what_is_missing(IMAGE_PROGRAMS)
pytestmark = [
    pytest.mark.nodes,
    pytest.mark.skipif(FAULT is not None, reason=f"images cannot be built: {FAULT}"),
    pytest.mark.timeout(1200),
    pytest.mark.xdist_group("images"),
]

RECIPE = ROOT / "manifests" / "agent-image" / "Dockerfile"
ASSET = f"medplum-agent-5.1.15-linux-{'arm64' if platform.machine() == 'aarch64' else 'x64'}"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def workplace() -> Iterator[Path]:
    """A folder beside the cache, not in /tmp, which may be in memory: unpacked images are large."""
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        yield Path(folder)


def test_the_operator_s_image(workplace: Path) -> None:
    """It runs as a number and not as root, starts the program without a shell, and says what it is."""
    built = image("operator")
    layout = Layout.unpack(built.archive, workplace)
    config = layout.config(built.reference)["config"]
    assert "65532:65532" == config["User"]
    assert ["/opt/operator/bin/medplum-agent-operator"] == config["Entrypoint"]
    assert not config.get("Cmd")
    assert "HOME=/" in config["Env"], "the Kubernetes client does not start without a home"
    assert {
        "org.opencontainers.image.title": PROJECT["name"],
        "org.opencontainers.image.description": "Kubernetes operator for the Medplum Agent",
        "org.opencontainers.image.licenses": PROJECT["license"],
        "org.opencontainers.image.version": PROJECT["version"],
        "org.opencontainers.image.base.name": image("base").reference,
    }.items() <= config["Labels"].items()
    _base, ours = layout.layers(built.reference)
    listing = subprocess.run(["tar", "--list", "--file", ours], capture_output=True, text=True, check=True).stdout
    names = listing.splitlines()
    assert [] == [name for name in names if not name.startswith("opt/")]
    assert [] == [name for name in names if "/site-packages/pip/" in name or "/__pycache__/" in name]
    assert 150e6 > ours.stat().st_size


def test_the_operator_s_program_runs_in_its_image(workplace: Path) -> None:
    """As the image's own user, from modules that were compiled when it was built."""
    built = image("operator")
    buildah = Buildah(workplace, pip_cache=workplace / "pip")
    buildah.load(built.archive, built.reference)
    assert f"{PROJECT['version']}\n" in buildah.run(
        built.reference, "/opt/operator/bin/medplum-agent-operator", "--version"
    )
    question = (
        "import os, sys, medplum_agent_operator.__main__ as m; "
        "files = [x.__cached__ for x in list(sys.modules.values()) if getattr(x, '__cached__', None)]; "
        "print(os.getuid(), [f for f in files if not os.path.isfile(f)])"
    )
    assert "65532 []\n" == buildah.run(built.reference, "/opt/operator/bin/python3", "-c", question)


def test_building_the_operator_s_image_twice_gives_the_same(workplace: Path) -> None:
    """The same sources on the same base give the same image, bit for bit."""
    built = image("operator")
    first = Layout.unpack(built.archive, workplace / "first")
    (workplace / "second").mkdir()
    second = make(OPERATOR, workplace / "second", base=image("base"))
    assert first.manifest(built.reference) == second.manifest(built.reference)


def agent_image(folder: Path, *, checksum: str | None = None) -> FromDockerfile:
    """The recipe for an agent's image, with a program beside it as upstream names it."""
    context = folder / "context"
    context.mkdir()
    for file in RECIPE.parent.iterdir():
        shutil.copy(file, context)
    program = context / ASSET
    program.write_text('#!/bin/sh\necho "an agent for $(id -u)"\n', encoding="utf-8")
    arguments = {"VERSION": "5.1.15", "SHA256": checksum or file_digest(program)}
    build = Build(context / "Dockerfile", context, arguments)
    return FromDockerfile("registry.test/medplum-agent:5.1.15", build, [context], base_argument="BASE_IMAGE")


def test_an_agent_s_image_from_the_recipe(workplace: Path) -> None:
    """The program stands where the operator starts it, runs as upstream's user, and what the pod needs is there."""
    recipe = agent_image(workplace)
    layout = make(recipe, workplace, base=image("base"))
    config = layout.config(recipe.reference)["config"]
    assert ("5678:5678", ["/srv/medplum-agent"]) == (config["User"], config["Entrypoint"])
    assert "5.1.15" == config["Labels"]["org.opencontainers.image.version"]
    buildah = Buildah(workplace / "buildah", pip_cache=workplace / "pip")
    assert "an agent for 5678\n" == buildah.run(recipe.reference, "/srv/medplum-agent")
    tools = "for each in sh rm ln sleep; do command -v $each || exit 1; done; timeout 0.1 sleep infinity; echo $?"
    assert buildah.run(recipe.reference, "sh", "-c", tools).endswith("124\n")


def test_a_program_with_another_checksum_makes_no_image(workplace: Path) -> None:
    """The build stops with a sentence that shows the checksum that came."""
    recipe = agent_image(workplace, checksum="0" * 64)
    came = file_digest(workplace / "context" / ASSET)
    with pytest.raises(ImageError, match=f"{ASSET} is not what SHA256 says: {came}"):
        make(recipe, workplace, base=image("base"))
