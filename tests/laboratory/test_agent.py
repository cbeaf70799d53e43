"""The agent stand-in against the server stand-in, over sockets: start order, devices, pushes, and a server that is away."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.doubles.agent.framers import END, frame
from tests.support.doubles.hl7 import field
from tests.support.doubles.stage import arrived, device, free_port, hl7, is_open, medplum, running_agent, until

if TYPE_CHECKING:
    from tests.support.doubles.medplum.records import Push
    from tests.support.doubles.medplum.server import MedplumServer

BOTH = pytest.mark.parametrize("version", ["4.2.3", "5.1.15"])


async def arrive(server: MedplumServer, got: list[str]) -> None:
    """Wait for these; for nothing at all, wait for as long as ten tries take."""
    if got:
        await until(lambda: got == arrived(server))
    else:
        await asyncio.sleep(0.3)
        assert [] == arrived(server)


@BOTH
async def test_no_port_before_the_login(version: str) -> None:
    """Log in, WebSocket, Agent, Endpoints, and only then the ports; a refused login is tried again for ever."""
    port = free_port()
    async with medplum(f"mllp://0.0.0.0:{port}", refuseTokens=True) as server, running_agent(server, version):
        await asyncio.sleep(0.2)
        assert not await is_open(port)
        server.behaviour.refuseTokens = False
        async with device(port):
            assert 1 == len(server.book.connections)


async def test_no_port_without_a_server() -> None:
    """Without a server the agent opens no port and keeps running; when the server starts, the port opens."""
    port = free_port()
    async with medplum(f"mllp://0.0.0.0:{port}") as server:
        server.go_away(0.8, "refuse")
        async with running_agent(server, "5.1.15"):
            await asyncio.sleep(0.2)
            assert not await is_open(port)
            async with device(port):
                pass


async def test_a_token_that_is_to_be_renewed_at_once() -> None:
    """The agent hangs at its start: no port, no WebSocket, no end. With a longer life it is fine."""
    port = free_port()
    async with medplum(f"mllp://0.0.0.0:{port}", tokenSeconds=299) as server:
        async with running_agent(server, "5.1.15"):
            await until(lambda: bool(server.directory.tokens))
            server.behaviour.tokenSeconds = 320
            await asyncio.sleep(0.3)
            assert ([], False) == (server.book.connections, await is_open(port))
        async with running_agent(server, "5.1.15"), device(port):
            pass


@pytest.mark.parametrize("steady", [True, False])
async def test_pauses_grow_until_a_socket_was_steady(monkeypatch: pytest.MonkeyPatch, *, steady: bool) -> None:
    """A socket that was cut soon after it opened does not put the pauses back to their first length."""
    monkeypatch.setattr("tests.support.doubles.agent.link._STEADY_SECONDS", 0 if steady else 60)
    async with medplum() as server, running_agent(server, "5.1.15", reconnect_ms=200):
        for count in (1, 2, 3):
            await until(lambda count=count: count == len(server.book.connections))  # type: ignore[misc]
            server.sockets.cut_all()
        await until(lambda: 4 == len(server.book.connections))
        third, fourth = server.book.connections[2:]
        assert third.disconnected_at is not None
        assert steady == (fourth.connected_at - third.disconnected_at < 0.3)


@BOTH
async def test_original_mode(version: str) -> None:
    """The ACK is the server's, and comes after the server has the message."""
    port = free_port()
    async with medplum(f"mllp://0.0.0.0:{port}", answerDelayMs=100) as server, running_agent(server, version):
        async with device(port) as one:
            started = time.monotonic()
            await one.send_message("M1")
            ack = (await one.receive()).decode()
            assert time.monotonic() - started >= 0.1
            assert ("AA", "M1") == (field(ack, "MSA", 1), field(ack, "MSA", 2))
        (message,) = server.book.messages
        assert ("M1", "a1", "c0") == (message.control_id, message.agent, message.channel)
        assert "unknown" == server.book.connections[message.connection].version
        assert [hl7("M1")] == server.book.bodies


