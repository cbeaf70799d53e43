"""The parts without sockets: framing, HL7, pauses, the window of a device, the count."""

from __future__ import annotations

import doctest
from typing import TYPE_CHECKING

import pytest

from tests.support.traffic import figures, hl7, medplum_server, mllp, report, series, snapshot
from tests.support.traffic.config import TrafficConfig
from tests.support.traffic.ledger import DEVICE_SHAPES, Failure, Ledger, Outcome, Shape
from tests.support.traffic.medplum_server import Arrival, ServerAwayError, parse_messages
from tests.support.traffic.mllp import Deframer, frame
from tests.support.traffic.pauses import Pause, Pauses
from tests.support.traffic.report import Generator, Timeline
from tests.support.traffic.snapshot import Since
from tests.support.traffic.window import OnTheWire, Window

if TYPE_CHECKING:
    from types import ModuleType


@pytest.mark.parametrize(
    ("reads", "messages"),
    [
        pytest.param([b"\x0bA\x1c\r"], [b"A"], id="one message in one read"),
        pytest.param([b"\x0bA", b"B\x1c", b"\r"], [b"AB"], id="cut anywhere, also within the end"),
        pytest.param([b"\x0bA\x1c\r\x0bB\x1c\r"], [b"A", b"B"], id="two in one read"),
        pytest.param([b"junk\r\n\x0bA\x1c\r"], [b"A"], id="junk before the start is dropped"),
        pytest.param([b"junk\x1c\r\x0bA\x1c\r"], [b"A"], id="an end without a start is dropped"),
        pytest.param([b"\x0bA"], [], id="half a message is none"),
    ],
)
def test_framing(reads: list[bytes], messages: list[bytes]) -> None:
    """A stream is cut into messages wherever reads end."""
    deframer = Deframer()
    assert messages == [message for read in reads for message in deframer.feed(read)]


def test_every_byte_by_itself() -> None:
    """A message that comes byte by byte comes whole, once."""
    deframer = Deframer()
    stream = frame(b"MSH|1") + frame(b"MSH|2")
    assert [b"MSH|1", b"MSH|2"] == [m for byte in stream for m in deframer.feed(bytes([byte]))]


def test_an_acknowledgement_names_the_message() -> None:
    """What a device answers to a message can be matched with it by MSA-2."""
    message = hl7.message(identifier="a1b2c3L000-0000007", sender="SLOW", written_at="20260101000000")
    answer = hl7.answer_of(hl7.acknowledgement(message, "CA", identifier="x"))
    assert hl7.Answer("CA", "a1b2c3L000-0000007") == answer
    assert hl7.answer_of(message) is None


def test_control_ids_fit_and_differ() -> None:
    """No two shapes, connections or messages share a control id, and MSH-10 has room for it."""
    made = [hl7.control_id("a1b2c3", shape, c, s) for shape in Shape for c in (0, 999) for s in (0, 9_999_999)]
    assert len(made) == len(set(made))
    assert max(map(len, made)) <= 20


def test_pauses_count_only_what_waits() -> None:
    """Idle time is no pause; an outage counts from the first message that it held up."""
    pauses = Pauses()
    pauses.offered(1.0)
    pauses.acknowledged(1.125)
    pauses.offered(5.0)
    pauses.offered(6.0)
    assert pauses.longest(7.0) == Pause(5.0, 2.0)
    pauses.acknowledged(8.0)
    pauses.acknowledged(8.25)
    assert pauses.longest() == Pause(5.0, 3.0)
    assert pauses.current(100.0) == 0.0


def test_giving_up_is_no_acknowledgement() -> None:
    """A message that is given up does not end the pause of the others; the last one given up does."""
    pauses = Pauses()
    pauses.offered(1.0)
    pauses.offered(2.0)
    pauses.given_up(3.0)
    pauses.given_up(4.5)
    pauses.offered(9.0)
    pauses.acknowledged(9.5)
    assert pauses.longest() == Pause(1.0, 3.5)


