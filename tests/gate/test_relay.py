"""HL7 channels over real sockets: what reaches an agent and a device, and in which form."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.gate import device_connection
from medplum_agent_operator.gate.effects import Ending, Kind
from medplum_agent_operator.gate.limits import SMALL_BYTES
from tests.gate.conftest import gate
from tests.support.doubles.stage import arrived, free_port, hl7, medplum, running_agent
from tests.support.gate.actors import agent, device, until
from tests.support.gate.scene import answer, message

if TYPE_CHECKING:
    from medplum_agent_operator.gate.device_connection import DeviceConnection
    from tests.gate.conftest import Gate
    from tests.support.gate.actors import Agent, Device

A, B, C = message("A"), message("B"), message("C")


async def test_messages_and_answers_pass() -> None:
    """One by one, and all at once."""
    async with agent() as old, gate(old.port) as running, device(running.port) as sender:
        sender.send(A)
        assert ("AA", "A") == await sender.answer()
        sender.send(B, C)
        assert [("AA", "B"), ("AA", "C")] == await sender.answers(2)
        assert ["A", "B", "C"] == old.got


async def test_a_device_does_not_notice_a_move() -> None:
    """The device's connection stays, and each message goes to one agent. While no agent is ready, the gate closes the old links by FIN."""
    async with agent() as old, agent() as new, gate(old.port) as running, device(running.port) as sender:
        sender.send(A)
        assert ("AA", "A") == await sender.answer()
        running.ready(old.port, new.port)
        running.ready(new.port)
        sender.send(B)
        assert ("AA", "B") == await sender.answer()
        assert (["A"], ["B"], []) == (old.got, new.got, old.ends)
        running.ready()
        await until(lambda: old.ends and new.ends)
        assert (["FIN"], ["FIN"]) == (old.ends, new.ends)


async def test_an_application_acknowledgement_of_the_old_agent_arrives_after_the_move() -> None:
    """Enhanced mode with a slow server: no acknowledgement of a committed message is lost."""
    async with (
        agent("CA AA", application_after=0.3) as old,
        agent("CA AA") as new,
        gate(old.port) as running,
        device(running.port) as sender,
    ):
        sender.send(A)
        assert ("CA", "A") == await sender.answer()
        running.ready(new.port)
        sender.send(B)
        assert {("CA", "B"), ("AA", "B"), ("AA", "A")} == set(await sender.answers(3))
        assert (["A"], ["B"]) == (old.got, new.got)


async def test_without_an_agent_a_device_gets_one_slow_answer() -> None:
    """A recreate: the device connects, sends, and waits."""
    now = asyncio.get_running_loop().time
    async with agent() as new, gate() as running, device(running.port) as sender:
        began = now()
        sender.send(A)
        await asyncio.sleep(0.2)
        running.ready(new.port)
        assert ("AA", "A") == await sender.answer()
        [held] = running.counted.numbers[Kind.HELD]
        assert 0 < held <= now() - began


async def test_each_takeover_is_counted_by_the_agent_that_took_over() -> None:
    """A move, then an agent that stops with a message, and a wait. The figures of each are under its pod's name."""
    async with agent() as old, agent("") as mute, agent() as new, gate(old.port) as running:
        async with device(running.port) as sender:
            sender.send(A)
            await sender.answer()
            running.ready(mute.port)
            sender.send(B)
            await until(lambda: mute.got)
            mute.die()
            running.ready()
            await asyncio.sleep(0.2)
            running.ready(new.port)
            assert ("AA", "B") == await sender.answer()
        takeovers = running.counted.takeovers.as_json()
        assert {"moved": 1, "held": 0, "longestHoldSeconds": 0, "repeated": 0} == takeovers[f"agent-{mute.port}"]
        last = takeovers[f"agent-{new.port}"]
        assert (1, 1, 1) == (last["moved"], last["held"], last["repeated"])
        assert round(running.counted.numbers[Kind.HELD][-1], 3) == last["longestHoldSeconds"] > 0
        assert f"agent-{old.port}" not in takeovers


