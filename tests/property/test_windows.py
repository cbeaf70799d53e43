"""Maintenance windows, compared with a clock read minute by minute, and with every schedule that the CRD accepts."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from cronsim import CronSim
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medplum_agent_operator.api.changes import _CRON, MaintenanceWindow
from medplum_agent_operator.core.policy.windows import Window, is_open, next_opening, read

if TYPE_CHECKING:
    from medplum_agent_operator.core.policy.schedule import Schedule

MINUTE: Final = timedelta(minutes=1)
ZONES: Final = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",  # changes at midnight
    "Africa/Cairo",  # at midnight, back into the day before
    "Australia/Lord_Howe",  # by half an hour
    "Asia/Kathmandu",  # never, and is off by a quarter
)
WEEKDAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

fields = (
    st.sampled_from(["0", "30", "15,45", "*/20", "*", "0-59/7", "59"]),
    st.sampled_from(["*", "0", "2", "23", "0,1", "1-3", "*/6", "1/2", "0-23"]),
    st.sampled_from(["*", "*", "1-15/3", "29", "*/2", "25-31"]),
    st.sampled_from(["*", "*", "3,4,10", "MAR-NOV"]),
    st.sampled_from(["*", "*", "SUN", "7", "MON-FRI", "*/3", "0,FRI"]),
)
schedules = st.tuples(*fields).map(" ".join)
allowed = st.from_regex(re.compile(_CRON, re.ASCII), fullmatch=True).filter(lambda text: len(text) <= 128)


def parts(low: int, high: int) -> st.SearchStrategy[str]:
    """Fields of a number, a range, or one in steps: what `allowed` has too, but seldom without a range that runs backwards."""
    numbers = st.integers(low, high)
    body = st.one_of(
        st.just("*"), numbers.map(str), st.tuples(numbers, numbers).map(lambda two: f"{min(two)}-{max(two)}")
    )
    part = st.tuples(body, st.sampled_from(["", "", "/1", "/2", "/7", "/99"])).map("".join)
    return st.lists(part, min_size=1, max_size=2).map(",".join)


ordinary = st.tuples(parts(0, 59), parts(0, 23), parts(1, 31), parts(1, 12), parts(0, 7)).map(" ".join)
durations = st.sampled_from(["1m", "20m", "1h", "90m", "7h", "24h", "36h"])


def number(text: str) -> int:
    """A number or a name as a number: months from 1, days of the week from 0."""
    if text in WEEKDAYS:
        return WEEKDAYS.index(text)
    return MONTHS.index(text) + 1 if text in MONTHS else int(text)


@cache
def numbers(field: str, low: int, high: int) -> frozenset[int]:
    """What a field of a schedule stands for."""
    found: set[int] = set()
    for part in field.split(","):
        body, _, step = part.partition("/")
        start, _, end = body.partition("-")
        first, last = (low, high) if body == "*" else (number(start), number(end or start))
        found.update(range(first, (high if step and not end else last) + 1, int(step or "1")))
    return frozenset(found)


def matches(schedule: str, shown: datetime) -> bool:
    """Whether a schedule comes by what the hands of the clock show."""
    minute, hour, day, month, weekday = schedule.split()
    by_day = shown.day in numbers(day, 1, 31)
    by_weekday = bool({shown.isoweekday(), shown.isoweekday() % 7} & numbers(weekday, 0, 7))
    both = day.startswith("*") or weekday.startswith("*")
    return (
        shown.minute in numbers(minute, 0, 59)
        and shown.hour in numbers(hour, 0, 23)
        and shown.month in numbers(month, 1, 12)
        and ((by_day and by_weekday) if both else (by_day or by_weekday))
    )


def comes(schedule: Schedule, moment: datetime) -> bool:
    """Whether a schedule comes at a full minute, by looking at the clock then and a minute before."""
    local = moment.astimezone(schedule.zone)
    shown = local.replace(tzinfo=None)
    if any(field.startswith("*") for field in schedule.text.split()[:2]):
        return matches(schedule.text, shown)
    left_out = (moment - MINUTE).astimezone(schedule.zone).replace(tzinfo=None) + MINUTE
    while left_out < shown:
        if matches(schedule.text, left_out):
            return True
        left_out += MINUTE
    return not local.fold and matches(schedule.text, shown)


@cache
def changes_of_clocks(zone: str) -> list[datetime]:
    """The hours of 2026 and 2027 in which the clocks of a time zone are changed."""
    hours = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(2 * 365 * 24)]
    offsets = [hour.astimezone(ZoneInfo(zone)).utcoffset() for hour in hours]
    return [hour for hour, one, other in zip(hours[1:], offsets, offsets[1:], strict=False) if one != other]


@st.composite
def moments(draw: st.DrawFn, zone: str) -> datetime:
    """Any moment; more often than not one around a change of the clocks, and one on a full minute."""
    around = changes_of_clocks(zone)
    anywhere = st.datetimes(datetime(2026, 1, 1), datetime(2031, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # st.datetimes adds it
    near = st.builds(lambda change, minutes: change + timedelta(minutes=minutes), st.sampled_from(around or [datetime(2026, 1, 1, tzinfo=UTC)]), st.integers(-200, 200))  # fmt: skip
    moment = draw(st.one_of(near, near, anywhere))
    return moment.replace(second=0, microsecond=0) + draw(
        st.sampled_from([timedelta(0), timedelta(0), timedelta(microseconds=1), timedelta(seconds=59.9)])
    )


@st.composite
def windows(draw: st.DrawFn, zone: str) -> Window:
    """A window that can be read."""
    return usable(MaintenanceWindow(schedule=draw(schedules), duration=draw(durations), time_zone=zone))


def usable(window: MaintenanceWindow) -> Window:
    """The window as it is evaluated; one that is faulty is no example."""
    result = read([window])
    assume(not result.faults)
    return result.usable[0]


@given(st.one_of(allowed, ordinary))
@settings(max_examples=300, deadline=None)
def test_every_schedule_that_the_crd_accepts_comes_or_is_a_fault(schedule: str) -> None:
    """A schedule comes, unless it runs backwards somewhere or asks for a day that its months do not have: then it is a fault."""
    result = read([MaintenanceWindow(schedule=schedule, duration="1h")])
    ranges = re.findall(r"([0-9A-Z]+)-([0-9A-Z]+)", schedule)
    backwards = any(number(end) < number(start) for start, end in ranges)
    assert (1, backwards) == (
        len(result.usable) + len(result.faults),
        any("runs backwards" in fault.cause for fault in result.faults),
    )
    now = datetime(2026, 11, 29, 2, 30, tzinfo=UTC)
    opening = next_opening(result.usable, now)
    if not result.faults:
        assert opening is not None
        assert (True, True) == (opening.at > now, comes(result.usable[0].schedule, opening.at))
    elif not backwards:
        assert "asks for a day" in result.faults[0].cause


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_window_is_open_exactly_if_it_opened_within_its_duration(data: st.DataObject) -> None:
    """Going back minute by minute from now, for as long as the window lasts, finds an opening; else it is closed."""
    zone = data.draw(st.sampled_from(ZONES))
    window, now = data.draw(windows(zone)), data.draw(moments(zone))
    minute, opened = now.replace(second=0, microsecond=0), False
    while minute + window.duration > now and not opened:
        opened = comes(window.schedule, minute)
        minute -= MINUTE
    assert opened is is_open([window], now)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_nothing_opens_between_now_and_the_next_opening(data: st.DataObject) -> None:
    """The next opening is to come, it is an opening, and no minute before it is one; three days are looked through."""
    zone = data.draw(st.sampled_from(ZONES))
    several = data.draw(st.lists(windows(zone), min_size=1, max_size=3))
    now = data.draw(moments(zone))
    opening = next_opening(several, now)
    assert opening is not None
    assert opening.at > now
    assert any(comes(window.schedule, opening.at) for window in several)
    minute = now.replace(second=0, microsecond=0) + MINUTE
    while minute < min(opening.at, now + timedelta(days=3)):
        assert not any(comes(window.schedule, minute) for window in several), minute
        minute += MINUTE


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_openings_are_those_of_cron(data: st.DataObject) -> None:
    """Going on from before clocks are changed, cronsim, which knows Debian's cron, names the same moments."""
    zone = data.draw(st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]))
    schedule, now = data.draw(windows(zone)).schedule, data.draw(moments(zone))
    now = now.astimezone(schedule.zone)
    assume(not now.fold)
    by_cron = CronSim(schedule.text, now)
    ours: datetime | None = now
    for _ in range(20):
        theirs = next(by_cron).astimezone(UTC)
        if theirs != ours:  # several times of the hour that is left out come as one
            ours = schedule.after(ours or now)
        assert theirs == ours
