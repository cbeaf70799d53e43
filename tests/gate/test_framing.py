"""That nobody can keep a gate busy with one read or one frame: it serves all devices on one loop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from medplum_agent_operator.gate.framing import Deframer, Frame
from medplum_agent_operator.gate.hl7 import answer_of, control_ids

if TYPE_CHECKING:
    from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    """The shortest of three."""
    found = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return min(found)


def empty_frames(number: int) -> Callable[[], int]:
    """Take so many of the smallest frames out of one buffer."""

    def take() -> int:
        deframer = Deframer(limit=2**24)
        deframer.feed(b"\x0b\x1c\r" * number)
        return sum(isinstance(found, Frame) for found in iter(deframer.next, None))

    return take


def test_many_small_frames_cost_what_they_are() -> None:
    """Eight times as many take eight times as long, not sixty-four: none moves all that lies behind it."""
    assert 80_000 == empty_frames(80_000)()
    assert seconds(empty_frames(160_000)) < 24 * seconds(empty_frames(20_000))


def test_a_frame_full_of_headers_costs_no_more_than_a_batch() -> None:
    """16 MiB of MSH and nothing else would be looked at for half a minute, were each looked at."""
    batch = b"".join(b"MSH|^~\\&|||||||ADT|%d|\r" % number for number in range(100_000))
    found = control_ids(b"\x0b" + batch + b"\x1c\r")
    assert {b"0", b"255"} <= found
    assert 256 == len(found)
    assert b"7" == answer_of(b"\x0bMSH|^~\\&|\rMSA|AA|7\r" + b"MSA|AA|8\r" * 100_000 + b"\x1c\r").about
