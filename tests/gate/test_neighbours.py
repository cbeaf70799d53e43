"""One address or one channel misbehaves, over real sockets: other devices get their answers all the same.

`make bench-gate` has the times that go with it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from medplum_agent_operator.gate import device_connection
from medplum_agent_operator.gate.delivery import DROPS_PER_TURN
from medplum_agent_operator.gate.effects import Ending, Kind
from medplum_agent_operator.gate.limits import SMALL_BYTES
from medplum_agent_operator.gate.pace import UNITS_AT_ONCE
from tests.gate.conftest import gate
from tests.support.gate.actors import agent, device, until
from tests.support.gate.scene import answer, message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.gate.conftest import Gate
    from tests.support.gate.actors import Agent, Device

BAD = "127.0.0.2"
A, B = message("A"), message("B")
LARGE = message("LARGE", text="y" * 300_000)
LONGEST = message("LONGEST", text="z" * 2_000_000)
SHARED = 3 * 2**20
"""As the program's default is to the longest message."""


@asynccontextmanager
async def crowd(port: int, number: int, sent: bytes = b"", address: str = BAD) -> AsyncIterator[list[Device]]:
    """Connect devices from one address; each sends the same bytes."""
    async with AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(device(port, address=address)) for _ in range(number)]
        for one in devices:
            if sent:
                one.send(sent)
        yield devices


async def answered(port: int, frame: bytes, seconds: float = 2.0) -> tuple[str, str]:
    """Connect a device of another address, send a message, and return its answer."""
    async with asyncio.timeout(seconds), device(port) as one:
        one.send(frame)
        return await one.answer()


@pytest.mark.parametrize("frame", [LARGE, LONGEST], ids=["large", "longest"])
async def test_large_messages_without_an_answer_stop_no_other_large_message(frame: bytes) -> None:
    """A bot fails on one channel. The messages of that channel's other devices and of the other channel pass."""
    async with (
        agent("") as mute,
        agent() as good,
        gate(mute.port, shared_bytes=SHARED) as running,
        gate(good.port, beside=running) as other,
        crowd(running.port, 5, frame),
    ):
        await until(lambda: 5 == len(mute.got), 10)
        assert ("AA", "LARGE") == await answered(other.port, LARGE)
        assert ("AA", "LONGEST") == await answered(other.port, LONGEST)
        mute.code = "AA"
        assert ("AA", "LARGE") == await answered(running.port, LARGE)


@pytest.mark.parametrize(("number", "size"), [(8, 17 * 1024), (100, 17 * 1024), (60, 250_000), (3, 1_900_000)], ids=str)
async def test_unfinished_messages_stop_no_large_message(number: int, size: int) -> None:
    """Parts of messages and then silence, many small ones or few large ones."""
    part = message("PART", text="x" * size)[:-2]
    async with agent() as old, gate(old.port, shared_bytes=SHARED) as running, crowd(running.port, number, part):
        await until(lambda: number == len(running.relay.devices))
        await asyncio.sleep(0.3)
        assert ("AA", "LARGE") == await answered(running.port, LARGE)
        assert ("AA", "LARGE") == await answered(running.port, LARGE)


async def test_the_longest_message_gets_through_behind_unfinished_ones() -> None:
    """One of them went beyond the shares and arrives no more: it is closed for the one that waits, and no one else is."""
    part = LONGEST[:-2]
    async with agent() as old, gate(old.port, shared_bytes=SHARED) as running, crowd(running.port, 3, part):
        await until(lambda: running.relay.shared.budget.waiting_in("adt"))
        await asyncio.sleep(0.3)
        assert ("AA", "LONGEST") == await answered(running.port, LONGEST, 5)
        assert {Ending.TOO_SLOW} == set(running.counted.endings)


async def test_a_slow_sender_is_served_and_delays_nobody() -> None:
    """At a few KB a second, among other large messages."""
    slow = message("SLOW", text="x" * 400_000)
    async with agent() as old, gate(old.port) as running, crowd(running.port, 1) as [sender]:

        async def send() -> tuple[str, str]:
            for at in range(0, len(slow), 8_000):
                sender.send(slow[at : at + 8_000])
                await asyncio.sleep(0.02)
            return await sender.answer()

        sending = asyncio.create_task(send())
        for _ in range(5):
            assert ("AA", "LARGE") == await answered(running.port, LARGE)
        assert not sending.done()
        assert ("AA", "SLOW") == await sending


