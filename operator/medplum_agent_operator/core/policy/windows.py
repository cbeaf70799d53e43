"""Maintenance windows: which of them can be read, whether one is open, and when the next one opens.

For `plan`, which decides what has to wait for a window. Nothing here reads the clock: `now` is given, with a time zone.
When a window opens is up to `schedule`, also when clocks are changed; it then stays open for its duration of real time,
whatever clocks show meanwhile. Windows that overlap, or of which one closes as another opens, are open as one.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from medplum_agent_operator.api.changes import MaintenanceWindow
from medplum_agent_operator.core.policy import schedule
from medplum_agent_operator.core.policy.schedule import MINUTE, Schedule

HORIZON: Final = timedelta(days=14)
"""How far from now the two ends are looked for where windows follow on each other, twice the longest window. `0 2 * * *` for
24 hours has no end."""

_MOST_LOOKUPS: Final = 60
"""Questions to schedules for one end, at about 50 microseconds each: windows of a minute may follow on each other all day."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment, and where it is shown.

    Attributes:
        at: the moment, in UTC.
        zone: the time zone of the window that opens or closes then.
    """

    at: datetime
    zone: ZoneInfo

    def __str__(self) -> str:
        """Local time and UTC, with the date in UTC where it is another.

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
    """A maintenance window that can be read."""

    schedule: Schedule
    duration: timedelta

    def opens_after(self, now: datetime) -> Moment | None:
        """Its first opening after `now`."""
        at = self.schedule.after(now)
        return None if at is None else Moment(at, self.schedule.zone)

    def closes_after_opening_up_to(self, now: datetime) -> Moment | None:
        """When it closes after its last opening up to `now`: in the past if it is closed now."""
        at = self.schedule.up_to(now)
        return None if at is None else Moment(at + self.duration, self.schedule.zone)


@dataclass(frozen=True, slots=True)
class Windows:
    """What `spec.maintenanceWindows` comes to.

    Attributes:
        usable: the windows that count.
        faults: a sentence for each of the others, which never open.
    """

    usable: tuple[Window, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which windows are open without a break.

    Attributes:
        since: when it began; where many windows follow on each other, a moment since which one has been open.
        until: the first moment that is not in it; if not `ends`, a moment until which one is open at least.
        ends: whether it ends then. False where so many windows follow on each other that nobody looked further.
    """

    since: Moment
    until: Moment
    ends: bool


def read(windows: Iterable[MaintenanceWindow]) -> Windows:
    """Tell the windows that can be read from those that never open. One that is faulty does not spoil the others."""
    each = [_read(f"spec.maintenanceWindows[{index}]", window) for index, window in enumerate(windows)]
    return Windows(
        usable=tuple(window for window in each if isinstance(window, Window)),
        faults=tuple(fault for fault in each if isinstance(fault, str)),
    )


def open_span(windows: Sequence[Window], now: datetime) -> Span | None:
    """The time around `now` in which windows are open, or None where none is open now."""
    near = [window for window in windows if _opens_near(window, now)]
    until = _furthest_close(near, now)
    if until is None or until.at <= now:
        return None
    until, ends = _end(near, until, now)
    return Span(_beginning(near, now), until, ends)


def next_opening(windows: Iterable[Window], now: datetime) -> Moment | None:
    """The first moment after `now` at which any window opens; None where there is no window.

    It is meant for a moment at which none is open: while one is, another may open, or the same again.
    """
    openings = [window.opens_after(now) for window in windows]
    return min((opening for opening in openings if opening is not None), key=_at, default=None)


def _at(moment: Moment) -> datetime:
    return moment.at


def _read(path: str, window: MaintenanceWindow) -> Window | str:
    """The window, or the sentence that says why it never opens."""
    try:
        zone = ZoneInfo(window.time_zone)
    except (KeyError, ValueError, OSError):  # not there; a file of another kind, or a folder, among the zones
        return (
            f"{path} never opens: {window.time_zone!r} is not a time zone that is known here. "
            "Set its timeZone to an IANA name, such as UTC or Europe/Berlin."
        )
    problem = schedule.problem(window.schedule)
    if problem is not None:
        return f"{path} never opens: {problem}"
    return Window(Schedule(window.schedule, zone), _length(window.duration))


def _length(duration: str) -> timedelta:
    """The length of a duration of the API's form.

    >>> str(_length("1h30m")), str(_length("90m")), str(_length("168h"))
    ('1:30:00', '1:30:00', '7 days, 0:00:00')
    """
    amounts = {part[-1]: int(part[:-1]) for part in re.findall(r"[0-9]+[hm]", duration)}
    return timedelta(hours=amounts.get("h", 0), minutes=amounts.get("m", 0))


def _furthest_close(windows: Iterable[Window], now: datetime) -> Moment | None:
    """The last close of all windows that opened up to `now`, each by its last opening."""
    closes = [window.closes_after_opening_up_to(now) for window in windows]
    return max((close for close in closes if close is not None), key=_at, default=None)


def _opens_near(window: Window, now: datetime) -> bool:
    """Whether it can be a part of what is open around `now`; to ask one that opens in years takes long."""
    opening = window.opens_after(now - HORIZON - window.duration)
    return opening is not None and opening.at <= now + HORIZON


def _end(near: Sequence[Window], until: Moment, now: datetime) -> tuple[Moment, bool]:
    """Go on from a close to that of the window that opened up to then and closes last, until nothing is won."""
    for _ in range(1 + _MOST_LOOKUPS // len(near)):
        further = _furthest_close(near, until.at)
        if further is None or further.at <= until.at:
            return until, True
        if until.at - now > HORIZON:
            break
        until = further
    return until, False


def _beginning(near: Sequence[Window], now: datetime) -> Moment:
    """Go back from `now` to the first opening of a window that lasts until then, and so on, until nothing is won."""
    since = _first_opening(near, lasting_beyond=now)
    for _ in range(1 + _MOST_LOOKUPS // len(near)):
        earlier = _first_opening(near, lasting_beyond=since.at - MINUTE)
        if earlier.at >= since.at or now - since.at > HORIZON:
            break
        since = earlier
    return since


def _first_opening(near: Sequence[Window], *, lasting_beyond: datetime) -> Moment:
    """The first opening of any window after which it stays open beyond a moment."""
    openings = [window.opens_after(lasting_beyond - window.duration) for window in near]
    return min((opening for opening in openings if opening is not None), key=_at)
