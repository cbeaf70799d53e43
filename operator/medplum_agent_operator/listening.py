"""Listens on a port so that many new connections at once keep no other connection waiting.

Used by the gate's channels and by `http_server`. asyncio's own server accepts as many as its queue has before anything else
gets a turn, and makes a transport and a task for each before anybody can refuse it.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

ACCEPTS_AT_ONCE: Final = 8
"""How many connections are accepted before others get a turn."""
QUEUED_CONNECTIONS: Final = 1024
"""How many connections the kernel may queue that are not accepted yet."""
EXHAUSTED_SECONDS: Final = 1.0
"""Pause after the process had no file descriptor left."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """A port that accepts connections."""

    def __init__(
        self,
        sockets: list[socket.socket],
        make_protocol: Callable[[], asyncio.BaseProtocol],
        admits: Callable[[str], bool],
    ) -> None:
        self._sockets = sockets
        self._make_protocol = make_protocol
        self._admits = admits
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[object]] = set()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        for one in sockets:
            one.listen(QUEUED_CONNECTIONS)
            self._serve(one)

    @property
    def port(self) -> int:
        """The port."""
        return int(self._sockets[0].getsockname()[1])

    def close(self) -> None:
        """Accept no more connections. Open ones stay."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            self._loop.remove_reader(one)
            one.close()
        for pause in self._pauses.values():
            pause.cancel()

    def _serve(self, one: socket.socket) -> None:
        self._pauses.pop(one, None)
        self._loop.add_reader(one, self._accept, one)

    def _accept(self, one: socket.socket) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                connection, peer = one.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as fault:
                if fault.errno in _EXHAUSTED:
                    self._loop.remove_reader(one)
                    self._pauses[one] = self._loop.call_later(EXHAUSTED_SECONDS, self._serve, one)
                    return
                continue  # this one was closed before it was accepted
            if not self._admits(str(peer[0])):
                connection.close()
                continue
            connection.settimeout(0.0)
            task = self._loop.create_task(self._connect(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:
            connection.close()


async def listen(
    make_protocol: Callable[[], asyncio.BaseProtocol], host: str | None, port: int, *, admits: Callable[[str], bool]
) -> Listener:
    """Listen on an address, or on all if `host` is None; `port` 0 takes a free one. `admits`: asked for each peer's address.

    Raises:
        OSError: when the address cannot be bound.
    """
    bound = await asyncio.get_running_loop().create_server(make_protocol, host, port, start_serving=False)
    sockets = [socket.socket(fileno=one.dup().detach()) for one in bound.sockets]
    bound.close()
    for one in sockets:
        one.settimeout(0.0)
    return Listener(sockets, make_protocol, admits)