async def test_answers_that_a_device_does_not_read_stop_no_large_message() -> None:
    """They use the memory beyond the shares. Another long message waits for it: the device that reads nothing is closed."""
    async with agent("") as old, gate(old.port, shared_bytes=SHARED) as running, crowd(running.port, 3) as devices:
        old.on_frame = lambda _agent, writer: writer.write(answer("A" + "x" * 8_000_000))
        for one in devices:
            one.writer.transport.pause_reading()  # type: ignore[attr-defined]
            one.send(A)
        await until(lambda: running.relay.shared.budget.used_by("adt") > SHARED)
        old.on_frame, old.code = None, "AA"
        assert ("AA", "LARGE") == await answered(running.port, LARGE)
        assert ("AA", "LONGEST") == await answered(running.port, LONGEST, 5)


async def test_the_memory_of_a_crowd_is_bounded() -> None:
    """Sixty connections of several addresses with long messages: what they share, one message, and what is free for each."""
    shared = 2**20
    async with gate(shared_bytes=shared) as running, AsyncExitStack() as stack:
        for number in range(6):
            await stack.enter_async_context(crowd(running.port, 10, LONGEST[:1_900_000], f"127.0.0.{number + 2}"))
        await until(lambda: 60 == len(running.relay.devices))
        await asyncio.sleep(0.5)
        sizes = sorted(one.conversation.buffered_bytes for one in running.relay.devices if one.conversation)
        assert sum(sizes[:-1]) <= shared + 60 * 2 * SMALL_BYTES


@pytest.mark.parametrize("sent", [b"", b"junk", A], ids=["silent", "junk", "spoken"])
async def test_a_full_gate_has_a_place_for_another_address(sent: bytes) -> None:
    """Two addresses take all places."""
    async with (
        agent() as old,
        gate(old.port, limit=40, limit_per_address=20) as running,
        crowd(running.port, 20, sent),
        crowd(running.port, 20, sent, "127.0.0.3"),
    ):
        await until(lambda: 40 == len(running.relay.shared.connections))
        for _ in range(5):
            assert ("AA", "A") == await answered(running.port, A)
        assert 0 == running.counted.refusals
        assert 1 <= running.counted.endings[Ending.DISPLACED] <= 5


async def test_a_device_that_connects_for_each_message_is_not_refused() -> None:
    """It closes after the commit, and the application's answer comes late or never: its place is free for its next connection."""
    async with agent("CA") as old, gate(old.port, limit_per_address=5) as running:
        for number in range(20):
            async with device(running.port) as one:
                one.send(message(f"M{number}"))
                one.writer.write_eof()
                assert ("CA", f"M{number}") == await one.answer()
        assert (20, 0) == (len(old.got), running.counted.refusals)
        assert len(running.relay.shared.connections) <= 5


async def test_a_device_that_closes_at_once_is_not_refused_and_loses_nothing() -> None:
    """Its server never answers. Each message reaches the agent."""
    async with agent("") as old, gate(old.port, limit_per_address=5) as running:
        for number in range(20):
            async with device(running.port) as one:
                one.send(message(f"M{number}"))
                one.writer.write_eof()
                await until(lambda: number < len(old.got))  # noqa: B023 - asked at once
        assert (20, 0) == (len(old.got), running.counted.refusals)


async def test_a_closed_device_whose_message_waits_for_an_agent_keeps_its_place() -> None:
    """No agent is ready: nothing that only the gate has is dropped for another connection."""
    async with agent() as new, gate(limit_per_address=1) as running:
        async with device(running.port) as one:
            one.send(A)
            one.writer.write_eof()
            await until(lambda: any(each.conversation and each.conversation.busy for each in running.relay.devices))
        async with device(running.port) as other:
            assert ("closed", "") == await other.answer()
        running.ready(new.port)
        await until(lambda: ["A"] == new.got)


