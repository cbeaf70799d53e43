"""What a device and its agents see of the gate, case by case."""

from __future__ import annotations

import pytest

from medplum_agent_operator.gate.effects import Ending, Kind
from medplum_agent_operator.gate.limits import SMALL_BYTES
from tests.support.gate.scene import Scene, answer, message

A, B, C = message("A"), message("B"), message("C")


def test_a_message_goes_to_the_agent_and_its_answer_comes_back() -> None:
    """Both pass unchanged, and nothing else happens."""
    scene = Scene().sends(A).answered(answer("A"))
    assert [("old", A)] == scene.received
    assert [answer("A")] == scene.answers
    assert scene.still_open


@pytest.mark.parametrize("split", [1, 2, 3, 7, 50])
def test_messages_and_answers_in_parts_arrive_complete(split: int) -> None:
    """An agent before 5.0.0 never answers a message that arrives in parts."""
    scene = Scene().sends(A, B, split=split).answered(answer("A"), split=split).answered(answer("B"), split=split)
    assert [A, B] == [frame for _, frame in scene.received]
    assert [answer("A"), answer("B")] == scene.answers


def test_the_gate_sends_one_message_at_a_time() -> None:
    """The next message waits for the answer to the previous one: agents before 5.0.0 merge messages that arrive together."""
    scene = Scene().sends(A, B, C)
    assert [("old", "A")] == scene.got
    scene.answered(answer("A"))
    assert [("old", "A"), ("old", "B")] == scene.got


def test_after_a_commit_the_next_message_goes_and_the_application_answers_later() -> None:
    """Enhanced mode: CA, the next message, and the AA of the first message before the answer to the second."""
    scene = Scene().sends(A, B).answered(answer("A", "CA"))
    assert [("old", "A"), ("old", "B")] == scene.got
    scene.answered(answer("A", "AA")).answered(answer("B", "CA")).answered(answer("B", "AA"))
    assert [("CA", "A"), ("AA", "A"), ("CA", "B"), ("AA", "B")] == scene.answer_codes
    assert (2, 2) == (scene.counts[Kind.ANSWERED], scene.counts[Kind.LATE])


def test_two_answers_in_one_read_answer_two_messages() -> None:
    """The gate sends the second message between them, so the second answer does not count as late."""
    scene = Scene().sends(A, B, C).answered(answer("A") + answer("B"))
    assert ["A", "B", "C"] == [name for _, name in scene.got]


@pytest.mark.parametrize("wrong", ["", "unknown"])
def test_an_answer_that_names_no_known_message_answers_the_current_one(wrong: str) -> None:
    """Agents pass on the server's answer unchecked: MSA-2 may be missing or wrong."""
    scene = Scene().sends(A, B).answered(answer(wrong))
    assert [("old", "A"), ("old", "B")] == scene.got


def test_a_repeated_answer_does_not_answer_the_next_message() -> None:
    """The device gets both answers, and the next message waits for its own."""
    scene = Scene().sends(A, B, C).answered(answer("A")).answered(answer("A"))
    assert [("old", "A"), ("old", "B")] == scene.got
    assert [("AA", "A"), ("AA", "A")] == scene.answer_codes


def test_an_unnamed_application_acknowledgement_does_not_answer_the_next_message() -> None:
    """On a link that uses commits, an answer that is no commit belongs to an earlier message."""
    scene = Scene().sends(A, B, C).answered(answer("A", "CA")).answered(answer("", "AA"))
    assert [("old", "A"), ("old", "B")] == scene.got


def test_input_that_breaks_an_agent_never_reaches_it() -> None:
    """The gate drops and counts junk between frames, empty frames and frames without a header."""
    scene = Scene().sends(b"\r\n", A, b"\0\0\0", b"\x0b\x1c\r", b"\x0bPID|1\r\x1c\r", B).answered(answer("A"))
    assert [("old", "A"), ("old", "B")] == scene.got
    assert (5, 2) == (scene.counts[Kind.JUNK], scene.counts[Kind.EMPTY])


