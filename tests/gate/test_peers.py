"""The gate between foreign HL7 implementations: upstream's own client and server, before and from 5.0.0, and hl7apy's server.

Upstream's client and server run on Node.js, from the npm package that the agent itself uses. A fixture installs them once into
the cache folder, with tests/gate/peers/package-lock.json. Without node and npm these tests are skipped.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from hl7apy.mllp import AbstractHandler, MLLPServer  # type: ignore[import-untyped]

from tests.gate.conftest import gate
from tests.support.gate.actors import device, until
from tests.support.gate.peers import PEERS, node_modules
from tests.support.gate.scene import message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

OLD, NEW = "hl7-before-5", "hl7-from-5"
A, B, C = message("A"), message("B"), message("C")


@pytest.fixture(scope="session")
def modules() -> Path:
    """Install upstream's libraries by the lock file and return their folder."""
    return node_modules()


@dataclass
class Peer:
    """Upstream's server in a process."""

    port: int
    got: list[str]
    process: asyncio.subprocess.Process

    async def read(self) -> None:
        """Record each control id that it prints."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.got.append(line.decode().strip())


async def _node(modules: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *("node", str(PEERS / "peer.cjs"), *arguments),
        env={**os.environ, "NODE_PATH": str(modules)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


@asynccontextmanager
async def server(modules: Path, library: str) -> AsyncIterator[Peer]:
    """Run upstream's server on a free port."""
    process = await _node(modules, library, "server", "0")
    assert process.stdout is not None
    try:
        peer = Peer(int(await process.stdout.readline()), [], process)
        reading = asyncio.create_task(peer.read())
        yield peer
        reading.cancel()
    finally:
        process.kill()
        await process.wait()


async def client(modules: Path, library: str, port: int, *names: str) -> list[str]:
    """Let upstream's client send messages with these control ids, one by one. Returns the answers that it printed."""
    process = await _node(modules, library, "client", str(port), *names)
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert 0 == process.returncode, said.decode()
    return said.decode().split("\n")[:-1]


@pytest.mark.parametrize("sender", [OLD, NEW])
@pytest.mark.parametrize("receiver", [OLD, NEW])
async def test_upstream_s_client_and_server(modules: Path, sender: str, receiver: str) -> None:
    """Each message arrives once, in order, and each gets its own answer."""
    names = [f"M{number}" for number in range(50)]
    async with server(modules, receiver) as peer, gate(peer.port) as running:
        assert [f"AA {name}" for name in names] == await client(modules, sender, running.port, *names)
        await until(lambda: names == peer.got)


async def test_a_move_in_the_middle_from_an_old_server_to_a_new_one(modules: Path) -> None:
    """Upstream's client notices nothing: its connection stays, and every message gets its answer."""
    names = [f"M{number}" for number in range(600)]
    async with server(modules, OLD) as old, server(modules, NEW) as new, gate(old.port) as running:
        sending = asyncio.create_task(client(modules, NEW, running.port, *names))
        await until(lambda: len(old.got) > 50)
        running.ready(new.port)
        assert [f"AA {name}" for name in names] == await sending
        await until(lambda: len(old.got) + len(new.got) == len(names))
        assert names == old.got + new.got
        assert new.got


AWKWARD = [
    pytest.param([A + B + C], ["A", "B", "C"], id="three in one write"),
    pytest.param([bytes([one]) for one in A], ["A"], id="byte by byte"),
    pytest.param([A[:-1], A[-1:], B], ["A", "B"], id="cut between its last two bytes"),
    pytest.param([b"\r\n" + A, b"\0" + B], ["A", "B"], id="junk before"),
    pytest.param([b"\x0b\x1c\r", A], ["A"], id="an empty frame first"),
    pytest.param([b"\x0bPID|1\r\x1c\r", A], ["A"], id="a frame without MSH first"),
    pytest.param([b"\x0b\xef\xbb\xbf" + A[1:], B], ["A", "B"], id="a byte order mark first"),
    pytest.param([b"\x0b\0" + A[1:], B], ["B"], id="NUL before MSH first"),
    pytest.param([b"\x0bFHS|^~\\&|\rBHS|^~\\&|\r" + A[1:-2] + b"BTS|1\rFTS|1\r\x1c\r", B], ["B"], id="a batch first"),
    pytest.param([message("A", text="x" * (65_537 - len(A)))], ["A"], id="65,537 bytes"),
    pytest.param([message("A", text="x" * (131_073 - len(A)))], ["A"], id="131,073 bytes"),
    pytest.param([message("A", text="x" * 3_000_000)], ["A"], id="3 MB"),
]


@pytest.mark.parametrize("receiver", [OLD, NEW])
@pytest.mark.parametrize(("parts", "names"), AWKWARD)
async def test_input_that_upstream_s_server_would_lose_or_fail_on(
    modules: Path, receiver: str, parts: list[bytes], names: list[str]
) -> None:
    """Behind the gate every message is answered, also good ones after bad ones."""
    async with server(modules, receiver) as peer, gate(peer.port) as running, device(running.port) as sender:
        for part in parts:
            sender.send(part)
            await sender.writer.drain()
            await asyncio.sleep(0.002)
        assert [("AA", name) for name in names] == await sender.answers(len(names))
        await until(lambda: names == peer.got)


async def test_without_the_gate_an_old_server_loses_messages(modules: Path) -> None:
    """Three messages in one write become one. So the tests above can fail."""
    async with server(modules, OLD) as peer, device(peer.port) as sender:
        sender.send(A, B, C)
        await sender.answer()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await sender.answer()


class Acknowledge(AbstractHandler):  # type: ignore[misc] # hl7apy has no types
    """Answers like hl7apy's own example."""

    got: Final[list[str]] = []

    def reply(self) -> str:
        """Return an ACK with the control id."""
        name = self.incoming_message.split("|")[9]
        self.got.append(name)
        return f"\x0bMSH|^~\\&|A|B|C|D|20261125||ACK|1|P|2.5\rMSA|AA|{name}\r\x1c\r"


@pytest.fixture
def hl7apy_server() -> Iterator[int]:
    """Run hl7apy's server on a free port."""
    Acknowledge.got.clear()
    with MLLPServer("127.0.0.1", 0, {"ADT^A01": (Acknowledge,), "ADT^A01^ADT_A01": (Acknowledge,)}) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_address[1]
        running.shutdown()


async def test_hl7apy_s_server(hl7apy_server: int) -> None:
    """Another implementation of the standard, which answers one message and closes. It works through the gate, and no answer is changed."""
    async with gate(hl7apy_server) as running:
        for name in ("A", "B", "C"):
            async with device(running.port) as sender:
                sender.send(message(name))
                assert ("AA", name) == await sender.answer()
        assert ["A", "B", "C"] == Acknowledge.got
