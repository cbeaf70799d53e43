"""The two framers, with the faults that devices meet."""

from __future__ import annotations

import pytest

from tests.support.doubles.agent.framers import READ_BYTES, FrameFinder, Framer, Garbage, ReadEndFramer, frame
from tests.support.doubles.stage import hl7

A, B, C = hl7("A"), hl7("B"), hl7("C")


def feed(framer: Framer, *reads: bytes) -> list[str]:
    """All messages of these reads; a read that is garbage counts as `GARBAGE`."""
    messages = []
    for read in reads:
        try:
            messages += framer.feed(read)
        except Garbage:
            messages.append("GARBAGE")
    return messages


def old() -> ReadEndFramer:
    """Up to 4.5.2."""
    return ReadEndFramer("utf-8")


def new() -> FrameFinder:
    """From 5.0.0."""
    return FrameFinder("utf-8")


@pytest.mark.parametrize("framer", [old(), new()], ids=["old", "new"])
def test_one_frame_is_one_message(framer: Framer) -> None:
    """Frame after frame, each in a read of its own or in several: no fault shows."""
    assert [A, B, C] == feed(framer, frame(A), frame(B)[:9], frame(B)[9:], frame(C)[:-2], frame(C)[-2:])


def test_old_merges_frames_of_one_read() -> None:
    """Three frames in one write are one message, with the delimiters in its middle."""
    assert [f"{A}\x1c\r\x0b{B}\x1c\r\x0b{C}"] == feed(old(), frame(A) + frame(B) + frame(C))


def test_new_takes_frames_of_one_read_apart() -> None:
    """Pipelining works."""
    assert [A, B, C] == feed(new(), frame(A) + frame(B) + frame(C))


def test_an_end_split_over_two_reads() -> None:
    """Between 1C and 0D: the old one never sees that message's end and adds the next message to it; the new one does not care."""
    reads = (frame(A)[:-1], b"\r", frame(B))
    assert [f"{A}\x1c\r\x0b{B}"] == feed(old(), *reads)
    assert [A, B] == feed(new(), *reads)


def test_one_byte_at_a_time() -> None:
    """Segments of one byte never complete for the old one."""
    reads = [bytes([byte]) for byte in frame(A)]
    assert [] == feed(old(), *reads)
    assert [A] == feed(new(), *reads)


@pytest.mark.parametrize("size", [65_537, 131_073])
def test_a_frame_one_byte_longer_than_reads(size: int) -> None:
    """A frame whose 0D alone is left for the last read is lost to the old one, unless its end comes later on its own."""
    text = A + "x" * (size - len(frame(A)))
    whole = frame(text)
    assert size == len(whole)
    reads = [whole[at : at + READ_BYTES] for at in range(0, size, READ_BYTES)]
    assert [] == feed(old(), *reads)
    assert [text] == feed(new(), *reads)
    front = [whole[at : min(at + READ_BYTES, size - 2)] for at in range(0, size - 2, READ_BYTES)]
    assert [text] == feed(old(), *front, whole[-2:])


@pytest.mark.parametrize(
    "poison",
    [b"junk" + frame(A), b"\r\n" + frame(A), b"\0" + frame(A), frame(""), frame("PID|1"), frame("FHS|^~\\&|")],
    ids=["junk in front", "CR LF in front", "NUL in front", "empty frame", "no MSH", "batch header"],
)
def test_old_is_poisoned(poison: bytes) -> None:
    """What does not begin with a good frame silences the connection for good, for good frames too."""
    assert ["GARBAGE", "GARBAGE", "GARBAGE"] == feed(old(), poison, frame(B), frame(C))


@pytest.mark.parametrize("junk", [b"junk", b"\r\n", b"\0"])
def test_new_ignores_what_stands_between_frames(junk: bytes) -> None:
    """Bytes before 0B are nothing."""
    assert [A, B] == feed(new(), junk + frame(A) + junk, junk + frame(B))


def test_new_drops_everything_that_was_read_with_a_frame_without_msh() -> None:
    """Also what stood before it; the next read is fine again."""
    assert ["GARBAGE", C] == feed(new(), frame(A) + frame("PID|1") + frame(B), frame(C))


def test_encoding() -> None:
    """The Endpoint's encoding decides, and what it cannot read is replaced."""
    text = hl7("Ä")
    assert [text] == FrameFinder("latin-1").feed(frame(text, "latin-1"))
    assert [text.replace("Ä", "\N{REPLACEMENT CHARACTER}")] == new().feed(frame(text, "latin-1"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-16"])
def test_a_byte_order_mark_is_taken_off(encoding: str) -> None:
    """Whatever the Endpoint's encoding, and by both framers."""
    marked = A if encoding == "utf-16" else f"\ufeff{A}"
    assert [A, B] == feed(FrameFinder(encoding), frame(marked, encoding), frame(B, encoding))
    assert [A] == feed(ReadEndFramer(encoding), frame(marked, encoding))


@pytest.mark.parametrize("framer", [FrameFinder("klingon"), ReadEndFramer("klingon")], ids=["new", "old"])
def test_an_encoding_that_nobody_knows_is_silence(framer: Framer) -> None:
    """The connection stays; every message is garbage."""
    assert ["GARBAGE", "GARBAGE"] == feed(framer, frame(A), frame(B))


@pytest.mark.parametrize("framer", [old(), new()], ids=["old", "new"])
def test_msh_with_another_separator_is_a_message(framer: Framer) -> None:
    """Three letters are all that is asked for."""
    assert ["MSH#^~\\&#A"] == feed(framer, frame("MSH#^~\\&#A"))
