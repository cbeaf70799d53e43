"""Free ports for a cluster, such that two clusters starting at the same moment never get the same one.

kwokctl could pick ports itself, but it counts down from a fixed number and looks at what is bound at that moment, so two
simultaneous starts pick the same. Here each port has a lock file that its cluster holds for as long as it lives.
"""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING, Final

from tests.support.cluster.locks import make_lockable, try_lock

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

RANGE: Final = range(20_000, 30_000)
"""Below the ports that systems hand out to outgoing connections (from 32768 on Linux, from 49152 elsewhere)."""


def reserve_ports(names: tuple[str, ...], *, locks: Path, until: ExitStack) -> dict[str, int]:
    """Reserve one port for each name; the stack's end gives them back."""
    candidates = random.sample(RANGE, len(RANGE))
    reserved: dict[str, int] = {}
    for port in candidates:
        if len(reserved) == len(names):
            return reserved
        lock = try_lock(make_lockable(locks / f"{port}.lock"))
        if lock is None:
            continue
        if _is_free(port):
            until.enter_context(lock)
            reserved[names[len(reserved)]] = port
        else:
            lock.close()
    raise OSError(f"no {len(names)} free ports between {RANGE.start} and {RANGE.stop}")


def _is_free(port: int) -> bool:
    """Return whether the port is free, on the loopback and on all addresses."""
    for address in ("127.0.0.1", ""):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
