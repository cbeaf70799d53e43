"""Channels that are not HL7: bytes as they are, and never a reset towards an agent."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.gate import streams
from medplum_agent_operator.gate.effects import Ending
from medplum_agent_operator.gate.limits import Connections
from medplum_agent_operator.gate.routes import Pod, Pods, Route
from medplum_agent_operator.gate.streams import Side, StreamRelay
from tests.gate.conftest import Counted
from tests.support.doubles.stage import arrived, free_port, medplum, running_agent
from tests.support.gate.actors import device, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass
class Echo:
    """An agent that sends back what it gets, twice, and notes how each connection ended."""

    port: int = 0
    got: list[bytes] = field(default_factory=list)
    breaks: list[str] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.writers.append(writer)
        try:
            while data := await reader.read(65536):
                self.got.append(data)
                writer.write(data + data)
            self.breaks.append("FIN")
        except ConnectionError as fault:
            self.breaks.append(type(fault).__name__)
        writer.close()


@asynccontextmanager
async def echo() -> AsyncIterator[Echo]:
    """Run one."""
    agent = Echo()
    server = await asyncio.start_server(agent.serve, "127.0.0.1", 0)
    agent.port = server.sockets[0].getsockname()[1]
    try:
        yield agent
    finally:
        server.close()
        for writer in agent.writers:
            if not writer.is_closing():
                writer.transport.abort()
        await asyncio.sleep(0)


@dataclass
class Gate:
    """A running gate with one channel of bytes."""

    relay: StreamRelay
    port: int
    counted: Counted

    def ready(self, *ports: int) -> None:
        """Agents that are ready."""
        self.relay.route.pods_are(Pods(frozenset(Pod(f"agent-{port}", "127.0.0.1", port) for port in ports)))


@asynccontextmanager
async def gate(*agents: int, hold_seconds: float = 20, most: int = 100) -> AsyncIterator[Gate]:
    """Run one in front of agents on these ports."""
    counted = Counted()
    connections = Connections(most=most, most_of_one_address=most)
    relay = StreamRelay(route=Route(), hold_seconds=hold_seconds, connections=connections, counters=counted)
    running = Gate(relay, await relay.start("127.0.0.1", 0), counted)
    running.ready(*agents)
    try:
        yield running
    finally:
        for side in list(relay.open):
            if isinstance(side, Side) and side.transport is not None:
                side.transport.abort()
        await relay.stop()


async def test_bytes_pass_both_ways_in_any_amount() -> None:
    """More than any buffer holds, and nothing is lost where one side is slow."""
    async with echo() as agent, gate(agent.port) as running, device(running.port) as caller:
        sent = bytes(range(256)) * 20_000
        caller.writer.write(sent)
        caller.writer.write_eof()
        got = await caller.reader.read()
        assert 2 * len(sent) == len(got)
        assert sent == b"".join(agent.got)
        await until(lambda: agent.breaks)
        assert ["FIN"] == agent.breaks
        await until(lambda: not running.relay.open)
        assert 0 == len(running.relay.connections)


async def test_new_connections_go_to_the_new_agent_and_old_ones_stay() -> None:
    """Nothing is known of where a conversation could be cut."""
    async with echo() as old, echo() as new, gate(old.port) as running, device(running.port) as first:
        first.writer.write(b"a")
        assert b"aa" == await first.reader.read(9)
        running.ready(new.port)
        async with device(running.port) as second:
            second.writer.write(b"b")
            first.writer.write(b"c")
            assert b"bb" == await second.reader.read(9)
            assert b"cc" == await first.reader.read(9)
        assert ([b"a", b"c"], [b"b"]) == (old.got, new.got)


async def test_a_new_connection_waits_for_an_agent() -> None:
    """What it sends meanwhile stays with it, by TCP's own means."""
    async with echo() as agent, gate() as running, device(running.port) as caller:
        caller.writer.write(b"x")
        await asyncio.sleep(0.1)
        running.ready(agent.port)
        assert b"xx" == await caller.reader.read(9)


async def test_an_agent_that_is_not_there_yet_is_asked_again() -> None:
    """Kubernetes says that it is ready, and its port refuses for a moment."""
    at = free_port()
    async with gate(at) as running, device(running.port) as caller:
        caller.writer.write(b"x")
        await asyncio.sleep(0.1)
        server = await asyncio.start_server(Echo().serve, "127.0.0.1", at)
        assert b"xx" == await caller.reader.read(9)
        server.close()


