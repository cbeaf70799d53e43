"""What the stand-ins' own tests share: a server in this process, an agent in this process or as one, and a device."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from tests.support.doubles.agent.framers import END, frame
from tests.support.doubles.agent.program import Agent
from tests.support.doubles.agent.properties import AgentSettings, LogSettings
from tests.support.doubles.agent.switches import Switches
from tests.support.doubles.agent.version import AgentTraits
from tests.support.doubles.medplum.server import MedplumServer

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable, Mapping

ROOT: Final = Path(__file__).parents[3]
SWIFT: Final[dict[str, Any]] = {"retry_ms": 30, "reconnect_ms": 20}
"""Upstream's pauses, shortened."""


def free_port() -> int:
    """A free port, outside of the range for outgoing connections."""
    for port in random.sample(range(10_000, 20_000), 200):
        with socket.socket(socket.AF_INET6) as probe:
            try:
                probe.bind(("::", port))
            except OSError:
                continue
            return port
    raise OSError("no free port between 10000 and 20000")


def hl7(control_id: str, *, end: str = "\r") -> str:
    """A message."""
    return f"MSH|^~\\&|ADT|H1|LAB|H2|20260101||ADT^A01|{control_id}|P|2.5\rPID|1||7{end}"


@asynccontextmanager
async def medplum(*addresses: str, agent: str = "a1", **settings: Any) -> AsyncIterator[MedplumServer]:
    """A server with one agent, whose channels are `c0`, `c1` and so on."""
    channels = [{"name": f"c{at}", "address": address} for at, address in enumerate(addresses)]
    server = MedplumServer(
        {
            "clients": {"client": "secret"},
            "agents": {agent: {"channels": channels}},
            "settings": {"answerDelayMs": 0, "keepBodies": True, **settings},
        }
    )
    await server.start("127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def running_agent(server: MedplumServer, version: str, **switches: Any) -> AsyncIterator[None]:
    """An agent in this process; one that would end its process fails the test."""
    log = LogSettings("NONE", None)
    settings = AgentSettings(f"http://127.0.0.1:{server.port}", "client", "secret", "a1", log, log)

    def leave(code: int) -> NoReturn:
        raise AssertionError(f"the agent ended its process with {code}")

    agent = Agent(settings, AgentTraits.parse(version), Switches(**{**SWIFT, **switches}), leave)
    run = asyncio.create_task(agent.run())
    try:
        yield
        assert not run.done(), run.exception()
    finally:
        run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await run


@dataclass(frozen=True, slots=True)
class AgentProcess:
    """An agent as a process, with a working directory and a temp folder of its own."""

    process: Process
    folder: Path

    @property
    def pid_file(self) -> Path:
        """Where it notes its PID."""
        return self.folder / "tmp" / "medplum-agent" / "medplum-agent.pid"

    async def end(self) -> tuple[int, str]:
        """Wait for its end; return the exit code and everything that it said."""
        async with asyncio.timeout(10):
            said, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, said.decode()


@asynccontextmanager
async def agent_process(
    folder: Path,
    port: int,
    version: str,
    *arguments: str,
    properties: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    program: tuple[str, ...] = (sys.executable, "-m", "tests.support.doubles.agent"),
    **switches: Any,
) -> AsyncIterator[AgentProcess]:
    """Start one in that folder; kill it at the end if it still runs."""
    values = {
        "baseUrl": f"http://127.0.0.1:{port}",
        "clientId": "client",
        "clientSecret": "secret",
        "agentId": "a1",
        **(properties or {}),
    }
    (folder / "agent.properties").write_text("".join(f"{key}={value}\n" for key, value in values.items()), "utf-8")
    (folder / "tmp").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(folder / "tmp"),
        "MEDPLUM_AGENT_DOUBLE_VERSION": version,
        "MEDPLUM_AGENT_DOUBLE_SWITCHES": json.dumps({**SWIFT, **switches}),
    }
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *program,
        *arguments,
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield AgentProcess(process, folder)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


class Device:
    """A device's connection to a channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: bytes, pause_seconds: float = 0.02) -> None:
        """Write the parts, each in a packet of its own."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(pause_seconds if len(parts) > 1 else 0)

    async def send_message(self, control_id: str) -> None:
        """Write one good frame."""
        await self.send(frame(hl7(control_id)))

    async def receive(self) -> bytes:
        """The next frame's content."""
        async with asyncio.timeout(3):
            return (await self.reader.readuntil(END))[1:-2]

    async def hears_nothing(self, seconds: float = 0.15) -> bool:
        """Whether nothing comes, not even an end, for so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False

    def reset(self) -> None:
        """Close by RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.writer.transport.abort()


async def is_open(port: int) -> bool:
    """Whether something takes connections there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@asynccontextmanager
async def device(port: int, *, local_port: int | None = None) -> AsyncIterator[Device]:
    """Connect to a channel, as soon as it is open."""
    local = None if local_port is None else ("127.0.0.1", local_port)
    async with asyncio.timeout(10):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=local)
                break
            except OSError:
                await asyncio.sleep(0.02)
    try:
        yield Device(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds; TimeoutError if it does not within 5 s."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for is another program's doing
            await asyncio.sleep(0.01)


def arrived(server: MedplumServer) -> list[str]:
    """The control ids that the server got, in order."""
    return [message.control_id for message in server.book.messages]