async def test_answers_come_in_the_order_of_the_answers() -> None:
    """Not in the order of the messages: three were sent, the slowest first."""
    port = free_port()
    async with medplum(f"mllp://0.0.0.0:{port}") as server, running_agent(server, "5.1.15"), device(port) as one:
        for control_id, delay in (("M1", 800), ("M2", 400), ("M3", 0)):
            server.behaviour.answerDelayMs = delay
            await one.send_message(control_id)
            await until(lambda control_id=control_id: control_id in arrived(server))  # type: ignore[misc]
        assert ["M3", "M2", "M1"] == [field((await one.receive()).decode(), "MSA", 2) for _ in range(3)]
        assert ["M1", "M2", "M3"] == arrived(server)


async def test_enhanced_mode() -> None:
    """CA at once and in order, without a CR behind its last segment; the server's AA later."""
    port = free_port()
    address = f"mllp://0.0.0.0:{port}?enhanced=true"
    async with medplum(address, answerDelayMs=50) as server, running_agent(server, "5.1.15"), device(port) as one:
        await one.send(frame(hl7("M1")) + frame(hl7("M2")))
        acks = [(await one.receive()).decode() for _ in range(4)]
    assert ["CA M1", "CA M2", "AA M1", "AA M2"] == [f"{field(ack, 'MSA', 1)} {field(ack, 'MSA', 2)}" for ack in acks]
    assert not acks[0].endswith("\r")


async def test_enhanced_aa() -> None:
    """AA at once, and nothing after it."""
    port = free_port()
    async with (
        medplum(f"mllp://0.0.0.0:{port}?enhanced=aa") as server,
        running_agent(server, "5.1.15"),
        device(port) as one,
    ):
        await one.send_message("M1")
        assert "AA" == field((await one.receive()).decode(), "MSA", 1)
        await until(lambda: ["M1"] == arrived(server))
        assert await one.hears_nothing()


@pytest.mark.parametrize("answer", ["400", "500", "garbage", "agent-error", "silence"])
async def test_a_failing_server_is_silence(answer: str) -> None:
    """No NAK, no close, no time-out: to the device a failing bot looks like a lost message."""
    port = free_port()
    async with (
        medplum(f"mllp://0.0.0.0:{port}", answer=answer) as server,
        running_agent(server, "5.1.15"),
        device(port) as one,
    ):
        await one.send_message("M1")
        await until(lambda: ["M1"] == arrived(server))
        assert await one.hears_nothing()
        server.behaviour.answer = "ack"
        await one.send_message("M2")
        assert "M2" == field((await one.receive()).decode(), "MSA", 2)


async def test_the_old_framer_on_a_socket() -> None:
    """Two frames in one write are one message with one ACK; a poisoned connection is silent, a new one is fine."""
    port = free_port()
    async with medplum(f"mllp://0.0.0.0:{port}") as server, running_agent(server, "4.5.2"):
        async with device(port) as one:
            await one.send(frame(hl7("M1")) + frame(hl7("M2")))
            await one.receive()
            assert await one.hears_nothing()
            assert [f"{hl7('M1')}\x1c\r\x0b{hl7('M2')}"] == server.book.bodies
            await one.send(b"\r\n", frame(hl7("M3")))
            assert await one.hears_nothing()
        async with device(port) as other:
            await other.send_message("M4")
            await other.receive()
        assert ["M1", "M4"] == arrived(server)


async def test_a_frame_one_byte_longer_than_a_read_on_a_socket() -> None:
    """65,537 bytes in one write: lost to the old framer, no matter how often it is sent."""
    port = free_port()
    async with medplum(f"mllp://0.0.0.0:{port}") as server, running_agent(server, "4.5.2"), device(port) as one:
        whole = frame(hl7("M1") + "x" * (65_537 - len(frame(hl7("M1")))))
        # In two writes that end where a read of Node's ends: the loopback would not always bring it in one piece.
        await one.send(whole[:65_536], whole[65_536:])
        assert await one.hears_nothing()
        assert [] == arrived(server)


