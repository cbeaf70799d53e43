"""A TCP proxy on loopback between the operator and its API server, to cut or to deafen its watches.

TLS goes through it untouched: the API server's certificate is good for 127.0.0.1, whatever the port.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class Proxy:
    """Forwards connections until told otherwise."""

    target: tuple[str, int]
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _links: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)
    _deaf: set[socket.socket] = field(default_factory=set)
    _closing: bool = False

    def serve(self) -> None:
        """Accept connections until closed."""
        while not self._closing:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            self._links.append((client, server))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source not in self._deaf:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def deafen(self) -> None:
        """Let nothing more through from the server on the connections that there are: they stay open and silent."""
        self._deaf.update(server for _, server in self._links)

    def cut(self) -> None:
        """Break every connection that there is."""
        links, self._links = self._links, []
        for link in links:
            for end in link:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        """End it."""
        self._closing = True
        self.listener.close()
        self.cut()


@contextlib.contextmanager
def through_proxy(kubeconfig: Path) -> Iterator[tuple[Proxy, Path]]:
    """A proxy, and a kubeconfig that leads through it."""
    config = json.loads(kubeconfig.read_text())
    server = urlsplit(config["clusters"][0]["cluster"]["server"])
    proxy = Proxy((server.hostname or "127.0.0.1", server.port or 443))
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{proxy.listener.getsockname()[1]}"
    path = kubeconfig.with_name(f"{kubeconfig.name}-proxied")
    path.write_text(json.dumps(config))
    try:
        yield proxy, path
    finally:
        proxy.close()
        thread.join(5)
