"""What a device and agents see of the gate, told one case after the other."""

from __future__ import annotations

import pytest

from medplum_agent_operator.gate.effects import Ending, Kind
from medplum_agent_operator.gate.limits import SMALL_BYTES
from tests.support.gate.scene import Scene, answer, message

A, B, C = message("A"), message("B"), message("C")


def test_a_message_goes_to_the_agent_and_its_answer_comes_back() -> None:
    """Both unchanged, and nothing else happens."""
    scene = Scene().sends(A).answered(answer("A"))
    assert [("old", A)] == scene.received
    assert [answer("A")] == scene.answers
    assert scene.still_open


@pytest.mark.parametrize("split", [1, 2, 3, 7, 50])
def test_however_it_is_cut_it_arrives_whole(split: int) -> None:
    """An agent before 5.0.0 never answers what comes in parts."""
    scene = Scene().sends(A, B, split=split).answered(answer("A"), split=split).answered(answer("B"), split=split)
    assert [A, B] == [frame for _, frame in scene.received]
    assert [answer("A"), answer("B")] == scene.answers


def test_a_sender_that_does_not_wait_is_made_to() -> None:
    """The next message goes once the one before has its answer: agents before 5.0.0 merge what comes together."""
    scene = Scene().sends(A, B, C)
    assert [("old", "A")] == scene.got
    scene.answered(answer("A"))
    assert [("old", "A"), ("old", "B")] == scene.got


def test_after_a_commit_the_next_goes_and_the_application_answers_later() -> None:
    """Enhanced mode: CA, next message, and the AA of the first in the middle of the second."""
    scene = Scene().sends(A, B).answered(answer("A", "CA"))
    assert [("old", "A"), ("old", "B")] == scene.got
    scene.answered(answer("A", "AA")).answered(answer("B", "CA")).answered(answer("B", "AA"))
    assert [("CA", "A"), ("AA", "A"), ("CA", "B"), ("AA", "B")] == scene.told
    assert (2, 2) == (scene.notes[Kind.ANSWERED], scene.notes[Kind.LATE])


def test_two_answers_in_one_read_answer_two_messages() -> None:
    """The second message is sent between them; its answer is not taken for a late one."""
    scene = Scene().sends(A, B, C).answered(answer("A") + answer("B"))
    assert ["A", "B", "C"] == [name for _, name in scene.got]


@pytest.mark.parametrize("wrong", ["", "nobody"])
def test_an_answer_that_names_nobody_answers_the_message_in_hand(wrong: str) -> None:
    """Agents pass on unchecked what the server answers: MSA-2 may be missing or wrong."""
    scene = Scene().sends(A, B).answered(answer(wrong))
    assert [("old", "A"), ("old", "B")] == scene.got


def test_a_repeated_answer_is_not_taken_for_the_next_one() -> None:
    """A device that sent twice gets two answers; the third message waits for its own."""
    scene = Scene().sends(A, B, C).answered(answer("A")).answered(answer("A"))
    assert [("old", "A"), ("old", "B")] == scene.got
    assert [("AA", "A"), ("AA", "A")] == scene.told


def test_an_unnamed_application_answer_is_no_commit_of_the_next() -> None:
    """Where commits come first, an answer that is none belongs to an earlier message."""
    scene = Scene().sends(A, B, C).answered(answer("A", "CA")).answered(answer("", "AA"))
    assert [("old", "A"), ("old", "B")] == scene.got


def test_what_would_poison_an_agent_never_reaches_it() -> None:
    """Junk between frames, an empty frame, a frame without a header: left out and counted."""
    scene = Scene().sends(b"\r\n", A, b"\0\0\0", b"\x0b\x1c\r", b"\x0bPID|1\r\x1c\r", B).answered(answer("A"))
    assert [("old", "A"), ("old", "B")] == scene.got
    assert (5, 2) == (scene.notes[Kind.JUNK], scene.notes[Kind.EMPTY])