async def test_a_message_that_no_agent_takes_is_returned_to_the_device() -> None:
    """A close without an answer makes the device resend."""
    async with gate(hold_seconds=0.2) as running, device(running.port) as sender:
        sender.send(A)
        assert ("closed", "") == await sender.answer()
        assert 1 == running.counted.endings[Ending.NO_AGENT]


async def test_a_message_whose_agent_stops_goes_to_the_next_agent() -> None:
    """The device sees nothing but an answer."""
    async with agent("") as old, agent() as new, gate(old.port) as running, device(running.port) as sender:
        sender.send(A)
        await until(lambda: old.got)
        old.die()
        running.ready(new.port)
        assert ("AA", "A") == await sender.answer()
        assert ["A"] == new.got


@pytest.mark.parametrize("dies", [True, False])
async def test_a_device_whose_message_got_no_answer_sees_its_silent_agent_go(*, dies: bool) -> None:
    """Without a gate it sees FIN. It connects again and sends the message to the next agent."""
    async with agent("") as old, agent() as new, gate(old.port, answer_seconds=0.2, late_seconds=0.2) as running:
        async with device(running.port) as sender:
            sender.send(A)
            await until(lambda: running.counted.counts[Kind.UNANSWERED])
            if dies:
                old.die()
            running.ready(new.port)
            assert ("closed", "") == await sender.answer()
        async with device(running.port) as sender:
            sender.send(A)
            assert ("AA", "A") == await sender.answer()


async def test_an_agent_that_restarts_in_the_same_pod_gets_the_message() -> None:
    """Its port refused in between, so it is another life, even if Kubernetes did not notice the restart."""
    async with agent("") as old, gate(old.port) as running, device(running.port) as sender:
        sender.send(A)
        await until(lambda: old.got)
        old.die()
        await until(lambda: running.route.agent is None)
        old.code = "AA"
        await old.start(old.port)
        assert ("AA", "A") == await sender.answer()
        assert ["A", "A"] == old.got
        old.die()


async def test_an_agent_that_only_closes_the_connection_does_not_get_the_message_again() -> None:
    """The agent is alive and may have the message. The gate closes the device's connection, and the device may resend."""
    async with agent("") as old, gate(old.port) as running, device(running.port) as sender:
        old.on_frame = lambda _agent, writer: writer.close()
        sender.send(A)
        assert ("closed", "") == await sender.answer()
        assert (["A"], 1) == (old.got, running.counted.endings[Ending.UNANSWERED])


async def test_a_devices_close_waits_for_its_answer() -> None:
    """FIN right after the message. An agent that saw this FIN would not answer."""
    async with agent("CA AA", application_after=0.2) as old, gate(old.port) as running, device(running.port) as sender:
        sender.send(A)
        sender.writer.write_eof()
        assert [("CA", "A"), ("AA", "A"), ("closed", "")] == await sender.answers(3)
        await until(lambda: old.ends)
        assert ["FIN"] == old.ends


async def test_an_agent_never_sees_a_reset_of_a_device() -> None:
    """On byte-stream ports a reset ends an agent. Behind the gate it sees FIN."""
    async with agent() as old, gate(old.port) as running, device(running.port) as sender:
        sender.send(A)
        await sender.answer()
        linger = struct.pack("ii", 1, 0)
        sender.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        sender.writer.transport.abort()
        await until(lambda: old.ends)
        assert ["FIN"] == old.ends


async def test_both_sides_use_keep_alive() -> None:
    """TCP detects a device without power and a lost node within two minutes."""
    async with agent() as old, gate(old.port) as running, device(running.port) as sender:
        sender.send(A)
        await sender.answer()
        [connected] = running.relay.devices
        [link] = connected.links.values()
        for transport in (connected.transport, link._transport):
            assert transport is not None
            opened = transport.get_extra_info("socket")
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert 1 == opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert [60, 15, 4] == [opened.getsockopt(socket.IPPROTO_TCP, option) for option in options]


