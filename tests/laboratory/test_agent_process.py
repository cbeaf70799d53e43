"""The agent stand-in as a process: how it ends, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.support.doubles.hl7 import field
from tests.support.doubles.stage import ROOT, agent_process, arrived, device, free_port, is_open, medplum, until

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="a PID namespace needs root and unshare"
)


AS_NOBODY_SPECIAL = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()
"""root may write everywhere, so it must give that right up."""


def messages(said: str) -> list[str]:
    """What the JSON lines say."""
    return [json.loads(line)["msg"] for line in said.splitlines()]


def only_child(pid: int) -> int:
    """The one process that this one started."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8"))


@pytest.mark.parametrize("version", ["4.2.3", "5.1.15"])
async def test_sigterm(tmp_path: Path, version: str) -> None:
    """Exit code 0 at once, without a drain: the message in flight is never answered, its sender sees the end of the stream."""
    port = free_port()
    async with (
        medplum(f"mllp://0.0.0.0:{port}", answerDelayMs=5_000) as server,
        agent_process(tmp_path, server.port, version) as agent,
        device(port) as one,
    ):
        assert agent.pid_file.read_text("utf-8") == str(agent.process.pid)
        await one.send_message("M1")
        await until(lambda: ["M1"] == arrived(server))
        started = time.monotonic()
        agent.process.send_signal(signal.SIGTERM)
        code, said = await agent.end()
        # 5 to 45 ms with upstream; on any machine it is gone before the answer would have come.
        assert time.monotonic() - started < 5
        assert 0 == code
        assert b"" == await one.reader.read()
        assert not agent.pid_file.exists()
        await until(lambda: server.book.connections[0].disconnected_at is not None)
        assert 1006 == server.book.connections[0].close_code
        expected = [
            "starting...",
            "Successfully connected",
            "[HL7:c0] Channel started",
            "service started",
            "[Received -- ID: M1]",
        ]
        assert [] == [part for part in expected if not any(part in line for line in messages(said))]


async def test_log_files_and_levels(tmp_path: Path) -> None:
    """From 4.3.14 on both logs are in daily files; at WARN the channels' log has no message in it, anywhere."""
    port = free_port()
    properties = {"logger.main.logDir": "logs", "logger.channel.logDir": "logs", "logger.channel.logLevel": "WARN"}
    async with (
        medplum(f"mllp://0.0.0.0:{port}") as server,
        agent_process(tmp_path, server.port, "4.3.14", properties=properties) as agent,
        device(port) as one,
    ):
        await one.send_message("M1")
        await one.receive()
        agent.process.terminate()
        _, said = await agent.end()
    files = {path.name.rsplit("-", 3)[0]: path.read_text("utf-8") for path in (tmp_path / "logs").glob("m*")}
    assert {"medplum-agent-main": said, "medplum-agent-channels": ""} == files
    assert "MSH" not in said
    hidden = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "logs").glob(".*-audit.json")]
    assert {f"logs/{path.name}" for path in (tmp_path / "logs").glob("m*")} == {
        book["files"][0]["name"] for book in hidden
    }


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="taking root's privilege away needs setpriv")
async def test_a_log_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """From 4.3.14 on: exit 1 without a word. Before, nothing is written there."""
    port = free_port()
    (tmp_path / "logs").mkdir(mode=0o500)
    properties = {"logger.main.logDir": "logs", "logger.channel.logDir": "logs"}
    async with medplum(f"mllp://0.0.0.0:{port}") as server:
        async with agent_process(
            tmp_path, server.port, "4.3.14", properties=properties, prefix=AS_NOBODY_SPECIAL
        ) as agent:
            assert (1, "") == await agent.end()
        async with (
            agent_process(tmp_path, server.port, "4.3.13", properties=properties, prefix=AS_NOBODY_SPECIAL),
            device(port),
        ):
            pass


async def test_enhanced_mode_loses_what_it_acknowledged(tmp_path: Path) -> None:
    """A message that only this process had dies with it: the device has its CA, the server never hears of it."""
    port = free_port()
    async with (
        medplum(f"mllp://0.0.0.0:{port}?enhanced=true") as server,
        agent_process(tmp_path, server.port, "5.1.15", memory_ms=1_000) as agent,
        device(port) as one,
    ):
        await one.send_message("M1")
        ack = (await one.receive()).decode()
        assert ("CA", "M1") == (field(ack, "MSA", 1), field(ack, "MSA", 2))
        agent.process.terminate()
        assert 0 == (await agent.end())[0]
        await asyncio.sleep(0.1)
        assert [] == arrived(server)


async def test_a_second_agent_on_one_pid_file(tmp_path: Path) -> None:
    """It ends with exit code 1; the first one serves on, and keeps its file."""
    port = free_port()
    async with (
        medplum(f"mllp://0.0.0.0:{port}") as server,
        agent_process(tmp_path, server.port, "5.1.15") as first,
        device(port) as one,
    ):
        async with agent_process(tmp_path, server.port, "4.2.3") as second:
            assert (1, "") == await second.end()
        assert first.pid_file.read_text("utf-8") == str(first.process.pid)
        await one.send_message("M1")
        await one.receive()