@pytest.mark.parametrize(
    "flood", [b"\x0b\x1c\r", b"x\x0b\x1c\r", b"\x0bPID|1\r\x1c\r"], ids=["empty", "junk", "no header"]
)
async def test_a_flood_gets_few_turns(flood: bytes) -> None:
    """Twenty connections pour frames that are dropped. Their address causes a bounded amount of work; a message behind them arrives."""
    async with agent() as old, gate(old.port) as running:
        behind = flood * 200 + B
        async with crowd(running.port, 20, flood * 20_000), crowd(running.port, 1, behind, "127.0.0.3") as [late]:
            assert ("AA", "B") == await late.answer()
            begun = dropped(running)
            for _ in range(10):
                assert ("AA", "A") == await answered(running.port, A)
            assert begun < UNITS_AT_ONCE + 20 * 2 * DROPS_PER_TURN + 400
            await until(lambda: dropped(running) > begun)
    assert Ending.TOO_SLOW not in running.counted.endings


def dropped(running: Gate) -> int:
    """Return how many items were dropped."""
    return running.counted.counts[Kind.EMPTY] + running.counted.counts[Kind.JUNK]


async def test_no_connection_has_more_than_a_turn_at_once() -> None:
    """Other connections get theirs between them: this is what bounds everybody's latency."""
    async with agent() as old, gate(old.port) as running, crowd(running.port, 1) as [sender]:
        before, most = 0, 0

        def look() -> None:
            nonlocal before, most
            now = dropped(running)
            before, most = now, max(most, now - before)
            running.relay.shared.pace._call_later(0, look)

        look()
        sender.send(b"\x0b\x1c\r" * 1_000)
        await until(lambda: dropped(running) == 1_000)
        assert most <= 8 * DROPS_PER_TURN


async def test_refusals_are_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """One line names the address and the setting; the metric has the number."""
    caplog.set_level(logging.INFO)
    async with agent() as old, gate(old.port, limit_per_address=2) as running, crowd(running.port, 2):
        await until(lambda: 2 == len(running.relay.shared.connections))
        for _ in range(50):
            async with device(running.port, address=BAD) as one:
                assert ("closed", "") == await one.answer()
        assert 50 == running.counted.refusals
        lines = [record for record in caplog.records if getattr(record, "device", "") == BAD]
    assert 1 == len(lines)
    assert "spec.gate.maxConnectionsPerAddress" in lines[0].getMessage()


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (b"junk", "4 x dropped a byte outside any message"),
        (
            2 * b"\x0bBHS|^~\\&|\r\x1c\r",
            "dropped a batch or a file of messages (BHS, FHS), as no agent takes one",
        ),
        (b"\x0b\x1c\r", "dropped a frame without an HL7 header"),
        (A, "a message got no answer in time"),
        (A[:-2], "dropped a message that was not completed"),
    ],
    ids=["junk", "batch", "no header", "unanswered", "cut"],
)
async def test_what_is_dropped_is_logged_with_the_device(
    caplog: pytest.LogCaptureFixture, sent: bytes, line: str
) -> None:
    """The metric says that it happens, the log to which device; no part of the message."""
    caplog.set_level(logging.INFO)
    async with agent("") as mute, gate(mute.port, answer_seconds=0.1) as running, crowd(running.port, 1, sent) as [one]:
        one.writer.write_eof()
        await until(lambda: line in caplog.messages)
    assert {BAD} == {record.device for record in caplog.records if line in record.message}  # type: ignore[attr-defined]


async def test_the_line_about_lost_messages_has_their_number(caplog: pytest.LogCaptureFixture) -> None:
    """The device sent three and closed, and no agent became ready."""
    caplog.set_level(logging.INFO)
    async with gate(hold_seconds=0.1) as running, crowd(running.port, 1, 3 * A) as [one]:
        one.writer.write_eof()
        line = "3 x lost a message: the device has disconnected, and no agent was ready in time"
        await until(lambda: line in caplog.messages)


async def test_a_device_that_does_not_read_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate drops its connection, and counts and says so."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(device_connection, "BLOCKED_SECONDS", 0.2)
    async with agent("") as old, gate(old.port) as running, crowd(running.port, 1) as [one]:

        def much(_: Agent, writer: asyncio.StreamWriter) -> None:
            writer.write(answer("A" + "x" * 8_000_000))

        old.on_frame = much
        one.writer.transport.pause_reading()  # type: ignore[attr-defined]
        one.send(A)
        await until(lambda: running.counted.endings[Ending.UNREAD])
    assert "closed a device's connection: the device did not read its answers" in caplog.messages
