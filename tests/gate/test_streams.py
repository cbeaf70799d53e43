"""Channels that are not HL7: bytes pass unchanged, and an agent never sees a reset."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.gate import pace, stream_side
from medplum_agent_operator.gate.effects import Ending
from medplum_agent_operator.gate.stream_side import Side
from medplum_agent_operator.gate.streams import DeviceSide
from tests.gate.conftest import byte_gate as gate
from tests.support.doubles.stage import arrived, free_port, medplum, running_agent
from tests.support.gate.actors import device, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.gate.conftest import ByteGate
    from tests.support.gate.actors import Device


@dataclass
class Echo:
    """An agent that sends back all bytes twice, and records how each connection ended. `closes`: when the device does."""

    port: int = 0
    closes: bool = True
    got: list[bytes] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.writers.append(writer)
        try:
            while data := await reader.read(65536):
                self.got.append(data)
                writer.write(data + data)
            self.ends.append("FIN")
        except ConnectionError as fault:
            self.ends.append(type(fault).__name__)
        if self.closes:
            writer.close()


@asynccontextmanager
async def echo(*, closes: bool = True) -> AsyncIterator[Echo]:
    """Run one on a free port."""
    agent = Echo(closes=closes)
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


async def test_bytes_pass_both_ways_in_any_amount() -> None:
    """More than any buffer can take. Nothing is lost if one side is slow."""
    async with echo() as agent, gate(agent.port) as running, device(running.port) as client:
        sent = bytes(range(256)) * 20_000
        client.writer.write(sent)
        client.writer.write_eof()
        got = await client.reader.read()
        assert 2 * len(sent) == len(got)
        assert sent == b"".join(agent.got)
        await until(lambda: agent.ends)
        assert ["FIN"] == agent.ends
        await until(lambda: not running.relay.open)
        assert 0 == len(running.relay.shared.connections)


async def test_new_connections_go_to_the_new_agent_and_old_ones_stay() -> None:
    """The gate does not know where it could split a conversation."""
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
    """The gate does not read meanwhile, so TCP stops the device from sending."""
    async with echo() as agent, gate() as running, device(running.port) as client:
        client.writer.write(b"x")
        await asyncio.sleep(0.1)
        running.ready(agent.port)
        assert b"xx" == await client.reader.read(9)


async def test_the_gate_retries_an_agent_that_refuses() -> None:
    """Kubernetes reports it ready, but its port refuses for a moment."""
    at = free_port()
    async with gate(at) as running, device(running.port) as client:
        client.writer.write(b"x")
        await asyncio.sleep(0.1)
        server = await asyncio.start_server(Echo().serve, "127.0.0.1", at)
        assert b"xx" == await client.reader.read(9)
        server.close()


async def test_a_new_connection_does_not_wait_forever() -> None:
    """The gate resets it: a device that only sends must not take its bytes for delivered."""
    async with gate(hold_seconds=0.1) as running, device(running.port) as client:
        client.writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await client.reader.read(9)
        assert 1 == running.counted.endings[Ending.NO_AGENT]


async def test_a_device_that_resets_ends_no_agent() -> None:
    """Like the real agent, the stand-in exits on a reset. Behind the gate it sees FIN."""
    at = free_port()
    address = f"tcp://0.0.0.0:{at}?startChar=%02&endChar=%03"
    async with medplum(address) as server, running_agent(server, "5.1.15"):
        await until(lambda: server.book.connections)
        async with gate(at) as running:
            for _ in range(3):
                async with device(running.port) as client:
                    client.writer.write(b"\x02hello\x03\x02half")
                    await client.writer.drain()
                    await asyncio.sleep(0.05)
                    linger = struct.pack("ii", 1, 0)
                    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await until(lambda: len(arrived(server)) == 3)


async def test_a_device_sees_a_close_when_its_agent_stops() -> None:
    """The bytes that the agent sent before arrive first."""
    async with echo() as agent, gate(agent.port) as running, device(running.port) as client:
        client.writer.write(b"x")
        await until(lambda: agent.got)
        for writer in agent.writers:
            writer.close()
        assert b"xx" == await client.reader.read()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection by RST."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def send_on(one: Device) -> None:
    """Send until the connection breaks."""
    while True:
        one.writer.write(b"y")
        await one.writer.drain()
        await asyncio.sleep(0.01)


async def read_to_end(one: Device) -> tuple[bytes, str]:
    """Return the first two bytes, and how the connection ended."""
    got = b""
    try:
        while data := await one.reader.read(65_536):
            got += data
    except ConnectionError as fault:
        return got[:2], type(fault).__name__
    return got[:2], "FIN"


@pytest.mark.parametrize("size", [1, 1_000_000])
async def test_a_device_sees_a_reset_when_its_agent_resets(size: int) -> None:
    """Else a stream that was cut would look complete. What the gate has read before still arrives."""
    async with echo() as agent, gate(agent.port) as running, device(running.port) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(b"x")
        await until(lambda: agent.got)
        agent.writers[0].write(b"y" * size)
        await asyncio.sleep(0.05)
        reset(agent.writers[0])
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert (b"xx", "ConnectionResetError") == await read_to_end(client)


async def test_a_device_sees_a_reset_when_its_agent_has_closed_and_it_still_sends() -> None:
    """As it would without a gate."""
    async with echo() as agent, gate(agent.port) as running, device(running.port) as client:
        client.writer.write(b"x")
        await until(lambda: agent.got)
        agent.writers[0].close()
        assert b"xx" == await client.reader.read()
        with pytest.raises(ConnectionError):
            await send_on(client)


async def test_bytes_of_a_device_that_closes_without_reading_arrive() -> None:
    """The agent reads slowly, and the gate meets the reset when it writes an answer."""
    sent = bytes(range(256)) * 400
    async with echo() as agent, gate(agent.port) as running, device(running.port) as client:
        await until(lambda: agent.writers)
        [link] = [side for side in running.relay.open if type(side) is Side and side.transport is not None]
        assert link.transport is not None
        link.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        agent.writers[0].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        agent.writers[0].transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(sent)
        await until(lambda: link.blocked)
        agent.writers[0].write(b"an answer")
        await asyncio.sleep(0.05)
        reset(client.writer)
        await asyncio.sleep(0.05)
        agent.writers[0].write(b"another one")
        await until(lambda: link.other is not None and link.other.transport is None)
        assert 0 == len(running.relay.shared.connections)
        agent.writers[0].transport.resume_reading()  # type: ignore[attr-defined]
        await until(lambda: agent.ends)
        assert (sent, ["FIN"]) == (b"".join(agent.got), agent.ends)


async def test_connections_are_limited() -> None:
    """The gate closes a connection over the limit at once."""
    async with echo() as agent, gate(agent.port, limit=1) as running, device(running.port) as first:
        first.writer.write(b"x")
        assert b"xx" == await first.reader.read(9)
        async with device(running.port) as second:
            with pytest.raises(asyncio.IncompleteReadError):
                await second.reader.readexactly(1)
        assert 1 == running.counted.refusals


async def test_a_stopping_gate_waits_for_open_connections() -> None:
    """Only device and agent know when their connection is done."""
    async with echo() as agent, gate(agent.port) as running, device(running.port) as client:
        client.writer.write(b"x")
        assert b"xx" == await client.reader.read(9)
        stopping = asyncio.create_task(running.relay.stop())
        client.writer.write(b"y")
        assert b"yy" == await client.reader.read(9)
        assert not stopping.done()
        client.writer.close()
        await asyncio.wait_for(stopping, 5)


async def test_a_connection_that_stays_open_is_closed_by_fin_towards_the_agent() -> None:
    """If the gate exited with an open connection, the kernel would reset it, and a reset ends an agent. The device sees one: its stream is cut."""
    async with echo() as agent, gate(agent.port) as running, device(running.port) as client:
        client.writer.write(b"x")
        assert b"xx" == await client.reader.read(9)
        stopping = asyncio.create_task(running.relay.stop())
        running.relay.close_now()
        assert (b"", "ConnectionResetError") == await read_to_end(client)
        await asyncio.wait_for(stopping, 5)
        await until(lambda: agent.ends)
        assert ["FIN"] == agent.ends


async def test_the_gate_does_not_wait_forever_for_an_agent_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its device sent a reset and the gate passed on FIN. If the agent leaves the connection open, the gate drops it."""
    monkeypatch.setattr(stream_side, "LINGER_SECONDS", 0.2)
    opened: list[asyncio.StreamWriter] = []

    async def stay_open(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)

    server = await asyncio.start_server(stay_open, "127.0.0.1", 0)
    async with gate(server.sockets[0].getsockname()[1]) as running:
        async with device(running.port) as client:
            await until(lambda: opened)
            linger = struct.pack("ii", 1, 0)
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await until(lambda: not running.relay.open)
    server.close()
    opened[0].transport.abort()
    await asyncio.sleep(0)