@pytest.mark.parametrize(
    "frame",
    [
        b"\x0b" + "MSH|^~\\&|||||||ADT|Ärzte|\r".encode("latin-1") + b"\x1c\r",
        b"\x0b" + "MSH|^~\\&|||||||ADT|1|\r".encode("utf-16-le") + b"\x1c\r",
        b"\x0b" + "MSH|^~\\&|||||||ADT|1|\r".encode("utf-16-be") + b"\x1c\r",
        b"\x0b" + "MSH|^~\\&|||||||ADT|1|\r".encode("utf-32-le") + b"\x1c\r",
        b"\x0b" + "\ufeffMSH|^~\\&|||||||ADT|1|\r".encode() + b"\x1c\r",
        b"\x0b" + "\ufeffMSH|^~\\&|||||||ADT|1|\r".encode("utf-16-le") + b"\x1c\r",
        b"\x0b" + "\ufeffMSH|^~\\&|||||||ADT|1|\r".encode("utf-16-be") + b"\x1c\r",
        b"\x0b" + "\ufeffMSH|^~\\&|||||||ADT|1|\r".encode("utf-32-le") + b"\x1c\r",
        b"\x0bMSH|^~\\&\x1c\r",
        b"\x0bMSH\x1c\r",
        b"\x0bMSH$%~\\&$a$b$c$d$e$f$ADT$1$\r\x1c\r",
        b"\x0bMSH|^~\\&|||||||ADT|1|\nPID|\x0b\x1cx\n\x1c\r",
    ],
)
def test_every_charset_and_form_arrives_unchanged(frame: bytes) -> None:
    """The gate decodes nothing."""
    scene = Scene().sends(frame, A).answered(answer("1"))
    assert [frame, A] == [got for _, got in scene.received]


@pytest.mark.parametrize("before", ["\r\n", " ", "\0", "\x0b", "\ufeff\ufeff", "msh"])
def test_what_no_agent_takes_before_an_msh_is_dropped(before: str) -> None:
    """Agents before 5.0.0 would answer nothing any more on that connection."""
    scene = Scene().sends(b"\x0b" + before.encode() + A[1:], B)
    assert ([B], 1) == ([got for _, got in scene.received], scene.counts[Kind.EMPTY])


def test_the_control_id_of_a_message_behind_a_byte_order_mark_is_read() -> None:
    """A repeated answer to it does not answer the next message."""
    marked = b"\x0b\xef\xbb\xbf" + A[1:]
    assert [("old", "B")] == Scene().sends(marked, B, C).answered(answer("A")).answered(answer("A")).got[1:]


@pytest.mark.parametrize("header", ["FHS|^~\\&|\rBHS|^~\\&|\r", "BHS|^~\\&|\r", "\ufeffBHS|^~\\&|\r"])
def test_a_batch_does_not_delay_the_next_message(header: str) -> None:
    """No agent takes a batch: before 5.0.0 it answers nothing any more on that connection, later it ignores the batch."""
    batch = b"\x0b" + header.encode() + A[1:-2] + b"BTS|1\r\x1c\r"
    scene = Scene().sends(batch, B)
    assert ([B], 1) == ([got for _, got in scene.received], scene.counts[Kind.BATCH])


def asks(accept: str, application: str, name: str) -> bytes:
    """Return a message with these conditions in MSH-15 and MSH-16."""
    return message(name).replace(b"|P|2.5", f"|P|2.5|||{accept}|{application}".encode())


@pytest.mark.parametrize("pair", ["NE NE", "ER ER", "NE ER", "SU NE", "ne ne"])
def test_messages_that_ask_for_no_answer_follow_each_other(pair: str) -> None:
    """With a pause, because an agent before 5.0.0 merges messages that it reads together. No answer is missed."""
    accept, application = pair.split()
    frames = [asks(accept, application, name) for name in "ABC"]
    scene = Scene(silent_seconds=0.02).sends(*frames)
    assert [("old", "A")] == scene.passes(0.01).got
    assert [("old", "A"), ("old", "B"), ("old", "C")] == scene.passes(0.05).got
    assert (3, 0, 0) == (scene.counts[Kind.SENT_SILENT], scene.counts[Kind.SENT], scene.counts[Kind.UNANSWERED])
    assert scene.dies().passes(100).still_open


@pytest.mark.parametrize("pair", ["NE|", "|NE", "ER|"])
def test_a_message_that_perhaps_asks_for_no_answer_does_not_delay_the_next_one(pair: str) -> None:
    """The device may wait all the same: when its agent ends, the gate closes, as the agent would."""
    accept, application = pair.split("|")
    scene = Scene().sends(asks(accept, application, "A"), asks(accept, application, "B")).passes(1)
    assert [("old", "A"), ("old", "B")] == scene.got
    assert Ending.UNANSWERED is scene.dies().ending