@pytest.mark.parametrize(
    "frame",
    [
        b"\x0bFHS|^~\\&|\rBHS|^~\\&|\rMSH|^~\\&|||||||ADT|1|\rMSH|^~\\&|||||||ADT|2|\rBTS|2\rFTS|1\r\x1c\r",
        b"\x0b" + "MSH|^~\\&|||||||ADT|Ärzte|\r".encode("latin-1") + b"\x1c\r",
        b"\x0b" + "MSH|^~\\&|||||||ADT|1|\r".encode("utf-16-le") + b"\x1c\r",
        b"\x0bMSH|^~\\&\x1c\r",
        b"\x0bMSH\x1c\r",
        b"\x0bMSH$%~\\&$a$b$c$d$e$f$ADT$1$\r\x1c\r",
        b"\x0bMSH|^~\\&|||||||ADT|1|\nPID|\x0b\x1cx\n\x1c\r",
    ],
)
def test_any_charset_and_any_form_arrives_unchanged(frame: bytes) -> None:
    """The gate decodes nothing, and knows no field but two."""
    scene = Scene().sends(frame, A).answered(answer("1"))
    assert [frame, A] == [got for _, got in scene.received]


def test_an_answer_names_any_message_of_a_batch() -> None:
    """Several MSH in a frame: each is the frame's."""
    batch = b"\x0bMSH|^~\\&|||||||ADT|1|\rMSH|^~\\&|||||||ADT|2|\r\x1c\r"
    assert [batch, A] == [got for _, got in Scene().sends(batch, A).answered(answer("2")).received]


def test_a_move_falls_between_two_messages() -> None:
    """The old agent answers what it has, and the next message goes to the new one. The old link stays: nobody is waiting."""
    scene = Scene().sends(A, B).ready("new")
    assert [("old", "A")] == scene.got
    scene.answered(answer("A"))
    assert [("old", "A"), ("new", "B")] == scene.got
    assert ["old", "new"] == [link.agent for link in scene.passes(29).links.values()]
    assert 1 == scene.notes[Kind.MOVED]
    assert ["new"] == [link.agent for link in scene.passes(1).links.values()]


def test_the_time_of_an_agent_that_was_left_is_counted_once() -> None:
    """Another change after it gives it no more."""
    scene = Scene(late_seconds=30).sends(A).answered(answer("A")).ready("new").passes(20).ready("newer").passes(9)
    assert ["old"] == [link.agent for link in scene.links.values()]
    assert {} == scene.passes(1).links


def test_an_idle_connection_moves_at_once() -> None:
    """Nothing is in hand: the next message makes a link to the new agent, while the old one ends when it likes."""
    scene = Scene().sends(A).answered(answer("A")).ready("new").dies("old")
    assert {} == scene.links
    assert [("old", "A"), ("new", "B")] == scene.sends(B).got


def test_with_no_other_agent_an_idle_link_is_closed_soon() -> None:
    """The old agent's drain ends with its last link, and devices wait for what comes after it."""
    scene = Scene(flush_seconds=0.2).sends(A).answered(answer("A")).ready(None).passes(0.1)
    assert ["old"] == [link.agent for link in scene.links.values()]
    assert {} == scene.passes(0.1).links
    owing = Scene(flush_seconds=0.2).sends(A).answered(answer("A", "CA")).ready(None).passes(5)
    assert ["old"] == [link.agent for link in owing.links.values()]
    assert {} == owing.answered(answer("A", "AA")).passes(0.2).links


def test_late_answers_of_the_old_agent_still_reach_the_device() -> None:
    """Enhanced mode: the AA of what the old agent committed comes after the move."""
    scene = Scene().sends(A).answered(answer("A", "CA")).ready("new").sends(B).answered(answer("B", "CA"))
    assert {"old", "new"} == {link.agent for link in scene.links.values()}
    scene.answered(answer("A", "AA"), "old")
    assert [("CA", "A"), ("CA", "B"), ("AA", "A")] == scene.told


def test_a_late_answer_is_not_waited_for_for_ever() -> None:
    """It is counted as missed, and the link is closed."""
    scene = Scene(late_seconds=5).sends(A).answered(answer("A", "CA")).ready("new").passes(5)
    assert {} == scene.links
    assert 1 == scene.notes[Kind.MISSED]


def test_an_old_agent_that_does_not_answer_holds_a_device_up_for_so_long_only() -> None:
    """Then the device is to send again: sent by the gate it might arrive twice, and the next might overtake it."""
    scene = Scene(move_seconds=7).sends(A, B).ready("new").passes(6.9)
    assert scene.still_open
    scene.passes(0.2)
    assert Ending.MOVE_LATE is scene.ending
    assert [("old", "A")] == scene.got


def test_an_old_agent_that_still_works_on_a_message_is_waited_for_while_none_is_ready() -> None:
    """A recreate with a slow server: the link that the message is on is not closed under it, and nothing is woken for nothing."""
    scene = Scene(late_seconds=5, move_seconds=7, answer_seconds=60).sends(A).ready(None).passes(30)
    assert [("AA", "A")] == scene.answered(answer("A")).told