async def test_fin_right_after_sending() -> None:
    """The agent closes at once: no ACK, yet the message reaches the server."""
    port = free_port()
    async with (
        medplum(f"mllp://0.0.0.0:{port}", answerDelayMs=300) as server,
        running_agent(server, "5.1.15"),
        device(port) as one,
    ):
        await one.send_message("M1")
        one.writer.write_eof()
        async with asyncio.timeout(2):
            assert b"" == await one.reader.read()
        await until(lambda: ["M1"] == arrived(server))


async def test_a_late_answer_goes_to_whoever_has_the_address_now() -> None:
    """The only key is ip:port: a new connection from the same one gets the old one's ACK."""
    port, local = free_port(), free_port()
    async with medplum(f"mllp://0.0.0.0:{port}", answerDelayMs=800) as server, running_agent(server, "5.1.15"):
        async with device(port, local_port=local) as one:
            await one.send_message("M1")
            await until(lambda: ["M1"] == arrived(server))
            one.reset()  # so that the address is free at once
        async with device(port, local_port=local) as other:
            assert "M1" == field((await other.receive()).decode(), "MSA", 2)


async def test_many_connections() -> None:
    """200 devices at once: none is refused, each gets its own ACK."""
    port = free_port()
    async with (
        medplum(f"mllp://0.0.0.0:{port}") as server,
        running_agent(server, "5.1.15"),
        AsyncExitStack() as stack,
    ):
        devices = [await stack.enter_async_context(device(port)) for _ in range(200)]
        for number, one in enumerate(devices):
            await one.send_message(f"M{number}")
        got = [field((await one.receive()).decode(), "MSA", 2) for one in devices]
        assert [f"M{number}" for number in range(200)] == got
        assert 200 == len(set(arrived(server)))


@BOTH
async def test_server_away(version: str) -> None:
    """Ports stay open, the message is taken, no ACK comes, and it is forwarded later: even when its sender has gone."""
    port = free_port()
    async with medplum(f"mllp://0.0.0.0:{port}") as server, running_agent(server, version):
        async with device(port) as one:
            server.go_away(0.8, "refuse")
            await until(lambda: server.book.connections[0].disconnected_at is not None)
            await one.send_message("M1")
            assert await one.hears_nothing()
        async with device(port) as other:
            await other.send_message("M2")
            await until(lambda: ["M1", "M2"] == arrived(server))
            assert "M2" == field((await other.receive()).decode(), "MSA", 2)
    assert [1, 1006] == [len(server.book.connections) - 1, server.book.connections[0].close_code]


async def test_what_was_in_flight_when_the_server_cut_the_socket_is_never_answered() -> None:
    """Upstream does not send it again; the device has to."""
    port = free_port()
    async with (
        medplum(f"mllp://0.0.0.0:{port}", answerDelayMs=400) as server,
        running_agent(server, "5.1.15"),
        device(port) as one,
    ):
        await one.send_message("M1")
        await until(lambda: ["M1"] == arrived(server))
        server.sockets.cut_all()
        assert await one.hears_nothing(0.5)
        assert ["M1"] == arrived(server)


async def test_a_message_above_the_server_s_limit() -> None:
    """It cuts the WebSocket, and the answers in flight of every device are lost with it."""
    port = free_port()
    async with (
        medplum(f"mllp://0.0.0.0:{port}", answerDelayMs=400, maxMessageBytes=10_000) as server,
        running_agent(server, "5.1.15"),
        device(port) as one,
        device(port) as other,
    ):
        await one.send_message("M1")
        await until(lambda: ["M1"] == arrived(server))
        await other.send(frame(hl7("M2", end="x" * 10_000)))
        await until(lambda: 2 == len(server.book.connections))
        assert [False, True] == [each.disconnected_at is None for each in server.book.connections]
        assert await one.hears_nothing(0.5)
        assert ["M1"] == arrived(server)


