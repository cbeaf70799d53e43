"""A cluster with real nodes: `with cluster_with_nodes() as cluster:`.

The control plane is the one of kwok.py, in a network namespace of the run; each node is a set of namespaces of its own.
Everything is reached over one veth pair of this machine; nothing listens on the machine itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.cluster.cluster import Cluster, wait_for
from tests.support.cluster.errors import ClusterStartError
from tests.support.cluster.kwok import PORTS, ControlPlane
from tests.support.cluster.local import STAGES, cluster_folder, interruptible, remove_rest, uninterrupted
from tests.support.cluster.marks import NODES, require_mark
from tests.support.cluster.node import cgroups, wire
from tests.support.cluster.node.addresses import reserve_addresses
from tests.support.cluster.node.machine import REGISTRY_PORT, Machine
from tests.support.cluster.node.namespaces import link_program
from tests.support.cluster.node.needs import missing
from tests.support.cluster.toolchain import cache_faults, cache_folder, ensure_tools

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.cluster.node.addresses import Addresses
    from tests.support.cluster.node.namespaces import Namespaces
    from tests.support.cluster.toolchain import Tools

REGISTRY: Final = Path(__file__).parent / "node" / "registry.py"
FIRST_PORT: Final = 6443
NODE_SECONDS: Final = 60


@contextmanager
def cluster_with_nodes(nodes: int = 2, *, images: Sequence[Path] = (), layer_seconds: float = 0.0) -> Iterator[Cluster]:
    """Run a cluster with real nodes for the block; delete every namespace, mount, cgroup, process and file at the end.

    `images` are OCI archives. Every node gets them before it takes pods (one must hold the pause image), and a registry
    of the run serves them, with a delay of `layer_seconds` for each blob, to nodes from which a test removed an image.
    Raises ClusterStartError with the component that did not start, also if the machine cannot run
    nodes. Teardown and what a killed run leaves: as for `local_cluster`.
    """
    require_mark(NODES)
    fault = missing()
    if fault:
        raise ClusterStartError("the machine", f"cannot run real nodes: {fault}", [])
    with ExitStack() as stack:
        tools = ensure_tools()
        stack.enter_context(interruptible())
        folder = stack.enter_context(cluster_folder())
        with cache_faults():
            addresses = reserve_addresses(locks=cache_folder() / "networks", until=stack)
        run = _Run(folder, addresses, tools, nodes)
        try:
            yield run.start(images, layer_seconds)
        finally:
            with uninterrupted():
                run.end()


class _Run:
    """The parts of one run, in the order of their start."""

    def __init__(self, folder: Path, addresses: Addresses, tools: Tools, nodes: int) -> None:
        self.folder = folder
        self.addresses = addresses
        self.tools = tools
        self.wire: Namespaces | None = None
        self.registry: subprocess.Popen[bytes] | None = None
        self.plane: ControlPlane | None = None
        self.machines = [
            Machine(
                number=number,
                name=f"node-{number}",
                folder=folder / "nodes" / f"node-{number}",
                cgroup=f"{folder.name}/node-{number}",
                addresses=addresses,
                tools=tools,
            )
            for number in range(1, nodes + 1)
        ]

    def start(self, images: Sequence[Path], layer_seconds: float) -> Cluster:
        """Start everything. The caller must call `end`, even after a failure."""
        self.wire = wire.lay(self.folder, self.addresses)
        self._start_registry(self.wire, images, layer_seconds)
        self.plane = _control_plane(self.folder, self.tools, self.addresses, self.wire)
        self.plane.create()
        cluster = self._cluster(self.plane)
        cgroups.create(self.folder.name)
        for machine in self.machines:
            cgroups.create(machine.cgroup)
            machine.boot(self.wire)
            self.wire.run("ip", "route", "add", self.addresses.pods(machine.number), "via", machine.address)
        for machine in self.machines:
            for other in self.machines:
                if other is not machine:
                    machine.meet(other)
            machine.start_runtime()
        for machine in self.machines:
            for archive in images:
                machine.load_image(archive)
            machine.start_kubelet(cluster.kubeconfig, self.plane.keys / "ca.crt")
        self._wait_for_nodes(cluster)
        return cluster

    def _start_registry(self, space: Namespaces, images: Sequence[Path], layer_seconds: float) -> None:
        python = link_program(self.folder / "bin", "python", Path(sys.executable))
        command = [str(python), "-I", str(REGISTRY), self.addresses.control_plane, str(REGISTRY_PORT)]
        with (self.folder / "registry.log").open("ab") as log:
            self.registry = subprocess.Popen(
                space.command(*command, str(layer_seconds), *map(str, images)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _cluster(self, plane: ControlPlane) -> Cluster:
        server = f"https://{self.addresses.control_plane}:{plane.ports['kubeApiserverPort']}"
        kubeconfig = self.folder / "kubeconfig-by-wire"
        local = f"https://127.0.0.1:{plane.ports['kubeApiserverPort']}"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(plane.kubeconfig.read_text(encoding="utf-8").replace(local, server), encoding="utf-8")
        return Cluster(
            name=plane.name,
            folder=self.folder,
            kubeconfig=kubeconfig,
            kubectl_program=self.tools["kubectl"],
            server=server,
            audit_log=plane.audit_log,
            simulated=False,
            machines=tuple(self.machines),
            plane=plane,
        )

    def _wait_for_nodes(self, cluster: Cluster) -> None:
        def ready() -> bool:
            for machine in self.machines:
                machine.check()
            nodes = cluster.read("nodes")["items"]
            return len(nodes) == len(self.machines) and all(
                not node["spec"].get("taints")
                and any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
                for node in nodes
            )

        try:
            wait_for(ready, what="all nodes ready", seconds=NODE_SECONDS)
        except TimeoutError as error:
            first = self.machines[0]
            said = json.dumps([node["status"].get("conditions") for node in cluster.read("nodes")["items"]])
            raise ClusterStartError("kubelet", f"is not ready ({error}): {said}", first.log("kubelet")) from error

    def end(self) -> None:
        """Stop everything, even after a partial start."""
        for machine in self.machines:
            machine.end()
        if self.registry is not None:
            self.registry.kill()
            self.registry.wait()
        if self.plane is not None:
            self.plane.delete()
        if self.wire is not None:
            self.wire.end()
        remove_rest(self.folder)


def _control_plane(folder: Path, tools: Tools, addresses: Addresses, space: Namespaces) -> ControlPlane:
    ports = {name: FIRST_PORT + number for number, name in enumerate(PORTS)}
    plane = ControlPlane(
        f"e2e-{folder.name[-8:]}",
        folder,
        tools,
        ports,
        STAGES,
        within=tuple(space.command()),
        address=addresses.control_plane,
        further_names=(addresses.first_service, "kubernetes.default.svc"),
    )
    admin = {"kubelet-client-certificate": plane.keys / "admin.crt", "kubelet-client-key": plane.keys / "admin.key"}
    flags = {
        "kube-apiserver": {
            "advertise-address": addresses.control_plane,
            "bind-address": "0.0.0.0",  # noqa: S104 - all addresses of a namespace that holds nothing else
            "service-cluster-ip-range": addresses.services,
            "kubelet-preferred-address-types": "InternalIP",
            **{name: str(path) for name, path in admin.items()},
        },
        # Kubernetes' own defaults: kwok lengthens them for nodes that it plays.
        "kube-controller-manager": {"node-monitor-period": "5s", "node-monitor-grace-period": "50s"},
        "kwok-controller": {
            "manage-all-nodes": "false",
            "manage-nodes-with-annotation-selector": "kwok.x-k8s.io/node=fake",
        },
    }
    return replace(plane, flags=flags)
