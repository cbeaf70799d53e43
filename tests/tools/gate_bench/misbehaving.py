"""One address misbehaves: a process of its own that `crowd` starts, and that runs until it is killed.

`python -m tests.tools.gate_bench.misbehaving NAME ADT ORU HTTP`, with the gate's ports. It connects from 127.0.0.2 (and .3), and
prints a line once everything is in place.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tests.support.gate.scene import message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BAD: Final = ("127.0.0.2", "127.0.0.3")
MUTE: Final = "MUTE"
"""Control id of messages that the bench's agent never answers."""
EMPTY: Final = b"\x0b\x1c\r"


_open: set[asyncio.StreamWriter] = set()
"""A connection that nothing refers to would be closed."""


async def connect(port: int, address: str = BAD[0]) -> asyncio.StreamWriter:
    """Connect from an address."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    _open.add(writer)
    return writer


def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection."""
    _open.discard(writer)
    writer.close()


async def pour(port: int, data: bytes, bytes_per_second: float, *, pieces_per_second: float = 50) -> None:
    """Send the same data at a rate for ever, and connect again where the gate closes."""
    size = max(round(bytes_per_second / pieces_per_second), 1)
    endless = data * (2 * size // len(data) + 2)
    offset = 0
    while True:
        with suppress(OSError):
            writer = await connect(port)
            while not writer.is_closing():
                writer.write(endless[offset : offset + size])
                offset = (offset + size) % len(data)
                await writer.drain()
                await asyncio.sleep(1 / pieces_per_second)
            close(writer)
        await asyncio.sleep(0.05)


async def unanswered(adt: int) -> None:
    """Large messages without an answer, on one channel."""
    for _ in range(20):
        (await connect(adt)).write(message(MUTE, text="x" * 600_000))


async def slow(adt: int) -> None:
    """Three messages of 2 MB, of which a part comes at once, and the rest at 40 KB a second."""
    frame = message("SLOW", text="x" * 2_000_000)

    async def send() -> None:
        writer = await connect(adt)
        writer.write(frame[:500_000])
        for at in range(500_000, len(frame), 800):
            writer.write(frame[at : at + 800])
            await asyncio.sleep(1 / 50)

    for _ in range(3):
        keep(send())


async def unfinished(adt: int) -> None:
    """Many parts of messages, and then silence: of 17 KiB, and of 250 KB."""
    for size in [17 * 1024] * 200 + [250_000] * 100:
        (await connect(adt)).write(message("HALF", text="x" * size)[:-2])


async def stalled(adt: int) -> None:
    """Messages of nearly the longest length that stop short of their end."""
    for _ in range(4):
        (await connect(adt)).write(message("HALF", text="x" * 15_000_000)[:-2])


async def silent(adt: int) -> None:
    """All places are taken by connections that send nothing."""
    for number in range(2_000):
        await connect(adt, BAD[number % 2])


async def spoken(adt: int) -> None:
    """All places are taken by connections that sent one message each."""
    for number in range(2_000):
        (await connect(adt, BAD[number % 2])).write(message("ONE"))


async def empty(adt: int) -> None:
    """Empty frames at 5 Mbit/s on one connection."""
    keep(pour(adt, EMPTY, 625_000))


async def empties(adt: int) -> None:
    """The same on twenty connections."""
    for _ in range(20):
        keep(pour(adt, EMPTY, 625_000))


async def junk(adt: int) -> None:
    """Bytes between empty frames, on five connections."""
    for _ in range(5):
        keep(pour(adt, b"x" + EMPTY, 625_000))


async def tiny(adt: int) -> None:
    """A message that arrives byte by byte, on 200 connections."""
    for _ in range(200):
        keep(pour(adt, message("TINY", text="x" * 100_000), 50, pieces_per_second=50))


async def connects(adt: int) -> None:
    """Over its limit: some 2,000 connections a second."""
    for _ in range(1_000):
        await connect(adt)
    keep(churn(adt, 2_000))


async def closes(adt: int) -> None:
    """400 connections a second that send a message without an answer, and close."""

    async def once() -> None:
        writer = await connect(adt)
        writer.write(message(MUTE))
        close(writer)

    async def run() -> None:
        while True:
            with suppress(OSError):
                await once()
            await asyncio.sleep(1 / 400)

    keep(run())


async def churn(port: int, per_second: int, data: bytes = b"") -> None:
    """Connect again and again."""
    for number in itertools.count():
        with suppress(OSError):
            writer = await connect(port)
            writer.write(data)
            close(writer)
        if number % 20 == 0:
            await asyncio.sleep(20 / per_second)


async def http(port: int) -> None:
    """220 connections with unfinished requests, which come back where the gate closes them."""
    head = b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 4_000) for n in range(500))

    async def run() -> None:
        while True:
            with suppress(OSError):
                writer = await connect(port)
                for at in range(0, len(head), 60_000):
                    writer.write(head[at : at + 60_000])
                    await writer.drain()
                await asyncio.sleep(1)
                close(writer)
            await asyncio.sleep(0.5)

    for _ in range(220):
        keep(run())


async def pages(port: int) -> None:
    """500 requests for /metrics a second."""
    keep(churn(port, 500, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))


DEVICES: Final[dict[str, Callable[[int], Awaitable[None]]]] = {
    one.__name__: one
    for one in (unanswered, slow, unfinished, stalled, silent, spoken, empty, empties, junk, tiny, connects, closes)
}
REQUESTS: Final[dict[str, Callable[[int], Awaitable[None]]]] = {one.__name__: one for one in (http, pages)}

_tasks: set[asyncio.Task[None]] = set()


def keep(work: Awaitable[None]) -> None:
    """Run beside everything else."""
    _tasks.add(asyncio.ensure_future(work))


async def main(name: str, adt: int, http_port: int) -> None:
    """Misbehave until killed. In a clinic this is another machine: here it must not take the gate's processor."""
    os.nice(19)
    if name in DEVICES:
        await DEVICES[name](adt)
    else:
        await REQUESTS[name](http_port)
    print("ready", flush=True)  # noqa: T201 - the benchmark reads it
    await asyncio.Event().wait()


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
