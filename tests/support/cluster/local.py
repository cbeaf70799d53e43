"""The entry point of the harness: `with local_cluster() as cluster:`."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.cluster import processes
from tests.support.cluster.cluster import Cluster, wait_for
from tests.support.cluster.errors import ClusterStartError
from tests.support.cluster.kwok import HERE, PORTS, ControlPlane
from tests.support.cluster.locks import make_lockable, try_lock
from tests.support.cluster.marks import CLUSTER, require_mark
from tests.support.cluster.node import cgroups, wire
from tests.support.cluster.ports import reserve_ports
from tests.support.cluster.progress import say
from tests.support.cluster.toolchain import cache_faults, cache_folder, ensure_tools
from tests.support.cluster.toolchain.programs import CONTROL_PLANE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STAGES: Final = HERE / "stages"
NODES: Final = HERE / "nodes.yaml"
PREFIX: Final = "medplum-e2e-"
OWNER: Final = "owner.lock"
EXISTING: Final = "E2E_KUBECONFIG"


@contextmanager
def local_cluster(*, stages: Path = STAGES, flags: Mapping[str, Mapping[str, str]] | None = None) -> Iterator[Cluster]:
    """Run a real Kubernetes control plane with two simulated nodes for the block, and delete all of it at the end.

    The first use on a machine builds the programs, which takes minutes; later a cluster starts in a few seconds.
    `stages` is a folder of kwok Stages that simulate the kubelet, `flags` adds command-line flags by component. Raises
    ClusterStartError with the component that did not start.

    The cluster is torn down when the block ends, fails or is interrupted by Ctrl-C or SIGTERM. Only SIGKILL gets around
    that; what it leaves is removed at the next start. Any number of clusters run side by side.

    With the environment variable E2E_KUBECONFIG the block gets that existing cluster instead, as its current context's
    user: nothing is started or stopped, pods are real, and there is no audit log.
    """
    require_mark(CLUSTER)
    with ExitStack() as stack:
        if existing := os.environ.get(EXISTING):
            yield _existing_cluster(Path(existing), stack)
            return
        tools = ensure_tools(CONTROL_PLANE)
        stack.enter_context(interruptible())
        folder = stack.enter_context(cluster_folder())
        with cache_faults():
            ports = reserve_ports(PORTS, locks=cache_folder() / "ports", until=stack)
        plane = ControlPlane(f"e2e-{secrets.token_hex(4)}", folder, tools, ports, stages, flags or {})
        try:
            yield _start(plane)
        finally:
            with uninterrupted():
                plane.delete()


def _start(plane: ControlPlane) -> Cluster:
    plane.create()
    cluster = Cluster(
        name=plane.name,
        folder=plane.folder,
        kubeconfig=plane.kubeconfig,
        kubectl_program=plane.tools["kubectl"],
        server=f"https://127.0.0.1:{plane.ports['kubeApiserverPort']}",
        audit_log=plane.audit_log,
        simulated=True,
        plane=plane,
    )
    cluster.kubectl("apply", "--server-side", "--filename", str(NODES))

    def schedulable() -> bool:
        plane.check_components()
        # kwok makes a node ready; only then does the controller-manager take its taints off. So both are at work.
        return all(
            not node["spec"].get("taints")
            and any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
            for node in cluster.read("nodes")["items"]
        )

    try:
        wait_for(schedulable, what="both nodes ready")
    except TimeoutError as error:
        raise ClusterStartError(
            "kwok-controller", f"or kube-controller-manager is not at work ({error})", []
        ) from error
    return cluster


def _existing_cluster(kubeconfig: Path, stack: ExitStack) -> Cluster:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX)))
    found = shutil.which("kubectl")
    program = Path(found) if found else ensure_tools(["kubectl"])["kubectl"]
    cluster = Cluster("existing", folder, kubeconfig.expanduser().resolve(), program, "", None, simulated=False)
    server = cluster.kubectl("config", "view", "--minify", "--output", "jsonpath={.clusters[0].cluster.server}").stdout
    cluster.kubectl("get", "--raw", "/version")
    return Cluster("existing", folder, cluster.kubeconfig, program, server, None, simulated=False)


@contextmanager
def cluster_folder() -> Iterator[Path]:
    """A folder for one cluster, locked until this process ends. Removes what killed runs left first."""
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    lock = try_lock(make_lockable(folder / f"{OWNER}.new"))
    if lock is None:
        raise RuntimeError(f"{folder} belongs to another process")
    with lock:
        # Only now does the sweep of another process take notice of the folder.
        (folder / f"{OWNER}.new").rename(folder / OWNER)
        try:
            yield folder
        finally:
            with uninterrupted():
                shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned() -> None:
    """Remove clusters whose harness was killed: the lock in their folder is free."""
    for owner in Path(tempfile.gettempdir()).resolve().glob(f"{PREFIX}*/{OWNER}"):
        try:
            lock = try_lock(owner)
        except (FileNotFoundError, PermissionError):
            continue  # gone this moment, or another user's
        if lock is None:
            continue
        with lock:
            say(f"Removing a cluster that a killed run left in {owner.parent} …")
            remove_rest(owner.parent)
            shutil.rmtree(owner.parent, ignore_errors=True)


def remove_rest(folder: Path) -> None:
    """End the processes that a cluster left, its interface and its cgroups; namespaces and mounts go with the processes."""
    processes.end_below(folder)
    wire.cut(folder)
    cgroups.remove(folder.name)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, like Ctrl-C: every block cleans up, and pytest stops."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore a second Ctrl-C during a teardown, which takes about a second."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
