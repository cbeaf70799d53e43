"""Maintenance windows: which of them are valid, whether one is open, and when the next one opens.

Called by `downtime`, and by `plan` for the faults. No function may read the clock: callers pass `now`, with a time zone.
`schedule` says when a window opens, also when clocks change. The window then stays open for its duration of elapsed time.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from medplum_agent_operator.api.changes import MaintenanceWindow
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.policy import schedule
from medplum_agent_operator.core.policy.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment, and the time zone to show it in.

    Attributes:
        at: the moment, in UTC.
        zone: the time zone of the window that opens or closes then.
    """

    at: datetime
    zone: ZoneInfo

    def __str__(self) -> str:
        """Local time and UTC; with the UTC date if it differs.

        >>> str(Moment(datetime(2026, 11, 29, 1, 0, tzinfo=UTC), ZoneInfo("Europe/Berlin")))
        'Sunday 2026-11-29 02:00 CET (Europe/Berlin), 01:00 UTC'
        >>> str(Moment(datetime(2026, 11, 28, 23, 30, tzinfo=UTC), ZoneInfo("Europe/Berlin")))
        'Sunday 2026-11-29 00:30 CET (Europe/Berlin), 2026-11-28 23:30 UTC'
        >>> str(Moment(datetime(2026, 11, 29, 1, 0, tzinfo=UTC), ZoneInfo("UTC")))
        'Sunday 2026-11-29 01:00 UTC'
        """
        local, utc = self.at.astimezone(self.zone), self.at.astimezone(UTC)
        if local.tzname() == "UTC":
            return f"{local:%A %Y-%m-%d %H:%M} UTC"
        also = f"{utc:%H:%M}" if local.date() == utc.date() else f"{utc:%Y-%m-%d %H:%M}"
        return f"{local:%A %Y-%m-%d %H:%M %Z} ({self.zone.key}), {also} UTC"


@dataclass(frozen=True, slots=True)
class Window:
    """A valid maintenance window."""

    schedule: Schedule
    duration: timedelta

    def opens_after(self, now: datetime) -> Moment | None:
        """Its first opening after `now`."""
        at = self.schedule.after(now)
        return None if at is None else Moment(at, self.schedule.zone)

    def is_open(self, now: datetime) -> bool:
        """Whether it opened within its duration before `now`."""
        opening = self.opens_after(now - self.duration)
        return opening is not None and opening.at <= now


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows in `spec.maintenanceWindows`.

    Attributes:
        usable: the windows that count.
        faults: why each of the others never opens.
    """

    usable: tuple[Window, ...] = ()
    faults: tuple[Message, ...] = ()


def read(windows: Iterable[MaintenanceWindow]) -> Windows:
    """The valid windows, and the faults of the others. A faulty window does not affect the others."""
    each = [_read(f"spec.maintenanceWindows[{index}]", window) for index, window in enumerate(windows)]
    return Windows(
        usable=tuple(window for window in each if isinstance(window, Window)),
        faults=tuple(fault for fault in each if isinstance(fault, Message)),
    )


def is_open(windows: Iterable[Window], now: datetime) -> bool:
    """Whether any window is open."""
    return any(window.is_open(now) for window in windows)


def next_opening(windows: Iterable[Window], now: datetime) -> Moment | None:
    """The first moment after `now` at which any window opens; None if none does."""
    openings = [window.opens_after(now) for window in windows]
    return min((opening for opening in openings if opening is not None), key=lambda opening: opening.at, default=None)


def _read(path: str, window: MaintenanceWindow) -> Window | Message:
    """The window, or why it never opens."""
    summary = f"{path} never opens."
    impact = "A change that stops the agent first does not start in this window. Other windows are not affected."
    try:
        zone = ZoneInfo(window.time_zone)
    except (KeyError, ValueError, OSError):  # missing, or another kind of file or a folder among the zones
        cause = f"{window.time_zone!r} is not a known time zone."
        return Message(
            summary, cause=cause, impact=impact, fix="Set its timeZone to an IANA name, such as UTC or Europe/Berlin."
        )
    problem = schedule.problem(window.schedule)
    if problem is not None:
        return Message(summary, cause=problem.cause, impact=impact, fix=problem.fix)
    return Window(Schedule(window.schedule, zone), _length(window.duration))


def _length(duration: str) -> timedelta:
    """Parse a duration of the API's form.

    >>> str(_length("1h30m")), str(_length("90m")), str(_length("168h"))
    ('1:30:00', '1:30:00', '7 days, 0:00:00')
    """
    amounts = {part[-1]: int(part[:-1]) for part in re.findall(r"[0-9]+[hm]", duration)}
    return timedelta(hours=amounts.get("h", 0), minutes=amounts.get("m", 0))
