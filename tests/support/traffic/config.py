"""The settings of a run. `__main__` creates them from the command line; tests and benches create them directly."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TrafficConfig:
    """Where to send, how much of each shape, and what a device would put up with.

    The defaults make about 190 messages a second: 20 new connections, 8 x 20 on long-lived ones, 30 slow ones.
    """

    host: str
    port: int
    reconnecting_per_second: float = 20.0
    long_lived_connections: int = 8
    long_lived_per_second: float = 20.0
    """Of each connection."""
    slow_connections: int = 30
    slow_every_seconds: float = 3.0
    """Of each connection."""
    push_per_second: float = 0.0
    """Needs `server_url`, `agent_id` and a `push_host` that the agent can reach."""
    pipeline: int = 1
    """How many unacknowledged messages a long-lived connection may have. Agents before 5.0.0 merge pipelined ones."""
    wait_for_application: bool = False
    """Wait for AA even after CA, as few devices do. Else the first positive answer settles a message."""
    sources: tuple[str, ...] = ()
    """Local addresses to connect from, in turn."""
    connect_seconds: float = 5.0
    acknowledge_seconds: float = 10.0
    retry_seconds: float = 0.2
    """After a failure: how long a device waits before it connects again."""
    finish_seconds: float = 10.0
    """After the stop: how long what is unacknowledged is still sent again."""
    settle_seconds: float = 5.0
    """After that: how long to wait for acknowledged messages to arrive at the server."""
    server_url: str | None = None
    """The test server's control API. Without it `arrived`, `lost` and `repeated` are not known."""
    agent_id: str | None = None
    listen_host: str = "127.0.0.1"
    listen_port: int = 0
    push_host: str | None = None
    """The address under which the agent reaches the listener; by default `listen_host`."""
    run: str = field(default_factory=lambda: secrets.token_hex(3))
    """Six characters that begin each control id, so that two runs are not mixed up."""

    def __post_init__(self) -> None:
        if len(self.run) != 6 or not self.run.isalnum():
            raise ValueError(f"run is {self.run!r}: six letters or digits, such as a1b2c3")
        if self.pipeline < 1:
            raise ValueError(f"pipeline is {self.pipeline}: 1 waits for each ACK, more does not")
        if self.push_per_second and not (self.server_url and self.agent_id):
            raise ValueError("pushes need server_url and agent_id: the server is asked to push")
        if max(self.long_lived_connections, self.slow_connections) > 999:
            raise ValueError("at most 999 connections of a shape: a control id has room for three digits")
        if min(self.reconnecting_per_second, self.push_per_second) < 0:
            raise ValueError("a rate is 0 (off) or more")
        if self.long_lived_per_second <= 0 or self.slow_every_seconds <= 0:
            raise ValueError("long-lived and slow connections need a rate above 0: for none, set their number to 0")
