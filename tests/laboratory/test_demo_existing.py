"""The demo on an existing cluster: what it needs there. No test here needs a cluster."""

from __future__ import annotations

import shlex
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cluster.images.catalogue import RECIPES, FromDockerfile
from tests.support.operator_process import ROOT
from tests.support.real_nodes.clinic import SERVER_IMAGE, TRAFFIC_IMAGE
from tests.tools.demo import existing
from tests.tools.demo.__main__ import main
from tests.tools.demo.existing import IMAGES, absent_images, instructions, working
from tests.tools.demo.terminal import screen

if TYPE_CHECKING:
    from pathlib import Path


def node(*images: str, taint: str | None = None) -> dict[str, Any]:
    """A node that reports these images."""
    return {
        "spec": {"taints": [{"key": "a", "effect": taint}]} if taint else {},
        "status": {"images": [{"names": [image]} for image in images]},
    }


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node(*IMAGES)], []),
        ([node(*IMAGES), node(*IMAGES)], []),
        ([node(*IMAGES), node(*list(IMAGES)[1:])], list(IMAGES)[:1]),
        ([node()], list(IMAGES)),
        ([node(*(f"other:{number}" for number in range(50)))], []),
    ],
    ids=["all there", "on both nodes", "one is missing on one node", "none", "a node that reports no more"],
)
def test_images_that_a_node_lacks(nodes: list[dict[str, Any]], expected: list[str]) -> None:
    """Each image must be on each node; a node that reports fifty images may have more."""
    assert expected == absent_images(nodes)


def test_nodes_that_take_no_pods_need_no_image() -> None:
    """Such as a control plane."""
    worker = node()
    assert [worker] == working([node(taint="NoSchedule"), worker])
    assert [node(taint="PreferNoSchedule")] == working([node(taint="PreferNoSchedule")])


def test_the_images_are_those_of_the_clinic() -> None:
    """The commands build what the clinic asks for, under the names of the catalogue."""
    known = {name for recipe in RECIPES.values() for name in getattr(recipe, "references", ())}
    assert set(IMAGES) <= known
    assert {SERVER_IMAGE, TRAFFIC_IMAGE} <= set(IMAGES)


@pytest.mark.parametrize("command", [existing.BASE_COMMAND, *IMAGES.values()])
def test_a_build_command_names_what_is_there(command: str) -> None:
    """Its Dockerfile and context exist, and the Dockerfile has every build argument and the target."""
    words = shlex.split(command)
    assert ["docker", "build"] == words[:2]
    context = ROOT / words[-1]
    dockerfile = ROOT / words[words.index("-f") + 1] if "-f" in words else context / "Dockerfile"
    text = dockerfile.read_text(encoding="utf-8")
    arguments = [words[place + 1].partition("=")[0] for place, word in enumerate(words) if word == "--build-arg"]
    assert [] == [name for name in arguments if f"ARG {name}" not in text]
    assert "--target" not in words or f"AS {words[words.index('--target') + 1]}" in text
    assert {str(dockerfile)} <= {str(r.build.dockerfile) for r in RECIPES.values() if isinstance(r, FromDockerfile)}


def test_the_instructions_can_be_pasted() -> None:
    """They build the stand-ins' base only if a stand-in is missing, and load every missing image."""
    server = instructions([SERVER_IMAGE]).splitlines()
    assert f"  {existing.BASE_COMMAND}" in server
    assert f"  kind load docker-image {SERVER_IMAGE}" in server
    assert existing.BASE_COMMAND not in instructions([TRAFFIC_IMAGE])


def test_without_kubectl_the_demo_says_so_and_builds_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On an existing cluster nothing is built, kubectl included."""
    shown = StringIO()
    monkeypatch.setenv("E2E_KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tests.tools.demo.__main__.screen", lambda: screen(shown))
    assert main([]) == 1
    assert "✗ kubectl is not on PATH." in shown.getvalue()