@pytest.mark.parametrize("pair", ["|", "AL|NE", "NE|AL", "AL|AL", "AL|", '""|""'])
def test_a_message_that_asks_for_an_answer_waits_for_it(pair: str) -> None:
    """Also if it asks for one of the two kinds only."""
    accept, application = pair.split("|")
    assert [("old", "A")] == Scene().sends(asks(accept, application, "A"), B).passes(30).got


def test_the_pause_behind_a_long_message_without_an_answer_is_longer() -> None:
    """An agent needs time to read it."""
    long = asks("NE", "NE", "A")[:-2] + b"x" * 5_000_000 + b"\x1c\r"
    assert [("old", "A")] == Scene().sends(long, B).passes(1).got
    assert [("old", "A"), ("old", "B")] == Scene().sends(long, B).passes(1.2).got


def test_the_answer_to_a_message_that_asked_for_none_reaches_the_device() -> None:
    """Agents answer in any case, if the bot does."""
    scene = Scene().sends(asks("NE", "NE", "A"), B).passes(1).answered(answer("A"))
    assert ([("AA", "A")], [("old", "A"), ("old", "B")]) == (scene.answer_codes, scene.got)
    assert [("old", "A"), ("old", "B")] == Scene().sends(asks("NE", "NE", "A"), B).answered(answer("A")).got


def test_an_answer_may_name_any_message_of_a_batch() -> None:
    """A frame with several MSH has the control id of each."""
    batch = b"\x0bMSH|^~\\&|||||||ADT|1|\rMSH|^~\\&|||||||ADT|2|\r\x1c\r"
    assert [batch, A] == [got for _, got in Scene().sends(batch, A).answered(answer("2")).received]


def test_a_move_happens_between_two_messages() -> None:
    """The old agent answers its message, and the next one goes to the new agent. The old link stays open, as no device waits."""
    scene = Scene().sends(A, B).ready("new")
    assert [("old", "A")] == scene.got
    scene.answered(answer("A"))
    assert [("old", "A"), ("new", "B")] == scene.got
    assert ["old", "new"] == [link.agent for link in scene.passes(29).links.values()]
    assert 1 == scene.counts[Kind.MOVED]
    assert ["new"] == [link.agent for link in scene.passes(1).links.values()]


def test_the_time_of_a_retired_link_starts_once() -> None:
    """A second move does not extend it."""
    scene = Scene(late_seconds=30).sends(A).answered(answer("A")).ready("new").passes(20).ready("newer").passes(9)
    assert ["old"] == [link.agent for link in scene.links.values()]
    assert {} == scene.passes(1).links


def test_an_idle_connection_moves_at_once() -> None:
    """Without a current message, the next one opens a link to the new agent. The old agent may close its link at any time."""
    scene = Scene().sends(A).answered(answer("A")).ready("new").dies("old")
    assert {} == scene.links
    assert [("old", "A"), ("new", "B")] == scene.sends(B).got


def test_without_another_agent_an_idle_link_is_closed_soon() -> None:
    """The old agent's drain ends with its last link, and devices wait for the next agent."""
    scene = Scene(flush_seconds=0.2).sends(A).answered(answer("A")).ready(None).passes(0.1)
    assert ["old"] == [link.agent for link in scene.links.values()]
    assert {} == scene.passes(0.1).links
    owing = Scene(flush_seconds=0.2).sends(A).answered(answer("A", "CA")).ready(None).passes(5)
    assert ["old"] == [link.agent for link in owing.links.values()]
    assert {} == owing.answered(answer("A", "AA")).passes(0.2).links


def test_late_answers_of_the_old_agent_reach_the_device() -> None:
    """Enhanced mode: the AA for a message that the old agent committed arrives after the move."""
    scene = Scene().sends(A).answered(answer("A", "CA")).ready("new").sends(B).answered(answer("B", "CA"))
    assert {"old", "new"} == {link.agent for link in scene.links.values()}
    scene.answered(answer("A", "AA"), "old")
    assert [("CA", "A"), ("CA", "B"), ("AA", "A")] == scene.answer_codes


def test_the_gate_does_not_wait_forever_for_a_late_answer() -> None:
    """It counts as missed, and the link is closed."""
    scene = Scene(late_seconds=5).sends(A).answered(answer("A", "CA")).ready("new").passes(5)
    assert {} == scene.links
    assert 1 == scene.counts[Kind.MISSED]


