"""Devices that do not wait for answers: what they have sent arrives, however their connection ends."""

from __future__ import annotations

import asyncio
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.gate import device_connection
from medplum_agent_operator.gate.effects import Ending, Kind
from medplum_agent_operator.gate.limits import SMALL_BYTES
from tests.gate.conftest import gate
from tests.support.gate.actors import agent, device, until
from tests.support.gate.scene import answer, message

if TYPE_CHECKING:
    from medplum_agent_operator.gate.conversation import Conversation
    from tests.gate.conftest import Gate
    from tests.support.gate.actors import Agent, Device

NAMES = [f"M{number}" for number in range(60)]
FRAMES = [message(name, text="x" * 500) for name in NAMES]
"""More than the gate reads before it waits for an answer."""


def reset(one: Device) -> None:
    """Close a device's connection by RST."""
    linger = struct.pack("ii", 1, 0)
    one.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    one.writer.transport.abort()


def answer_slowly(one: Agent) -> None:
    """Answer each message after 5 ms."""

    def later(_agent: Agent, writer: asyncio.StreamWriter) -> None:
        asyncio.get_running_loop().call_later(0.005, writer.write, answer(one.got[-1]))

    one.on_frame = later


@pytest.mark.parametrize("end", ["close", "reset", "FIN"])
async def test_messages_of_a_device_that_closes_without_reading_its_answers_arrive(end: str) -> None:
    """Its kernel sends RST because of the unread answers. Directly at an agent all messages arrive."""
    async with agent("") as old, gate(old.port) as running:
        answer_slowly(old)
        async with device(running.port) as sender:
            sender.writer.transport.pause_reading()  # type: ignore[attr-defined]
            sender.send(*FRAMES)
            await until(lambda: len(old.got) > 5)
            match end:
                case "close":
                    sender.writer.close()
                case "reset":
                    reset(sender)
                case _:
                    sender.writer.write_eof()
            await until(lambda: len(old.got) == len(NAMES))
        assert NAMES == old.got
        await until(lambda: not running.relay.devices)
        assert 0 == running.counted.counts[Kind.UNDELIVERED]
        assert 0 == len(running.relay.shared.connections)


async def test_a_stopping_gate_passes_on_what_it_has_not_read() -> None:
    """Each message is answered, then the gate closes."""
    async with agent("") as old, gate(old.port) as running, device(running.port) as sender:
        answer_slowly(old)
        sender.send(*FRAMES)
        await until(lambda: len(old.got) > 5)
        stopping = asyncio.create_task(running.relay.stop())
        assert [*[("AA", name) for name in NAMES], ("closed", "")] == await sender.answers(len(NAMES) + 1)
        sender.writer.close()
        await asyncio.wait_for(stopping, 5)
        assert NAMES == old.got
        assert 0 == running.counted.counts[Kind.DROPPED]


async def test_a_stopping_gate_passes_on_what_a_lost_device_sent() -> None:
    """The device has reset its connection before the gate stops."""
    async with agent("") as old, gate(old.port) as running:
        answer_slowly(old)
        async with device(running.port) as sender:
            sender.send(*FRAMES)
            await until(lambda: len(old.got) > 5)
            reset(sender)
        await asyncio.wait_for(running.relay.stop(), 5)
        assert NAMES == old.got


async def test_messages_that_a_gate_has_no_time_for_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The grace period ends: those that the gate has read, and those that the kernel has."""
    caplog.set_level("INFO")
    async with agent("") as old, gate(old.port) as running, device(running.port) as sender:
        sender.send(*FRAMES)
        await until(lambda: old.got)
        stopping = asyncio.create_task(running.relay.stop())
        running.relay.close_now()
        assert ("closed", "") == await sender.answer()
        sender.writer.close()
        await asyncio.wait_for(stopping, 5)
        assert len(FRAMES) - 1 == sum(running.counted.numbers[Kind.DROPPED])
        lines = [line for line in caplog.records if "went to no agent" in line.message]
        assert {"127.0.0.1"} == {line.device for line in lines}  # type: ignore[attr-defined]


async def test_messages_of_a_lost_device_that_find_no_agent_are_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody sends them again."""
    caplog.set_level("INFO")
    async with gate(hold_seconds=0.5) as running:
        async with device(running.port) as sender:
            sender.send(*FRAMES)
            await until(lambda: any(one.buffered_bytes >= SMALL_BYTES for one in conversations(running)))
            reset(sender)
        await until(lambda: not running.relay.devices)
        counted = running.counted
        lost = sum(sum(counted.numbers.get(kind, [])) for kind in (Kind.UNDELIVERED, Kind.DROPPED))
        assert (len(FRAMES), 1) == (lost, counted.endings[Ending.NO_AGENT])
    assert [line for line in caplog.records if "went to no agent" in line.message]


