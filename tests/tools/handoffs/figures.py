"""The bench's results as values, and their targets. No I/O: `row` and `run` fill them, `report` shows them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from tests.tools.bench.figures import Bar

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_READY_SECONDS: Final = 2
DRAIN_SECONDS: Final = 2
"""For the bench's agents (tests/support/real_nodes/clinic.py); the API's defaults are 5 and 5."""
OVERLAP_SLACK_SECONDS: Final = 1.0
OVERLAP_BOUND: Final = MIN_READY_SECONDS + DRAIN_SECONDS + OVERLAP_SLACK_SECONDS
PAUSE_BOUND: Final = 0.3
BREAKS_BOUND: Final = 1
GAP_RATIO_BOUND: Final = 1.1
START_BOUND: Final = 5.0


@dataclass(frozen=True, slots=True)
class Handoff:
    """One handoff under traffic: what devices noticed from its mark to the next. All times in seconds."""

    name: str
    lost: int
    """Messages acknowledged that never arrived."""
    unacknowledged: int
    refused: int
    """Connections refused, or without a route."""
    timeouts: int
    most_breaks_on_one_connection: int
    """The maximum on one long-lived or slow connection."""
    repeated: int
    longest_pause: float
    pushes: int
    pushes_repeated: int
    pushes_lost: int
    overlap: float
    """How long both agents were connected to the server, by the server's record."""


@dataclass(frozen=True, slots=True)
class Handoffs:
    """Handoffs in a row under one run of traffic."""

    handoffs: tuple[Handoff, ...]
    sent: int
    acknowledged: int
    acknowledged_per_second: float
    lost: int
    """For the whole run, like the fields below: may exceed the sum of the handoffs."""
    unacknowledged: int
    refused: int
    repeated: int
    pushes: int
    pushes_repeated: int
    pushes_lost: int
    generator_stall: float
    """The generator's longest stall: measured pauses may be too long by this."""

    @classmethod
    def of(cls, report: dict[str, Any], names: Sequence[str], overlaps: Sequence[float]) -> Handoffs:
        """Read the generator's report, which has a stage for each name."""
        stages = {stage["name"]: stage for stage in report["stages"]}
        overall, push = report["overall"], report["shapes"]["push"]
        found = tuple(
            _handoff(name, stages[name]["overall"], stages[name]["push"], overlap)
            for name, overlap in zip(names, overlaps, strict=True)
        )
        return cls(
            handoffs=found,
            sent=overall["sent"],
            acknowledged=overall["acknowledged"],
            acknowledged_per_second=round(overall["acknowledged_per_second"], 1),
            lost=overall["lost"],
            unacknowledged=overall["unacknowledged"],
            refused=overall["refused"] + overall["unreachable"],
            repeated=overall["repeated"],
            pushes=push["sent"],
            pushes_repeated=push["repeated"],
            pushes_lost=push["lost"],
            generator_stall=report["generator"]["longest_stall_seconds"],
        )

    @property
    def longest_pause(self) -> float:
        """Of all handoffs."""
        return max(each.longest_pause for each in self.handoffs)

    @property
    def most_breaks(self) -> int:
        """On one long-lived connection, in one handoff."""
        return max(each.most_breaks_on_one_connection for each in self.handoffs)

    @property
    def longest_overlap(self) -> float:
        """Of all handoffs."""
        return max(each.overlap for each in self.handoffs)


def _handoff(name: str, overall: dict[str, Any], push: dict[str, Any], overlap: float) -> Handoff:
    return Handoff(
        name=name,
        lost=overall["lost"],
        unacknowledged=overall["unacknowledged"],
        refused=overall["refused"] + overall["unreachable"],
        timeouts=overall["timeouts"],
        most_breaks_on_one_connection=overall["most_breaks_on_one_connection"],
        repeated=overall["repeated"],
        longest_pause=round(overall["longest_pause_seconds"], 4),
        pushes=push["sent"],
        pushes_repeated=push["repeated"],
        pushes_lost=push["lost"],
        overlap=round(overlap, 3),
    )