@pytest.mark.parametrize(
    ("interval", "pause"),
    [
        pytest.param((0.0, 2.0), Pause(1.0, 4.0), id="begins in it"),
        pytest.param((2.0, 3.0), Pause(1.0, 4.0), id="spans it"),
        pytest.param((4.0, 9.0), Pause(1.0, 4.0), id="ends in it"),
        pytest.param((5.0, 9.0), Pause(6.0, 0.5), id="is over before"),
        pytest.param((7.0, 9.0), Pause(0.0, 0.0), id="none"),
    ],
)
def test_the_pause_of_a_stage(interval: tuple[float, float], pause: Pause) -> None:
    """A stage has the longest pause that touches it."""
    pauses = Pauses()
    for offered, acknowledged in ((1.0, 5.0), (6.0, 6.5)):
        pauses.offered(offered)
        pauses.acknowledged(acknowledged)
    assert pause == pauses.longest_touching(*interval)


def test_a_broken_connection_is_sent_again_in_order() -> None:
    """What was on the wire goes first, oldest first, before what was never sent."""
    window = Window(3)
    for number in (1, 2, 3):
        window.add(number)
    for number in (1, 2):
        window.sent(OnTheWire(number, attempt=number, deadline=9.0))
    assert not window.room
    assert [1, 2] == [entry.number for entry in window.broken()]
    order = []
    while (head := window.head()) is not None:
        order.append(head)
        window.sent(OnTheWire(head, attempt=0, deadline=9.0))
    assert [1, 2, 3] == order


def test_a_rejected_message_is_sent_again_first() -> None:
    """A negative answer leaves the message to be sent; a positive one frees its place."""
    window = Window(1)
    window.add(7)
    window.sent(OnTheWire(7, attempt=1, deadline=2.0))
    assert window.answered(7, done=False) is not None
    assert 7 == window.head()
    window.sent(OnTheWire(7, attempt=2, deadline=3.0))
    assert 3.0 == window.deadline
    window.answered(7, done=True)
    assert window.empty
    assert window.room


def story() -> tuple[Ledger, Timeline]:
    """Five messages: fine, lost, repeated after a reset, given up but arrived, and a push that arrived twice."""
    ledger = Ledger()
    fine = ledger.offered(Shape.SLOW, 0, "fine", 10.0)
    ledger.ended(ledger.attempt(fine, 10.0), Outcome.ACKED, 10.5)
    ledger.answered("fine", "AA", 10.5, connection=(Shape.SLOW, 0))
    lost = ledger.offered(Shape.LONG_LIVED, 0, "lost", 11.0)
    ledger.ended(ledger.attempt(lost, 11.0), Outcome.ACKED, 11.25)
    ledger.answered("lost", "CA", 11.25, connection=(Shape.LONG_LIVED, 0))
    twice = ledger.offered(Shape.LONG_LIVED, 0, "twice", 12.0)
    ledger.ended(ledger.attempt(twice, 12.0), Outcome.RESET, 13.0)
    ledger.failed(Failure(13.0, Shape.LONG_LIVED, 0, Outcome.RESET, in_hand=True))
    ledger.ended(ledger.attempt(twice, 13.0), Outcome.ACKED, 14.0)
    ledger.answered("twice", "CA", 14.0, connection=(Shape.LONG_LIVED, 0))
    ledger.answered("twice", "AA", 14.1, connection=(Shape.LONG_LIVED, 0))
    mute = ledger.offered(Shape.RECONNECTING, 0, "mute", 15.0)
    ledger.ended(ledger.attempt(mute, 15.0), Outcome.TIMEOUT, 16.0)
    ledger.failed(Failure(16.0, Shape.RECONNECTING, 0, Outcome.TIMEOUT, in_hand=True, began=15.0))
    ledger.ended(ledger.attempt(mute, 16.5, on_the_wire=False), Outcome.REFUSED, 16.5)
    ledger.failed(Failure(16.5, Shape.RECONNECTING, 0, Outcome.REFUSED, in_hand=True))
    ledger.given_up(mute, 18.0)
    push = ledger.offered(Shape.PUSH, 0, "push", 16.0)
    ledger.sent(ledger.attempt(push, 16.0, on_the_wire=False))
    for at in (16.25, 16.5):
        ledger.arrived("push", at)
        ledger.answered("push", "AA", at, connection=(Shape.PUSH, 0))
    for identifier in ("fine", "twice", "twice", "mute", "of another run"):
        ledger.arrived(identifier, 17.0)
    return ledger, Timeline(started=10.0, ended=20.0, anchor=1000.0, marks=(("patch", 12.5),))