def test_with_no_agent_a_message_is_held_and_goes_to_the_next() -> None:
    """A recreate: the device sees one slow answer."""
    scene = Scene().ready(None).sends(A).passes(3)
    assert [] == scene.got
    assert [("new", "A")] == scene.ready("new").got
    assert 1 == scene.notes[Kind.HELD]


def test_a_message_is_not_held_for_ever() -> None:
    """The device gets no answer, and a close that tells it to send again."""
    scene = Scene(hold_seconds=20).ready(None).sends(A).passes(19.9)
    assert scene.still_open
    assert Ending.NO_AGENT is scene.passes(0.2).ending
    assert ([], []) == (scene.received, scene.answers)


def test_an_idle_device_stays_connected_while_no_agent_is_there() -> None:
    """Only a message has a time-out."""
    assert Scene(hold_seconds=20).ready(None).passes(3600).still_open


def test_an_agent_that_is_not_ready_any_more_gets_nothing_new() -> None:
    """It is about to end: what it has it may answer, the rest waits."""
    scene = Scene().sends(A, B).ready(None).answered(answer("A")).passes(1)
    assert [("old", "A")] == scene.got
    assert {} == scene.links
    assert [("old", "A"), ("new", "B")] == scene.ready("new").got


def test_a_message_that_died_with_its_agent_goes_to_the_next() -> None:
    """At least once, as devices do it; counted. That it is not taken to the same agent is found out by asking for a connection."""
    scene = Scene()
    scene.opens_at_once = False
    scene.sends(A).opens().dies().refuses().ready(None).ready("new").opens()
    assert [("old", "A"), ("new", "A")] == scene.got
    assert 1 == scene.notes[Kind.REPEATED]


def test_it_may_be_left_to_the_device_to_send_again() -> None:
    """The rule off: the device is told by a close."""
    scene = Scene(send_again=False).sends(A).dies()
    assert Ending.UNANSWERED is scene.ending


def test_a_message_is_never_sent_twice_to_the_same_agent() -> None:
    """It closed on the message and takes connections again: it lives, and may have the message."""
    scene = Scene().sends(A).dies().passes(1)
    assert Ending.UNANSWERED is scene.ending
    assert [("old", "A")] == scene.got


def test_an_agent_that_ends_is_given_the_time_to_close_its_port() -> None:
    """A process that is killed closes connections first and the port last: one that opens at once proves nothing."""
    scene = Scene().sends(A).dies()
    assert {} == scene.links
    scene.passes(0.04).ready(None).ready("another life")
    assert [("old", "A"), ("another life", "A")] == scene.got


def test_a_message_that_ended_two_agents_is_not_tried_on_a_third() -> None:
    """It may be the message's fault."""
    scene = Scene()
    scene.opens_at_once = False
    scene.sends(A).opens().dies().refuses().ready("second").opens().dies()
    assert [("old", "A"), ("second", "A")] == scene.got
    assert Ending.UNANSWERED is scene.ending


def test_half_an_answer_does_not_reach_the_device() -> None:
    """The agent died in the middle of it: the message goes to the next one, whose answer comes whole."""
    scene = Scene()
    scene.opens_at_once = False
    scene.sends(A).opens().answered(answer("A")[:-5]).dies().ready("new").opens().answered(answer("A"))
    assert [answer("A")] == scene.answers
    assert 1 == scene.notes[Kind.CUT]


def test_a_message_without_an_answer_does_not_stop_those_behind_it() -> None:
    """As with the agent itself: silence for the one, the next goes on; a late answer is still handed over."""
    scene = Scene(answer_seconds=60).sends(A, B).passes(60)
    assert [("old", "A"), ("old", "B")] == scene.got
    scene.answered(answer("A"))
    assert [("AA", "A")] == scene.told
    assert (1, 1, 0) == (scene.notes[Kind.UNANSWERED], scene.notes[Kind.LATE], scene.notes[Kind.ANSWERED])


def test_a_close_right_after_sending_waits_for_the_answer() -> None:
    """The agent itself would close at once and answer nothing; here the FIN is held back."""
    scene = Scene().sends(A, B).finishes()
    assert scene.links
    scene.answered(answer("A")).answered(answer("B"))
    assert ([("AA", "A"), ("AA", "B")], Ending.DONE) == (scene.told, scene.ending)


