"""What a real node takes from this machine. Asked by the fixtures before a test and by `cluster_with_nodes` at its start."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGES: Final[Mapping[str, str]] = {
    "runc": "runc",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "busybox": "busybox-static",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
}
"""Debian's package for each program that has to be on PATH."""


def missing() -> str | None:
    """Say in one sentence why no real node can run here, and what to do about it; None where one can."""
    if sys.platform != "linux":
        return "real nodes need Linux"
    if os.geteuid() != 0:
        return "real nodes need root (namespaces, cgroups, mounts)"
    packages = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if packages:
        return f"real nodes need these Debian packages: {' '.join(packages)} (`make node-packages` installs them)"
    return None
