"""What must never happen to a message, in any order of events at its device, its agents and the gate.

Every run uses the same stories. `STORIES=20000 python -m pytest tests/gate/test_conversation_stories.py` generates 20,000 new
ones instead.
"""

from __future__ import annotations

import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from medplum_agent_operator.gate.effects import Ending, Kind
from medplum_agent_operator.gate.limits import SMALL_BYTES
from tests.support.gate.scene import Scene, answer, control_id, message

EXPLORE = int(os.environ.get("STORIES", "0"))
AGENTS = ["red", "green", "blue"]
NOT_FOR_AGENTS = [
    *(b"\r\n", b"\x1c\r", b"x" * 40, b"\x0b\x1c\r", b"\x0bPID|1\r\x1c\r", b"\x0bBHS|^~\\&|\rMSH|^~\\&|\r\x1c\r")
]


class Stories(RuleBasedStateMachine):
    """A device, three agents, a gate that may stop, and time."""

    @initialize(
        agent=st.sampled_from([None, *AGENTS]),
        send_again=st.booleans(),
        hold=st.sampled_from([1, 20]),
        answer_seconds=st.sampled_from([3, 60]),
    )
    def begin(self, agent: str | None, send_again: bool, hold: float, answer_seconds: float) -> None:  # noqa: FBT001
        """A device connects."""
        self.scene = Scene(
            agent, send_again=send_again, hold_seconds=hold, answer_seconds=answer_seconds, frame_bytes=2000
        )
        self.scene.opens_at_once = False
        self.sent: list[bytes] = []
        self.waiting = b""
        self.written = 0
        self.ends: list[int] = []
        self.answered: list[bytes] = []
        self.closed = False

    # The device.

    @precondition(lambda self: not self.closed)
    @rule(
        size=st.sampled_from([0, 0, 5, 700, 3000]),
        same=st.booleans(),
        wanted=st.sampled_from(["", "", "", "|||NE|NE", "|||NE|"]),
    )
    def writes(self, size: int, wanted: str, *, same: bool) -> None:
        """The device writes a message, sometimes with the previous control id, too long, or without a wish for an answer."""
        number = len(self.sent) - (same and bool(self.sent))
        frame = message(str(number), text=f"{len(self.sent)}:" + "y" * size)
        frame = frame.replace(b"|P|2.5", b"|P|2.5" + wanted.encode())
        self.sent.append(frame)
        self.waiting += frame
        self.written += len(frame)
        self.ends.append(self.written)

    @precondition(lambda self: not self.closed)
    @rule(junk=st.sampled_from(NOT_FOR_AGENTS))
    def writes_junk(self, junk: bytes) -> None:
        """The device writes bytes that no agent may see."""
        self.waiting += junk
        self.written += len(junk)

    @precondition(lambda self: self.waiting and self.scene.conversation.reads_device)
    @rule(part=st.floats(min_value=0.01, max_value=1))
    def arrives(self, part: float) -> None:
        """The gate reads some of the bytes that the device wrote."""
        size = max(1, int(len(self.waiting) * part))
        self.scene.sends(self.waiting[:size])
        self.waiting = self.waiting[size:]

    @precondition(lambda self: not self.closed)
    @rule()
    def finishes(self) -> None:
        """The device closes; bytes that the gate had not read are lost."""
        self.closed = True
        self.scene.finishes()

    @precondition(lambda self: not self.closed)
    @rule()
    def breaks(self) -> None:
        """The device's connection breaks."""
        self.closed = True
        self.scene.breaks()

    # Agents.

    @rule(agent=st.sampled_from([None, *AGENTS]))
    def ready(self, agent: str | None) -> None:
        """Another agent is the current one, or no agent is (None)."""
        self.scene.ready(agent)

    @rule()
    def opens(self) -> None:
        """Connecting links open."""
        self.scene.opens()

    @rule()
    def refuses(self) -> None:
        """Connecting links fail."""
        self.scene.refuses()

    @precondition(lambda self: any(link.received for link in self.scene.links.values()))
    @rule(
        which=st.integers(0, 5),
        code=st.sampled_from(["AA", "CA", "AE"]),
        named=st.sampled_from([True, True, True, False]),
        split=st.sampled_from([0, 1, 9]),
    )
    def answers(self, which: int, code: str, *, named: bool, split: int) -> None:
        """An agent answers any message that it received, in any order, also twice, sometimes without a control id."""
        links = [link for link in self.scene.links.values() if link.received]
        link = links[which % len(links)]
        frame = answer(control_id(link.received[-1 - which % len(link.received)]) if named else "", code)
        self.answered.append(frame)
        for at in range(0, len(frame), split or len(frame)):
            if link.number in self.scene.links:
                self.scene.conversation.link_sent(link.number, frame[at : at + (split or len(frame))], self.scene.now)
                self.scene.settle()

    @precondition(lambda self: any(link.open for link in self.scene.links.values()))
    @rule(which=st.integers(0, 2), half=st.booleans())
    def dies(self, which: int, *, half: bool) -> None:
        """An agent closes a link, sometimes in the middle of an answer."""
        links = [link for link in self.scene.links.values() if link.open]
        link = links[which % len(links)]
        if half and link.received:
            self.scene.conversation.link_sent(link.number, answer("half")[:20], self.scene.now)
            self.scene.settle()
        if link.number in self.scene.links:
            del self.scene.links[link.number]
            self.scene.conversation.link_closed(link.number, self.scene.now)
            self.scene.settle()

    # The gate and time.

    @rule()
    def stops(self) -> None:
        """The gate stops."""
        self.closed = True
        self.scene.stops()

    @rule(seconds=st.sampled_from([0.01, 0.3, 2, 25, 100]))
    def passes(self, seconds: float) -> None:
        """Time passes."""
        self.scene.passes(seconds)

    # What is true at any time.

    @invariant()
    def no_byte_is_changed(self) -> None:
        """Agents received only frames that the device sent, and the device only answers of agents."""
        assert {frame for _, frame in self.scene.received} <= set(self.sent)
        assert set(self.scene.answers) <= set(self.answered)

    @invariant()
    def messages_arrive_in_order_without_gaps(self) -> None:
        """Without repeats, the received messages are the first ones that were sent."""
        got = list(dict.fromkeys(frame for _, frame in self.scene.received))
        assert self.sent[: len(got)] == got

    @invariant()
    def never_twice_to_the_same_agent(self) -> None:
        """Nor to more than two agents."""
        for frame in {frame for _, frame in self.scene.received}:
            to = [agent for agent, got in self.scene.received if got == frame]
            assert len(to) == len(set(to)) <= 2

    @invariant()
    def one_message_at_a_time(self) -> None:
        """Each message but the last was answered or timed out, or was repeated after its agent stopped."""
        counts = self.scene.counts
        first = len(self.scene.received) - counts[Kind.REPEATED]
        silent = sum(b"|NE|" in frame for _, frame in self.scene.received)
        assert first - silent - 1 <= counts[Kind.ANSWERED] + counts[Kind.UNANSWERED] <= first

    @invariant()
    def memory_is_bounded(self) -> None:
        """A current message and one behind it, and no more."""
        assert self.scene.conversation.buffered_bytes <= SMALL_BYTES + 4 * 3100 + len(self.waiting) + 30_000

    def teardown(self) -> None:
        """Every story ends, and each message is accounted for."""
        if not hasattr(self, "scene"):
            return
        scene = self.scene
        scene.finishes().passes(1000)
        assert scene.ending is not None
        assert {} == scene.links
        assert scene.conversation.deadline is None
        if scene.ending is not Ending.TOO_LONG:
            read = self.written - len(self.waiting)
            whole = [frame for frame, end in zip(self.sent, self.ends, strict=True) if end <= read]
            received = {frame for _, frame in scene.received}
            lost = [frame for frame in whole if frame not in received]
            counted = scene.counts[Kind.UNDELIVERED] + scene.counts[Kind.DROPPED]
            # Behind a message that is too long, the gate does not look for others.
            assert counted == len(lost) or (counted < len(lost) and any(len(frame) > 2000 for frame in lost))
            assert not lost or scene.ending not in {Ending.DONE, Ending.STOPPED}
        assert (scene.ending is Ending.NO_AGENT) >= bool(scene.counts[Kind.UNDELIVERED])


Stories.TestCase.settings = settings(
    max_examples=EXPLORE or 150, stateful_step_count=40, derandomize=not EXPLORE, deadline=None
)
TestStories = Stories.TestCase
