"""Start a program that builds images, and see that it and what it has started are gone when we go.

`buildah` and `rootfs` call this. The program leads a session of its own, so that Ctrl-C ends all of it and not a part.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Final

from tests.support.cluster.images.errors import ImageError
from tests.support.cluster.processes import end_group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOG_LINES: Final = 30
ROOTS_FOLDERS: Final = ("/usr/sbin", "/sbin")
"""Where root's programs are; an ordinary user's PATH may lack them."""


def search_path() -> str:
    """PATH with the folders of root's programs."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *ROOTS_FOLDERS))


def start(command: Sequence[str], *, environment: Mapping[str, str]) -> str:
    """Wait for the program and return its standard output.

    Raises:
        ImageError: with the end of what it said. Its arguments are left out: a proxy among them may hold a password.
    """
    process = subprocess.Popen(
        command,
        env={**environment, "PATH": search_path()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, complaints = process.communicate()
    except BaseException:
        end_group(process)
        raise
    if process.returncode:
        lines = (output + complaints).decode(errors="replace").splitlines()[-LOG_LINES:]
        raise ImageError("\n".join((f"{command[0]} ended with exit code {process.returncode}:", *lines)))
    return output.decode()
