"""The wire of one run: a bridge in a network namespace, in which the control plane lives and to which every node is connected.

This machine has one end of it, an interface that only the run's own addresses are reached by. Called by tests/support/cluster/real.py
and, to remove the interface, by tests/support/cluster/local.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.cluster.node.namespaces import Namespaces, hold, run_on_host

if TYPE_CHECKING:
    from tests.support.cluster.node.addresses import Addresses

INTERFACES: Final = Path("/sys/class/net")


def lay(folder: Path, addresses: Addresses) -> Namespaces:
    """Make the bridge and connect this machine to it."""
    wire = hold(("net",), bin_folder=folder / "bin")
    for command in (
        "ip link set lo up",
        "ip link add lan type bridge",
        f"ip address add {addresses.control_plane}/24 dev lan",
        "ip link set lan up",
    ):
        wire.run(*command.split())
    interface = interface_of(folder)
    run_on_host("ip", "link", "add", interface, "type", "veth", "peer", "name", "host", "netns", str(wire.pid))
    run_on_host("ip", "address", "add", f"{addresses.host}/24", "dev", interface)
    run_on_host("ip", "link", "set", interface, "up")
    wire.run("ip", "link", "set", "host", "master", "lan", "up")
    return wire


def cut(folder: Path) -> None:
    """Remove this machine's interface, where it is still there.

    It would go with its namespace, but the kernel keeps that for minutes where a TCP connection was cut in the middle.
    """
    interface = interface_of(folder)
    if (INTERFACES / interface).exists():
        try:
            run_on_host("ip", "link", "delete", interface)
        except RuntimeError:
            if (INTERFACES / interface).exists():
                raise


def interface_of(folder: Path) -> str:
    """Name this machine's interface to a run's wire: at most 15 characters, and unlike any other run's.

    >>> interface_of(Path("/tmp/medplum-e2e-abcd1234"))
    'mpaabcd1234'
    """
    return f"mpa{folder.name[-8:]}"