@pytest.mark.parametrize(("interval", "timeouts"), [((14.0, 15.5), 1), ((15.5, 20.0), 0)])
def test_a_time_out_counts_where_it_began(interval: tuple[float, float], timeouts: int) -> None:
    """It is noticed seconds later, in the middle of something else."""
    ledger, _ = story()
    found = figures.count(ledger, DEVICE_SHAPES, started=10.0, ended=20.0, interval=interval)
    assert timeouts == found.timeouts


def test_the_count() -> None:
    """Each message is counted under what became of it, and nowhere else."""
    ledger, _ = story()
    expected = figures.Figures(
        offered=4,
        sent=4,
        sends=5,
        acknowledged=3,
        acknowledged_on_receipt_only=1,
        rejected=0,
        arrived=3,
        lost=1,
        repeated=1,
        extra_arrivals=1,
        unacknowledged=1,
        unacknowledged_arrived=1,
        refused=1,
        unreachable=0,
        reset=1,
        closed=0,
        closed_in_hand=0,
        timeouts=1,
        most_resets_on_one_connection=1,
        most_breaks_on_one_connection=1,
        longest_pause_seconds=3.0,
        longest_pause_at=5.0,
        acknowledged_after_p50_seconds=0.5,
        acknowledged_after_p99_seconds=2.0,
        acknowledged_after_max_seconds=2.0,
        acknowledged_per_second=0.3,
    )
    assert expected == figures.count(ledger, DEVICE_SHAPES, started=10.0, ended=20.0)


def test_unknown_is_not_zero() -> None:
    """Without a record of arrivals, the report claims nothing about losses."""
    ledger, _ = story()
    counted = figures.count(ledger, DEVICE_SHAPES, started=10.0, ended=20.0, arrivals_known=False)
    assert (None, None, None) == (counted.arrived, counted.lost, counted.repeated)


def test_the_report_tells_stages_and_names() -> None:
    """A mark cuts the run; lost, repeated and unacknowledged messages are named; pushes stand apart."""
    ledger, timeline = story()
    built = report.build(
        ledger, timeline, Generator(0.0, 0.0, 0, 0, 1, 0), run="a1b2c3", target="h:1", arrivals_known=True
    )
    assert [("start", 0.0, 2.5), ("patch", 2.5, 7.5)] == [(s.name, s.start, s.seconds) for s in built.stages]
    assert [(3, 1, 0), (1, 0, 1)] == [(s.overall.offered, s.overall.lost, s.overall.reset) for s in built.stages]
    assert (["lost"], {"twice": 2, "push": 2}, ["mute"]) == (built.lost, built.repeated, built.unacknowledged)
    assert [{"shape": "reconnecting", "connection": 0, "from": 5.0, "to": 6.0}] == built.timeouts
    push = built.shapes["push"]
    assert (1, 1, 0, 1, 0.25) == (push.sent, push.arrived, push.lost, push.repeated, push.longest_pause_seconds)
    assert "1970-01-01T00:16:50.000+00:00" == built.started_at
    assert "Lost: lost" in report.as_text(built)


