"""The generator over loopback, against a scripted server: the report's figures are exact."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.traffic.config import TrafficConfig
from tests.support.traffic.generator import Traffic
from tests.support.traffic.scripted_server import Manner, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def serving(script: Callable[[str, int], Manner] = lambda *_: Manner.ACK) -> AsyncIterator[ScriptedServer]:
    """A server for one test."""
    server = ScriptedServer(script)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def traffic(server: ScriptedServer, **settings: Any) -> Traffic:
    """One long-lived device that sends every 10 ms by default."""
    chosen: dict[str, Any] = {
        "reconnecting_per_second": 0.0,
        "long_lived_connections": 1,
        "long_lived_per_second": 100.0,
        "slow_connections": 0,
        "retry_seconds": 0.02,
        "settle_seconds": 0.3,
        **settings,
    }
    return Traffic(TrafficConfig("127.0.0.1", server.port, **chosen), server=server)


def late(run: Traffic) -> float:
    """How much a busy machine may have added to a time."""
    return 4 * run.report.generator.longest_stall_seconds


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition is anything
            await asyncio.sleep(0.005)


def nth(number: int, manner: Manner) -> Callable[[str, int], Manner]:
    """This manner for the first copy of one message, ACK for all else."""
    return lambda identifier, copy: manner if identifier.endswith(f"-{number:07d}") and copy == 0 else Manner.ACK


async def test_all_four_shapes_and_nothing_wrong() -> None:
    """Every message of every shape is sent once, acknowledged and arrived; nothing is invented."""
    async with serving() as server:
        run = traffic(
            server,
            reconnecting_per_second=50.0,
            slow_connections=5,
            slow_every_seconds=0.2,
            push_per_second=20.0,
            server_url="http://unused",
            agent_id="agent-1",
        )
        async with run:
            await until(lambda: run.snapshot().acknowledged >= 60)
    report = run.report
    assert {"reconnecting", "long-lived", "slow", "push"} == report.shapes.keys()
    for figures in report.shapes.values():
        assert figures.sent > 0
        assert figures.offered == figures.sent == figures.sends == figures.acknowledged == figures.arrived
        assert (0, 0, 0) == (figures.lost, figures.repeated, figures.unacknowledged)
        assert (0, 0, 0, 0, 0) == (figures.refused, figures.reset, figures.closed, figures.timeouts, figures.rejected)
    assert len(server.record) == report.overall.arrived


@pytest.mark.parametrize(
    ("manner", "expected"),
    [
        pytest.param(Manner.RESET, {"reset": 1, "most_resets_on_one_connection": 1, "repeated": 0}, id="reset"),
        pytest.param(Manner.CLOSE, {"closed": 1, "closed_in_hand": 1, "repeated": 0}, id="closed"),
        pytest.param(Manner.CLOSE_MIDWAY, {"closed": 1, "repeated": 1, "extra_arrivals": 1}, id="half an ACK"),
        pytest.param(Manner.SILENCE, {"timeouts": 1, "repeated": 0}, id="no answer"),
        pytest.param(Manner.REJECT, {"rejected": 1, "repeated": 0}, id="negative answer"),
    ],
)
@pytest.mark.parametrize("shape", ["long-lived", "reconnecting"])
async def test_what_is_not_acknowledged_is_sent_again(manner: Manner, expected: dict[str, int], shape: str) -> None:
    """Each cause of a missing ACK counts once, and the message goes out again with the same control id."""
    rates = {} if shape == "long-lived" else {"long_lived_connections": 0, "reconnecting_per_second": 50.0}
    async with serving(nth(2, manner)) as server:
        run = traffic(server, acknowledge_seconds=0.2, **rates)
        async with run:
            await until(lambda: len(set(server.seen)) >= 10)
    figures = run.report.shapes[shape]
    nothing = dict.fromkeys(("lost", "unacknowledged", "refused", "reset", "closed", "timeouts", "rejected"), 0)
    wanted = {**nothing, **expected}
    if shape == "reconnecting":
        wanted.pop("most_resets_on_one_connection", None)
    assert wanted == {name: getattr(figures, name) for name in wanted}
    assert figures.sends == figures.sent + 1
    assert [2] == [server.seen.count(i) for i in sorted(set(server.seen)) if i.endswith("-0000002")]


async def test_an_acknowledged_message_that_never_arrives_is_lost() -> None:
    """CA, and then nothing: lost, by name, and nothing else is."""
    async with serving(lambda i, _: Manner.LOSE if i.endswith("-0000004") else Manner.ENHANCED) as server:
        run = traffic(server)
        async with run:
            await until(lambda: len(server.seen) >= 12)
            await asyncio.sleep(0.05)
    overall = run.report.overall
    assert (1, overall.sent - 1, 0) == (overall.lost, overall.arrived, overall.unacknowledged)
    assert [f"{run.config.run}L000-0000004"] == run.report.lost
    assert overall.acknowledged == overall.sent


async def test_waiting_for_the_application_answer() -> None:
    """With wait_for_application, CA alone settles nothing: the message is sent again until there is AA."""

    def script(identifier: str, copy: int) -> Manner:
        return Manner.LOSE if identifier.endswith("-0000001") and copy == 0 else Manner.ENHANCED

    async with serving(script) as server:
        run = traffic(server, wait_for_application=True, acknowledge_seconds=0.1)
        async with run:
            await until(lambda: len(set(server.seen)) >= 5)
    overall = run.report.overall
    assert (0, 1, 0) == (overall.lost, overall.timeouts, overall.acknowledged_on_receipt_only)
    assert overall.sends == overall.sent + 1


async def test_an_outage_is_one_pause() -> None:
    """A server that is away for half a second: refused is counted, nothing is lost, the pause is as long as that."""
    async with serving() as server:
        run = traffic(server, reconnecting_per_second=50.0)
        async with run:
            await until(lambda: len(server.seen) >= 20)
            run.mark("away")
            await server.stop()
            await asyncio.sleep(0.5)
            await server.start()
            run.mark("back")
            before = len(server.seen)
            await until(lambda: len(server.seen) >= before + 20)
            await asyncio.sleep(0.1)
            run.mark("calm")
            await asyncio.sleep(0.1)
    overall = run.report.overall
    assert (0, 0) == (overall.lost, overall.unacknowledged)
    assert overall.refused > 5
    assert 0.45 < overall.longest_pause_seconds < 0.8 + late(run)
    stages = {stage.name: stage for stage in run.report.stages}
    assert ["start", "away", "back", "calm"] == list(stages)
    assert (0, 0) == (stages["start"].overall.refused, stages["calm"].overall.refused)
    assert 1 == stages["away"].overall.most_breaks_on_one_connection
    assert stages["calm"].overall.longest_pause_seconds < 0.3 + late(run)


async def test_a_server_that_never_answers_is_given_up_at_the_end() -> None:
    """What is unacknowledged when the run is over is said to be so, by name; the end does not wait for ever."""
    async with serving(lambda *_: Manner.SILENCE) as server:
        run = traffic(server, reconnecting_per_second=20.0, finish_seconds=0.3)
        async with run:
            await until(lambda: len(set(server.seen)) >= 3)
            began = time.monotonic()
        assert time.monotonic() - began < 1.0 + late(run)
    overall = run.report.overall
    assert (0, 0, 0) == (overall.acknowledged, overall.arrived, overall.lost)
    assert overall.unacknowledged == overall.offered == len(run.report.unacknowledged)
    assert overall.longest_pause_seconds > 0.3


async def test_late_acknowledgements_are_latency() -> None:
    """An ACK that takes 0.3 s is a wait of 0.3 s, no failure."""
    async with serving(nth(3, Manner.LATE)) as server:
        run = traffic(server)
        async with run:
            await until(lambda: len(server.seen) >= 10)
    overall = run.report.overall
    assert overall.acknowledged_after_max_seconds is not None
    assert 0.29 < overall.acknowledged_after_max_seconds < 0.6 + late(run)
    assert 0.29 < overall.longest_pause_seconds < 0.6 + late(run)
    assert overall.sends == overall.sent


async def test_pipelining_sends_again_all_that_was_on_the_wire() -> None:
    """With four unacknowledged messages on a connection that breaks, all go again and all arrive."""
    async with serving(nth(5, Manner.RESET)) as server:
        run = traffic(server, pipeline=4, long_lived_per_second=500.0)
        async with run:
            await until(lambda: len(set(server.seen)) >= 30)
    overall = run.report.overall
    assert (0, 0, 1) == (overall.lost, overall.unacknowledged, overall.reset)
    assert overall.arrived == overall.offered


async def test_strays_do_not_acknowledge() -> None:
    """An ACK for a message that this connection did not send is counted as a stray."""
    async with serving(nth(1, Manner.STRAY)) as server:
        run = traffic(server)
        async with run:
            await until(lambda: len(server.seen) >= 5)
    assert (1, 0) == (run.report.generator.strays, run.report.overall.lost)


async def test_no_loop_against_a_server_that_accepts_only_to_close() -> None:
    """A device reconnects at once, but not faster than its retry time when nothing comes of it."""
    async with serving(lambda *_: Manner.CLOSE) as server:
        run = traffic(server, retry_seconds=0.1, finish_seconds=0.0)
        async with run:
            await asyncio.sleep(0.55)
    assert 4 <= run.report.overall.closed <= 7


async def test_connections_come_from_the_source_addresses_in_turn() -> None:
    """Several source addresses are used alike; one that is not this machine's is an error before anything is sent."""
    async with serving() as server:
        run = traffic(server, sources=("127.0.0.2", "127.0.0.3"), long_lived_connections=4)
        async with run:
            await until(lambda: len(server.peers) == 4)
        assert ["127.0.0.2"] * 2 + ["127.0.0.3"] * 2 == sorted(server.peers)
        with pytest.raises(ValueError, match=r"203\.0\.113\.7 is not an address of this machine"):
            await traffic(server, sources=("203.0.113.7",)).start()