def test_an_old_agent_that_does_not_answer_delays_a_device_for_a_limited_time() -> None:
    """Then the device has to resend. If the gate did, the message might arrive twice, or behind the next one."""
    scene = Scene(move_seconds=7).sends(A, B).ready("new").passes(6.9)
    assert scene.still_open
    scene.passes(0.2)
    assert Ending.MOVE_LATE is scene.ending
    assert [("old", "A")] == scene.got


def test_while_no_agent_is_ready_the_gate_waits_for_the_answer_of_the_old_one() -> None:
    """A recreate with a slow server: the link with the current message stays open, and there is no tick without effect."""
    scene = Scene(late_seconds=5, move_seconds=7, answer_seconds=60).sends(A).ready(None).passes(30)
    assert [("AA", "A")] == scene.answered(answer("A")).answer_codes


def test_without_an_agent_a_message_is_held_and_goes_to_the_next_one() -> None:
    """A recreate: the device sees one slow answer."""
    scene = Scene().ready(None).sends(A).passes(3)
    assert [] == scene.got
    assert [("new", "A")] == scene.ready("new").got
    assert 1 == scene.counts[Kind.HELD]


def test_a_message_is_not_held_forever() -> None:
    """The device gets no answer. The close makes it resend."""
    scene = Scene(hold_seconds=20).ready(None).sends(A).passes(19.9)
    assert scene.still_open
    assert Ending.NO_AGENT is scene.passes(0.2).ending
    assert ([], []) == (scene.received, scene.answers)


def test_an_idle_device_stays_connected_while_no_agent_is_ready() -> None:
    """Only a message has a time limit."""
    assert Scene(hold_seconds=20).ready(None).passes(3600).still_open


def test_an_agent_that_is_not_ready_any_more_gets_no_new_message() -> None:
    """It is stopping: it may answer its message, and the others wait."""
    scene = Scene().sends(A, B).ready(None).answered(answer("A")).passes(1)
    assert [("old", "A")] == scene.got
    assert {} == scene.links
    assert [("old", "A"), ("new", "B")] == scene.ready("new").got


def test_a_message_whose_agent_stopped_goes_to_the_next_agent() -> None:
    """At least once, like a device would resend; it is counted. A new connection shows whether the same agent is still alive."""
    scene = Scene()
    scene.opens_at_once = False
    scene.sends(A).opens().dies().refuses().ready(None).ready("new").opens()
    assert [("old", "A"), ("new", "A")] == scene.got
    assert 1 == scene.counts[Kind.REPEATED]


def test_with_send_again_off_the_device_has_to_resend() -> None:
    """The gate closes the device's connection."""
    scene = Scene(send_again=False).sends(A).dies()
    assert Ending.UNANSWERED is scene.ending


def test_a_message_is_never_sent_twice_to_the_same_agent() -> None:
    """It closed the link on the message and accepts connections again. So it is alive and may have the message."""
    scene = Scene().sends(A).dies().passes(1)
    assert Ending.UNANSWERED is scene.ending
    assert [("old", "A")] == scene.got


def test_an_agent_that_stops_gets_time_to_close_its_port() -> None:
    """A killed process closes its connections first and its port last: a link that opens at once proves nothing."""
    scene = Scene().sends(A).dies()
    assert {} == scene.links
    scene.passes(0.04).ready(None).ready("another life")
    assert [("old", "A"), ("another life", "A")] == scene.got


def test_a_message_on_which_two_agents_stopped_does_not_go_to_a_third() -> None:
    """The message may be the cause."""
    scene = Scene()
    scene.opens_at_once = False
    scene.sends(A).opens().dies().refuses().ready("second").opens().dies()
    assert [("old", "A"), ("second", "A")] == scene.got
    assert Ending.UNANSWERED is scene.ending


def test_half_an_answer_does_not_reach_the_device() -> None:
    """The agent stopped in the middle of it. The message goes to the next agent, whose answer is complete."""
    scene = Scene()
    scene.opens_at_once = False
    scene.sends(A).opens().answered(answer("A")[:-5]).dies().ready("new").opens().answered(answer("A"))
    assert [answer("A")] == scene.answers
    assert 1 == scene.counts[Kind.CUT]


def test_a_message_without_an_answer_does_not_block_the_next_ones() -> None:
    """As with the agent itself: no answer to one message, then the next one goes. A late answer still reaches the device."""
    scene = Scene(answer_seconds=60).sends(A, B).passes(60)
    assert [("old", "A"), ("old", "B")] == scene.got
    scene.answered(answer("A"))
    assert [("AA", "A")] == scene.answer_codes
    assert (1, 1, 0) == (scene.counts[Kind.UNANSWERED], scene.counts[Kind.LATE], scene.counts[Kind.ANSWERED])


