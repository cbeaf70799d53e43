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
    """Ten messages of 16 MiB at once share the memory that the reference names."""
    command = [sys.executable, "-m", "tests.tools.gate_bench", "--rounds", "1", "--devices", "5", "--idle", "100"]
    subprocess.run([*command, "--output", str(tmp_path)], cwd=ROOT, check=True, capture_output=True, timeout=120)
    found = json.loads((tmp_path / "gate.json").read_text(encoding="utf-8"))
    assert {"direct", "gate", "added"} == set(found["latency"])
    assert found["throughput"]["gate"]["messages_per_second"] > 0
    memory = found["memory"]
    assert memory["idle_mib"] <= memory["large_peak_mib"] < 62 + 2 * 16 + 110 / 16
    assert memory["after_mib"] < memory["idle_mib"] + 8, "the large messages are gone, but their memory is not"


@pytest.mark.slow
def test_an_address_that_misbehaves_stops_nobody_else(tmp_path: Path) -> None:
    """A smaller run of the second part: memory, log lines, and an answer to every message. Times are for a machine without other work."""
    names = ["unanswered", "empties", "connects", "http"]
    command = [sys.executable, "-m", "tests.tools.gate_bench.crowd", *names, "--rounds", "1", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=False, capture_output=True, timeout=200)
    found = json.loads((tmp_path / "gate-crowd.json").read_text(encoding="utf-8"))
    assert names == list(found)
    for each in found.values():
        assert each["loud"]["worst"] < 20_000
        assert each["peak_mib"] < 62 + 2 * 16 + 2_010 / 16
        assert each["lines_a_minute"] < 10