async def test_a_new_connection_does_not_wait_for_ever() -> None:
    """It is closed, without a byte."""
    async with gate(hold_seconds=0.1) as running, device(running.port) as caller:
        assert b"" == await caller.reader.read(9)
        assert 1 == running.counted.endings[Ending.NO_AGENT]


async def test_a_device_that_resets_ends_no_agent() -> None:
    """The stand-in agent ends its process on a reset, as the real one does: here it sees FIN."""
    at = free_port()
    address = f"tcp://0.0.0.0:{at}?startChar=%02&endChar=%03"
    async with medplum(address) as server, running_agent(server, "5.1.15"):
        await until(lambda: server.book.connections)
        async with gate(at) as running:
            for _ in range(3):
                async with device(running.port) as caller:
                    caller.writer.write(b"\x02hello\x03\x02half")
                    await caller.writer.drain()
                    await asyncio.sleep(0.05)
                    linger = struct.pack("ii", 1, 0)
                    caller.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await until(lambda: len(arrived(server)) == 3)


async def test_an_agent_that_ends_is_a_close_for_the_device() -> None:
    """What it had sent before arrives first."""
    async with echo() as agent, gate(agent.port) as running, device(running.port) as caller:
        caller.writer.write(b"x")
        await until(lambda: agent.got)
        for writer in agent.writers:
            writer.close()
        assert b"xx" == await caller.reader.read()


async def test_connections_are_limited() -> None:
    """One more than that is closed at once."""
    async with echo() as agent, gate(agent.port, most=1) as running, device(running.port) as first:
        first.writer.write(b"x")
        assert b"xx" == await first.reader.read(9)
        async with device(running.port) as second:
            with pytest.raises(asyncio.IncompleteReadError):
                await second.reader.readexactly(1)
        assert 1 == running.counted.refusals


async def test_the_end_of_the_gate_waits_for_open_connections() -> None:
    """Only their two ends know when they are done."""
    async with echo() as agent, gate(agent.port) as running, device(running.port) as caller:
        caller.writer.write(b"x")
        assert b"xx" == await caller.reader.read(9)
        stopping = asyncio.create_task(running.relay.stop())
        caller.writer.write(b"y")
        assert b"yy" == await caller.reader.read(9)
        assert not stopping.done()
        caller.writer.close()
        await asyncio.wait_for(stopping, 5)


async def test_what_does_not_end_in_time_is_cut_by_fin() -> None:
    """A process that ended in the middle of a connection would reset it, and a reset ends a whole agent."""
    async with echo() as agent, gate(agent.port) as running, device(running.port) as caller:
        caller.writer.write(b"x")
        assert b"xx" == await caller.reader.read(9)
        stopping = asyncio.create_task(running.relay.stop())
        running.relay.cut()
        assert b"" == await caller.reader.read(9)
        caller.writer.close()
        await asyncio.wait_for(stopping, 5)
        assert ["FIN"] == agent.breaks


async def test_an_agent_that_does_not_close_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its device was reset, it has had FIN, and it keeps the connection open: it is dropped in the end."""
    monkeypatch.setattr(streams, "LINGER_SECONDS", 0.2)
    held: list[asyncio.StreamWriter] = []

    async def keep(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(keep, "127.0.0.1", 0)
    async with gate(server.sockets[0].getsockname()[1]) as running:
        async with device(running.port) as caller:
            await until(lambda: held)
            linger = struct.pack("ii", 1, 0)
            caller.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await until(lambda: not running.relay.open)
    server.close()
    held[0].transport.abort()
    await asyncio.sleep(0)


async def test_callers_that_reset_while_no_agent_is_there_leave_nothing_behind() -> None:
    """A load balancer that looks whether the port is open, all night: each look costs a connection that is given back."""
    async with gate(hold_seconds=0.2, most=100) as running:
        for _ in range(5):
            async with device(running.port) as caller:
                await until(lambda: len(running.relay.connections))
                linger = struct.pack("ii", 1, 0)
                caller.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await until(lambda: not running.relay.open and not len(running.relay.connections))
        assert 5 == running.counted.endings[Ending.NO_AGENT]