def test_a_device_that_closes_right_after_sending_gets_its_answers() -> None:
    """An agent would close at once without an answer. The gate does not pass on the FIN."""
    scene = Scene().sends(A, B).finishes()
    assert scene.links
    scene.answered(answer("A")).answered(answer("B"))
    assert ([("AA", "A"), ("AA", "B")], Ending.DONE) == (scene.answer_codes, scene.ending)


def test_the_gate_closes_after_the_owed_answers() -> None:
    """Enhanced mode: the AA arrives after the CA and after the device's FIN."""
    scene = Scene(late_seconds=30).sends(A).answered(answer("A", "CA")).finishes()
    assert scene.still_open
    assert Ending.DONE is scene.answered(answer("A", "AA")).ending
    assert Ending.DONE is Scene(late_seconds=30).sends(A).answered(answer("A", "CA")).finishes().passes(31).ending


def test_messages_of_a_lost_device_arrive_and_nothing_is_written_to_it() -> None:
    """The gate passes on every complete message, like the agent."""
    scene = Scene().sends(A, B).breaks().answered(answer("A")).answered(answer("B"))
    assert (["A", "B"], []) == ([name for _, name in scene.got], scene.answers)
    assert Ending.DONE is scene.ending


def test_messages_of_a_disconnected_device_are_counted_if_no_agent_is_ready() -> None:
    """They are lost, as no device resends them: a metric to alert on."""
    scene = Scene(None, hold_seconds=20).sends(A, B, C).finishes().passes(21)
    assert (Ending.NO_AGENT, 3) == (scene.ending, scene.counts[Kind.UNDELIVERED])


def test_a_too_long_message_behind_one_without_an_agent_causes_no_endless_loop() -> None:
    """The gate gives up both. A hypothesis story found that it searched behind them forever."""
    scene = (
        Scene(None, hold_seconds=20, frame_bytes=200).sends(A, B, message("C", text="x" * 300)).finishes().passes(21)
    )
    assert (Ending.NO_AGENT, 2) == (scene.ending, scene.counts[Kind.UNDELIVERED])


def test_half_a_message_never_reaches_an_agent() -> None:
    """The device closed in the middle of it."""
    scene = Scene().sends(A[:-1]).finishes()
    assert ([], Ending.DONE, 1) == (scene.received, scene.ending, scene.counts[Kind.CUT])


def test_a_stopping_gate_passes_on_what_the_device_has_sent() -> None:
    """Then it closes. A device that does not wait for answers would not send the second message again."""
    scene = Scene().sends(A, B).stops().answered(answer("A"))
    assert scene.still_open
    scene.answered(answer("B"))
    assert ([("AA", "A"), ("AA", "B")], Ending.STOPPED) == (scene.answer_codes, scene.ending)
    assert 0 == scene.counts[Kind.DROPPED]


def test_a_stopping_gate_closes_at_once_if_the_device_has_sent_nothing() -> None:
    """It is idle, or never sent anything."""
    assert Ending.STOPPED is Scene().sends(A).answered(answer("A")).stops().ending
    assert Ending.STOPPED is Scene().stops().ending


def test_a_stopping_gate_lets_a_message_arrive_that_has_begun() -> None:
    """It arrives without a pause, or is dropped and counted."""
    assert [("old", "A")] == Scene().sends(A[:9]).stops().passes(0.9).sends(A[9:20]).passes(0.9).sends(A[20:]).got
    stalled = Scene(stop_seconds=1).sends(A[:9]).stops().passes(1)
    assert (Ending.STOPPED, 1) == (stalled.ending, stalled.counts[Kind.CUT])


def test_a_stopping_gate_holds_a_message_for_the_next_agent() -> None:
    """For as long as ever; its grace period may end before."""
    assert [("new", "A")] == Scene(None).sends(A).stops().passes(10).ready("new").got
    late = Scene(None, hold_seconds=20).sends(A, B).stops().passes(20)
    assert (Ending.NO_AGENT, 2) == (late.ending, late.counts[Kind.DROPPED])


