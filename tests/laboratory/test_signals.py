"""The programs that tests start do not inherit the signals of whoever started the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.doubles.stage import ROOT

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")

SENT: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGCHLD)
STATUS: Final = ("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
CALLER: Final = f"""
import os, signal, subprocess, sys
from tests.support.signals import pass_on_nothing
if sys.argv[1] == "fixed":
    pass_on_nothing()
for number in {[int(number) for number in SENT]}:
    os.kill(os.getpid(), number)
print(subprocess.run({STATUS}, capture_output=True, text=True).stdout)
"""


def inherited(status: str) -> set[signal.Signals]:
    """The signals that a program ignores or blocks, of those that tests send."""
    found = 0
    for line in status.split("\n"):
        if line.startswith("Sig"):
            found |= int(line.split()[1], 16)
    return {number for number in SENT if found >> (number - 1) & 1}


def test_a_program_that_a_test_starts_inherits_no_signal() -> None:
    """Also in `nohup make test &`."""
    assert set() == inherited(subprocess.run(STATUS, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize(("mode", "expected"), [("as it was", set(SENT)), ("fixed", set())])
def test_what_the_caller_ignores_and_blocks(mode: str, expected: set[signal.Signals]) -> None:
    """The run itself goes on ignoring it: a Ctrl-C for somebody else, or the end of a terminal, does not end it."""

    def as_nohup_does() -> None:
        for number in SENT:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

    done = subprocess.run(
        [sys.executable, "-c", CALLER, mode],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=as_nohup_does,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, expected) == (done.returncode, inherited(done.stdout)), done.stderr