async def test_zombie_by_a_switch() -> None:
    """Ports open, socket connected, heartbeats answered; nothing gets through."""
    port = free_port()
    async with (
        medplum(f"mllp://0.0.0.0:{port}?enhanced=true", heartbeatMs=30) as server,
        running_agent(server, "5.1.15", zombie=True),
        device(port) as one,
    ):
        await one.send_message("M1")
        assert "CA" == field((await one.receive()).decode(), "MSA", 1)
        await until(lambda: server.book.connections[0].heartbeats > 2)
        assert [] == arrived(server)
        assert "connected" == server.directory.agents["a1"].status


@pytest.mark.parametrize(("version", "got"), [("5.1.17", []), ("5.1.18", ["M1"])])
async def test_one_failed_refresh_of_the_token(version: str, got: list[str]) -> None:
    """Before 5.1.18 it silences the agent for good; later it is tried again."""
    port = free_port()
    async with (
        medplum(f"mllp://0.0.0.0:{port}", tokenSeconds=600) as server,
        # By default a token is renewed 300 s before its end; this one 100 ms after it was given.
        running_agent(server, version, token_grace_ms=599_900),
        device(port) as one,
    ):
        await asyncio.sleep(0.1)
        server.behaviour.refuseTokens = True
        await one.send_message("M1")
        await asyncio.sleep(0.15)
        server.behaviour.refuseTokens = False
        await arrive(server, got)
        assert None is server.book.connections[0].disconnected_at


@pytest.mark.parametrize(("version", "got"), [("5.1.17", []), ("5.1.18", ["M1"])])
async def test_a_refused_connect_request(version: str, got: list[str]) -> None:
    """Before 5.1.18 the agent opens its ports and stays mute; later it connects again."""
    port = free_port()
    async with (
        medplum(f"mllp://0.0.0.0:{port}", refuseConnects=True) as server,
        running_agent(server, version),
        device(port) as one,
    ):
        await one.send_message("M1")
        server.behaviour.refuseConnects = False
        await arrive(server, got)


async def test_heartbeats_carry_the_version() -> None:
    """A new connection shows no version in `$status` until its first heartbeat; closing writes `disconnected`."""
    async with medplum(heartbeatMs=50) as server:
        agent = server.directory.agents["a1"]
        async with running_agent(server, "5.1.15-abc1234", heartbeat_ms=50):
            await until(lambda: "connected" == agent.status)
            assert None is agent.version
            await until(lambda: "5.1.15-abc1234" == agent.version)
        await until(lambda: "disconnected" == agent.status)


async def test_a_server_that_falls_silent_is_left() -> None:
    """Two heartbeats without an answer, and the agent opens another socket."""
    async with medplum() as server, running_agent(server, "5.1.15", heartbeat_ms=40):
        await until(lambda: 1 == len(server.book.connections))
        server.sockets.is_deaf = True
        await until(lambda: server.book.connections[0].disconnected_at is not None)
        server.sockets.is_deaf = False
        await until(lambda: 2 <= len(server.book.connections))


class Printer:
    """A device that takes pushes: its connections, what came, and what it answers to a control id."""

    def __init__(self, *answers: bytes) -> None:
        """Answer one after the other, and the last one again and again."""
        self._answers = list(answers)
        self.received: list[str] = []
        self.opened = 0
        self.ended = 0

    @property
    def remote(self) -> str:
        """Where pushes go."""
        return f"mllp://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        """Listen."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Listen no more."""
        self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            while True:
                message = (await reader.readuntil(END))[1:-2].decode()
                self.received.append(message)
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if not answer:
                    break
                writer.write(answer.replace(b"ID", field(message, "MSH", 9).encode()))
        except asyncio.IncompleteReadError:
            pass
        finally:
            self.ended += 1
            writer.close()


