"""The addresses of one run: a slice of 198.18.0.0/15, which is reserved for testing (RFC 2544) and used on no LAN.

A run takes one of sixteen slices by a file lock, so that two runs side by side never meet. The first /24 of a slice is the
run's own wire, the next ones are the nodes' pods, and a /20 of the upper half are its Services.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.support.cluster.locks import make_lockable, try_lock

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

SLICES: Final = 16


@dataclass(frozen=True, slots=True)
class Addresses:
    """One slice. Nodes are counted from 1.

    >>> some = Addresses(2)
    >>> some.control_plane, some.host, some.node(1), some.pods(1), some.services, some.first_service
    ('198.18.32.1', '198.18.32.2', '198.18.32.11', '198.18.33.0/24', '198.19.32.0/20', '198.19.32.1')
    """

    number: int

    def _wire(self, last: int) -> str:
        return f"198.18.{self.number * SLICES}.{last}"

    @property
    def control_plane(self) -> str:
        """Where the API server listens: the bridge of the run's wire."""
        return self._wire(1)

    @property
    def host(self) -> str:
        """This machine's own end of the wire."""
        return self._wire(2)

    def node(self, number: int) -> str:
        """A node's address on the wire."""
        return self._wire(10 + number)

    def pods(self, number: int) -> str:
        """The addresses of a node's pods."""
        return f"198.18.{self.number * SLICES + number}.0/24"

    @property
    def services(self) -> str:
        """The addresses of Services."""
        return f"198.19.{self.number * SLICES}.0/20"

    @property
    def first_service(self) -> str:
        """The address of the Service `kubernetes`."""
        return f"198.19.{self.number * SLICES}.1"


def reserve_addresses(*, locks: Path, until: ExitStack) -> Addresses:
    """Take a free slice, and release it when the stack closes."""
    for number in range(SLICES):
        lock = try_lock(make_lockable(locks / f"{number}.lock"))
        if lock is not None:
            until.enter_context(lock)
            return Addresses(number)
    raise OSError(f"all {SLICES} slices of test addresses are in use: are that many runs under way?")
