"""Measure the gate: latency and throughput compared with a direct connection, CPU, and memory. Writes build/bench/gate.json."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from tests.support.gate.scene import message
from tests.tools.bench.machine import cpu_seconds, memory_mib

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
MIB = 1024 * 1024
END = b"\x1c\r"


@contextmanager
def process(*arguments: str) -> Iterator[tuple[int, int]]:
    """Run one of the actors. Yields its process id and its port."""
    command = [sys.executable, "-m", "tests.tools.gate_bench.actors", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield running.pid, int(running.stdout.readline())
        finally:
            running.kill()


class Sender:
    """A device that waits for each answer."""

    def __init__(self, port: int, frame: bytes) -> None:
        self.port, self.frame = port, frame
        self.seconds: list[float] = []

    async def connect(self) -> None:
        """Connect to the port."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, times: int) -> None:
        """Send the frame and wait for its answer, `times` times. Records the seconds of each."""
        for _ in range(times):
            begun = time.perf_counter()
            self.writer.write(self.frame)
            await self.writer.drain()
            await self.reader.readuntil(END)
            self.seconds.append(time.perf_counter() - begun)


async def latencies(ports: dict[str, int], *, rounds: int, each: int) -> dict[str, Any]:
    """Measure one device at a time, direct and through the gate in turns, so that both see the same noise. Values in milliseconds."""
    senders = {name: Sender(port, message("A" * 20, text="x" * 500)) for name, port in ports.items()}
    for sender in senders.values():
        await sender.connect()
        await sender.send(200)
        sender.seconds.clear()
    for _ in range(rounds):
        for sender in senders.values():
            await sender.send(each)
    found = {name: _figures(sender.seconds) for name, sender in senders.items()}
    return {**found, "added": {key: found["gate"][key] - found["direct"][key] for key in found["gate"]}}


def _figures(seconds: list[float]) -> dict[str, float]:
    return {"p50_ms": 1000 * median(seconds), "p99_ms": 1000 * quantiles(seconds, n=100)[98]}


async def throughput(ports: dict[str, int], gate: int, *, devices: int, each: int) -> dict[str, Any]:
    """Measure many devices at once, each of which waits for its answers."""
    found: dict[str, Any] = {}
    for name, port in ports.items():
        senders = [Sender(port, message("A" * 20, text="x" * 500)) for _ in range(devices)]
        await asyncio.gather(*(sender.connect() for sender in senders))
        cpu, begun = cpu_seconds(gate), time.perf_counter()
        await asyncio.gather(*(sender.send(each) for sender in senders))
        took = time.perf_counter() - begun
        found[name] = {"messages_per_second": devices * each / took}
        if name == "gate":
            found[name]["cpu_seconds_per_1000"] = (cpu_seconds(gate) - cpu) / (devices * each / 1000)
        for sender in senders:
            sender.writer.close()
    return found


async def memory(port: int, gate: int, *, idle: int, large: int) -> dict[str, float]:
    """Measure RSS in MiB: at the start, with idle connections that sent one message each, and with `large` of the longest messages at once."""
    found = {"start_mib": memory_mib(gate)["VmRSS"]}
    senders = [Sender(port, message("A")) for _ in range(idle)]
    for sender in senders:
        await sender.connect()
        await sender.send(1)
    found["idle_mib"] = memory_mib(gate)["VmRSS"]
    frame = message("A", text="x" * (16 * MIB - len(message("A"))))
    big = [Sender(port, frame) for _ in range(large)]
    await asyncio.gather(*(sender.connect() for sender in big))
    sending = asyncio.gather(*(sender.send(1) for sender in big))
    await sending
    return {**found, "large_peak_mib": memory_mib(gate)["VmHWM"], "after_mib": memory_mib(gate)["VmRSS"]}


async def measure(*, rounds: int, devices: int, idle: int) -> dict[str, Any]:
    """Measure everything, with one agent and one gate at a time."""
    with process("agent") as (_, direct), process("gate", str(direct)) as (gate, port):
        ports = {"direct": direct, "gate": port}
        start = memory_mib(gate)["VmRSS"]
        found: dict[str, Any] = {"latency": await latencies(ports, rounds=rounds, each=100)}
        found["throughput"] = await throughput(ports, gate, devices=devices, each=rounds * 10)
    with process("agent") as (_, direct), process("gate", str(direct)) as (gate, port):
        found["memory"] = {**await memory(port, gate, idle=idle, large=10), "start_mib": start}
    return found


def show(found: dict[str, Any]) -> None:
    """Print the results."""
    console = Console()
    table = Table(
        "latency", "p50", "p99", title="A device that waits for each answer, and an agent that answers at once"
    )
    for name, figures in found["latency"].items():
        table.add_row(name, f"{figures['p50_ms']:.3f} ms", f"{figures['p99_ms']:.3f} ms")
    console.print(table)
    flow, memory_ = found["throughput"], found["memory"]
    console.print(
        f"Messages per second: {flow['direct']['messages_per_second']:.0f} direct, "
        f"{flow['gate']['messages_per_second']:.0f} through the gate. The gate's CPU time for 1,000 messages: "
        f"{flow['gate']['cpu_seconds_per_1000']:.3f} s."
    )
    console.print(
        f"Memory (RSS): {memory_['start_mib']:.0f} MiB at the start, {memory_['idle_mib']:.0f} MiB with idle connections, "
        f"at most {memory_['large_peak_mib']:.0f} MiB with ten messages of 16 MiB at once, {memory_['after_mib']:.0f} MiB afterwards."
    )


def main() -> None:
    """Measure, write gate.json, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.gate_bench", description=__doc__)
    parser.add_argument(
        "--rounds",
        type=int,
        default=50,
        help="rounds of 100 messages, direct and through the gate (default: %(default)d)",
    )
    parser.add_argument(
        "--devices", type=int, default=50, help="devices at once for the throughput (default: %(default)d)"
    )
    parser.add_argument("--idle", type=int, default=1000, help="idle connections for the memory (default: %(default)d)")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "bench", help="folder for gate.json (default: build/bench)"
    )
    flags = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    found = asyncio.run(measure(rounds=flags.rounds, devices=flags.devices, idle=flags.idle))
    flags.output.mkdir(parents=True, exist_ok=True)
    (flags.output / "gate.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    show(found)


if __name__ == "__main__":
    main()
