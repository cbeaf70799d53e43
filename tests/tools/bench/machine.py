"""The machine of a run: versions, cores, load, and a process's CPU and memory from /proc. Used by `phases` and `report`."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.cluster.toolchain.programs import pinned_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.cluster import Cluster

TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
LOOK_SECONDS: Final = 2.0
LIBRARIES: Final = ("medplum-agent-operator", "kopf", "kubernetes", "aiohttp", "pydantic")


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine, without its name: results are shared."""

    cores: int
    processor: str
    memory_gib: float
    kernel: str
    busy_with_others: float
    """Share of all cores that other programs used during two seconds before the start."""


def look_at_machine() -> Machine:
    """Describe this machine. Takes two seconds, during which the bench must be idle."""
    models = [line.partition(": ")[2] for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal:"))
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        processor=models[0] if models else platform.machine(),
        memory_gib=round(memory / 2**20, 1),
        kernel=f"{platform.system()} {platform.release().partition('-')[0]}",
        busy_with_others=_busy(),
    )


def versions(cluster: Cluster) -> dict[str, str]:
    """Return the versions of all programs and libraries involved."""
    kubernetes = json.loads(cluster.kubectl("version", "--output", "json").stdout)["serverVersion"]
    return {name: version(name) for name in LIBRARIES} | {
        "python": platform.python_version(),
        "kube-apiserver": kubernetes["gitVersion"],
        "etcd": pinned_version("etcd"),
        "kwok": pinned_version("kwok"),
    }


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, without its ended children."""
    # Fields 14 and 15, counted after the program's name in brackets, which may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def waited_seconds(pid: int) -> float:
    """Return how long a process was runnable without a core. On a quiet machine this is about 0."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="utf-8").split()[1]) / 1e9


def memory_mib(pid: int) -> Mapping[str, float]:
    """Resident memory of a process: `VmRSS` now, `VmHWM` at its highest."""
    found = {}
    for line in _lines(f"/proc/{pid}/status"):
        name, _, rest = line.partition(":")
        if name in {"VmRSS", "VmHWM"}:
            found[name] = round(int(rest.split()[0]) / 1024, 1)
    return found


def _busy() -> float:
    first = _ticks()
    time.sleep(LOOK_SECONDS)
    second = _ticks()
    total = sum(second) - sum(first)
    idle = second[3] + second[4] - first[3] - first[4]
    return round(1 - idle / total, 2) if total else 0.0


def _ticks() -> list[int]:
    """Ticks of all cores by what they did: user, nice, system, idle, iowait, irq, softirq, steal."""
    return [int(number) for number in _lines("/proc/stat")[0].split()[1:9]]


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()
