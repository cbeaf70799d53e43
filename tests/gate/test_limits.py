"""Places for connections: who gets one, and who gives way."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from medplum_agent_operator.gate.limits import (
    ADDRESS_REFUSAL,
    SILENT_SECONDS,
    TOTAL_REFUSAL,
    Connections,
    Standing,
)


@dataclass(eq=False)
class One:
    """A connection that remembers whether it gave way."""

    address: str = "10.0.0.1"
    channel_name: str = "adt"
    gave_way: bool = False
    left: list[One] = field(default_factory=list)

    def give_way(self) -> None:
        """Close."""
        self.gave_way = True


def full(*occupants: One, limit_per_address: int = 100, now: float = 0) -> Connections:
    """Return places that these connections fill."""
    connections = Connections(limit=len(occupants), limit_per_address=limit_per_address)
    for one in occupants:
        assert connections.admit(one, now) is None
    return connections


def test_the_address_with_most_connections_gives_way() -> None:
    """Two addresses filled the gate; the first connection of a third gets a place at once."""
    crowd = [One("10.0.0.8") for _ in range(5)] + [One("10.0.0.9") for _ in range(4)]
    connections, other = full(*crowd), One("10.0.0.1")
    assert connections.admit(other, 1) is None
    assert [crowd[0]] == [one for one in crowd if one.gave_way]
    assert 9 == len(connections)


def test_an_address_gets_no_place_of_an_address_with_as_many() -> None:
    """Else two addresses would take each other's places for ever."""
    crowd = [One("10.0.0.8"), One("10.0.0.8"), One("10.0.0.9"), One("10.0.0.9")]
    connections = full(*crowd)
    assert TOTAL_REFUSAL == connections.admit(One("10.0.0.8"), 1)
    assert TOTAL_REFUSAL == connections.refusal("10.0.0.9", "adt", 1)
    assert not any(one.gave_way for one in crowd)


def test_who_needs_its_place_least_gives_way_first() -> None:
    """One that is done; then one that never sent a message; then the one whose last message is oldest."""
    done, silent, old, young = crowd = [One("10.0.0.8") for _ in range(4)]
    connections = full(*crowd)
    for at, one, standing in [
        (1, young, Standing.SPOKE),
        (2, old, Standing.SPOKE),
        (3, done, Standing.DONE),
        (4, young, Standing.SPOKE),
    ]:
        connections.stands(one, standing, at)
    gone = []
    for number in range(3):
        assert connections.admit(One(f"10.0.1.{number}"), 5) is None
        gone += [one for one in crowd if one.gave_way and one not in gone]
    assert [done, silent, old] == gone


def test_a_connection_that_is_done_holds_no_place_that_its_address_needs() -> None:
    """A device that connects for each message, closes, and whose server answers late or never."""
    crowd = [One() for _ in range(3)]
    connections = full(*crowd, limit_per_address=3)
    assert ADDRESS_REFUSAL == connections.admit(One(), 1)
    connections.stands(crowd[1], Standing.DONE, 1)
    assert connections.admit(One(), 2) is None
    assert [False, True, False] == [one.gave_way for one in crowd]


def test_a_silent_connection_holds_no_place_that_its_own_address_needs() -> None:
    """Many devices behind one address, one of which only opens connections. A new connection has a minute to speak."""
    crowd = [One() for _ in range(3)]
    connections = full(*crowd, limit_per_address=3)
    connections.stands(crowd[0], Standing.SPOKE, 1)
    assert ADDRESS_REFUSAL == connections.admit(One(), SILENT_SECONDS - 1)
    assert connections.admit(One(), SILENT_SECONDS) is None
    assert [False, True, False] == [one.gave_way for one in crowd]


def test_the_channel_with_most_connections_gives_way_where_no_address_has_many() -> None:
    """Many devices of one channel connect again and again; those of the other channel still get in."""
    crowd = [One(f"10.0.0.{n}", "adt") for n in range(9)] + [One("10.0.1.1", "oru")]
    connections = full(*crowd)
    for one in crowd:
        connections.stands(one, Standing.SPOKE, 1)
    assert TOTAL_REFUSAL == connections.admit(One("10.0.2.1", "adt"), 2)
    assert connections.admit(One("10.0.2.1", "oru"), 2) is None
    assert [crowd[0]] == [one for one in crowd if one.gave_way]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.sampled_from([None, *Standing]))))
def test_the_places_are_never_more_than_the_limits(steps: list[tuple[int, int, Standing | None]]) -> None:
    """Whoever comes, speaks and leaves; one that has gone may still report."""
    connections, all_of_them = Connections(limit=6, limit_per_address=4), list[One]()
    inside: list[One] = []
    for now, (address, channel, standing) in enumerate(steps):
        if standing is None:
            one = One(f"10.0.0.{address}", f"channel-{channel}")
            before = len(connections)
            refused = connections.refusal(one.address, one.channel_name, now)
            assert refused == connections.admit(one, now)
            assert refused is None or before in {4, 5, 6}
            all_of_them.append(one)
            inside = [other for other in inside if not other.gave_way] + ([] if refused else [one])
        elif all_of_them:
            one = all_of_them[(address * 3 + channel) % len(all_of_them)]
            connections.stands(one, standing, now)
            if standing is Standing.DONE and channel:
                connections.remove(one)
                inside = [other for other in inside if other is not one]
        assert len(inside) == len(connections) <= 6
        assert all(sum(o.address == one.address for o in inside) <= 4 for one in inside)