def test_a_close_waits_for_answers_that_are_owed() -> None:
    """Enhanced mode: the AA comes after the CA and after the device's FIN."""
    scene = Scene(late_seconds=30).sends(A).answered(answer("A", "CA")).finishes()
    assert scene.still_open
    assert Ending.DONE is scene.answered(answer("A", "AA")).ending
    assert Ending.DONE is Scene(late_seconds=30).sends(A).answered(answer("A", "CA")).finishes().passes(31).ending


def test_a_device_that_has_gone_is_not_written_to_and_its_messages_arrive() -> None:
    """Whatever it sent whole is passed on, as the agent does."""
    scene = Scene().sends(A, B).breaks().answered(answer("A")).answered(answer("B"))
    assert (["A", "B"], []) == ([name for _, name in scene.got], scene.answers)
    assert Ending.DONE is scene.ending


def test_messages_of_a_device_that_has_gone_are_counted_if_they_find_no_agent() -> None:
    """Nobody will send them again: a number to be alarmed by."""
    scene = Scene(None, hold_seconds=20).sends(A, B, C).finishes().passes(21)
    assert (Ending.NO_AGENT, 3) == (scene.ending, scene.notes[Kind.UNDELIVERED])


def test_a_message_that_is_too_long_behind_one_that_finds_no_agent_is_no_endless_story() -> None:
    """Both are given up: the gate looked for more behind it for ever, found by a made-up story."""
    scene = (
        Scene(None, hold_seconds=20, frame_bytes=200).sends(A, B, message("C", text="x" * 300)).finishes().passes(21)
    )
    assert (Ending.NO_AGENT, 2) == (scene.ending, scene.notes[Kind.UNDELIVERED])


def test_half_a_message_never_reaches_an_agent() -> None:
    """The device closed in the middle of it."""
    scene = Scene().sends(A[:-1]).finishes()
    assert ([], Ending.DONE, 1) == (scene.received, scene.ending, scene.notes[Kind.CUT])


def test_the_gates_end_waits_for_the_answer_and_takes_no_other_message() -> None:
    """It closes between two messages; the device sends the second again, through the other gate."""
    scene = Scene().sends(A, B).stops()
    assert scene.still_open
    scene.answered(answer("A"))
    assert ([("old", "A")], [("AA", "A")], Ending.STOPPED) == (scene.got, scene.told, scene.ending)


@pytest.mark.parametrize("scene", [Scene().sends(A).answered(answer("A")), Scene(None).sends(A), Scene().sends(A[:9])])
def test_the_gates_end_closes_at_once_what_no_agent_has(scene: Scene) -> None:
    """Idle, held, or in the middle of being sent."""
    assert Ending.STOPPED is scene.stops().ending


def test_a_message_over_the_limit_is_refused_before_any_agent_sees_it() -> None:
    """Those before it get their answers first."""
    scene = Scene(frame_bytes=200).sends(A, message("B", text="x" * 300))
    assert scene.still_open
    assert Ending.TOO_LONG is scene.answered(answer("A")).ending
    assert [("old", "A")] == scene.got


def test_a_message_of_exactly_the_limit_passes() -> None:
    """And one byte more does not."""
    big = message("A", text="x" * 100)
    assert [("old", "A")] == Scene(frame_bytes=len(big)).sends(big, split=9).got
    assert Ending.TOO_LONG is Scene(frame_bytes=len(big) - 1).sends(big, split=9).ending


def test_an_answer_over_the_limit_is_the_agents_end() -> None:
    """The link is closed; the agent lives, so that the device has to send again."""
    scene = Scene(frame_bytes=200).sends(A).answered(answer("A" + "x" * 300)).passes(1)
    assert Ending.UNANSWERED is scene.ending


def test_a_message_that_takes_for_ever_is_cut_off() -> None:
    """One byte now and then holds a connection, and later a place for a large message."""
    scene = Scene(frame_seconds=60).sends(A[:5])
    for _ in range(7):
        scene.passes(9).sends(b"x")
    assert Ending.TOO_SLOW is scene.ending


def test_the_time_in_which_the_gate_did_not_read_is_not_the_devices() -> None:
    """It had no place for a large message."""
    scene = Scene(frame_seconds=60).sends(A[:5]).passes(50)
    scene.conversation.resumed(scene.now)
    assert scene.passes(50).still_open
    assert Ending.TOO_SLOW is scene.passes(20).ending


def test_a_silent_connection_is_closed_in_the_end() -> None:
    """A day by default; keep-alives of TCP find dead ones sooner."""
    assert Ending.IDLE is Scene(idle_seconds=100).sends(A).answered(answer("A")).passes(101).ending