@pytest.mark.parametrize(
    ("times", "taken", "expected"),
    [
        pytest.param(1, True, (0, 0, 0), id="one agent"),
        pytest.param(2, True, (0, "all", 0), id="two agents, each delivers"),
        pytest.param(0, True, ("all", 0, 0), id="taken and never delivered"),
        pytest.param(1, False, (0, 0, "all"), id="not taken"),
    ],
)
async def test_pushes(times: int, taken: bool, expected: tuple[int | str, ...]) -> None:  # noqa: FBT001
    """A push that arrives twice is repeated, one that never arrives is lost, one that was not taken is refused."""
    async with serving() as server:
        server.push_times, server.pushes_taken = times, taken
        run = traffic(
            server,
            long_lived_connections=0,
            push_per_second=50.0,
            server_url="http://unused",
            agent_id="agent-1",
            acknowledge_seconds=0.2,
        )
        async with run:
            await until(lambda: len(run.ledger.identifiers) >= 5)
    push = run.report.shapes["push"]
    assert expected == tuple(
        "all" if value == push.offered else value for value in (push.lost, push.repeated, push.refused)
    )


async def test_a_record_that_cannot_be_read_proves_nothing() -> None:
    """When the server's record is away at the end, lost is unknown: neither 0 nor everything."""
    async with serving() as server:
        config = TrafficConfig("127.0.0.1", server.port, settle_seconds=0.3, server_url="http://127.0.0.1:1")
        async with Traffic(config) as run:
            await until(lambda: len(server.seen) >= 10)
    assert (None, None, []) == (run.report.overall.arrived, run.report.overall.lost, run.report.lost)
    assert run.report.generator.server_failures > 0