async def connected(server: MedplumServer, count: int = 1) -> None:
    """Wait for these agents; until they have read their configuration they refuse pushes."""
    await until(lambda: count == len(server.book.connections))
    await asyncio.sleep(0.1)


async def push(server: MedplumServer, remote: str, control_id: str) -> Push:
    """Push one message."""
    return await server.sockets.push("a1", remote=remote, body=hl7(control_id), channel=None)


async def test_pushes_go_to_every_socket_of_an_agent() -> None:
    """Two agents of one identity: the device gets the message twice, and the server gets two answers."""
    async with (
        Printer(frame("MSH|^~\\&|\rMSA|AA|ID")) as printer,
        medplum() as server,
        running_agent(server, "4.2.4"),
        running_agent(server, "5.1.15"),
    ):
        await connected(server, 2)
        sent = await push(server, printer.remote, "P1")
        await until(lambda: 2 == len(sent.answers))
    assert [hl7("P1")] * 2 == printer.received
    assert {(200, "MSH|^~\\&|\rMSA|AA|P1")} == {(answer["statusCode"], answer["body"]) for answer in sent.answers}
    assert {0, 1} == {answer["connection"] for answer in sent.answers}


@BOTH
async def test_a_push_whose_device_closes_is_not_answered(version: str) -> None:
    """Nothing at all, in any version: the server waits for ever. The next push has a connection of its own."""
    async with (
        Printer(b"", frame("MSH|^~\\&|\rMSA|AA|ID")) as printer,
        medplum() as server,
        running_agent(server, version),
    ):
        await connected(server)
        lost = await push(server, printer.remote, "P1")
        await until(lambda: 1 == printer.ended)
        answered = await push(server, printer.remote, "P2")
        await until(lambda: 1 == len(answered.answers))
        assert ([], 2) == (lost.answers, printer.opened)


@pytest.mark.parametrize(
    ("version", "wrong"), [("4.5.2", 1), ("5.0.0", 0), ("5.1.15", 0)], ids=["any counts", "5.0.0 waits", "5.1.15 waits"]
)
async def test_a_push_s_answer_with_a_wrong_msa_2(version: str, wrong: int) -> None:
    """Up to 4.5.2 any answer counts; later the agent waits for the right one, which here comes in the same write."""
    wrong_one, right_one = frame("MSH|^~\\&|\rMSA|AA|other"), frame("MSH|^~\\&|\rMSA|AA|ID")
    async with (
        Printer(wrong_one, wrong_one + right_one) as printer,
        medplum() as server,
        running_agent(server, version),
    ):
        await connected(server)
        first = await push(server, printer.remote, "P1")
        await until(lambda: 1 == len(printer.received))
        second = await push(server, printer.remote, "P2")
        await until(lambda: 1 == len(second.answers))
        assert wrong == len(first.answers)
        assert ("other" if wrong else "P2") == field(second.answers[0]["body"], "MSA", 2)


@pytest.mark.parametrize(("version", "ended"), [("4.5.2", 12), ("5.0.0", 0)])
async def test_connections_of_pushes(version: str, ended: int) -> None:
    """Up to 4.5.2 one for each message, closed after its ACK. From 5.0.0 on up to ten stay open, until a heartbeat finds them idle."""
    async with (
        Printer(frame("MSH|^~\\&|\rMSA|AA|ID")) as printer,
        medplum() as server,
        running_agent(server, version, heartbeat_ms=1_500),
    ):
        await connected(server)
        for number in range(12):
            sent = await push(server, printer.remote, f"P{number}")
            await until(lambda sent=sent: 1 == len(sent.answers))  # type: ignore[misc]
        await until(lambda: ended == printer.ended)
        assert (12 if ended else 10) == printer.opened
        await until(lambda: printer.opened == printer.ended)


