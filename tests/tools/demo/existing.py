"""The demo on the cluster that E2E_KUBECONFIG names, such as kind or k3d: real pods and traffic, nothing is built.

Opened by `run`. It refuses a cluster that has the operator already, never changes the user's kubeconfig, and deletes what it made.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tests.support.cluster import local_cluster, wait_for
from tests.support.cluster.images.catalogue import (
    AGENT,
    DOUBLES_BASE,
    MEDPLUM_SERVER,
    OPERATOR,
    ROOT,
    TRAFFIC_GENERATOR,
)
from tests.support.cluster.images.catalogue import VERSION as OPERATOR_VERSION
from tests.support.cluster.local import EXISTING
from tests.support.operator_process import NAMESPACE as OPERATOR_NAMESPACE
from tests.support.real_nodes.clinic import REPOSITORY, Clinic
from tests.support.real_nodes.operator_pod import install_operator, uninstall_operator
from tests.support.recorder import Recorder
from tests.tools.demo.faults import StepFailedError
from tests.tools.demo.real import RealPods
from tests.tools.demo.stage import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.cluster import Cluster
    from tests.support.cluster.images.catalogue import FromDockerfile
    from tests.tools.demo.terminal import Terminal

ABOUT: Final = (
    f"The cluster is the one that {EXISTING} names. The operator runs there as a pod, with the rights of its own ServiceAccount. "
    "Stand-ins (docs/internals/stand-ins.md) run in pods: the Medplum Agent, the Medplum server, and devices that send HL7 messages "
    "all the time."
)
PYTHON_IMAGE: Final = "docker.io/library/python:3.12-slim"
AGENT_VERSIONS: Final = ("4.2.3", "5.1.14", "5.1.15")
"""Those that the story installs."""
REPORT_SECONDS: Final = 60.0
"""A kubelet reports a loaded image after up to 40 s."""
MOST_REPORTED: Final = 50
"""A kubelet reports at most this many images (nodeStatusMaxImages)."""


def _build(recipe: FromDockerfile, reference: str, **arguments: str) -> str:
    """Return the `docker build` command, to be run at the root of the checkout."""

    def path(of: Path) -> str:
        return str(of.relative_to(ROOT)) if of != ROOT else "."

    target = ["--target", recipe.build.target] if recipe.build.target else []
    given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    context, dockerfile = recipe.build.context, recipe.build.dockerfile
    file = [] if dockerfile == context / "Dockerfile" else ["-f", path(dockerfile)]
    return " ".join(["docker build", *file, *target, *given, "-t", reference, path(context)])


BASE_COMMAND: Final = _build(DOUBLES_BASE, DOUBLES_BASE.reference, PYTHON_IMAGE=PYTHON_IMAGE)
"""Builds what agent and server stand on; that image itself is not loaded."""
IMAGES: Final[dict[str, str]] = {
    OPERATOR.reference: _build(OPERATOR, OPERATOR.reference, VERSION=OPERATOR_VERSION),
    **{
        f"{REPOSITORY}:{version}": _build(
            AGENT, f"{REPOSITORY}:{version}", BASE=DOUBLES_BASE.reference, AGENT_VERSION=version
        )
        for version in AGENT_VERSIONS
    },
    MEDPLUM_SERVER.reference: _build(MEDPLUM_SERVER, MEDPLUM_SERVER.reference, BASE=DOUBLES_BASE.reference),
    TRAFFIC_GENERATOR.reference: _build(TRAFFIC_GENERATOR, TRAFFIC_GENERATOR.reference, BASE=PYTHON_IMAGE),
}
"""The images that the demo needs on each node, with the command that builds each."""


def instructions(images: Sequence[str]) -> str:
    """Return the commands that build these images and load them, ready to paste."""
    commands = [IMAGES[image] for image in images]
    if any(f"BASE={DOUBLES_BASE.reference}" in command for command in commands):
        commands.insert(0, BASE_COMMAND)
    names = " ".join(images)
    return "\n".join(
        [
            "The demo needs these images on each node, and the nodes do not report them yet:",
            *(f"  {image}" for image in images),
            "Build them at the root of the checkout:",
            *(f"  {command}" for command in commands),
            "Load them, with kind or with k3d:",
            f"  kind load docker-image {names}",
            f"  k3d image import {names}",
        ]
    )


def absent_images(nodes: Sequence[dict[str, Any]]) -> list[str]:
    """Return the needed images that a node lacks. A node that reports MOST_REPORTED images may have more, and counts as complete."""
    absent = []
    for image in IMAGES:
        for node in nodes:
            reported = node["status"].get("images", [])
            if len(reported) < MOST_REPORTED and image not in {
                name for one in reported for name in one.get("names") or ()
            }:
                absent.append(image)
                break
    return absent


def working(nodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the nodes that ordinary pods may run on."""
    return [
        node
        for node in nodes
        if not any(taint["effect"] in {"NoSchedule", "NoExecute"} for taint in node["spec"].get("taints", ()))
    ]