def test_a_stopping_gate_takes_nothing_new_while_it_waits_for_an_application_acknowledgement() -> None:
    """Else a busy device in enhanced mode would not let it stop. The device sends that message to another gate."""
    scene = Scene().sends(A).answered(answer("A", "CA")).stops()
    assert (True, False) == (scene.still_open, scene.conversation.reads_device)
    scene.sends(B).answered(answer("A", "AA"))
    assert ([("old", "A")], Ending.STOPPED) == (scene.got, scene.ending)
    assert 1 == scene.breaks().counts[Kind.DROPPED]


def test_messages_behind_one_that_ends_the_connection_are_counted() -> None:
    """No agent was ready, or the old one did not answer. The grace period is over. Messages that an agent has do not count."""
    assert 3 == Scene(None, hold_seconds=20).sends(A, B, C).passes(21).counts[Kind.DROPPED]
    assert 2 == Scene(move_seconds=7).sends(A, B, C).ready("new").passes(8).counts[Kind.DROPPED]
    over = Scene().sends(A, B, C).stops()
    over.conversation.close_now()
    assert 2 == over.settle().counts[Kind.DROPPED]


def test_messages_that_arrive_after_the_end_are_counted() -> None:
    """Those that end after it, also if their last two bytes come one by one."""
    scene = Scene().sends(A[:9]).passes(86_400)
    assert scene.ending is not None
    scene.sends(A[9:], B[:-1]).sends(B[-1:], C[:-2])
    assert (0, 2) == (scene.counts[Kind.DROPPED], scene.finishes().counts[Kind.DROPPED])


def test_after_a_message_without_an_answer_those_of_a_closed_device_still_go() -> None:
    """The agent has ended twice on it, or a previous agent does not answer it. A closed device cannot resend the ones behind it."""
    twice = Scene()
    twice.opens_at_once = False
    twice.sends(A, B).opens().finishes().dies().refuses().ready("second").opens().dies().ready("third").opens()
    assert [("old", "A"), ("second", "A"), ("third", "B")] == twice.got
    moved = Scene(move_seconds=7).sends(A, B).breaks().ready("new").passes(8)
    assert [("old", "A"), ("new", "B")] == moved.got
    alive = Scene().sends(A, B).breaks().dies().passes(1)
    assert ([("old", "A"), ("old", "B")], 1) == (alive.got, alive.counts[Kind.UNANSWERED])


def test_no_agent_sees_a_message_over_the_limit() -> None:
    """Earlier messages get their answers first."""
    scene = Scene(frame_bytes=200).sends(A, message("B", text="x" * 300))
    assert scene.still_open
    assert Ending.TOO_LONG is scene.answered(answer("A")).ending
    assert [("old", "A")] == scene.got


def test_a_message_of_exactly_the_limit_passes() -> None:
    """One byte more does not pass."""
    big = message("A", text="x" * 100)
    assert [("old", "A")] == Scene(frame_bytes=len(big)).sends(big, split=9).got
    assert Ending.TOO_LONG is Scene(frame_bytes=len(big) - 1).sends(big, split=9).ending


def test_an_answer_over_the_limit_closes_the_link() -> None:
    """The agent is alive, so only the device may resend."""
    scene = Scene(frame_bytes=200).sends(A).answered(answer("A" + "x" * 300)).passes(1)
    assert Ending.UNANSWERED is scene.ending


def test_a_message_that_does_not_get_on_ends_the_connection() -> None:
    """A few bytes now and then would occupy a slot for large messages."""
    scene = Scene(frame_seconds=60).sends(message("A", text="x" * 2 * SMALL_BYTES)[: SMALL_BYTES + 5])
    for _ in range(7):
        scene.passes(9).sends(b"x" * 1_000)
    assert Ending.TOO_SLOW is scene.ending
    assert Ending.TOO_SLOW is Scene(frame_seconds=60).sends(A[:5]).passes(60).ending


@pytest.mark.parametrize(
    ("size", "rate"), [(3_000_000, 40_000), (100_000, 1_000), (30_000, 300), (2_000, 20), (50, 0.1)]
)
def test_a_message_that_gets_on_may_take_as_long_as_it_needs(size: int, rate: float) -> None:
    """A steady sender on a slow line. Directly at an agent it has no limit either."""
    frame = message("A", text="x" * size)
    scene = Scene(frame_seconds=60)
    part = max(1, int(rate))
    for at in range(0, len(frame), part):
        scene.sends(frame[at : at + part]).passes(part / rate)
    assert [frame] == [got for _, got in scene.received]


