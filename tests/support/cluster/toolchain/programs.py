"""The programs of the local cluster: where each comes from and roughly how long its build takes.

The versions stand in go.mod beside this file, one module for each project; nothing here names one.
"""

from __future__ import annotations

import hashlib
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
GO_REQUIREMENTS: Final = HERE / "requirements-go.txt"

GO_FLAGS: Final = ("-mod=readonly", "-modcacherw", "-trimpath", "-buildvcs=false")
"""-modcacherw lets `rm -rf` remove the cache folder; the others make a build depend on nothing but the pins."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program to build: its module is a folder beside this file, its package a path that go.mod lists as a tool."""

    name: str
    module: str
    package: str
    seconds: float
    """A cold build on two cores, after the programs before it in the list (they share much)."""
    node: bool = False
    """Whether only a real node needs it."""


_CONTAINERD: Final = "github.com/containerd/containerd/v2/cmd"
_CNI: Final = "github.com/containernetworking/plugins/plugins"

PROGRAMS: Final = (
    Program("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", 241),
    Program("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", 85),
    Program("kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", 9),
    Program("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl", 20),
    Program("etcd", "etcd", "go.etcd.io/etcd/server/v3", 5),
    Program("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok", 61),
    Program("kwokctl", "kwok", "sigs.k8s.io/kwok/cmd/kwokctl", 9),
    Program("kubelet", "kubernetes", "k8s.io/kubernetes/cmd/kubelet", 21, node=True),
    Program("kube-proxy", "kubernetes", "k8s.io/kubernetes/cmd/kube-proxy", 9, node=True),
    Program("containerd", "containerd", f"{_CONTAINERD}/containerd", 45, node=True),
    Program("containerd-shim-runc-v2", "containerd", f"{_CONTAINERD}/containerd-shim-runc-v2", 3, node=True),
    Program("ctr", "containerd", f"{_CONTAINERD}/ctr", 4, node=True),
    Program("bridge", "cni", f"{_CNI}/main/bridge", 6, node=True),
    Program("loopback", "cni", f"{_CNI}/main/loopback", 1, node=True),
    Program("host-local", "cni", f"{_CNI}/ipam/host-local", 1, node=True),
    Program("portmap", "cni", f"{_CNI}/meta/portmap", 1, node=True),
)
CONTROL_PLANE: Final = tuple(program.name for program in PROGRAMS if not program.node)
"""What a control plane with simulated nodes takes."""


def pinned_version(module: str) -> str:
    """Return the version that go.mod pins for a project, such as v1.37.2."""
    package = next(program.package for program in PROGRAMS if program.module == module)
    for path, version in re.findall(r"^(?:require)?\s*(\S+) (v\S+)(?: //.*)?$", _go_mod(module), re.MULTILINE):
        if package == path or package.startswith(f"{path}/"):
            return str(version)
    raise LookupError(f"{HERE / module / 'go.mod'} requires no module that holds {package}")


def needed_go() -> tuple[int, ...]:
    """Return the oldest Go that can build everything, such as (1, 26, 0)."""
    directives = [re.findall(r"^go (\S+)$", _go_mod(module), re.MULTILINE)[0] for module in _modules()]
    return max(version_tuple(directive) for directive in directives)


def version_tuple(text: str) -> tuple[int, ...]:
    """Turn `go1.26.8` or `1.26` into numbers that compare."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def link_flags(module: str) -> str:
    """Stamp the version as a release build does, or the servers would call themselves v0.0.0."""
    version = pinned_version(module)
    flags = ["-s", "-w"]
    match module:
        case "kubernetes":
            major, minor, *_ = version_tuple(version)
            for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
                stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
                flags += [f"-X {package}.{key}={value}" for key, value in stamps.items()]
        case "kwok":
            flags.append(f"-X sigs.k8s.io/kwok/pkg/consts.Version={version.removeprefix('v')}")
        case "containerd":
            flags.append(f"-X github.com/containerd/containerd/v2/version.Version={version}")
        case "cni":
            flags.append(f"-X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion={version}")
        case _:
            pass  # etcd carries its version in its source
    return " ".join(flags)


def cache_key(go_version: str) -> str:
    """Name a build by all that decides it: pins and checksums, flags, Go and the kind of machine."""
    digest = hashlib.sha256()
    for module in _modules():
        digest.update((HERE / module / "go.mod").read_bytes())
        digest.update((HERE / module / "go.sum").read_bytes())
        digest.update(link_flags(module).encode())
    digest.update("\n".join((*GO_FLAGS, go_version, platform.system(), platform.machine())).encode())
    return digest.hexdigest()[:16]


def _modules() -> list[str]:
    return sorted({program.module for program in PROGRAMS})


def _go_mod(module: str) -> str:
    return (HERE / module / "go.mod").read_text(encoding="utf-8")