def test_a_connection_is_made_again_and_again_while_a_message_waits() -> None:
    """The agent is said to be ready and does not take connections: ever longer pauses, then the hold's end."""
    scene = Scene(hold_seconds=20)
    scene.opens_at_once = False
    scene.sends(A)
    tries = 0
    while scene.ending is None:
        tries += len(scene.links)
        scene.refuses().passes(0.05)
    assert Ending.NO_AGENT is scene.ending
    assert 20 <= tries <= 40


def test_reading_stops_while_enough_lies_behind_the_message_in_hand() -> None:
    """A device that sends on without waiting is slowed down by TCP, and memory is bounded."""
    scene = Scene(None)
    sent = 0
    while scene.conversation.reads_device:
        scene.sends(message(str(sent)))
        sent += 1
    assert SMALL_BYTES < scene.conversation.held_bytes < SMALL_BYTES + 2 * len(message("1000"))
    scene.ready("new")
    for number in range(sent):
        scene.answered(answer(str(number)))
    assert [str(number) for number in range(sent)] == [name for _, name in scene.got]
    assert scene.conversation.reads_device


def test_behind_a_message_in_hand_what_one_read_brought_is_free() -> None:
    """A sender that does not wait needs no place for messages of which each is small, and gets none that others need."""
    scene = Scene(None).sends(message("A", text="x" * 2_000))
    while scene.conversation.reads_device:
        assert scene.conversation.charged_bytes <= 0, "another read would ask for a place"
        scene.sends(message("B"))
    large = message("B", text="x" * 3 * SMALL_BYTES)
    assert Scene(None).sends(large[:-1]).conversation.charged_bytes == len(large) - 1
    assert Scene(None).sends(large).conversation.charged_bytes == len(large) - SMALL_BYTES


def test_a_device_that_is_not_read_is_not_too_slow() -> None:
    """However long it waits for a place: its time begins when it is read again."""
    scene = Scene(frame_seconds=60).sends(A[:5])
    scene.conversation.unread()
    assert scene.passes(3600).still_open
    scene.conversation.resumed(scene.now)
    assert scene.passes(59).still_open
    assert Ending.TOO_SLOW is scene.passes(2).ending


def test_each_message_has_its_own_time() -> None:
    """What came behind the end of one message begins the next: its time is not that of the one before."""
    scene = Scene(frame_seconds=60).sends(A[:5]).passes(50).sends(A[5:] + B[:5]).answered(answer("A"))
    assert scene.passes(59).still_open
    assert [A, B] == [frame for _, frame in scene.sends(B[5:]).received]
    assert scene.answered(answer("B")).sends(C[:5]).passes(59).still_open
    assert Ending.TOO_SLOW is scene.passes(2).ending


@pytest.mark.parametrize("named", ["", "somebody"])
def test_applications_that_never_answer_are_remembered_for_a_while_only(named: str) -> None:
    """An answer that is not there, or names nobody or somebody else, as of a bot that fails; a thousand of them cost no memory."""
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


def test_what_was_owed_for_long_holds_no_end_up() -> None:
    """Neither the gate's, nor that of an agent that has to stop before the next one starts."""
    committed = Scene(late_seconds=30, flush_seconds=0.2).sends(A).answered(answer("A", "CA"))
    assert {} != committed.passes(29).ready(None).passes(0.9).links
    assert {} == committed.passes(0.2).links
    assert Ending.STOPPED is Scene(late_seconds=30).sends(A).answered(answer("A", "CA")).passes(31).stops().ending
    recent = Scene(late_seconds=30).sends(A).answered(answer("A", "CA")).passes(20).stops()
    assert recent.still_open
    assert Ending.STOPPED is recent.passes(10.1).ending


def test_a_message_of_an_agent_that_is_lost_with_its_node_is_given_back() -> None:
    """Its answer's time is over while it is left: nothing tells whether it arrived, and a device that is not told waits for ever."""
    scene = Scene(answer_seconds=60, move_seconds=30).sends(A).passes(45).ready(None).passes(5).ready("new")
    assert scene.passes(9).still_open
    assert Ending.MOVE_LATE is scene.passes(2).ending
    assert [("old", "A")] == scene.got


def test_half_a_message_before_a_close_wakes_nobody_for_nothing() -> None:
    """An answer is owed, and what the device has not finished has a time that is over."""
    scene = Scene(frame_seconds=60, late_seconds=300).sends(A).answered(answer("A", "CA")).sends(B[:9]).finishes()
    assert scene.passes(200).still_open
    assert Ending.DONE is scene.passes(101).ending
