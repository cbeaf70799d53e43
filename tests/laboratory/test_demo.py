"""The demo and the playground, run as a newcomer runs them: they do what README promises."""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from tests.support.cluster import wait_for
from tests.support.cluster.images.packages import IMAGE_PROGRAMS, what_is_missing
from tests.support.cluster.local import EXISTING
from tests.support.cluster.marks import UNMARKED
from tests.support.operator_process import ROOT
from tests.tools.demo import devices, excerpts, pods, real
from tests.tools.demo import terminal as terminal_module
from tests.tools.demo.__main__ import main
from tests.tools.demo.devices import Notice, Tally
from tests.tools.demo.pods import Census
from tests.tools.demo.run import play
from tests.tools.demo.simulated import SimulatedPods
from tests.tools.demo.story import CHAPTERS, Chapter
from tests.tools.demo.terminal import Terminal, screen, typed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

    from tests.tools.demo.stage import Stage
    from tests.tools.demo.tier import Tier

STORY = (
    "1. Install 5.1.14",
    "$ kubectl apply -f agent.yaml",
    "✓ one pod, 5.1.14, and it is ready",
    "2. Upgrade to 5.1.15: a handoff",
    "✓ both agents run: the old one serves until the new one has been ready for 3 seconds",
    "✓ one pod, 5.1.15, and it is ready",
    "✓ an agent was ready at every moment, as the operator saw it",
    "3. Downgrade to 4.2.3: refused",
    "from 5.1.15 to 4.2.3",
    "✓ status.plan says what is refused, and which command approves it",
    "✓ an Event of type Warning has the same first line",
    "✓ Deployment and pod are unchanged, down to the resourceVersion",
    "4. A careless approval",
    "'true'",
    "✓ status.plan says that 'true' approves nothing, and what to write instead",
    "✓ Deployment and pod are still unchanged",
    "5. The right approval",
    '--overwrite agents.medplum.com/force-downgrade="4.2.3 CHG-1042"',
    "✓ never more than 1 live pod",
    "✓ one pod, 4.2.3, and it is ready",
    "6. Back up to 5.1.15",
    "✓ status.plan explains the rollout: Recreate",
    "✓ never more than 1 live pod",
    "✓ one pod, 5.1.15, and it is ready",
    "7. A gate in front of the agent",
    "✓ the Service sends devices to two gates",
    "8. The same downgrade behind the gate",
    "✓ never more than 1 live pod",
    "✓ one pod, 4.2.3, and it is ready",
    "9. Back up behind the gate",
    "✓ one pod, 5.1.15, and it is ready",
    "10. What happened",
    "approved by 4.2.3 CHG-1043",
    "approved by 4.2.3 CHG-1042",
    "11. Delete",
    "No resources found",
    "✓ all children are gone",
    "Everything that it made is deleted.",
)
BAR_SECONDS = 180
"""It takes about a minute on a quiet machine; a test beside others is no place to measure it."""
NOTHING_GIVEN = {"KUBEBUILDER_ASSETS": "", UNMARKED: ""}
READ_ONLY, A_FILE = "/proc/sys", __file__
"""Caches that cannot be: even root makes no folder there."""
NEEDS_IMAGE_PROGRAMS = pytest.mark.skipif(
    what_is_missing(IMAGE_PROGRAMS) is not None, reason="without them no image is built anyway"
)