async def test_a_push_to_nobody_is_answered_with_400() -> None:
    """The device is not there, or the remote is no mllp URL."""
    async with medplum() as server, running_agent(server, "5.1.15"):
        await until(lambda: 1 == len(server.book.connections))
        await asyncio.sleep(0.1)
        for remote in (f"mllp://127.0.0.1:{free_port()}", "http://127.0.0.1"):
            sent = await push(server, remote, "P1")
            await until(lambda sent=sent: 1 == len(sent.answers))  # type: ignore[misc]
            assert 400 == sent.answers[0]["statusCode"]


async def test_reload_config() -> None:
    """Only then does a changed Agent count: ports that are gone are closed, new ones are opened."""
    first, second = free_port(), free_port()
    async with medplum(f"mllp://0.0.0.0:{first}") as server, running_agent(server, "5.1.15"), device(first):
        server.directory.put_agent("a1", {"channels": [{"name": "c0", "address": f"mllp://0.0.0.0:{second}"}]})
        assert not await is_open(second)
        answer = await server.sockets.reload("a1", seconds=3)
        assert answer is not None
        assert 200 == answer["statusCode"]
        assert (False, True) == (await is_open(first), await is_open(second))


@pytest.mark.parametrize("status", [403, 404, 503])
async def test_reload_config_that_cannot_be_read(status: int) -> None:
    """The server gets an error, and the ports stay as they are."""
    port = free_port()
    async with medplum(f"mllp://0.0.0.0:{port}") as server, running_agent(server, "5.1.15"), device(port):
        server.behaviour.readStatus = status
        answer = await server.sockets.reload("a1", seconds=3)
        assert answer is not None
        assert ("agent:error", True) == (answer["type"], await is_open(port))


async def test_a_busy_port_is_waited_for() -> None:
    """From 4.2.1 on HL7 tries every 50 ms, for ever."""
    port = free_port()
    async with medplum(f"mllp://0.0.0.0:{port}") as server:
        squatter = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)
        async with running_agent(server, "4.2.1"):
            await until(lambda: 1 == len(server.book.connections))
            await asyncio.sleep(0.2)
            squatter.close()
            async with device(port) as one:
                await one.send_message("M1")
                assert b"MSA|AA|M1" in await one.receive()


async def test_never_ready() -> None:
    """Connected, and no port: what an operator must not wait for."""
    port = free_port()
    async with medplum(f"mllp://0.0.0.0:{port}") as server, running_agent(server, "5.1.15", never_ready=True):
        await until(lambda: 1 == len(server.book.connections))
        await asyncio.sleep(0.1)
        assert not await is_open(port)


async def test_byte_stream_and_dicom() -> None:
    """A byte stream forwards and answers; a DICOM port takes connections and reads; before 4.3.0 there are no byte streams."""
    stream, dicom = free_port(), free_port()
    addresses = (f"tcp://0.0.0.0:{stream}?startChar=%02&endChar=%03", f"dicom://0.0.0.0:{dicom}")
    async with medplum(*addresses) as server:
        async with running_agent(server, "5.1.15"), device(stream) as one, device(dicom) as other:
            await one.send(b"\x02hel", b"lo\x03")
            async with asyncio.timeout(2):
                assert b"hello" == await one.reader.readexactly(5)
            await other.send(b"anything")
            assert await other.hears_nothing()
        async with running_agent(server, "4.2.4"), device(dicom):
            assert not await is_open(stream)


async def test_a_thousand_messages_in_one_go() -> None:
    """All of a pipelining device arrive and are answered. How many a second it carries is `make bench-handoff`'s to say."""
    port, count = free_port(), 1000
    async with medplum(f"mllp://0.0.0.0:{port}") as server, running_agent(server, "5.1.15"), device(port) as one:
        for number in range(count):
            await one.send_message(f"M{number}")
        for _ in range(count):
            await one.receive()
        assert count == len(set(arrived(server)))