async def test_connections_are_counted_and_limited() -> None:
    """Connections over the limit are closed at once. Others are not affected, and a closed one makes room."""
    async with agent() as old, gate(old.port, limit_per_address=2) as running:
        async with device(running.port) as first, device(running.port):
            await until(lambda: len(running.relay.shared.connections) == 2)
            async with device(running.port) as third:
                assert ("closed", "") == await third.answer()
            assert 1 == running.counted.refusals
            first.send(A)
            assert ("AA", "A") == await first.answer()
        await until(lambda: len(running.relay.shared.connections) == 0)
        async with device(running.port) as again:
            again.send(B)
            assert ("AA", "B") == await again.answer()


@pytest.mark.parametrize("size", [20_000, 65_535, 65_537, 131_073, 500_000, 3_000_000])
async def test_large_messages_arrive_unchanged_both_ways(size: int) -> None:
    """All sizes, and the end of a frame in its own read."""
    frame = message("A", text="x" * (size - len(A)))
    async with agent() as old, gate(old.port) as running, device(running.port) as sender:
        sender.send(frame)
        assert ("AA", "A") == await sender.answer()
        assert [frame] == old.frames
        assert old.reads[-1] <= 16 or size > 1_000_000, "the end came in the same read as the bytes before it"


async def test_large_messages_take_turns() -> None:
    """With little memory to share, ten large messages need that of one; all arrive."""
    frames = [message(f"L{n}", text=str(n) * 2_000_000) for n in range(10)]
    async with agent() as old, gate(old.port, shared_bytes=2**20) as running:
        most = 0

        async def send(frame: bytes) -> tuple[str, str]:
            nonlocal most
            async with device(running.port) as sender:
                sender.send(frame)
                answered = await sender.answer()
                most = max(most, sum(d.conversation.buffered_bytes for d in running.relay.devices if d.conversation))
                return answered

        answers = await asyncio.gather(*(send(frame) for frame in frames))
        assert {("AA", f"L{n}") for n in range(10)} == set(answers)
        assert sorted(frames) == sorted(old.frames)
        assert most <= 2 * 2_000_000 + 10 * 2 * SMALL_BYTES


async def test_a_device_that_does_not_read_its_answers_costs_no_memory() -> None:
    """The gate stops reading its agent's answers, so TCP slows the agent down. Other devices are not delayed."""
    async with agent() as old, gate(old.port) as running, device(running.port) as sender, device(running.port) as other:
        flood = answer("unknown" + "x" * 100_000)

        def pour(_agent: Agent, writer: asyncio.StreamWriter) -> None:
            if len(old.got) == 1:
                for _ in range(400):
                    writer.write(flood)

        old.on_frame = pour
        sender.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sender.send(A)
        await until(lambda: len(old.got) == 1)
        await asyncio.sleep(0.3)
        [waiting] = [d for d in running.relay.devices if d.links and d.transport]
        assert waiting.transport is not None
        assert waiting.transport.get_write_buffer_size() < 500_000
        other.send(B)
        assert ("AA", "B") == await other.answer()


@pytest.mark.parametrize("size", [200_000, 2_000_000])
async def test_many_devices_with_large_messages_need_little_memory(size: int) -> None:
    """Incomplete messages without an agent: all together buffer what one address may, one message more, and what is free."""
    half, shared = message("A", text="x" * size)[: size - 100], 4 * 2**20
    async with gate(shared_bytes=shared) as running, AsyncExitStack() as stack:
        for _ in range(30):
            sender = await stack.enter_async_context(device(running.port))
            sender.send(half)
        await until(lambda: len(running.relay.devices) == 30)
        await until(lambda: len(half) in buffered(running))
        await asyncio.sleep(0.2)
        assert sum(buffered(running)) <= shared / 2 + len(half) + 30 * 2 * SMALL_BYTES