class Record(BaseHTTPRequestHandler):
    """A control API that knows of nothing but one message of another run."""

    def do_GET(self) -> None:
        """Answer the record."""
        body = b'[{"id": "another-run", "at": 1.0}]' if self.path.endswith("since=0") else b"[]"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Be silent."""


def test_the_command(tmp_path: Path) -> None:
    """From the command line: marks from stdin, SIGTERM ends it in order, JSON is written, and losses are the exit code."""
    api = ThreadingHTTPServer(("127.0.0.1", 0), Record)
    threading.Thread(target=api.serve_forever, daemon=True).start()
    ready = threading.Event()
    port: list[int] = []
    loop = asyncio.new_event_loop()
    server = ScriptedServer()

    async def serve() -> None:
        await server.start()
        port.append(server.port)
        ready.set()

    thread = threading.Thread(target=lambda: (loop.run_until_complete(serve()), loop.run_forever()))
    thread.start()
    ready.wait(5)
    output, series = tmp_path / "report.json", tmp_path / "series.json"
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.support.traffic",
            f"127.0.0.1:{port[0]}",
            "--long-lived",
            "2:50",
            "--slow",
            "0",
            "--reconnecting",
            "20",
            "--server",
            f"http://127.0.0.1:{api.server_port}",
            "--settle",
            "0.2",
            "--marks",
            "--run",
            "abc123",
            "--output",
            str(output),
            "--series",
            str(series),
            "--live-json",
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        while len(server.seen) < 20:
            assert program.poll() is None
            time.sleep(0.02)
        assert program.stdin is not None
        program.stdin.write("patch applied\n")
        program.stdin.flush()
        time.sleep(1.5)
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=10)
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()
    api.shutdown()
    api.server_close()
    report = json.loads(output.read_text(encoding="utf-8"))
    assert 1 == program.returncode, err
    assert report["overall"]["lost"] == report["overall"]["acknowledged"] == len(server.seen)
    assert 1 == report["generator"]["foreign_arrivals"]
    assert ["start", "patch applied"] == [stage["name"] for stage in report["stages"]]
    assert all(identifier.startswith("abc123") for identifier in report["lost"])
    assert "longest pause" in out
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert "patch applied" == lines[-1]["stage"]
    assert 0 < lines[-1]["acknowledged"] < report["overall"]["acknowledged"]
    drawn = json.loads(series.read_text(encoding="utf-8"))
    assert report["overall"]["acknowledged"] == sum(sum(counts) for counts in drawn["acknowledged"].values())


@pytest.mark.parametrize("arguments", [["nowhere"], ["127.0.0.1:1", "--push", "1"], ["127.0.0.1:1", "--run", "x"]])
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    """Exit code 2 and a sentence, before anything is sent."""
    program = subprocess.run(
        [sys.executable, "-m", "tests.support.traffic", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 2 == program.returncode
    assert "error:" in program.stderr
    assert "Traceback" not in program.stderr


def test_the_folder_is_the_whole_program(tmp_path: Path) -> None:
    """Copied alone, to where nothing is installed, it starts: no import leads out of it."""
    folder = tmp_path / "tests" / "support" / "traffic"
    folder.mkdir(parents=True)
    for path in (ROOT / "tests" / "support" / "traffic").glob("*.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    program = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            "import sys; sys.path.insert(0, '.'); import tests.support.traffic.__main__ as m; m.main(['--help'])",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == program.returncode, program.stderr
    assert "HOST:PORT" in program.stdout


async def test_without_an_agent_everything_is_refused() -> None:
    """A port without a listener: each try counts as refused, and nothing counts as sent."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = TrafficConfig("127.0.0.1", port, slow_connections=3, retry_seconds=0.1, finish_seconds=0.2)
    async with Traffic(config) as run:
        await asyncio.sleep(0.3)
    overall = run.report.overall
    assert overall.refused > 11
    assert (0, 0, None) == (overall.sent, overall.acknowledged, overall.lost)
    assert overall.unacknowledged == overall.offered > 0