async def test_messages_of_a_device_that_never_reads_its_answers_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate drops the connection after a while, and passes on what had arrived by then."""
    monkeypatch.setattr(device_connection, "BLOCKED_SECONDS", 0.3)
    async with agent("") as old, gate(old.port) as running, device(running.port) as sender:

        def much(_agent: Agent, writer: asyncio.StreamWriter) -> None:
            writer.write(answer("") * (100_000 if len(old.got) == 1 else 1))

        old.on_frame = much
        sender.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sender.send(*FRAMES)
        await until(lambda: len(old.got) == len(NAMES))
        assert NAMES == old.got
        await until(lambda: not running.relay.devices)


async def test_what_lost_devices_had_sent_stays_in_the_kernel_until_its_turn() -> None:
    """A silent agent, and devices that reset: each needs as much memory as a connected one. All descriptors are released."""
    async with agent("") as old, gate(old.port, answer_seconds=0.05) as running:
        for _ in range(5):
            async with device(running.port) as sender:
                more = partial(lambda before: len(old.got) > before, len(old.got))
                sender.send(*FRAMES)
                await until(more)
                reset(sender)
        largest = 0

        def all_done() -> bool:
            nonlocal largest
            largest = max(largest, *(one.buffered_bytes for one in conversations(running)), 0)
            return len(old.got) == 5 * len(FRAMES)

        await until(all_done, 30)
        assert 0 < largest <= 2 * SMALL_BYTES
        await until(lambda: not running.relay.devices)


async def test_a_large_message_of_a_lost_device_waits_for_its_bytes() -> None:
    """Another device has the bytes when the device resets its connection."""
    frames = [message("A", text="x" * 2_000), message("B", text="y" * 60_000), message("C")]
    # The large messages of two devices go beyond the shares, one at a time.
    async with agent("") as old, gate(old.port, shared_bytes=2**15) as running, device(running.port) as other:
        other.send(message("BIG", text="z" * 100_000)[:-2])
        await until(lambda: running.relay.shared.budget.used_by("adt") > 80_000)
        async with device(running.port) as sender:
            sender.send(*frames)
            await until(lambda: old.got == ["A"])
            reset(sender)
        old.code = "AA"
        old.writers[0].write(answer("A"))
        await until(lambda: running.relay.shared.budget.waiting_in("adt") == 1)
        assert ["A"] == old.got
        other.send(message("BIG", text="z" * 100_000)[-2:])
        await until(lambda: ["A", "BIG", "B", "C"] == old.got)
        assert frames == [frame for frame in old.frames if b"BIG" not in frame]


async def test_messages_of_a_lost_device_arrive_behind_many_frames_without_a_message() -> None:
    """The gate drops such frames in turns, and reads the rest of the lost device between them."""
    frames = [message("A"), message("B"), message("C")]
    async with agent("") as old, gate(old.port) as running:
        async with device(running.port) as sender:
            sender.send(message("FIRST"))
            await until(lambda: old.got)
            sender.send(*[b"\x0b\x1c\r" * 20_000, *frames])
            await until(lambda: conversations(running)[0].buffered_bytes > 0)
            reset(sender)
        old.code = "AA"
        old.writers[0].write(answer("FIRST"))
        await until(lambda: ["FIRST", "A", "B", "C"] == old.got, 30)
        await until(lambda: not running.relay.devices)
        assert 20_000 == running.counted.counts[Kind.EMPTY]


def conversations(running: Gate) -> list[Conversation]:
    """Return the gate's conversations."""
    return [one.conversation for one in running.relay.devices if one.conversation]
