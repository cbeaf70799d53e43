"""Two devices that share memory and places, over real sockets: whatever each of them does, the other's messages are its own and pass."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

from hypothesis import example, given, settings
from hypothesis import strategies as st

from medplum_agent_operator.gate import budget
from tests.gate.conftest import gate
from tests.support.gate.actors import agent, device, until
from tests.support.gate.scene import control_id, message

if TYPE_CHECKING:
    from tests.gate.conftest import Gate
    from tests.support.gate.actors import Agent, Device

EXAMPLES: Final = int(os.environ.get("PAIRS", "60"))
SHARED: Final = 24_576
"""One address may use half of it, so few messages fit and most have to go beyond."""
CHECK_SECONDS: Final = 0.02
"""A message that does not get on gives way after 12 of these, not after three seconds."""
ADDRESSES: Final = ("127.0.0.2", "127.0.0.3")

WAITS, FINISHES, CUT, BROKEN, STALLED = "waits", "finishes", "finishes too early", "breaks", "stalls"
"""How a device ends: it has sent everything (the first two), or not."""

sizes = st.lists(st.one_of(st.integers(0, 300), st.integers(10_000, 60_000)), min_size=1, max_size=4)
step = st.tuples(st.integers(0, 1), st.one_of(st.integers(1, 300), st.integers(1_000, 60_000)), st.integers(0, 3))
"""Who writes, how many bytes, and for how many milliseconds everybody pauses then."""
ending = st.sampled_from([WAITS, FINISHES, CUT, BROKEN, STALLED])


class Sender:
    """A device, what it sends, and the answers that it gets."""

    def __init__(self, letter: str, one: Device, lengths: list[int], end: str) -> None:
        self.frames = [message(f"{letter}{n}", text=letter * size) for n, size in enumerate(lengths)]
        self.letter, self.one, self.end = letter, one, end
        self.left = b"".join(self.frames)
        if end not in {WAITS, FINISHES}:
            self.left = self.left[: -1 - len(self.frames[-1]) // 8]
        self.answers: list[str] = []
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                frame = await self.one.reader.readuntil(b"\x1c\r")
                self.answers.append(frame.split(b"|")[-1].split(b"\x1c")[0].decode())

    async def write(self, size: int) -> None:
        """Send so many bytes. A device that was closed for another one sends nothing more."""
        part, self.left = self.left[:size], self.left[size:]
        if part and not self.reading.done():
            self.one.writer.write(part)

    async def finish(self) -> None:
        """Send the rest, and end."""
        await self.write(len(self.left))
        if self.end in {FINISHES, CUT}:
            with suppress(OSError):
                self.one.writer.write_eof()
        elif self.end == BROKEN:
            self.one.writer.transport.abort()

    def arrived(self, agents: tuple[Agent, Agent]) -> list[bytes]:
        """Return what agents have of it."""
        return [one for each in agents for one in each.frames if control_id(one).startswith(self.letter)]


async def story(lengths: list[list[int]], steps: list[tuple[int, int, int]], ends: list[str], *, apart: bool) -> None:
    """Play it, and check everything. `apart`: each device has a channel of its own."""
    async with (
        agent() as first,
        agent() as second,
        gate(first.port, shared_bytes=SHARED) as one,
        gate(second.port, beside=one) as other,
        device(one.port, address=ADDRESSES[0]) as a,
        device((other if apart else one).port, address=ADDRESSES[1]) as b,
    ):
        senders = [Sender(*each) for each in zip("ab", (a, b), lengths, ends, strict=True)]
        for who, size, milliseconds in steps:
            await senders[who].write(size)
            await asyncio.sleep(milliseconds / 1000)
        for sender in senders:
            await sender.finish()
        for sender in senders:
            names = [control_id(frame) for frame in sender.frames]
            if sender.end in {WAITS, FINISHES}:
                await until(lambda: names == sender.answers)  # noqa: B023 - asked at once
        agents = (first, second)
        for sender in senders:
            arrived = sender.arrived(agents)
            assert sender.frames[: len(arrived)] == arrived, "a message was changed, lost or repeated"
            assert [control_id(frame) for frame in arrived][: len(sender.answers)] == sender.answers
            if sender.end in {WAITS, FINISHES}:
                assert sender.frames == arrived
        assert len(first.frames) + len(second.frames) == sum(len(sender.arrived(agents)) for sender in senders)
        for sender in senders:
            sender.one.writer.transport.abort()
        await until(lambda: not one.relay.devices and not other.relay.devices)
        nothing_left(one)
        for sender in senders:
            sender.reading.cancel()


def nothing_left(one: Gate) -> None:
    """Check that nothing of what channels share is still taken."""
    shared = one.relay.shared
    taken = shared.budget
    assert 0 == len(shared.connections)
    assert (0, {}, {}) == (taken._used, dict(taken._by_address), dict(taken._by_channel))
    assert (0, {}, None) == (len(taken._holders), taken._waiting, taken._beyond)


@settings(max_examples=EXAMPLES)
@example(lengths=([60_000], [60_000]), steps=[(0, 60_000, 3)], ends=(STALLED, WAITS), apart=False)
@example(lengths=([60_000], [60_000, 200]), steps=[(0, 60_000, 3)], ends=(STALLED, FINISHES), apart=True)
@given(
    lengths=st.tuples(sizes, sizes),
    steps=st.lists(step, max_size=25),
    ends=st.tuples(ending, ending),
    apart=st.booleans(),
)
def test_two_devices_never_harm_each_other(
    lengths: tuple[list[int], list[int]], steps: list[tuple[int, int, int]], ends: tuple[str, str], *, apart: bool
) -> None:
    """Nothing acknowledged is lost or changed, no byte reaches the other, whoever sends gets its answers, and no memory stays taken."""
    with patch.object(budget, "CHECK_SECONDS", CHECK_SECONDS):
        asyncio.run(story(list(lengths), steps, list(ends), apart=apart))
