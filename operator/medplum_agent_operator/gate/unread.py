"""What the kernel has received on a connection and the gate has not read yet.

A peer that closes without reading its answers sends RST. Linux then still gives out the bytes that arrived before, but asyncio
closes the socket as soon as it notices. `device_connection` and `streams` therefore read the rest through a duplicate.
"""

import array
import asyncio
import fcntl
import socket
import termios
from contextlib import suppress

from medplum_agent_operator.gate.limits import SMALL_BYTES


def unread_bytes(transport: asyncio.BaseTransport) -> int:
    """Return how many bytes the kernel has for this connection; 0 if the connection is closed."""
    return _waiting(transport.get_extra_info("socket").fileno())


class Unread:
    """The unread bytes of a connection that is being closed: those that have arrived by now, and no later ones."""

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        """Call this in `connection_lost`, while asyncio still has the socket open."""
        self._left = 0
        self._socket: socket.socket | None = None
        with suppress(OSError):
            self._socket = transport.get_extra_info("socket").dup()
        if self._socket is not None:
            self._left = _waiting(self._socket.fileno())
            with suppress(OSError):
                # If the gate drops a peer that still sends, the peer sees the end now, in spite of the duplicate.
                self._socket.shutdown(socket.SHUT_RDWR)

    def read(self) -> bytes:
        """Return at most `SMALL_BYTES` of them; nothing after the last one."""
        data = b""
        if self._socket is not None and self._left:
            with suppress(OSError):
                data = self._socket.recv(min(self._left, SMALL_BYTES))
        self._left -= len(data)
        if not data:
            self.close()
        return data

    def close(self) -> None:
        """Release the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _waiting(descriptor: int) -> int:
    number = array.array("i", [0])
    with suppress(OSError, ValueError):
        fcntl.ioctl(descriptor, termios.FIONREAD, number)
    return number[0]
