"""Work without use: an address that causes too much waits for its turns, and no other address does."""

from __future__ import annotations

from medplum_agent_operator.gate.pace import TURN_SECONDS, TURNS, UNITS_AT_ONCE, UNITS_PER_SECOND, Pace
from tests.support.gate.timers import Timers

BAD, GOOD = "10.0.0.9", "10.0.0.1"


def scene() -> tuple[Pace, Timers]:
    """Return a pace and its time."""
    timers = Timers()
    return Pace(clock=timers.clock, call_later=timers.call_later), timers


def test_only_the_address_that_causes_the_work_waits() -> None:
    """Its account is used up, and fills with time."""
    pace, timers = scene()
    assert not pace.charge(BAD, UNITS_AT_ONCE)
    assert pace.charge(BAD, UNITS_PER_SECOND // 2)
    assert not pace.charge(GOOD, 1)
    timers.passes(0.6)
    assert not pace.charge(BAD, 1)


def test_all_addresses_of_a_channel_together_cause_no_more_than_a_few() -> None:
    """Each one by itself is within its account."""
    pace, _ = scene()
    over = [pace.charge(f"10.0.1.{number}", UNITS_AT_ONCE // 2, channel="adt") for number in range(12)]
    assert [False] * 10 + [True] * 2 == over
    assert not pace.charge(GOOD, 1, channel="oru")


def test_turns_are_few_and_go_round() -> None:
    """Twenty connections of one address with endless work, and one of another that has one turn left."""
    pace, timers = scene()
    turns: list[str] = []

    def work(name: str, address: str) -> None:
        turns.append(name)
        pace.charge(address, 32)
        pace.wait(address, lambda: work(name, address))

    for number in range(20):
        pace.wait(BAD, lambda name=f"bad-{number}": work(name, BAD))  # type: ignore[misc]
    pace.wait(GOOD, lambda: turns.append("good"))
    timers.passes(TURN_SECONDS)
    assert TURNS == len(turns)
    assert "good" in turns[:2]
    timers.passes(10)
    assert UNITS_AT_ONCE / 32 < len(turns) <= (UNITS_AT_ONCE + 10 * UNITS_PER_SECOND) / 32 + TURNS
    assert {f"bad-{number}" for number in range(20)} <= set(turns)


def test_full_accounts_are_closed() -> None:
    """A gate that was asked by many addresses needs no memory for them."""
    pace, timers = scene()
    for number in range(500):
        pace.charge(f"10.0.1.{number}", 1)
    assert 500 == len(pace)
    timers.passes(2)
    assert (0, 0) == (len(pace), len(timers))
