"""Layers that need no Dockerfile: the pause program, and a Debian with Python as the base of other images.

The catalogue names these functions; each writes one tar file. There is no registry to fetch a base from, so the base is
made of the distribution's own packages, which their archive signs.
"""

from __future__ import annotations

import os
import shutil
import struct
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.cluster.images.buildah import EPOCH
from tests.support.cluster.images.commands import search_path, start
from tests.support.cluster.images.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

SUITE: Final = "bookworm"
PACKAGES: Final = ("ca-certificates", "python3", "python3-venv")
OPTIONS: Final = (
    "--quiet",
    "--variant=minbase",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
)


def busybox() -> Path:
    """The statically linked busybox of this machine.

    Raises:
        ImageError: busybox is missing, or needs libraries.
    """
    found = shutil.which("busybox", path=search_path())
    if not found or _needs_an_interpreter(Path(found).read_bytes()):
        raise ImageError("A static busybox is needed: install busybox-static")
    return Path(found)


def write_pause(target: Path, folder: Path) -> None:
    """Write busybox under the name of its applet `sleep`. It holds the namespaces of a pod and does nothing else."""
    del folder
    with tarfile.open(target, "w") as layer, busybox().open("rb") as program:
        entry = tarfile.TarInfo("sleep")
        entry.mode, entry.mtime = 0o755, EPOCH
        entry.size = os.fstat(program.fileno()).st_size
        layer.addfile(entry, program)


def write_base(target: Path, folder: Path) -> None:
    """A minimal Debian with Python and its venv module."""
    environment = os.environ | {"TMPDIR": str(folder), "SOURCE_DATE_EPOCH": str(EPOCH)}
    start(mmdebstrap(target), environment=environment)


def mmdebstrap(target: Path) -> Sequence[str]:
    """The command that makes the base; it decides what is in it, so it is part of the image's key."""
    return ["mmdebstrap", *OPTIONS, f"--include={','.join(PACKAGES)}", SUITE, str(target)]


def _needs_an_interpreter(program: bytes) -> bool:
    """Whether a 64-bit ELF program is dynamically linked: then one of its segments is of the type PT_INTERP."""
    (offset,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    return any(struct.unpack_from("<I", program, offset + size * number) == (3,) for number in range(count))
