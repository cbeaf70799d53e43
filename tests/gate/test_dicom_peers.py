"""DICOM programs of other people, directly and through the gate: pynetdicom and dcmtk, each as client and as server.

The gate passes DICOM byte by byte; so every image, status and end of an association must be the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest

from tests.gate.conftest import byte_gate
from tests.support.doubles.stage import free_port
from tests.support.gate.actors import until
from tests.support.gate.peers import PEERS, Running, said_by, serving, start, unavailable, wheels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.slow

PROGRAM: Final = [sys.executable, str(PEERS / "pynetdicom_peer.py")]
PYNETDICOM, DCMTK = "pynetdicom", "dcmtk"
SITUATIONS: Final = {
    "echo": {"number": 0, "size": 0, "each": False, "aborts": False},
    "20 images in one association": {"number": 20, "size": 20_000, "each": False, "aborts": False},
    "an association for each image": {"number": 5, "size": 20_000, "each": True, "aborts": False},
    "2 MB": {"number": 1, "size": 2_000_000, "each": False, "aborts": False},
    "abort behind the last image": {"number": 5, "size": 20_000, "each": False, "aborts": True},
}


ROWS: Final = [
    (client, server, situation)
    for client in (PYNETDICOM, DCMTK)
    for server in (PYNETDICOM, DCMTK)
    for situation in SITUATIONS
    if not (client == DCMTK and SITUATIONS[situation]["aborts"])  # storescu ends no association so
]


def accepts(port: int) -> bool:
    """Whether something listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def written(folder: Path) -> list[str]:
    """Return the files of a folder, and remove them."""
    lines = []
    for one in sorted(folder.iterdir()):
        lines.append(f"{hashlib.sha256(one.read_bytes()).hexdigest()} {one.name}")
        one.unlink()
    return lines


@asynccontextmanager
async def storescp(folder: str) -> AsyncIterator[Running]:
    """Run dcmtk's server, which writes files to a folder."""
    port = free_port()
    process = await start(["storescp", "--output-directory", folder, str(port)])
    try:
        await until(lambda: accepts(port))
        yield Running(process, port)
    finally:
        process.kill()
        await process.communicate()


async def send(client: str, port: int, plan: str, groups: list[list[str]]) -> list[str]:
    """Let a client send, and return what it was answered. `groups`: the images of each association."""
    if client == PYNETDICOM:
        return await said_by([*PROGRAM, "client", str(port), plan], PYTHONPATH=str(wheels()))
    where = ["--verbose", "127.0.0.1", str(port)]
    commands = [["storescu" if group else "echoscu", *where, *group] for group in groups]
    lines = [line for command in commands for line in await said_by(command)]
    return [line for line in lines if "Response" in line or "Association" in line]


@pytest.mark.parametrize(("client", "server", "situation"), ROWS)
async def test_the_same_arrives_as_without_a_gate(client: str, server: str, situation: str, tmp_path: Path) -> None:
    """The same images in the same order, the same statuses, and the same end of each association."""
    if DCMTK in {client, server} and not shutil.which("storescp"):
        unavailable("dcmtk's programs are missing: install the Debian package dcmtk")
    number, size, each, aborts = SITUATIONS[situation].values()
    plan, received, images = tmp_path / "plan.json", tmp_path / "received", tmp_path / "images"
    received.mkdir()
    images.mkdir()
    await said_by([*PROGRAM, "make", str(images), str(number), str(size)], PYTHONPATH=str(wheels()))
    files = sorted(map(str, images.iterdir()))
    plan.write_text(json.dumps({"files": files, "each": each, "aborts": aborts}), encoding="utf-8")
    groups = [[one] for one in files] if each else [files]
    serves = storescp(str(received)) if server == DCMTK else serving([*PROGRAM, "server"], PYTHONPATH=str(wheels()))
    async with serves as running, byte_gate(running.port) as relay:
        answers = await send(client, running.port, str(plan), groups)
        arrived = await running.quiet() + written(received)
        assert number == len({line for line in arrived if " " in line})
        assert answers
        assert answers == await send(client, relay.port, str(plan), groups)
        assert arrived == await running.quiet() + written(received)
