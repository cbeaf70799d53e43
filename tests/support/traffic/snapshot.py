"""The live line: how a run goes at this moment. `generator` takes one when asked; `__main__` shows it, as text or as JSON.

It counts from the latest mark, or from the start where nothing was marked. The report, made once the traffic has stopped,
is what counts: a snapshot may not know yet what arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.support.traffic.ledger import DEVICE_SHAPES, Outcome

if TYPE_CHECKING:
    from tests.support.traffic.ledger import Ledger

IN_TRANSIT_SECONDS: Final = 2.0
"""How long after its acknowledgement a message may be under way before the live line calls it lost so far."""


@dataclass(frozen=True, slots=True)
class Since:
    """Where a snapshot begins to count: at a mark, or at the start."""

    stage: str
    at: float
    sent: int = 0
    acknowledged: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The live line."""

    stage: str
    """The latest mark; `start` before the first one."""
    seconds: float
    sent: int
    acknowledged: int
    per_second: float
    """Acknowledged a second, since the snapshot before."""
    lost_so_far: int | None
    repeated: int
    refused: int
    """Connections of devices that were refused."""
    failures: int
    longest_pause_seconds: float
    pause_now_seconds: float

    def __str__(self) -> str:
        lost = "?" if self.lost_so_far is None else str(self.lost_so_far)
        return (
            f"{self.seconds:6.1f} s  {self.per_second:5.0f} messages/s  acknowledged {self.acknowledged}  lost {lost}  "
            f"refused {self.refused}  repeated {self.repeated}  longest pause {self.longest_pause_seconds * 1000:.0f} ms"
        )


def take(ledger: Ledger, *, since: Since, now: float, per_second: float, asked_at: float | None) -> Snapshot:
    """Count what has happened since then; `asked_at` is when the server was last asked what arrived, None for never."""
    failures = [failure for failure in ledger.failures if failure.at >= since.at]
    lost = None
    if asked_at is not None:
        lost = sum(1 for at in ledger.missing.values() if since.at <= at < asked_at - IN_TRANSIT_SECONDS)
    return Snapshot(
        stage=since.stage,
        seconds=now - since.at,
        sent=len(ledger.identifiers) - since.sent,
        acknowledged=ledger.acknowledged_count - since.acknowledged,
        per_second=per_second,
        lost_so_far=lost,
        repeated=sum(1 for at, _ in ledger.repeats if at >= since.at),
        refused=sum(1 for f in failures if f.outcome is Outcome.REFUSED and f.shape in DEVICE_SHAPES),
        failures=len(failures),
        longest_pause_seconds=max(ledger.overall.longest_touching(since.at, now).seconds, ledger.overall.current(now)),
        pause_now_seconds=ledger.overall.current(now),
    )
