"""One real node: containerd, kubelet and kube-proxy in namespaces of their own, as a machine of the cluster.

Made by tests/support/cluster/real.py. All programs use their built-in folders; the node's mount namespace shows folders of the
cluster's own there.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import yaml

from tests.support.cluster.errors import ClusterStartError
from tests.support.cluster.node import settings
from tests.support.cluster.node.namespaces import Namespaces, hold, link_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.cluster.node.addresses import Addresses
    from tests.support.cluster.toolchain import Tools

NODE_PROGRAMS: Final = ("containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy")
PLUGINS: Final = ("bridge", "loopback", "host-local", "portmap")
SYSTEM_PROGRAMS: Final = ("runc",)
PRIVATE: Final = ("/run", "/var/lib", "/var/log", "/opt")
"""Folders in which the programs have their built-in places; a node sees its own."""
REGISTRY_PORT: Final = 5000
START_SECONDS: Final = 30.0
LOG_LINES: Final = 30


@dataclass(slots=True)
class Machine:
    """One node. `number` counts from 1 and decides its addresses."""

    number: int
    name: str
    folder: Path
    cgroup: str
    addresses: Addresses
    tools: Tools
    namespaces: Namespaces | None = None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The node's address."""
        return self.addresses.node(self.number)

    # Starting.

    def boot(self, wire: Namespaces) -> None:
        """Make the node's namespaces and connect them to the run's wire."""
        folders = [f"{place}={self.folder / place.strip('/').replace('/', '-')}" for place in PRIVATE]
        self.folder.mkdir(parents=True)
        self.namespaces = hold(
            ("mount", "pid", "net"), bin_folder=self.folder / "bin", arguments=(str(self.folder), *folders)
        )
        port = f"node{self.number}"
        # Both ends are made in the wire's namespace: no name of ours ever shows up on the machine.
        wire.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(self.namespaces.pid))
        wire.run("ip", "link", "set", port, "master", "lan", "up")
        for command in (
            "ip link set lo up",
            f"ip address add {self.address}/24 dev eth0",
            "ip link set eth0 up",
            f"ip route add default via {self.addresses.control_plane}",
            "sysctl -qw net.ipv4.ip_forward=1",
            # A sender that opens many connections meets its old source ports again; conntrack must have forgotten them, above all
            # those of attempts to connect to a pod that was gone: with its 120 s later ones with the same port would go there too.
            "sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_time_wait=5",
            "sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_syn_sent=5",
        ):
            self.run(*command.split())

    def meet(self, other: Machine) -> None:
        """Add the route to another node's pods."""
        self.run("ip", "route", "add", self.addresses.pods(other.number), "via", other.address)

    def start_runtime(self) -> None:
        """Start containerd and wait until it answers."""
        for name in NODE_PROGRAMS:
            link_program(self.folder / "bin", name, self.tools[name])
        for name in SYSTEM_PROGRAMS:
            link_program(self.folder / "bin", name)
        for name in PLUGINS:
            link_program(self.folder / "cni", name, self.tools[name])
        self._write("containerd.toml", settings.containerd(self.folder))
        (self.folder / "registries" / settings.REGISTRY).mkdir(parents=True)
        hosts = settings.registry_hosts(f"http://{self.addresses.control_plane}:{REGISTRY_PORT}")
        self._write(f"registries/{settings.REGISTRY}/hosts.toml", hosts)
        (self.folder / "net.d").mkdir()
        self._write("net.d/10-pods.conflist", json.dumps(settings.pod_network(self.addresses.pods(self.number))))
        self._start("containerd", "--config", str(self.folder / "containerd.toml"))
        self._wait_until_ctr_answers()

    def start_kubelet(self, kubeconfig: Path, client_ca: Path) -> None:
        """Start kubelet and kube-proxy. Load the images of the first pods before."""
        (self.folder / "resolv.conf").touch()
        kubelet = settings.kubelet(cgroup=self.cgroup, client_ca=client_ca, folder=self.folder)
        self._write("kubelet.yaml", yaml.safe_dump(kubelet))
        self._start(
            "kubelet",
            f"--config={self.folder / 'kubelet.yaml'}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
            "--v=1",
        )
        proxy = settings.kube_proxy(kubeconfig=kubeconfig, node=self.name)
        self._write("kube-proxy.yaml", yaml.safe_dump(proxy))
        self._start("kube-proxy", f"--config={self.folder / 'kube-proxy.yaml'}")

    def check(self) -> None:
        """Raise ClusterStartError for a program that has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise ClusterStartError(
                    name, f"of {self.name} ended with exit code {process.returncode}", self.log(name)
                )

    # Using.

    def run(self, *command: str) -> str:
        """Run a command in the node's namespaces; raise RuntimeError with its output if it fails."""
        return self._inside().run(*command)

    def command(self, *command: str) -> list[str]:
        """Return the command line that runs a command in the node's namespaces."""
        return self._inside().command(*command)

    def ctr(self, *arguments: str) -> str:
        """Run `ctr` on the node."""
        return self.run(str(self.folder / "bin" / "ctr"), "--namespace", "k8s.io", *arguments)

    def load_image(self, archive: Path) -> None:
        """Import an OCI archive."""
        self.ctr("images", "import", "--local", str(archive))

    def remove_image(self, reference: str) -> None:
        """Remove an image and its unshared content, so that the next pod must pull it."""
        rows = [line.split() for line in self.ctr("images", "ls").splitlines()[1:]]
        digests = {row[2] for row in rows if row[0] == reference}
        names = [row[0] for row in rows if row[2] in digests]
        if names:
            self.ctr("images", "rm", "--sync", *names)

    def log(self, name: str) -> list[str]:
        """The last lines of a program's log."""
        file = self.folder / f"{name}.log"
        return file.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:] if file.is_file() else []

    # Ending.

    def end(self) -> None:
        """Kill the node and everything on it at once, like a power failure."""
        if self.namespaces is not None:
            self.namespaces.end()
            self.namespaces = None
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.processes.clear()

    # Inside.

    def _inside(self) -> Namespaces:
        if self.namespaces is None:
            raise RuntimeError(f"{self.name} is not running")
        return self.namespaces

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def _start(self, name: str, *arguments: str) -> None:
        path = f"{self.folder / 'bin'}:{os.environ.get('PATH', os.defpath)}"
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.command(str(self.folder / "bin" / name), *arguments),
                env={"PATH": path, "HOME": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_until_ctr_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.check()
            try:
                self.ctr("version")
            except RuntimeError as fault:
                if time.monotonic() > deadline:
                    raise ClusterStartError("containerd", f"of {self.name} does not answer: {fault}", []) from fault
                time.sleep(0.05)
            else:
                return
