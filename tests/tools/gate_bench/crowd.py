"""Measure what devices notice while one address misbehaves. Adds `crowd` to build/bench/gate.json, and fails outside the bounds.

For each way to misbehave: a gate with two channels, an agent, and a device on each channel, before and while it happens. The
device on the misbehaving address's channel and the one on the other channel send small and large messages by turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from tests.support.gate.scene import message
from tests.tools.bench.machine import memory_mib
from tests.tools.gate_bench.__main__ import END, ROOT, process
from tests.tools.gate_bench.misbehaving import BAD, DEVICES, REQUESTS

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE_BYTES: Final = 300_000
PATIENCE_SECONDS: Final = 20.0
MEMORY_MIB: Final = 62 + 2 * 16
"""The documented bound without connections; each adds 64 KiB."""
LINES_A_MINUTE: Final = 10
TIMES: Final = 2.0
"""How much longer than before an answer may take, and a millisecond, which is what this machine's scheduler adds at times."""


@contextmanager
def gate(agent: int, log: Path) -> Iterator[tuple[int, dict[str, int]]]:
    """Run a gate with its two channels and its HTTP port. Yields its process id and its ports."""
    command = [sys.executable, "-m", "tests.tools.gate_bench.actors", "whole-gate", str(agent)]
    with log.open("wb") as out, subprocess.Popen(command, cwd=ROOT, stderr=out) as running:
        try:
            while "listening: " not in (text := log.read_text(encoding="utf-8")):
                time.sleep(0.05)
            yield running.pid, {name: int(port) for name, port in re.findall(r"(\w+) on port (\d+)", text)}
        finally:
            running.kill()


@contextmanager
def misbehaving(name: str, ports: dict[str, int]) -> Iterator[None]:
    """Run the process that misbehaves."""
    command = [sys.executable, "-m", "tests.tools.gate_bench.misbehaving", name, str(ports["adt"]), str(ports["http"])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        try:
            running.stdout.readline()
            yield
        finally:
            running.kill()


async def exchange(port: int, frame: bytes, times: int) -> list[float]:
    """Connect a device; it sends the frame and waits for its answer, `times` times. Returns milliseconds; an answer that does not come counts as `PATIENCE_SECONDS`."""
    found: list[float] = []
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(times):
                begun = time.perf_counter()
                writer.write(frame)
                await reader.readuntil(END)
                found.append(1000 * (time.perf_counter() - begun))
                await asyncio.sleep(0.002)
            writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        found.append(1000 * PATIENCE_SECONDS)
    return found


async def answers(ports: dict[str, int], *, rounds: int) -> dict[str, float]:
    """Return the median time of small and of large messages on both channels, in milliseconds."""
    small, large = message("S", text="x" * 500), message("L", text="x" * LARGE_BYTES)
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for channel in ("adt", "oru"):
            found.setdefault(f"{channel}_small", []).extend(await exchange(ports[channel], small, 50))
            found.setdefault(f"{channel}_large", []).extend(await exchange(ports[channel], large, 3))
    return {name: median(each) for name, each in found.items()} | {"worst": max(map(max, found.values()))}


async def measure(name: str, folder: Path, *, rounds: int) -> dict[str, Any]:
    """Measure one way to misbehave."""
    log = folder / f"{name}.log"
    with process("agent") as (_, agent), gate(agent, log) as (pid, ports):
        await answers(ports, rounds=1)
        quiet = await answers(ports, rounds=rounds)
        begun = time.perf_counter()
        with misbehaving(name, ports):
            loud = await answers(ports, rounds=rounds)
        minutes = max(1.0, (time.perf_counter() - begun) / 60)
        memory = memory_mib(pid)["VmHWM"]
    lines = max(log.read_text(encoding="utf-8").count(f'"{address}"') for address in BAD) / minutes
    return {"quiet": quiet, "loud": loud, "peak_mib": memory, "lines_a_minute": lines}


def faults(name: str, found: dict[str, Any]) -> list[str]:
    """Return what is outside the bounds."""
    quiet, loud = found["quiet"], found["loud"]
    late = [
        f"{name}: {key} {loud[key]:.1f} ms instead of {quiet[key]:.1f} ms"
        for key in quiet
        if key != "worst" and loud[key] > TIMES * quiet[key] + 1
    ]
    if loud["worst"] >= 1000 * PATIENCE_SECONDS:
        late.append(f"{name}: a message without an answer, or a device without a connection")
    bound = MEMORY_MIB + 2_010 / 16
    if found["peak_mib"] > bound:
        late.append(f"{name}: {found['peak_mib']:.0f} MiB, over {bound:.0f} MiB")
    if found["lines_a_minute"] >= LINES_A_MINUTE:
        late.append(f"{name}: {found['lines_a_minute']:.0f} log lines a minute for one address")
    return late


def show(all_found: dict[str, dict[str, Any]]) -> None:
    """Print the results."""
    table = Table("one address", "small", "large", "worst", "memory", "log lines", title="Median before and meanwhile")
    for name, found in all_found.items():
        quiet, loud = found["quiet"], found["loud"]

        def pair(size: str, quiet: dict[str, float] = quiet, loud: dict[str, float] = loud) -> str:
            """Return the slower channel's figures."""
            key = max((f"adt_{size}", f"oru_{size}"), key=loud.__getitem__)
            return f"{quiet[key]:.2f}, {loud[key]:.2f} ms"

        table.add_row(
            name,
            pair("small"),
            pair("large"),
            f"{loud['worst']:.0f} ms",
            f"{found['peak_mib']:.0f} MiB",
            f"{found['lines_a_minute']:.0f}",
        )
    Console(width=110).print(table)


def main() -> int:
    """Measure, write, print. Returns 1 outside the bounds."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.gate_bench.crowd", description=__doc__)
    parser.add_argument(
        "names", nargs="*", help=f"ways to misbehave (default: all): {', '.join([*DEVICES, *REQUESTS])}"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of messages (default: %(default)d)")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench", help="folder (default: build/bench)")
    flags = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in flags.names or [*DEVICES, *REQUESTS]:
            found[name] = asyncio.run(measure(name, Path(folder), rounds=flags.rounds))
    flags.output.mkdir(parents=True, exist_ok=True)
    (flags.output / "gate-crowd.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    show(found)
    wrong = [fault for name, each in found.items() for fault in faults(name, each)]
    for fault in wrong:
        Console().print(fault)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
