"""The results of a run and the promises that it checks: values in, values out. `run` fills it, `report` shows it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.support.recorder import release
from tests.tools.bench.figures import Bar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CONVERGE_SECONDS: Final = 180.0
MESSAGES: Final = (
    *("sent", "acknowledged", "lost", "unacknowledged", "repeated"),
    *("refused", "unreachable", "reset", "closed", "timeouts", "longest_pause_seconds"),
)
"""The figures taken from the traffic report (docs/internals/traffic.md describes each)."""


@dataclass(frozen=True, slots=True)
class Figures:
    """All results of a run.

    Attributes:
        seed: draws the same plan again.
        minutes: of chaos; installing and converging come on top.
        events: how often what happened.
        rollouts: how many rollouts ended in which way, from status.history.
        messages: to the agent, from the traffic's report.
        pushes: from the server to a device: no gate and no operator can keep those that an agent had in hand when it ended.
        lives: runs of an agent's process, by the container runtime.
        old_lives: those of agents before 4.2.4.
        together: pairs of lives that were forbidden (I1).
        unsure: what the recorder at the runtime could not make out.
        unapproved: downgrades that were completed without an approval (I2).
        bugs: passes of the operator that failed by a bug.
        drains_finished: those in which the node was empty before it was given back.
        last: the version that was to serve in the end.
        converged_seconds: from the end of the chaos until it served; None where it did not in time.
    """

    seed: int
    minutes: float
    events: dict[str, int]
    rollouts: dict[str, int]
    messages: dict[str, Any]
    pushes: dict[str, Any]
    lives: int
    old_lives: int
    together: tuple[str, ...]
    unsure: tuple[str, ...]
    unapproved: tuple[str, ...]
    bugs: int
    drains_finished: int
    last: str
    converged_seconds: float | None


def bars(figures: Figures) -> tuple[Bar, ...]:
    """Compare the figures with the promises that hold even while gates and nodes disappear."""
    lost, took = figures.messages["lost"], figures.converged_seconds
    return (
        Bar("acknowledged messages lost", "0", str(lost), lost == 0),
        Bar(
            f"two agents at once where one is before 4.2.4, {figures.lives} lives, {figures.old_lives} of them such",
            "0",
            f"{len(figures.together)}{', but the recorder missed events' if figures.unsure else ''}",
            not figures.together and not figures.unsure and figures.lives > 0,
        ),
        Bar("downgrades without an approval", "0", str(len(figures.unapproved)), not figures.unapproved),
        Bar("reconciles that failed because of a bug", "0", str(figures.bugs), figures.bugs == 0),
        Bar(
            f"Running on {figures.last} after the chaos",
            f"≤ {CONVERGE_SECONDS:.0f} s",
            "no" if took is None else f"{took:.0f} s",
            took is not None,
        ),
    )


def taken_over(overall: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a traffic report that results.json contains."""
    return {name: overall[name] for name in MESSAGES}


class Rollouts:
    """All rollouts that ended. `status.history` has the last ten only, so it must be read repeatedly."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Any, ...], dict[str, Any]] = {}

    def see(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Add the entries of the current history."""
        for entry in history:
            key = tuple(entry.get(name) for name in ("startedAt", "completedAt", "from", "to", "outcome"))
            self._seen[key] = dict(entry)

    def outcomes(self) -> dict[str, int]:
        """Return how many rollouts ended in which way, the most frequent first.

        >>> rollouts = Rollouts()
        >>> rollouts.see([{"to": "5.1.15", "outcome": "Completed", "strategy": "Recreate"}])
        >>> rollouts.outcomes()
        {'Completed, Recreate': 1}
        """
        return dict(Counter(map(_ended, self._seen.values())).most_common())

    def unapproved(self) -> tuple[str, ...]:
        """Return completed downgrades without an approval. A rollback is not a downgrade."""
        return tuple(
            f"{entry['from']} to {entry['to']}, {entry.get('startedAt')}"
            for entry in self._seen.values()
            if entry.get("from")
            and release(entry["to"]) < release(entry["from"])
            and entry.get("outcome") == "Completed"
            and not entry.get("approval")
            and not entry.get("rolledBackFrom")
        )


def _ended(entry: Mapping[str, Any]) -> str:
    cause = "rollback" if entry.get("rolledBackFrom") else "move off a node" if entry.get("movedOff") else ""
    return ", ".join(filter(None, (entry.get("outcome"), entry.get("strategy"), cause)))