async def test_devices_that_reset_while_no_agent_is_ready_leave_nothing_behind() -> None:
    """A load balancer checks the port all night. The gate counts each connection and removes it again."""
    async with gate(hold_seconds=0.2, limit=100) as running:
        for _ in range(5):
            async with device(running.port) as client:
                await until(lambda: len(running.relay.shared.connections))
                linger = struct.pack("ii", 1, 0)
                client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await until(lambda: not running.relay.open and not len(running.relay.shared.connections))
        assert 5 == running.counted.endings[Ending.NO_AGENT]


async def test_a_full_gate_has_a_place_for_another_address() -> None:
    """Connections of one address that send nothing take all places: one gives way to a device of another address."""
    async with echo() as agent, gate(agent.port, limit=3) as running, AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(device(running.port, address="127.0.0.2"))
        await until(lambda: len(running.relay.shared.connections) == 3)
        async with device(running.port) as other:
            other.writer.write(b"hello")
            other.writer.write_eof()
            assert b"hello" in await other.reader.read()
        assert (0, 1) == (running.counted.refusals, running.counted.endings[Ending.DISPLACED])


@pytest.mark.parametrize("size", [1, 1_000_000])
async def test_a_device_that_gives_way_sees_a_reset(size: int) -> None:
    """Its stream is cut, also where it has not read what the gate has for it. Its agent sees FIN, because a reset ends an agent."""
    async with (
        echo() as agent,
        gate(agent.port, limit=2) as running,
        device(running.port, address="127.0.0.2") as first,
        device(running.port, address="127.0.0.2") as second,
    ):
        first.writer.transport.pause_reading()  # type: ignore[attr-defined]
        first.writer.write(b"x")
        await until(lambda: agent.got)
        agent.writers[0].write(b"y" * size)
        second.writer.write(b"z")
        assert b"zz" == await second.reader.read(9)
        async with device(running.port):
            await until(lambda: running.counted.endings[Ending.DISPLACED])
            first.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert (b"xx", "ConnectionResetError") == await read_to_end(first)
            agent.writers[0].transport.abort()
            await until(lambda: agent.ends)
            assert ["FIN"] == agent.ends