def test_the_live_line_counts_from_the_latest_mark() -> None:
    """What was before the mark is not in it, and what was not asked for is not known."""
    ledger, _ = story()
    whole = snapshot.take(ledger, since=Since("start", 10.0), now=20.0, per_second=4.0, asked_at=20.0)
    assert (1, 1, 2) == (whole.lost_so_far, whole.refused, whole.repeated)
    assert "lost 1  refused 1  repeated 2" in str(whole)
    later = snapshot.take(ledger, since=Since("late", 16.8, 4, 2), now=20.0, per_second=4.0, asked_at=20.0)
    assert ("late", 0, 0, 1) == (later.stage, later.lost_so_far, later.refused, later.repeated)
    assert (whole.sent - 4, whole.acknowledged - 2) == (later.sent, later.acknowledged)
    unasked = snapshot.take(ledger, since=Since("start", 10.0), now=20.0, per_second=4.0, asked_at=None)
    assert unasked.lost_so_far is None
    assert "lost ?" in str(unasked)


def test_the_series() -> None:
    """Acknowledgements fall into bins of 100 ms, and what went wrong keeps its moment."""
    ledger, timeline = story()
    built = series.build(ledger, timeline, run="a1b2c3", arrivals_known=True)
    assert [12, 40] == [n for n, count in enumerate(built.acknowledged["long-lived"]) if count]
    assert ([6.5], [3.0], [6.0]) == (built.refused, built.reset, built.timeouts)
    assert ([6.5, 7.0], [1.25]) == (built.repeated, built.lost)
    assert [{"name": "patch", "at": 2.5}] == built.marks


def test_an_answer_for_somebody_else_is_a_stray() -> None:
    """An ACK counts only on the connection that sent the message."""
    ledger = Ledger()
    number = ledger.offered(Shape.SLOW, 0, "mine", 1.0)
    assert ledger.answered("mine", "AA", 2.0, connection=(Shape.SLOW, 1)) is None
    assert ledger.answered("unknown", "AA", 2.0, connection=(Shape.SLOW, 0)) is None
    assert (False, 2) == (ledger.acknowledged(number), ledger.strays)


@pytest.mark.parametrize(
    ("body", "arrivals", "after"),
    [
        pytest.param(b'[{"id": "a", "at": 5}]', [Arrival("a", 5.0)], 8, id="a list"),
        pytest.param(b'{"messages": [{"controlId": "a"}], "next": 40}', [Arrival("a", None)], 40, id="with a cursor"),
        pytest.param(
            b'{"columns": ["controlId", "receivedAt", "remote"], "messages": [["a", 5.5, "x"]], "next": 8}',
            [Arrival("a", 5.5)],
            8,
            id="rows under columns",
        ),
        pytest.param(b'{"id": "a"}\n{"id": "b"}\n', [Arrival("a", None), Arrival("b", None)], 9, id="JSON lines"),
        pytest.param(b'{"id": "a"}\n', [Arrival("a", None)], 8, id="one line"),
        pytest.param(b'[{"id": "a", "time": "1970-01-01T00:01:00Z"}]', [Arrival("a", 60.0)], 8, id="ISO 8601"),
        pytest.param(b"", [], 7, id="nothing"),
    ],
)
def test_what_a_server_may_answer(body: bytes, arrivals: list[Arrival], after: int) -> None:
    """A list, an object with a cursor, and JSON lines are understood."""
    assert (arrivals, after) == parse_messages(body, 7)


@pytest.mark.parametrize("body", [b"<html>", b'[{"name": "x"}]'])
def test_what_a_server_may_not_answer(body: bytes) -> None:
    """Anything else is an error, never an empty record."""
    with pytest.raises(ServerAwayError):
        parse_messages(body, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": "ab"},
        {"pipeline": 0},
        {"push_per_second": 1.0},
        {"slow_connections": 1000},
        {"reconnecting_per_second": -1.0},
        {"slow_every_seconds": 0.0},
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, float | str | int]) -> None:
    """A setting that cannot work is refused, by its name, before anything is sent."""
    with pytest.raises(ValueError, match=r"run|pipeline|push|connections|rate"):
        TrafficConfig("127.0.0.1", 1, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [figures, hl7, medplum_server, mllp], ids=lambda module: module.__name__)
def test_the_examples_in_the_code_hold(module: ModuleType) -> None:
    """What a docstring shows is what happens."""
    failed, tried = doctest.testmod(module)
    assert (0, True) == (failed, tried > 0)