def overlaps(connections: Sequence[dict[str, Any]]) -> list[float]:
    """Return how long each agent and its successor were both connected, by the server's record of one agent id.

    >>> overlaps([{"connectedAt": 0.0, "disconnectedAt": 9.5}, {"connectedAt": 5.0, "disconnectedAt": None}])
    [4.5]
    """
    return [old["disconnectedAt"] - new["connectedAt"] for old, new in pairwise(connections)]


@dataclass(frozen=True, slots=True)
class Downgrades:
    """Forced downgrades from 5.1.15 to 4.2.3, by the operator and by a bare Deployment, in turn. Gaps in seconds."""

    image: str
    """Where the target image was: `on the node` or `absent`."""
    ours: tuple[float, ...]
    bare: tuple[float, ...]
    resolution: float
    """The time between two messages."""
    generator_stall: float
    lost: int
    """By both together."""

    @property
    def ratio(self) -> float:
        """The operator's median divided by the bare Deployment's."""
        return median(self.ours) / median(self.bare)


@dataclass(frozen=True, slots=True)
class OperatorStart:
    """The operator's own pod."""

    seconds: tuple[float, ...]
    """From the container's creation, shortly before its start, until the pod was seen ready."""
    layers_mb: tuple[float, ...]
    """What the image adds to its base, uncompressed."""


@dataclass(frozen=True, slots=True)
class Figures:
    """All results of a run."""

    original: Handoffs
    enhanced: Handoffs
    drains: Handoffs
    downgrades: Downgrades
    downgrades_absent: Downgrades
    operator: OperatorStart
    agents_seen: int
    """Agent processes that the container runtime reported, those of the pictures included."""
    violations: tuple[str, ...]
    """Overlapping agents of which one was before 4.2.4, by the container runtime."""


def bars(figures: Figures) -> tuple[Bar, ...]:
    """Compare the figures with the operator's targets."""
    original, drains, absent = figures.original, figures.drains, figures.downgrades_absent
    count = len(original.handoffs)
    start = max(figures.operator.seconds)
    both = [*original.handoffs, *figures.enhanced.handoffs]
    overlap = max(each.overlap for each in both)
    return (
        _none(f"lost, {count} handoffs, original mode", original.lost + original.pushes_lost),
        _none(f"refused, {count} handoffs", original.refused),
        _bar(
            "longest pause", f"< {PAUSE_BOUND * 1000:.0f} ms", _ms(original.longest_pause), original.longest_pause < 0.3
        ),
        _bar(
            "breaks of one long-lived connection in a handoff",
            f"≤ {BREAKS_BOUND}",
            str(original.most_breaks),
            original.most_breaks <= BREAKS_BOUND,
        ),
        _bar("both agents connected", f"≤ {OVERLAP_BOUND:.1f} s", f"{overlap:.2f} s", overlap <= OVERLAP_BOUND),
        _bar(
            "forced downgrade, gap against a bare Deployment (Recreate)",
            f"≤ {GAP_RATIO_BOUND} times",
            f"{figures.downgrades.ratio:.2f} times",
            figures.downgrades.ratio <= GAP_RATIO_BOUND,
        ),
        _bar("the same, without the image on the node", "< 1 times", f"{absent.ratio:.2f} times", absent.ratio < 1),
        _none(f"lost, {len(drains.handoffs)} node drains", drains.lost + drains.pushes_lost),
        _none("refused in node drains", drains.refused),
        _none(f"two agents at once where one is before 4.2.4, {figures.agents_seen} lives", len(figures.violations)),
        _bar(
            "operator: container created → pod ready", f"< {START_BOUND:.0f} s", f"{start:.1f} s", start < START_BOUND
        ),
    )


def _bar(promise: str, bar: str, measured: str, kept: bool) -> Bar:  # noqa: FBT001 - the last cell of a row
    return Bar(promise, bar, measured, kept)


def _none(promise: str, count: int) -> Bar:
    return Bar(promise, "0", str(count), count == 0)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
