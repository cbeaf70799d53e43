"""Which event happens when, drawn from a seed: a pure value. `run` carries it out; the same seed gives the same plan.

No event may be one that is documented to lose messages or to go around the guard (SECURITY.md, "Ways around the guard"): no
forced deletion of an agent's pod, no hand on its Deployment, no second agent of its identity.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSIONS: Final = ("4.2.3", "5.1.14", "5.1.15")
"""Versions that serve. A change between the first and any other is a Recreate."""
HIGHEST: Final = VERSIONS[-1]
WEIGHTS: Final = (3, 2, 2)
"""The first is drawn more often: a change to it has most steps, and its agents must never overlap."""
NEVER_READY: Final = "5.1.16"
"""An agent that connects but opens no port: its rollout fails at the deadline."""
OPERATOR_SECONDS: Final = 20.0
API_SERVER_SECONDS: Final = 60.0
DRAIN_SECONDS: Final = 75.0
UNCORDON_SECONDS: Final = 30.0
APART_SECONDS: Final = (3.0, 8.0)
MIND_SECONDS: Final = 5.0


class Kind(StrEnum):
    """The kinds of events."""

    VERSION = "change of version"
    MIND = "change of mind"
    NEVER_READY = "change to an agent that never becomes ready"
    NO_SECRET = "change that names a missing Secret"
    FIX_SECRET = "the Secret's name is correct again"
    SETTINGS = "change of settings"
    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approval, given late"
    RESTART = "rollout restart"
    KILL_AGENT = "agent killed"
    DELETE_GATE = "gate deleted"
    FORCE_GATE = "gate deleted by force"
    KILL_OPERATOR = "operator killed"
    DELETE_OPERATOR = "operator's pod deleted by force"
    API_SERVER = "API server restarted"
    DRAIN = "node drained"
    UNCORDON = "node given back"


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """One planned event.

    Attributes:
        at: seconds from the start.
        kind: what.
        version: the version to set, if the event sets one.
        approved: whether a downgrade is approved at once; if not, it is approved later or never.
        number: a random number for choices at run time.
    """

    at: float
    kind: Kind
    version: str = ""
    approved: bool = True
    number: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The first version, all events in order, and the last version."""

    seed: int
    seconds: float
    first: str
    events: tuple[Event, ...]
    last: str


def draw(seed: int, seconds: float) -> Plan:
    """Draw a plan.

    >>> draw(7, 120) == draw(7, 120)
    True
    """
    dice = random.Random(seed)  # noqa: S311 - to be drawn again, not to be secret
    first, last = _any_version(dice), _any_version(dice)
    events = [*_changes(dice, seconds), *_operator(seconds), *_api_server(dice, seconds), *_drains(dice, seconds)]
    return Plan(seed, seconds, first, tuple(sorted(event for event in events if event.at < seconds)), last)


def _any_version(dice: random.Random) -> str:
    return dice.choices(VERSIONS, WEIGHTS)[0]


def _changes(dice: random.Random, seconds: float) -> Iterator[Event]:
    at = 2.0
    while at < seconds:
        draw_some = dice.choices([some for some, _ in _KINDS], [weight for _, weight in _KINDS])[0]
        drawn = draw_some(dice, at)
        yield from drawn
        # A fault and its fix stay together: the Secret's name is fixed before the next event.
        at = max(event.at for event in drawn) + dice.uniform(*APART_SECONDS)


def _version(dice: random.Random, at: float) -> list[Event]:
    version, approved = _any_version(dice), dice.random() < 0.8
    asked = [Event(at, Kind.VERSION, version, approved)]
    if approved or version == HIGHEST or dice.random() < 0.3:
        return asked
    return [*asked, Event(at + dice.uniform(1, 5), Kind.APPROVE, version)]


def _mind(dice: random.Random, at: float) -> list[Event]:
    first, second = dice.sample(VERSIONS, 2)
    return [Event(at, Kind.VERSION, first), Event(at + dice.uniform(0, MIND_SECONDS), Kind.MIND, second)]


def _no_secret(dice: random.Random, at: float) -> list[Event]:
    broken, back = _any_version(dice), _any_version(dice)
    return [Event(at, Kind.NO_SECRET, broken), Event(at + dice.uniform(3, 12), Kind.FIX_SECRET, back)]


def _pause(dice: random.Random, at: float) -> list[Event]:
    return [Event(at, Kind.PAUSE), Event(at + dice.uniform(2, 8), Kind.RESUME)]


def _single(kind: Kind) -> Callable[[random.Random, float], list[Event]]:
    return lambda dice, at: [Event(at, kind, number=dice.randrange(1000))]


_KINDS: Final[tuple[tuple[Callable[[random.Random, float], list[Event]], int], ...]] = (
    (_version, 8),
    (_mind, 5),
    (_no_secret, 3),
    (lambda _, at: [Event(at, Kind.NEVER_READY, NEVER_READY)], 1),
    (_single(Kind.SETTINGS), 4),
    (_pause, 2),
    (_single(Kind.RESTART), 1),
    (_single(Kind.KILL_AGENT), 2),
    (_single(Kind.DELETE_GATE), 1),
    (_single(Kind.FORCE_GATE), 2),
)
"""The next event: candidates with weights."""


def _operator(seconds: float) -> Iterator[Event]:
    # Alternate: the kubelet backs off for a container that is killed repeatedly, not for a new pod.
    for number in range(1, int(seconds / OPERATOR_SECONDS) + 1):
        kind = Kind.KILL_OPERATOR if number % 2 else Kind.DELETE_OPERATOR
        yield Event(number * OPERATOR_SECONDS, kind)


def _api_server(dice: random.Random, seconds: float) -> Iterator[Event]:
    for number in range(int(seconds / API_SERVER_SECONDS) + 1):
        at = number * API_SERVER_SECONDS + dice.uniform(0.3, 0.9) * API_SERVER_SECONDS
        yield Event(at, Kind.API_SERVER, number=dice.randrange(5))


def _drains(dice: random.Random, seconds: float) -> Iterator[Event]:
    for number in range(int(seconds / DRAIN_SECONDS) + 1):
        at = number * DRAIN_SECONDS + dice.uniform(0.1, 0.4) * DRAIN_SECONDS
        yield Event(at, Kind.DRAIN, number=dice.randrange(1000))
        yield Event(at + UNCORDON_SECONDS, Kind.UNCORDON)
