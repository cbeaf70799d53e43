"""Memory for large messages: fair shares, bytes that are taken back, and no wait without an end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from medplum_agent_operator.gate.budget import CHECK_SECONDS, SLOW_CHECKS, Budget
from medplum_agent_operator.gate.byte_claim import ByteClaim
from tests.support.gate.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

SHARED = 1000
A_WHILE = (SLOW_CHECKS + 1) * CHECK_SECONDS


@dataclass
class User:
    """A connection whose message arrives, or waits for an answer."""

    budget: Budget
    address: str = "10.0.0.1"
    channel_name: str = "adt"
    wants_bytes: bool = True
    receiving: bool = True
    sent: bool = False
    closed: bool = False
    events: list[str] = field(default_factory=list)
    on_grant: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.claim = ByteClaim(self.budget, self)

    def buffers(self, size: int) -> User:
        """Buffer so many bytes."""
        self.claim.adjust(size)
        return self

    def bytes_awaited(self) -> None:
        """Wait."""
        self.events.append("waits")

    def bytes_not_needed(self) -> None:
        """Wait no longer."""
        self.events.append("needs none")

    def bytes_granted(self) -> None:
        """Go on."""
        self.events.append("goes on")
        self.on_grant()

    def forget_sent(self) -> None:
        """Drop the copy."""
        if self.sent:
            self.claim.adjust(0)

    def too_slow(self) -> None:
        """Close."""
        self.closed = True
        self.claim.release()


def scene() -> tuple[Budget, Timers]:
    """Return a budget and its time."""
    timers = Timers()
    return Budget(shared_bytes=SHARED, call_later=timers.call_later), timers


def test_one_address_leaves_half_to_others() -> None:
    """However many connections it has; one of them may go beyond."""
    budget, _ = scene()
    bad = [User(budget, "10.0.0.9").buffers(100) for _ in range(10)]
    assert SHARED // 2 // 100 + 1 == sum(not one.claim.waits for one in bad)
    assert not User(budget).buffers(SHARED // 4).claim.waits


def test_one_channel_leaves_a_quarter_to_others() -> None:
    """However many addresses its devices have."""
    budget, _ = scene()
    for number in range(20):
        User(budget, f"10.0.1.{number}").buffers(100)
    assert SHARED * 3 // 4 <= budget.used_by("adt") <= SHARED * 3 // 4 + 100
    assert 0 < budget.waiting_in("adt")
    assert not User(budget, channel_name="oru").buffers(SHARED // 4).claim.waits


def test_one_claim_may_go_beyond_the_shares_to_any_length() -> None:
    """The longest message always gets through, if it is alone."""
    budget, _ = scene()
    one = User(budget)
    for size in range(0, 10 * SHARED, 100):
        one.buffers(size)
    assert not one.claim.waits
    other = User(budget).buffers(SHARED)
    assert other.claim.waits
    one.buffers(0)
    assert ["waits", "goes on"] == other.events


def test_a_message_that_an_agent_has_costs_nobody_else_time() -> None:
    """A bot that never answers: the gate drops its copy when another message needs the bytes."""
    budget, _ = scene()
    mute = [User(budget, sent=True, receiving=False).buffers(SHARED // 2) for _ in range(2)]
    assert not User(budget).buffers(10 * SHARED).claim.waits
    assert 0 == sum(one.claim.held for one in mute)


def test_a_copy_is_kept_while_nobody_needs_the_bytes() -> None:
    """So the gate can send the message to the next agent."""
    budget, timers = scene()
    one = User(budget, sent=True, receiving=False).buffers(SHARED // 2)
    User(budget, "10.0.0.2").buffers(10)
    timers.passes(60)
    assert SHARED // 2 == one.claim.held


def test_a_message_that_is_sent_later_is_forgotten_at_the_next_check() -> None:
    """The other one waited already when an agent got it."""
    budget, timers = scene()
    one = User(budget, receiving=False).buffers(5 * SHARED)
    other = User(budget).buffers(5 * SHARED)
    assert ["waits"] == other.events
    one.sent = True
    timers.passes(CHECK_SECONDS)
    assert ["waits", "goes on"] == other.events
    assert 0 == one.claim.held


def test_a_message_that_stops_arriving_gives_its_bytes_back() -> None:
    """Only while somebody waits for them, and after a second."""
    budget, timers = scene()
    stalled = [User(budget, "10.0.0.9").buffers(size) for size in (400, 5 * SHARED)]
    timers.passes(60)
    assert not any(one.closed for one in stalled)
    other = User(budget, "10.0.0.9").buffers(5 * SHARED)
    timers.passes(A_WHILE)
    assert any(one.closed for one in stalled)
    assert not other.claim.waits


def test_a_message_that_arrives_steadily_is_not_closed() -> None:
    """Also a slow one, as long as it is above the least rate."""
    budget, timers = scene()
    steady = User(budget).buffers(100)
    User(budget).buffers(100 * SHARED)
    waiting = User(budget).buffers(500)
    for number in range(20):
        timers.passes(CHECK_SECONDS)
        steady.claim.grown += 5_000
        assert not steady.closed, number
    assert "waits" in waiting.events


def test_a_light_address_is_not_closed_for_a_heavy_one() -> None:
    """The address that waits has more bytes than the one that is slow."""
    budget, timers = scene()
    light = User(budget, "10.0.0.1").buffers(10)
    for _ in range(9):
        User(budget, "10.0.0.9", receiving=False).buffers(100)
    timers.passes(60)
    assert not light.closed
    assert len(timers), "nobody waits"


def test_the_lightest_address_goes_first() -> None:
    """Not the one that came first, if its address has more already."""
    budget, _ = scene()
    beyond = User(budget, "10.0.0.7", receiving=False).buffers(10 * SHARED)
    User(budget, "10.0.0.9", receiving=False).buffers(500)
    heavy = User(budget, "10.0.0.9").buffers(10 * SHARED)
    light = User(budget, "10.0.0.1").buffers(10 * SHARED)
    assert heavy.claim.waits
    assert light.claim.waits
    beyond.buffers(0)
    assert ["goes on"] == light.events[1:]
    assert heavy.claim.waits


def test_a_claim_that_needs_less_waits_no_longer() -> None:
    """And does not get later what it does not want."""
    budget, _ = scene()
    first = User(budget).buffers(10 * SHARED)
    second = User(budget).buffers(10 * SHARED)
    second.buffers(0)
    assert ["waits", "needs none"] == second.events
    first.claim.release()
    assert 0 == second.claim.held


def test_without_a_wait_there_is_no_timer() -> None:
    """A gate that has nothing to do does nothing."""
    budget, timers = scene()
    one = User(budget).buffers(5 * SHARED)
    other = User(budget).buffers(5 * SHARED)
    assert 1 == len(timers)
    one.buffers(0)
    other.buffers(0)
    timers.passes(1)
    assert 0 == len(timers)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3000)), max_size=60))
def test_the_memory_is_bounded_and_every_wait_ends(steps: list[tuple[int, int]]) -> None:
    """Whatever connections buffer: all together the shared bytes, and one message. Those that wait get theirs once the others are done."""
    budget, timers = scene()
    users = [User(budget, f"10.0.0.{n % 3}", ("adt", "oru")[n % 2], receiving=False) for n in range(6)]
    for number, size in steps:
        if not users[number].claim.waits or size <= users[number].claim.held:
            users[number].buffers(size)
        held = sorted(one.claim.held for one in users)
        assert sum(held[:-1]) <= SHARED or sum(held) <= SHARED + 3000
        assert sum(held) - held[-1] <= SHARED
    for _ in users:
        timers.passes(1)
        for one in users:
            if not one.claim.waits:
                one.buffers(0)
    assert not any(one.claim.waits for one in users)
    assert 0 == sum(one.claim.held for one in users) == budget.used_by("adt") == budget.used_by("oru")