async def test_a_reset_ends_a_byte_stream_agent(tmp_path: Path) -> None:
    """Exit 1, without a message; on an HL7 port the agent survives it."""
    mllp, stream = free_port(), free_port()
    addresses = (f"mllp://0.0.0.0:{mllp}", f"tcp://0.0.0.0:{stream}?startChar=%02&endChar=%03")
    async with medplum(*addresses) as server, agent_process(tmp_path, server.port, "5.1.15") as agent:
        async with device(mllp) as one:
            await one.send_message("M1")
            one.reset()
        await until(lambda: ["M1"] == arrived(server))
        async with device(stream):
            pass  # an end by FIN does no harm
        async with device(stream) as other:
            other.reset()
            code, said = await agent.end()
        assert 1 == code
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("version", "address"),
    [("4.2.0", "mllp://0.0.0.0:{}"), ("5.1.15", "tcp://0.0.0.0:{}?startChar=%02&endChar=%03")],
)
async def test_a_busy_port_that_kills(tmp_path: Path, version: str, address: str) -> None:
    """HL7 before 4.2.1, and byte streams always."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        async with (
            medplum(address.format(port)) as server,
            agent_process(tmp_path, server.port, version) as agent,
        ):
            assert 1 == (await agent.end())[0]


async def test_a_refused_login_before_4_1_3(tmp_path: Path) -> None:
    """The agent ends, and its exit code is 0: it proves nothing."""
    async with medplum(refuseTokens=True) as server, agent_process(tmp_path, server.port, "4.1.2") as agent:
        code, said = await agent.end()
    assert 0 == code
    assert "Failed to login" in said


@pytest.mark.parametrize("version", ["4.2.3", "5.1.15"])
@pytest.mark.parametrize("status", [403, 404, 503])
async def test_an_agent_that_cannot_be_read(tmp_path: Path, version: str, status: int) -> None:
    """Exit 1 with a word about it: only the login is tried for ever."""
    async with (
        medplum(f"mllp://0.0.0.0:{free_port()}", readStatus=status) as server,
        agent_process(tmp_path, server.port, version) as agent,
    ):
        code, said = await agent.end()
        assert (1, True) == (code, f"Agent/a1: {status}" in said)
        assert not agent.pid_file.exists()


async def test_an_endpoint_that_cannot_be_read(tmp_path: Path) -> None:
    """Exit 1 as well, though the Agent is there."""
    async with medplum("mllp://0.0.0.0:2575") as server:
        server.directory.agents["a1"].endpoints.clear()
        async with agent_process(tmp_path, server.port, "5.1.15") as agent:
            code, said = await agent.end()
    assert (1, True) == (code, "Endpoint/a1-c0: 404" in said)


async def test_a_configuration_that_cannot_be(tmp_path: Path) -> None:
    """Two channels on one port: exit 1."""
    async with (
        medplum("mllp://0.0.0.0:2575", "dicom://0.0.0.0:2575") as server,
        agent_process(tmp_path, server.port, "5.1.15") as agent,
    ):
        assert 1 == (await agent.end())[0]


async def test_arguments_in_place_of_the_file(tmp_path: Path) -> None:
    """With four the file is ignored whole: here it names a server that is not there."""
    port = free_port()
    async with medplum(f"mllp://0.0.0.0:{port}") as server:
        arguments = (f"http://127.0.0.1:{server.port}/", "client", "secret", "a1")
        async with agent_process(tmp_path, free_port(), "5.1.15", *arguments), device(port):
            assert 1 == len(server.book.connections)


async def test_exit_after_the_start_and_late_start(tmp_path: Path) -> None:
    """The two switches of a target that does not stay, and of one that takes its time."""
    port = free_port()
    async with (
        medplum(f"mllp://0.0.0.0:{port}") as server,
        agent_process(tmp_path, server.port, "5.1.15", start_delay_ms=600, exit_after_ms=200, exit_code=7) as agent,
    ):
        await asyncio.sleep(0.3)
        assert not await is_open(port)
        assert 7 == (await agent.end())[0]
        assert 1 == len(server.book.connections)


@needs_namespaces
@pytest.mark.parametrize(("version", "survives"), [("4.0.9", True), ("4.1.0", False)])
async def test_sigterm_for_process_1(tmp_path: Path, version: str, *, survives: bool) -> None:
    """Before 4.1.0 the agent ignores it where it is PID 1, as in a container: then only SIGKILL ends it."""
    port = free_port()
    prefix = ("unshare", "--pid", "--fork", "--kill-child")
    async with (
        medplum(f"mllp://0.0.0.0:{port}") as server,
        agent_process(tmp_path, server.port, version, prefix=prefix) as agent,
        device(port),
    ):
        assert "1" == agent.pid_file.read_text("utf-8")
        inside = only_child(agent.process.pid)
        os.kill(inside, signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert survives == await is_open(port)
        if survives:
            os.kill(inside, signal.SIGKILL)
        await agent.end()


async def test_the_image_s_program_is_the_process_that_was_started(tmp_path: Path) -> None:
    """Started as the operator's pods do it, by `sh` that empties the temp folder: no shell stays between, a left PID file is gone."""
    port = free_port()
    left = tmp_path / "tmp" / "medplum-agent"
    left.mkdir(parents=True)
    (left / "medplum-agent.pid").write_text("garbage", "utf-8")
    async with (
        medplum(f"mllp://0.0.0.0:{port}") as server,
        agent_process(
            tmp_path,
            server.port,
            "5.1.15",
            prefix=("sh", "-c", 'rm -rf "${TMPDIR:?}"/* && exec "$@"', "agent"),
            program=(str(ROOT / "tests" / "support" / "doubles" / "medplum-agent"),),
        ) as agent,
        device(port),
    ):
        assert str(agent.process.pid) == agent.pid_file.read_text("utf-8")
        agent.process.terminate()
        assert 0 == (await agent.end())[0]


async def test_wrong_switches(tmp_path: Path) -> None:
    """Exit code 64, and a sentence that names the right ones."""
    async with agent_process(tmp_path, 1, "5.1.18", zombie=True) as agent:
        assert (64, "there are no zombies from 5.1.18 on\n") == await agent.end()