def buffered(running: Gate) -> list[int]:
    """Return the buffered bytes of each device, in ascending order."""
    return sorted(one.conversation.buffered_bytes for one in running.relay.devices if one.conversation)


async def test_a_device_that_does_not_wait_for_answers_occupies_no_memory() -> None:
    """An endless stream of small messages: a large one of another device passes meanwhile."""
    async with (
        agent() as old,
        gate(old.port, shared_bytes=2**16) as running,
        device(running.port) as one,
        device(running.port) as other,
    ):
        big = asyncio.Event()

        async def stream() -> None:
            for number in range(16):
                one.send(message(f"S{number}", text="x" * 2_000))
            while not big.is_set():
                await one.answer()
                one.send(message("S", text="x" * 2_000))

        streaming = asyncio.create_task(stream())
        await until(lambda: len(old.got) > 50)
        other.send(message("BIG", text="y" * 100_000))
        assert ("AA", "BIG") == await other.answer()
        assert not streaming.done()
        big.set()
        await streaming


async def test_a_device_that_waits_for_memory_is_not_too_slow() -> None:
    """A message that no agent has yet occupies the memory for longer than a message may take to arrive."""
    big = message("A", text="x" * 100_000)
    async with agent() as old, gate(shared_bytes=2**16, frame_seconds=1) as running, AsyncExitStack() as stack:
        senders = [await stack.enter_async_context(device(running.port)) for _ in range(3)]
        for sender in senders:
            sender.send(big)
        await until(lambda: len(big) in buffered(running))
        await asyncio.sleep(1.5)
        assert Counter() == running.counted.endings
        running.ready(old.port)
        assert [("AA", "A")] * 3 == [await sender.answer() for sender in senders]


async def test_a_device_that_resets_while_it_is_not_read_releases_its_memory() -> None:
    """Without an agent: it sends a large message and more behind it, the gate stops reading, and the device resets."""
    async with agent() as new, gate(shared_bytes=2**16, hold_seconds=0.5) as running:
        async with device(running.port) as sender:
            sender.send(message("A", text="x" * 100_000), *[message("B", text="y" * 5_000)] * 20)
            await until(lambda: any(each > 100_000 for each in buffered(running)))
            reset(sender)
        await until(lambda: not running.relay.devices)
        running.ready(new.port)
        async with device(running.port) as other:
            other.send(message("C", text="z" * 100_000))
            assert ("AA", "C") == await other.answer()


async def test_a_device_that_resets_while_it_is_not_read_does_not_disturb_the_stop() -> None:
    """The gate stops: the current message of another device is still answered."""
    async with agent("") as old, gate(old.port, hold_seconds=0.5) as running, device(running.port) as good:
        good.send(A)
        await until(lambda: old.got)
        for _ in range(4):
            async with device(running.port) as bad:
                bad.send(B, message("C", text="y" * 60_000))
                await until(lambda: len(old.got) > 1)
                reset(bad)
            old.got[1:] = []
        await asyncio.sleep(0.1)
        stopping = asyncio.create_task(running.relay.stop())
        await asyncio.sleep(0.2)
        assert not stopping.done()
        for writer in old.writers:
            writer.write(answer("A"))
        assert ("AA", "A") == await good.answer()
        good.writer.close()
        old.die()
        await asyncio.wait_for(stopping, 5)


def reset(one: Device) -> None:
    """Close a device's connection by RST."""
    peer = one.writer.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.writer.transport.abort()