@asynccontextmanager
async def closed_behind_bytes(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> AsyncIterator[tuple[ByteGate, socket.socket, int]]:
    """A device sent FIN and does not read. Its agent wrote until the gate has bytes left, and closed. Yields how many it wrote, too."""
    monkeypatch.setattr(stream_side, "LINGER_SECONDS", seconds)
    async with echo(closes=False) as agent, gate(agent.port) as running:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
            client.connect(("127.0.0.1", running.port))
            client.setblocking(False)  # noqa: FBT003 - its signature
            client.shutdown(socket.SHUT_WR)
            await until(lambda: agent.writers)
            [side] = [each for each in running.relay.open if isinstance(each, DeviceSide)]
            assert side.transport is not None
            side.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
            written = 0
            while not side.transport.get_write_buffer_size():
                agent.writers[0].write(b"y" * 8_192)
                written += 8_192
                await asyncio.sleep(0.01)
            agent.writers[0].close()
            await until(lambda: side.other is not None and side.other.transport is None)
            yield running, client, written


async def received(client: socket.socket, *, slow_bytes: int = 0) -> int:
    """Read to the end, the first bytes slowly, and return how many bytes came."""
    got = 0
    while data := await asyncio.get_running_loop().sock_recv(client, 4_096):
        got += len(data)
        await asyncio.sleep(0.15 if got < slow_bytes else 0)
    return got


async def test_a_device_that_does_not_read_its_last_bytes_sees_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate does not wait forever for it, and must not make it take a part for the whole."""
    async with closed_behind_bytes(monkeypatch, 0.3) as (running, client, _):
        await until(lambda: not running.relay.open)
        with pytest.raises(ConnectionResetError):
            await received(client)


async def test_a_device_that_reads_slowly_gets_its_last_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a gate, its agent's kernel would wait for it too. The time counts from its last read."""
    async with closed_behind_bytes(monkeypatch, 1) as (_, client, written):
        assert written == await received(client, slow_bytes=80_000)


async def test_bytes_one_by_one_pass_completely(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is read less often meanwhile, and nothing is lost."""
    monkeypatch.setattr(pace, "UNITS_AT_ONCE", 5)
    async with echo() as agent, gate(agent.port) as running, device(running.port) as client:
        sent = bytes(range(200))
        for one in sent:
            client.writer.write(bytes([one]))
            await asyncio.sleep(0)
        client.writer.write_eof()
        await client.reader.read()
        assert sent == b"".join(agent.got)
