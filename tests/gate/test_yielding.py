"""What a conversation gives up for others: its turn, its copy of a message, its place."""

from __future__ import annotations

from medplum_agent_operator.gate.delivery import DROPS_PER_TURN
from medplum_agent_operator.gate.effects import Ending, Kind
from tests.support.gate.scene import Scene, answer, message

A, B = message("A"), message("B")
EMPTY = b"\x0b\x1c\r"


def test_many_empty_frames_take_many_turns() -> None:
    """In one turn a few are dropped; the message behind them arrives in a later one, also after a FIN."""
    scene = Scene()
    scene.conversation.device_sent(EMPTY * 3 * DROPS_PER_TURN + A, scene.now)
    scene.carry_out()
    assert DROPS_PER_TURN == scene.counts[Kind.EMPTY]
    assert scene.conversation.more_later
    assert not scene.conversation.reads_device
    scene.conversation.device_finished(scene.now)
    scene.settle()
    assert [("old", "A")] == scene.got
    scene.answered(answer("A"))
    assert (Ending.DONE, 3 * DROPS_PER_TURN) == (scene.ending, scene.counts[Kind.EMPTY])


def test_a_stop_does_not_wait_for_turns() -> None:
    """What is left in the inbox was not acknowledged."""
    scene = Scene()
    scene.conversation.device_sent(EMPTY * 3 * DROPS_PER_TURN, scene.now)
    scene.stops()
    assert Ending.STOPPED is scene.ending


def test_a_message_without_its_copy_is_returned_to_the_device() -> None:
    """Its agent ends: the gate cannot send it again, so the device has to."""
    scene = Scene().sends(A)
    assert {1} == {scene.conversation.sent_on}
    scene.conversation.forget_sent()
    assert scene.conversation.sent_on is None
    assert len(A) > scene.conversation.buffered_bytes
    scene.dies()
    assert Ending.UNANSWERED is scene.ending


def test_a_message_without_its_copy_is_answered_as_any_other() -> None:
    """Its answer passes, and the next message too."""
    scene = Scene().sends(A, B)
    scene.conversation.forget_sent()
    scene.answered(answer("A")).answered(answer("B"))
    assert [("AA", "A"), ("AA", "B")] == scene.answer_codes
    assert [A, B] == [frame for _, frame in scene.received]


def test_a_message_that_no_agent_has_is_never_forgotten() -> None:
    """The gate has the only copy."""
    scene = Scene(agent=None).sends(A)
    scene.conversation.forget_sent()
    scene.ready("new")
    assert [("new", A)] == scene.received


def test_the_copy_stays_once_the_device_has_closed() -> None:
    """Such a device sends nothing again. So the next agent gets the message if this one ends."""
    for scene in (Scene().sends(A).finishes(), Scene().sends(A)):
        if scene.conversation.sent_on is not None:
            scene.conversation.device_lost()
        assert scene.conversation.sent_on is None
    scene = Scene().sends(A).finishes()
    scene.dies()
    scene.ready("new")
    assert [("old", A), ("new", A)] == scene.received


def test_who_only_waits() -> None:
    """A device that has closed, once an agent has all its messages. It gives way, and what it waited for is counted."""
    scene = Scene().sends(A)
    waits = [scene.conversation.only_waits, scene.finishes().conversation.only_waits]
    waits.append(scene.answered(answer("A", "CA")).conversation.only_waits)
    assert [False, True, True] == waits
    assert scene.still_open
    scene.conversation.give_way()
    scene.settle()
    assert (Ending.DISPLACED, 1) == (scene.ending, scene.counts[Kind.MISSED])


def test_a_closed_device_whose_message_no_agent_has_does_not_only_wait() -> None:
    """Else its message would be lost for a place."""
    scene = Scene(agent=None).sends(A).finishes()
    assert [False, True] == [scene.conversation.only_waits, scene.ready("new").conversation.only_waits]
