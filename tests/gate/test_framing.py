"""No single read or frame may keep the gate busy: it serves all devices on one event loop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from medplum_agent_operator.gate.framing import Deframer, Frame
from medplum_agent_operator.gate.hl7 import answer_of, control_ids

if TYPE_CHECKING:
    from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    """Return the shortest time of three runs, in seconds."""
    found = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return min(found)


def empty_frames(number: int) -> Callable[[], int]:
    """Return a function that takes `number` empty frames from one buffer."""

    def take() -> int:
        deframer = Deframer(limit=2**24)
        deframer.feed(b"\x0b\x1c\r" * number)
        return sum(isinstance(found, Frame) for found in iter(deframer.next, None))

    return take


def test_the_time_for_small_frames_grows_linearly() -> None:
    """Eight times as many frames take about eight times as long, not sixty-four: taking one does not move all bytes behind it."""
    assert 80_000 == empty_frames(80_000)()
    assert seconds(empty_frames(160_000)) < 24 * seconds(empty_frames(20_000))


def test_a_frame_full_of_headers_takes_no_longer_than_a_batch() -> None:
    """Reading every MSH of a frame with 16 MiB of them would take half a minute."""
    batch = b"".join(b"MSH|^~\\&|||||||ADT|%d|\r" % number for number in range(100_000))
    found = control_ids(b"\x0b" + batch + b"\x1c\r")
    assert {b"0", b"255"} <= found
    assert 256 == len(found)
    assert b"7" == answer_of(b"\x0bMSH|^~\\&|\rMSA|AA|7\r" + b"MSA|AA|8\r" * 100_000 + b"\x1c\r").about
