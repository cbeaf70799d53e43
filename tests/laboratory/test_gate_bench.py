"""A small run of `make bench-gate`: it measures and writes, and its figures other than times are right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_bench_measures_and_memory_is_bounded(tmp_path: Path) -> None:
    """Ten messages of 16 MiB at once are in memory one by one."""
    command = [sys.executable, "-m", "tests.tools.gate_bench", "--rounds", "1", "--devices", "5", "--idle", "100"]
    subprocess.run([*command, "--output", str(tmp_path)], cwd=ROOT, check=True, capture_output=True, timeout=120)
    found = json.loads((tmp_path / "gate.json").read_text(encoding="utf-8"))
    assert {"direct", "gate", "added"} == set(found["latency"])
    assert found["throughput"]["gate"]["messages_per_second"] > 0
    memory = found["memory"]
    assert memory["idle_mib"] <= memory["large_peak_mib"] < 80
    assert memory["after_mib"] < memory["idle_mib"] + 8, "the large messages are gone, but their memory is not"
