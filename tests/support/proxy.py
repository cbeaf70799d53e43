"""A TCP proxy on loopback between the operator and its API server, to cut or to silence its watches.

It passes TLS through: the API server's certificate is valid for 127.0.0.1 on any port.
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
    """Forwards connections."""

    target: tuple[str, int]
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _links: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)
    _silent: set[socket.socket] = field(default_factory=set)
    _closing: bool = False

    def serve(self) -> None:
        """Accept connections until `close`."""
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
                if source not in self._silent:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def silence(self) -> None:
        """Drop everything that the server sends on the current connections. They stay open."""
        self._silent.update(server for _, server in self._links)

    def cut(self) -> None:
        """Break all connections."""
        links, self._links = self._links, []
        for link in links:
            for end in link:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        """Stop the proxy."""
        self._closing = True
        self.listener.close()
        self.cut()


@contextlib.contextmanager
def through_proxy(kubeconfig: Path) -> Iterator[tuple[Proxy, Path]]:
    """Run a proxy. Yields it and a kubeconfig that leads through it."""
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