async def test_a_device_that_never_reads_its_answers_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large answer to it occupies memory that other devices need."""
    monkeypatch.setattr(device_connection, "BLOCKED_SECONDS", 0.3)
    async with (
        agent() as old,
        gate(old.port, shared_bytes=2**18) as running,
        device(running.port) as sender,
        device(running.port) as other,
    ):

        def much(_agent: Agent, writer: asyncio.StreamWriter) -> None:
            if len(old.got) == 1:
                writer.write(answer("A" + "x" * 8_000_000))

        old.on_frame = much
        sender.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sender.send(A)
        await until(lambda: any(unread(one) > 2 * SMALL_BYTES for one in running.relay.devices))
        other.send(message("B", text="y" * 1_000_000))
        assert ("AA", "B") == await other.answer()
        assert 1 == len(running.relay.devices), "a large message was taken while a large answer was in memory"


def unread(one: DeviceConnection) -> int:
    """Return how many bytes of its answers wait in the gate's write buffer for a device."""
    return 0 if one.transport is None else one.transport.get_write_buffer_size()


async def test_a_stopping_gate_loses_nothing() -> None:
    """Each device gets the answer to its current message, then a close. The gate takes no further message."""
    async with agent("CA AA", application_after=0.2) as old, gate(old.port) as running, device(running.port) as sender:
        sender.send(A, B)
        assert ("CA", "A") == await sender.answer()
        stopping = asyncio.create_task(running.relay.stop())
        rest = await sender.answers(4)
        sender.writer.close()
        await asyncio.wait_for(stopping, 5)
        assert ("closed", "") == rest[-1]
        assert set(old.got) == {name for _, name in rest if name} | {"A"}


async def test_after_the_grace_period_the_gate_closes_the_connections() -> None:
    """The agent does not answer: the device sees a close, and resends through the other gate."""
    async with agent("") as old, gate(old.port) as running, device(running.port) as sender:
        sender.send(A)
        await until(lambda: old.got)
        stopping = asyncio.create_task(running.relay.stop())
        running.relay.close_now()
        assert ("closed", "") == await sender.answer()
        sender.writer.close()
        await asyncio.wait_for(stopping, 5)
        assert ["FIN"] == old.ends


@pytest.mark.parametrize("version", ["4.2.3", "5.1.15"])
@pytest.mark.parametrize("size", [65_537, 131_073, 65_536, 70_000])
async def test_an_agent_of_any_version_reads_large_messages(version: str, size: int) -> None:
    """Old agents lose a message of 65,537 bytes in one write. Behind the gate no version does."""
    at = free_port()
    text = hl7("A", end="|")
    frame = b"\x0b" + text.encode() + b"x" * (size - len(text) - 4) + b"\r\x1c\r"
    assert size == len(frame)
    async with medplum(f"mllp://0.0.0.0:{at}") as server, running_agent(server, version):
        await until(lambda: server.book.connections)
        async with gate(at) as running, device(running.port) as sender:
            sender.send(frame)
            assert ("AA", "A") == await sender.answer()
            assert ["A"] == arrived(server)


@pytest.mark.parametrize("version", ["4.2.3", "5.1.15"])
@pytest.mark.parametrize(
    ("sent", "cut"),
    [
        pytest.param([A, B, C], 0, id="three in one write"),
        pytest.param([A, B], 1, id="byte by byte"),
        pytest.param([b"\r\n", A, b"\0", B], 0, id="junk between"),
        pytest.param([b"\x0b\x1c\r", A], 0, id="an empty frame first"),
        pytest.param([b"\x0bPID|1\r\x1c\r", A, B], 0, id="a frame without MSH first"),
    ],
)
async def test_input_that_an_agent_would_lose_or_fail_on(version: str, sent: list[bytes], cut: int) -> None:
    """Every message arrives and is answered, with agents of both framings."""
    at = free_port()
    names = [frame.split(b"|")[9].decode() for frame in sent if b"MSH" in frame]
    async with medplum(f"mllp://0.0.0.0:{at}") as server, running_agent(server, version):
        await until(lambda: server.book.connections)
        async with gate(at) as running, device(running.port) as sender:
            data = b"".join(sent)
            for start in range(0, len(data), cut or len(data)):
                sender.send(data[start : start + (cut or len(data))])
                if cut:
                    await asyncio.sleep(0)
            assert [("AA", name) for name in names] == await sender.answers(len(names))
            assert names == arrived(server)