@contextmanager
def started(
    module: str, *arguments: str, folder: Path, existing: str | None = None, **more: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a module of the checkout from an empty folder, with its output in `folder`/output; interrupt it at the end."""
    environment = {name: value for name, value in os.environ.items() if name != EXISTING}
    with (folder / "output").open("w", encoding="utf-8") as out:
        program = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            env=environment | {"PYTHONPATH": str(ROOT), **more} | ({EXISTING: existing} if existing else {}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield program
    finally:
        if program.poll() is None:
            program.send_signal(signal.SIGINT)
            program.wait(60)


def said(folder: Path) -> str:
    """Return the program's output so far, with line breaks as single spaces: they depend on the terminal."""
    return " ".join((folder / "output").read_text(encoding="utf-8").split())


def say_until(folder: Path, program: subprocess.Popen[str], text: str) -> None:
    """Wait until the program prints this text; fail if it ends before."""
    wait_for(lambda: text in said(folder) or program.poll() is not None, what=f"{text!r} is printed", seconds=90)
    assert text in said(folder), said(folder)


def in_order(story: str, lines: Iterable[str]) -> None:
    """Fail if a line is missing or out of order."""
    position = 0
    for line in lines:
        found = story.find(line, position)
        assert found >= 0, f"{line!r} is missing or out of order:\n{story}"
        position = found + len(line)


@pytest.mark.cluster
def test_the_demo_plays_every_chapter_in_time_and_draws_it(tmp_path: Path) -> None:
    """Every step happens, in order, within the promised time; the picture is complete and needs no network."""
    began = time.monotonic()
    with started("tests.tools.demo", "--simulated", "--svg", "picture/demo.svg", folder=tmp_path) as demo:
        code = demo.wait(240)
    seconds = time.monotonic() - began
    story = said(tmp_path)
    assert code == 0, story
    in_order(story, ("The pods are simulated by kwok", *STORY))
    assert "devices:" not in story
    assert seconds < BAR_SECONDS
    assert ["output", "picture"] == sorted(path.name for path in tmp_path.iterdir())

    svg = (tmp_path / "picture" / "demo.svg").read_text(encoding="utf-8")
    assert ["http://www.w3.org/2000/svg"] == re.findall(r"https?://[^\s\"')]+", svg)
    drawn = " ".join(" ".join(ET.fromstring(svg).itertext()).split())  # noqa: S314 - the demo wrote it
    for chapter in CHAPTERS:
        assert chapter.pictured == (chapter.title in drawn)
    assert 'agents.medplum.com/force-downgrade="4.2.3 CHG-1042"' in drawn


def test_without_a_real_node_the_demo_says_why_and_uses_simulated_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line is the reason."""
    monkeypatch.delenv(EXISTING, raising=False)
    monkeypatch.setattr("tests.tools.demo.__main__.missing", lambda: "real nodes need root")
    shown = StringIO()
    monkeypatch.setattr("tests.tools.demo.__main__.screen", lambda: screen(shown))
    played: list[dict[str, Any]] = []

    def play_nothing(_: Terminal, **options: Any) -> int:
        played.append(options)
        return 0

    monkeypatch.setattr("tests.tools.demo.__main__.play", play_nothing)
    assert main([]) == 0
    assert "No real node on this machine: real nodes need root. The demo uses simulated pods.\n" == shown.getvalue()
    assert main(["--simulated"]) == 0
    assert shown.getvalue().count("\n") == 1
    assert [{}, {}] == played

    monkeypatch.setattr("tests.tools.demo.__main__.missing", lambda: None)
    assert main([]) == 0
    assert {"about": real.ABOUT, "opened": real.real_node} == played[-1]


def test_no_simulated_pods_on_an_existing_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--simulated starts a cluster, so it cannot be combined with E2E_KUBECONFIG."""
    monkeypatch.setenv(EXISTING, "/nowhere")
    with pytest.raises(SystemExit, match="2"):
        main(["--simulated"])
    assert "unset E2E_KUBECONFIG" in capsys.readouterr().err


def test_traffic_is_shown_during_a_wait() -> None:
    """On a terminal, the line about traffic stands beside what the demo waits for."""
    shown = StringIO()
    console = Console(file=shown, force_terminal=True, width=120)
    terminal = Terminal(console, live=lambda: "81 messages/s, lost 0")
    with terminal.waiting("a handoff"):
        wait_for(lambda: "81 messages/s, lost 0" in shown.getvalue(), what="the line is shown", seconds=10)
    assert "a handoff" in shown.getvalue()


@pytest.mark.parametrize(
    ("noticed", "notice", "objection"),
    [
        ({}, Notice.NOTHING, ""),
        ({"broken": 24, "repeated": 3}, Notice.RECONNECT, ""),
        ({"refused": 1}, Notice.RECONNECT, "A step: refused 1"),
        ({"timeouts": 1}, Notice.RECONNECT, "A step: timeouts 1"),
        ({"broken": 24, "timeouts": 1}, Notice.LED_ELSEWHERE, ""),
        ({"refused": 1}, Notice.LED_ELSEWHERE, "A step: refused 1"),
        ({"broken": 24, "repeated": 3}, Notice.NOTHING, "A step: broken 24, repeated 3"),
        ({"refused": 35, "broken": 24, "timeouts": 2, "repeated": 1}, Notice.PAUSE, ""),
        ({"lost": 1, "unacknowledged": 2}, Notice.PAUSE, "A step: lost 1, unacknowledged 2"),
    ],
)
def test_what_devices_may_notice(noticed: dict[str, int], notice: Notice, objection: str) -> None:
    """A handoff may cost a connection, a Recreate a pause, a refusal nothing; a message is never lost."""
    names = ("lost", "unacknowledged", "refused", "broken", "timeouts", "repeated")
    figures: dict[str, Any] = dict.fromkeys(names, 0) | noticed
    tally = Tally(step="A step", messages=900, per_second=80.0, longest_pause_seconds=0.04, **figures)
    assert objection == tally.objection(notice)


def test_a_timeout_is_shown_with_its_time() -> None:
    """A reader who looks for the cause learns which device waited, and from when to when."""
    counted = {
        **dict.fromkeys(
            ("acknowledged", "lost", "unacknowledged", "refused", "unreachable", "reset", "closed", "repeated"), 0
        ),
        "timeouts": 1,
        "acknowledged_per_second": 80.0,
        "longest_pause_seconds": 0.04,
    }
    report = {
        "overall": {"lost": 0},
        "stages": [
            {"name": "start", "start": 0.0, "seconds": 9.0, "overall": counted | {"timeouts": 0}},
            {"name": "A step", "start": 9.0, "seconds": 5.0, "overall": counted},
        ],
        "timeouts": [{"shape": "long-lived", "connection": 3, "from": 10.5, "to": 15.5}],
    }
    assert ["", "A step: timeouts 1, long-lived 3 from 1.5 to 6.5 s"] == [
        tally.objection(Notice.NOTHING) for tally in devices.tallies(report)
    ]


@pytest.mark.parametrize("module", [devices, excerpts, pods, terminal_module], ids=lambda module: module.__name__)
def test_examples(module: ModuleType) -> None:
    """The examples in docstrings hold."""
    failed, tried = doctest.testmod(module)
    assert (0, True) == (failed, tried > 0)


@dataclass(slots=True)
class NoPods:
    """A tier with an operator that runs and no pods. For a step that fails it needs no cluster."""

    folder: Path
    operator_log: Callable[[], str] = lambda: "the operator's last line"
    operator_fault: Callable[[], str] = lambda: ""

    @property
    def cluster(self) -> NoPods:
        """Itself, with what a stage asks of a cluster."""
        return self

    def read(self, *_: str) -> dict[str, Any]:
        """No objects."""
        return {"items": []}


def test_a_failed_step_ends_the_demo_with_its_reason(tmp_path: Path) -> None:
    """The demo shows the reason and the end of the operator's log, plays no later chapter, and exits with 1."""

    def fail(stage: Stage) -> None:
        stage.check(len(stage.pods()) == 1, "there is a pod", found="none")

    def never(_: Stage) -> None:
        pytest.fail("the demo continued after a failed step")

    shown = StringIO()
    chapters = (Chapter("A step", "It cannot happen.", fail), Chapter("Too late", "It must not be played.", never))
    tier = cast("Tier", NoPods(tmp_path))
    assert play(Terminal(screen(shown)), chapters, opened=lambda: nullcontext(tier)) == 1
    assert "✗ Check failed: there is a pod. Found: none" in shown.getvalue()
    assert "The end of the operator's log:\nthe operator's last line" in shown.getvalue()
    assert "Too late" not in shown.getvalue()


@pytest.mark.cluster
def test_a_dead_operator_ends_the_demo_at_once() -> None:
    """The demo does not wait for an operator that has ended."""

    def kill(stage: Stage) -> None:
        assert isinstance(stage.tier, SimulatedPods)
        stage.tier.operator.kill()
        stage.wait_until(lambda: False, what="a miracle", seconds=60)

    shown = StringIO()
    began = time.monotonic()
    assert play(Terminal(screen(shown)), (Chapter("A death", "Operators die.", kill),)) == 1
    assert "✗ The operator ended with exit code -9 while the demo waited: a miracle." in shown.getvalue()
    assert time.monotonic() - began < 60


@pytest.mark.cluster
def test_ctrl_c_ends_the_demo_and_removes_the_cluster(tmp_path: Path) -> None:
    """An interrupted demo says so, exits as the shell expects, and leaves no cluster."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with started("tests.tools.demo", "--simulated", folder=tmp_path, TMPDIR=str(temporary)) as demo:
        say_until(tmp_path, demo, "1. Install 5.1.14")
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 130
    assert "Interrupted; the cluster is gone." in said(tmp_path)
    assert [] == list(temporary.iterdir()), "the operator's certificates too"


@pytest.mark.parametrize(
    ("module", "arguments", "cache"),
    [
        ("tests.tools.demo", ("--simulated",), READ_ONLY),
        ("tests.tools.demo", ("--simulated",), A_FILE),
        ("tests.tools.playground", (), A_FILE),
        ("tests.tools.bench", (), A_FILE),
        ("tests.support.cluster", (), A_FILE),
        ("tests.support.cluster.toolchain", ("kubectl",), A_FILE),
        pytest.param("tests.support.cluster.images", ("pause",), A_FILE, marks=NEEDS_IMAGE_PROGRAMS),
    ],
)
def test_a_cache_folder_that_cannot_be_used(
    tmp_path: Path, module: str, arguments: tuple[str, ...], cache: str
) -> None:
    """A sentence that names it and says what to set; no traceback. No program comes as far as starting a cluster."""
    with started(module, *arguments, folder=tmp_path, XDG_CACHE_HOME=cache, **NOTHING_GIVEN) as program:
        assert program.wait(30) == 1, said(tmp_path)
    assert f"The cache folder {cache}/medplum-agent-operator cannot be used: " in said(tmp_path)
    assert "Traceback" not in said(tmp_path)


@pytest.mark.cluster
def test_the_playground_comes_up_answers_and_goes_on_sigterm(tmp_path: Path) -> None:
    """The commands that it prints show a ready agent, and SIGTERM removes everything."""
    with started("tests.tools.playground", folder=tmp_path) as playground:
        say_until(tmp_path, playground, "Press Ctrl-C here")
        text = said(tmp_path)
        exported = dict(re.findall(r"export (KUBECONFIG|PATH)=(\S+)", text))
        answer = subprocess.run(
            [
                "bash",
                "-c",
                f"export KUBECONFIG={exported['KUBECONFIG']} PATH={exported['PATH']}; kubectl get mpa front-desk",
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert "Running" in answer.stdout
        playground.send_signal(signal.SIGTERM)
        assert playground.wait(60) == 0
    assert "The cluster is gone." in said(tmp_path)
    assert not Path(exported["KUBECONFIG"]).exists()


@pytest.mark.cluster
def test_the_playground_says_when_the_operator_dies(tmp_path: Path) -> None:
    """A dead operator ends the playground with the end of its log and exit code 1."""
    with started("tests.tools.playground", folder=tmp_path) as playground:
        say_until(tmp_path, playground, "Press Ctrl-C here")
        children = Path(f"/proc/{playground.pid}/task/{playground.pid}/children").read_text(encoding="ascii").split()
        command = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
        (operator,) = [pid for pid, line in command.items() if b"medplum-agent-operator\0" in line]
        os.kill(operator, signal.SIGKILL)
        assert playground.wait(60) == 1
    assert "The operator ended with exit code -9. The end of its log:" in said(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("get", "mpa"), "kubectl get mpa"),
        (("get", "mpa", "-o", "jsonpath={.status.plan}"), "kubectl get mpa -o jsonpath='{.status.plan}'"),
        (("annotate", "mpa", "x", "a.b/c=4.2.3 CHG"), 'kubectl annotate mpa x a.b/c="4.2.3 CHG"'),
        (("patch", "-p", '{"spec":{"a":"=1"}}'), """kubectl patch -p '{"spec":{"a":"=1"}}'"""),
        (("annotate", "mpa", "x", "a=$HOME"), "kubectl annotate mpa x a='$HOME'"),
    ],
)
def test_a_command_is_shown_as_a_person_would_type_it(arguments: tuple[str, ...], expected: str) -> None:
    """A command that is shown can be pasted into a shell and does the same there."""
    assert expected == typed(*arguments)


def test_two_pods_at_the_same_time_are_counted_even_while_one_terminates() -> None:
    """A pod counts until it is deleted or all its containers have ended."""
    census = Census()
    census.count("EVENT      NAME    READY   STATUS        RESTARTS   AGE   VERSION")
    census.count("ADDED      old-1   1/1     Running       0          7s    5.1.15")
    census.count("MODIFIED   old-1   0/1     Completed     0          7s    5.1.15")
    census.count("ADDED      new-1   0/1     Pending       0          0s    4.2.3")
    assert census.most == 1
    census.count("MODIFIED   new-1   1/1     Terminating   0          0s    4.2.3")
    census.count("ADDED      new-2   0/1     Pending       0          0s    4.2.3")
    census.count("DELETED    new-1   1/1     Terminating   0          0s    4.2.3")
    assert census.most == 2
    assert {"new-2"} == census.live