def test_time_in_which_the_gate_does_not_read_does_not_count() -> None:
    """It waited for a slot."""
    scene = Scene(frame_seconds=60).sends(A[:5]).passes(50)
    scene.conversation.reading_resumed(scene.now)
    assert scene.passes(50).still_open
    assert Ending.TOO_SLOW is scene.passes(20).ending


def test_a_silent_connection_is_closed_eventually() -> None:
    """After a day by default; TCP keep-alive detects dead connections sooner."""
    assert Ending.IDLE is Scene(idle_seconds=100).sends(A).answered(answer("A")).passes(101).ending


def test_the_gate_retries_the_link_while_a_message_waits() -> None:
    """The agent is reported ready but refuses connections: the pauses grow, until the hold time is over."""
    scene = Scene(hold_seconds=20)
    scene.opens_at_once = False
    scene.sends(A)
    tries = 0
    while scene.ending is None:
        tries += len(scene.links)
        scene.refuses().passes(0.05)
    assert Ending.NO_AGENT is scene.ending
    assert 20 <= tries <= 40


def test_reading_stops_while_enough_is_buffered_behind_the_current_message() -> None:
    """TCP slows down a device that does not wait for answers, and memory is bounded."""
    scene = Scene(None)
    sent = 0
    while scene.conversation.reads_device:
        scene.sends(message(str(sent)))
        sent += 1
    assert SMALL_BYTES < scene.conversation.buffered_bytes < SMALL_BYTES + 2 * len(message("1000"))
    scene.ready("new")
    for number in range(sent):
        scene.answered(answer(str(number)))
    assert [str(number) for number in range(sent)] == [name for _, name in scene.got]
    assert scene.conversation.reads_device


def test_behind_a_current_message_the_bytes_of_one_read_are_free() -> None:
    """A device that does not wait needs no slot for small messages, so it takes none from other devices."""
    scene = Scene(None).sends(message("A", text="x" * 2_000))
    while scene.conversation.reads_device:
        assert scene.conversation.charged_bytes <= 0, "another read would need a slot"
        scene.sends(message("B"))
    large = message("B", text="x" * 3 * SMALL_BYTES)
    assert Scene(None).sends(large[:-1]).conversation.charged_bytes == len(large) - 1
    assert Scene(None).sends(large).conversation.charged_bytes == len(large) - SMALL_BYTES


def test_a_device_is_not_too_slow_while_the_gate_does_not_read() -> None:
    """Its time starts when the gate reads again, after any wait for a slot."""
    scene = Scene(frame_seconds=60).sends(A[:5])
    scene.conversation.reading_paused()
    assert scene.passes(3600).still_open
    scene.conversation.reading_resumed(scene.now)
    assert scene.passes(59).still_open
    assert Ending.TOO_SLOW is scene.passes(2).ending


def test_each_message_has_its_own_time_limit() -> None:
    """Bytes behind the end of one message start the time of the next one."""
    scene = Scene(frame_seconds=60).sends(A[:5]).passes(50).sends(A[5:] + B[:5]).answered(answer("A"))
    assert scene.passes(59).still_open
    assert [A, B] == [frame for _, frame in scene.sends(B[5:]).received]
    assert scene.answered(answer("B")).sends(C[:5]).passes(59).still_open
    assert Ending.TOO_SLOW is scene.passes(2).ending


@pytest.mark.parametrize("named", ["", "unknown"])
def test_acknowledgements_that_never_arrive_need_bounded_memory(named: str) -> None:
    """Answers that do not arrive, or name no message or another one, as of a failing bot. Only the last 256 are remembered."""
    scene = Scene(late_seconds=30)
    for number in range(1000):
        one = f"M{number}"
        scene.sends(message(one)).answered(answer(one, "CA"))
        if named:
            scene.answered(answer(named, "AA"))
        scene.passes(0.1)
    [link] = scene.conversation._links
    assert 256 == len(link.owed)
    assert list(map(str.encode, map("M{}".format, range(744, 1000)))) == list(link.owed)


def test_an_answer_that_is_long_overdue_delays_no_stop() -> None:
    """Neither the gate's stop, nor that of an agent in a recreate."""
    committed = Scene(late_seconds=30, flush_seconds=0.2).sends(A).answered(answer("A", "CA"))
    assert {} != committed.passes(29).ready(None).passes(0.9).links
    assert {} == committed.passes(0.2).links
    assert Ending.STOPPED is Scene(late_seconds=30).sends(A).answered(answer("A", "CA")).passes(31).stops().ending
    recent = Scene(late_seconds=30).sends(A).answered(answer("A", "CA")).passes(20).stops()
    assert recent.still_open
    assert Ending.STOPPED is recent.passes(10.1).ending