@contextmanager
def existing_cluster(terminal: Terminal) -> Iterator[RealPods]:
    """Install the operator on that cluster for the block; then delete it and everything that the demo made.

    Raises:
        StepFailedError: kubectl is missing, the cluster has the operator already, or a node lacks an image.
    """
    if not shutil.which("kubectl"):
        raise StepFailedError(f"kubectl is not on PATH. The demo needs it to use the cluster that {EXISTING} names.")
    with local_cluster() as found, ExitStack() as stack:
        cluster = _with_own_kubeconfig(found)
        terminal.say(f"Using the cluster at {cluster.server}.", style="dim")
        _refuse_a_used_cluster(cluster)
        _wait_for_images(cluster, terminal)
        stack.callback(uninstall_operator, cluster)
        install_operator(cluster, image=OPERATOR.reference, agent_repository=REPOSITORY)
        stack.callback(_delete_namespace, cluster)
        clinic = Clinic(cluster, NAMESPACE, cluster.folder, Recorder())
        yield RealPods(cluster, clinic, None, stack)


def _with_own_kubeconfig(cluster: Cluster) -> Cluster:
    """Copy the current context: the story changes its namespace, and the user's file must stay as it is."""
    copied = cluster.folder / "kubeconfig"
    copied.touch(mode=0o600)
    copied.write_text(cluster.kubectl("config", "view", "--raw", "--minify", "--flatten").stdout, encoding="utf-8")
    return replace(cluster, kubeconfig=copied)


def _refuse_a_used_cluster(cluster: Cluster) -> None:
    """The demo installs its own operator: it must never replace, or delete, one that people use."""
    wanted = ("crd/medplumagents.agents.medplum.com", f"namespace/{OPERATOR_NAMESPACE}", f"namespace/{NAMESPACE}")
    found = cluster.kubectl("get", *wanted, "--ignore-not-found", "-o", "name").stdout.split()
    if found:
        raise StepFailedError(
            f"The cluster has {', '.join(found)} already. The demo installs and deletes its own operator, "
            "so it needs a cluster without one."
        )


def _wait_for_images(cluster: Cluster, terminal: Terminal) -> None:
    def absent() -> list[str]:
        return absent_images(working(cluster.read("nodes")["items"]))

    first = absent()
    if not first:
        return
    terminal.say(instructions(first), style="bold")
    with terminal.waiting(f"waiting {REPORT_SECONDS:.0f} s for the nodes to report the images"):
        try:
            wait_for(lambda: not absent(), what="all nodes report the images", seconds=REPORT_SECONDS)
        except TimeoutError as error:
            raise StepFailedError(
                f"Not on every node: {', '.join(absent())}. Load them as shown above, and run the demo again."
            ) from error


def _delete_namespace(cluster: Cluster) -> None:
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=100s", check=False)
