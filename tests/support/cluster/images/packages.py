"""What images and nodes need on the machine: root, Linux programs, and the packages that contain them.

The image builder asks before it builds, and tests ask so that they skip with the reason instead of failing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.cluster.images.commands import search_path

if TYPE_CHECKING:
    from collections.abc import Mapping

LIST: Final = Path(__file__).parents[1] / "packages.txt"
"""All packages of the node tier; `.ci/packages` installs them."""

IMAGE_PROGRAMS: Final[Mapping[str, str]] = {
    "buildah": "buildah",
    "busybox": "busybox-static",
    "mmdebstrap": "mmdebstrap",
}
"""What building images starts, and the package of each."""
NODE_PROGRAMS: Final[Mapping[str, str]] = {**IMAGE_PROGRAMS, "runc": "runc", "nft": "nftables", "ip": "iproute2"}
"""What nodes start beside it."""


def listed() -> list[str]:
    """The packages that `.ci/packages` installs."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def what_is_missing(programs: Mapping[str, str]) -> str | None:
    """Return why these programs cannot work here, in one sentence; None if they can."""
    packages = [package for program, package in programs.items() if not shutil.which(program, path=search_path())]
    if packages:
        return f"not installed: {', '.join(packages)} (`make node-packages` installs all that is needed, as root)"
    if os.geteuid() != 0:
        return "root is needed, for the file systems of images and the namespaces of nodes"
    return None