def test_a_message_on_an_agent_that_is_lost_with_its_node_returns_to_the_device() -> None:
    """Its answer time ends after the move. Whether the message arrived is unknown, so the gate closes the device's connection."""
    scene = Scene(answer_seconds=60, move_seconds=30).sends(A).passes(45).ready(None).passes(5).ready("new")
    assert scene.passes(9).still_open
    assert Ending.MOVE_LATE is scene.passes(2).ending
    assert [("old", "A")] == scene.got


def test_half_a_message_before_a_close_causes_no_tick_without_effect() -> None:
    """An answer is owed, and the time limit of the unfinished message is over."""
    scene = Scene(frame_seconds=60, late_seconds=300).sends(A).answered(answer("A", "CA")).sends(B[:9]).finishes()
    assert scene.passes(200).still_open
    assert Ending.DONE is scene.passes(101).ending


def test_a_device_whose_message_was_given_up_sees_the_end_of_its_agent() -> None:
    """It waits, and would wait forever. Without a gate it sees FIN. Until then a late answer may come."""
    given_up = Scene(answer_seconds=60).sends(A).passes(61)
    assert given_up.still_open
    assert Ending.UNANSWERED is given_up.dies().ending


@pytest.mark.parametrize("ready", [None, "new"])
def test_a_device_whose_message_was_given_up_sees_a_move(ready: str | None) -> None:
    """A silent agent is replaced: by a recreate, or by a handoff."""
    scene = Scene(answer_seconds=60).sends(A).passes(61).ready(ready).passes(31)
    assert Ending.UNANSWERED is scene.ending


def test_the_gate_closes_between_two_messages_for_an_earlier_one_without_an_answer() -> None:
    """The next agent has the current message: its answer comes first, and ends the wait. A message that no agent has is resent by the device."""
    scene = Scene(answer_seconds=60).sends(A).passes(61).ready("new").sends(B).dies("old")
    assert scene.answered(answer("B")).passes(100).still_open
    again = Scene(answer_seconds=60).sends(A).passes(61).ready("new").sends(B).dies("old").passes(59)
    assert again.still_open
    assert Ending.UNANSWERED is again.passes(1).ending
    held = Scene(answer_seconds=60).sends(A).passes(61)
    held.opens_at_once = False
    held.ready("new").sends(B).dies("old")
    assert (Ending.UNANSWERED, 1) == (held.ending, held.counts[Kind.DROPPED])


def test_a_device_that_has_gone_on_keeps_its_connection() -> None:
    """A late answer came, or a later message was answered: nobody waits."""
    late = Scene(answer_seconds=60).sends(A).passes(61).answered(answer("A")).ready("new")
    assert late.passes(100).still_open
    on = Scene(answer_seconds=60).sends(A).passes(61).sends(B).answered(answer("B")).ready("new")
    assert on.passes(100).still_open
    moved = Scene(answer_seconds=60).sends(A).passes(61).ready("new").sends(B).answered(answer("B"), "new")
    assert moved.passes(100).still_open


def test_a_device_that_may_wait_for_an_application_acknowledgement_sees_the_end_of_its_agent() -> None:
    """Only if this pair uses them: such an answer has come before."""
    used = Scene().sends(A).answered(answer("A", "CA")).answered(answer("A", "AA")).sends(B).answered(answer("B", "CA"))
    assert (Ending.UNANSWERED, 1) == (used.dies().ending, used.counts[Kind.MISSED])
    later = (
        Scene().sends(A).answered(answer("A", "CA")).answered(answer("A", "AA")).sends(B).answered(answer("B", "CA"))
    )
    later.ready("new").sends(C).dies("old").answered(answer("C", "CA"))
    assert (Ending.UNANSWERED, ("CA", "C")) == (later.ending, later.answer_codes[-1])
    assert Scene().sends(A).answered(answer("A", "CA")).dies().passes(100).still_open


def test_a_closed_device_needs_no_sign_of_its_agent_s_end() -> None:
    """Its next messages go to the next agent."""
    scene = Scene(answer_seconds=60).sends(A, B).breaks().passes(61).dies().ready("new")
    assert [("old", "A"), ("old", "B"), ("new", "B")] == scene.got
