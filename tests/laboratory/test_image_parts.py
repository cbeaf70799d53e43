"""The parts of the image builder that need neither root nor buildah: layouts, keys, and the way to the package index."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster.images import catalogue, packages, pip, rootfs
from tests.support.cluster.images.buildah import Build
from tests.support.cluster.images.catalogue import FromDockerfile, FromLayer
from tests.support.cluster.images.oci import Layout

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A layout with one image of one layer."""
    layer = tmp_path / "layer.tar"
    layer.write_bytes(b"a layer")
    made = Layout.create(tmp_path / "layout")
    made.add("registry.test/one:1", layers=[layer], config={"Env": ["PATH=/bin", "COLOUR=red"], "User": "1:1"})
    return made


def test_a_variant_has_the_same_layers_and_its_own_variables(layout: Layout) -> None:
    """The versions of a double cost a configuration each; a variable of that name is replaced, the others stay."""
    layout.vary("registry.test/one:1", "registry.test/one:2", {"COLOUR": "blue"})
    assert ["registry.test/one:1", "registry.test/one:2"] == layout.references()
    assert layout.layers("registry.test/one:1") == layout.layers("registry.test/one:2")
    assert ["PATH=/bin", "COLOUR=red"] == layout.config("registry.test/one:1")["config"]["Env"]
    assert {"Env": ["PATH=/bin", "COLOUR=blue"], "User": "1:1"} == layout.config("registry.test/one:2")["config"]


def test_an_archive_holds_the_images_and_is_the_same_each_time(layout: Layout, tmp_path: Path) -> None:
    """Nothing but content decides what is in an archive, and it opens again as what it was."""
    layout.archive(tmp_path / "first.tar")
    layout.archive(tmp_path / "second.tar")
    assert (tmp_path / "first.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()
    opened = Layout.unpack(tmp_path / "first.tar", tmp_path / "opened")
    assert layout.manifest("registry.test/one:1") == opened.manifest("registry.test/one:1")
    assert b"a layer" == opened.layers("registry.test/one:1")[0].read_bytes()


def test_containerd_and_buildah_each_find_the_name_that_they_look_for(layout: Layout, tmp_path: Path) -> None:
    """Two annotations carry the full reference, as the two programs read different ones."""
    (entry,) = json.loads((tmp_path / "layout" / "index.json").read_bytes())["manifests"]
    assert {
        "org.opencontainers.image.ref.name": "registry.test/one:1",
        "io.containerd.image.name": "registry.test/one:1",
    } == entry["annotations"]
    with pytest.raises(KeyError):
        layout.manifest("registry.test/none:1")


def test_the_key_changes_with_every_input_and_with_nothing_else(tmp_path: Path) -> None:
    """An edit of an input builds the image again; what Python leaves behind does not."""
    (tmp_path / "Dockerfile").write_text("FROM scratch", encoding="utf-8")
    (tmp_path / "code" / "__pycache__").mkdir(parents=True)
    (tmp_path / "code" / "one.py").write_text("1", encoding="utf-8")

    def key(arguments: dict[str, str] | None = None, variants: dict[str, dict[str, str]] | None = None) -> str:
        build = Build(tmp_path / "Dockerfile", tmp_path, arguments or {})
        recipe = FromDockerfile("registry.test/x:1", build, [tmp_path / "code"], variants=variants or {})
        return catalogue.key(recipe)

    before = key()
    (tmp_path / "code" / "__pycache__" / "one.pyc").write_bytes(b"x")
    assert before == key()
    keys = [before, key({"A": "1"}), key(variants={"registry.test/x:2": {"A": "1"}})]
    (tmp_path / "code" / "one.py").write_text("2", encoding="utf-8")
    keys.append(key())
    (tmp_path / "code" / "two.py").touch()
    keys.append(key())
    (tmp_path / "Dockerfile").write_text("FROM other", encoding="utf-8")
    keys.append(key())
    assert len(keys) == len(set(keys))


def test_a_layer_s_key_changes_with_what_decides_it() -> None:
    """Another package in the base makes another base."""
    first = FromLayer("registry.test/x:1", rootfs.write_pause, config={}, decided_by=lambda: "python3")
    second = replace(first, decided_by=lambda: "python3 perl")
    assert catalogue.key(first) != catalogue.key(second)


def test_variables_of_pip_count_more_than_its_files() -> None:
    """As with pip itself; what names a path of this machine is left out, as it means nothing in a build."""
    assert 0 == doctest.testmod(pip).failed
    files = ["[global]\nindex-url = https://one.test/simple\ncert = /etc/ssl/x.pem", "[global]\ntimeout = 5"]
    assert (
        "[global]\nindex-url = https://two.test/simple\ncert = /etc/ssl/x.pem\ntimeout = 5\ncache-dir = /var/cache/pip\n"
    ) == pip.merged(files, {"PIP_INDEX_URL": "https://two.test/simple", "PIP_FIND_LINKS": "/wheels"})


def test_a_missing_program_is_named_by_its_package() -> None:
    """The sentence says what to install and how; `.ci/packages` installs every package that it may name."""
    said = packages.what_is_missing({"no-such-program": "no-such-package"})
    assert said is not None
    assert said.startswith("not installed: no-such-package (`make node-packages`")
    assert set() == set(packages.IMAGE_PROGRAMS.values()) - set(packages.listed())
