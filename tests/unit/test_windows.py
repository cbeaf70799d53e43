"""Maintenance windows: which are valid, when they are open, when they open next, also where clocks change."""

from __future__ import annotations

import doctest
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from medplum_agent_operator.api.changes import MaintenanceWindow
from medplum_agent_operator.core.policy import schedule, windows
from medplum_agent_operator.core.policy.schedule import Schedule
from medplum_agent_operator.core.policy.windows import Moment, Window, is_open, next_opening, read

BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"
SUNDAY_NIGHT = ("0 2 * * SUN", "2h", BERLIN)
MINUTE = timedelta(minutes=1)

Written = tuple[str, str, str]


def written(*several: Written) -> tuple[MaintenanceWindow, ...]:
    """Windows as users write them: schedule, duration, time zone."""
    return tuple(MaintenanceWindow(schedule=when, duration=length, time_zone=zone) for when, length, zone in several)


def usable(*several: Written) -> tuple[Window, ...]:
    """The same, read, of which none may be faulty."""
    result = read(written(*several))
    assert () == result.faults
    return result.usable


def utc(text: str) -> datetime:
    """A moment, such as `2026-11-29 01:00`, in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def shown(moment: datetime) -> str:
    """The reverse of `utc`."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def openings(when: str, zone: str, *, first: str, last: str) -> list[str]:
    """Every moment between two at which a schedule comes, in UTC: one after the other, and by asking at each minute, with the same result."""
    here = Schedule(when, ZoneInfo(zone))
    found, at = [], here.after(utc(first) - MINUTE)
    while at is not None and at <= utc(last):
        found.append(shown(at))
        at = here.after(at)
    window, minutes = Window(here, MINUTE), (utc(last) - utc(first)) // MINUTE + 1
    each = [utc(first) + number * MINUTE for number in range(minutes)]
    assert found == [shown(minute) for minute in each if window.is_open(minute)]
    return found


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param("2026-11-29 00:59:59.999999", False, id="a moment before it opens it is closed"),
        pytest.param("2026-11-29 01:00:00", True, id="it is open as soon as it opens"),
        pytest.param("2026-11-29 01:00:00.000001", True, id="it is open right after"),
        pytest.param("2026-11-29 02:59:59.999999", True, id="it is open until its duration is over"),
        pytest.param("2026-11-29 03:00:00", False, id="it is closed once its duration is over"),
        pytest.param("2026-11-30 01:30:00", False, id="it is closed on Mondays"),
    ],
)
def test_a_window_is_open_from_its_opening_for_its_duration(now: str, expected: bool) -> None:  # noqa: FBT001  # a column
    """Sundays at 02:00 in Berlin for two hours: that is from 01:00 to 03:00 UTC in winter, the end not included."""
    assert expected is is_open(usable(SUNDAY_NIGHT), utc(now))


def assert_open_exactly(several: list[Written], since: str, until: str) -> None:
    """Windows are open from one moment on until right before another, and closed around that."""
    windows, step = usable(*several), timedelta(microseconds=1)
    assert [False, True, True, False] == [
        is_open(windows, moment) for moment in (utc(since) - step, utc(since), utc(until) - step, utc(until))
    ]


@pytest.mark.parametrize(
    ("several", "since", "until"),
    [
        pytest.param(
            [("0 1 * * *", "2h", "UTC"), ("0 2 * * *", "2h", "UTC")],
            "2026-11-29 01:00",
            "2026-11-29 04:00",
            id="two windows that overlap",
        ),
        pytest.param(
            [("0 1 * * *", "1h30m", "UTC"), ("30 2 * * *", "90m", "UTC")],
            "2026-11-29 01:00",
            "2026-11-29 04:00",
            id="a window that opens as the other closes",
        ),
        pytest.param(
            [("0 2 * * *", "1h", "UTC"), ("0 1 * * *", "8h", "UTC")],
            "2026-11-29 01:00",
            "2026-11-29 09:00",
            id="a window within another",
        ),
        pytest.param(
            [("*/15 1-4 * * *", "15m", "UTC")],
            "2026-11-29 01:00",
            "2026-11-29 05:00",
            id="one window that opens again as it closes",
        ),
        pytest.param(
            [("*/5 2 * * *", "1h", "UTC")],
            "2026-11-29 02:00",
            "2026-11-29 03:55",
            id="one window that opens again while it is open",
        ),
        pytest.param(
            [("0 2 * * *", "1h", "UTC"), ("1 3 * * *", "1h", "UTC")],
            "2026-11-29 02:00",
            "2026-11-29 03:00",
            id="a minute between two windows keeps them apart",
        ),
        pytest.param(
            [("0 3 * * SUN", "2h", BERLIN), ("0 22 * * SAT", "5h", NEW_YORK)],
            "2026-11-29 02:00",
            "2026-11-29 08:00",
            id="windows in two time zones",
        ),
        pytest.param(
            [("0 2 * * SUN", "1h", "UTC"), ("0 3 23 * *", "168h", "UTC")],
            "2026-11-23 03:00",
            "2026-11-30 03:00",
            id="a window that has been open for days",
        ),
        pytest.param(
            [("0 0 20 11 *", "168h", "UTC"), ("0 0 27 11 *", "168h", "UTC")],
            "2026-11-20 00:00",
            "2026-12-04 00:00",
            id="two that come once a year, and the first has closed already",
        ),
    ],
)
def test_windows_that_overlap_or_adjoin_are_open_as_one(several: list[Written], since: str, until: str) -> None:
    """At 02:30 UTC: open since the first of them opened, until the last of them closes."""
    assert is_open(usable(*several), utc("2026-11-29 02:30"))
    assert_open_exactly(several, since, until)


@pytest.mark.parametrize(
    "several",
    [
        pytest.param([("0 2 * * *", "24h", BERLIN)], id="every day for a day"),
        pytest.param([("0 2 * * SUN", "168h", BERLIN)], id="every week for a week"),
        pytest.param([("* * * * *", "1m", BERLIN)], id="every minute for a minute"),
        pytest.param([("* * * * *", "168h", BERLIN)] * 16, id="every minute for a week, sixteen times"),
    ],
)
def test_windows_without_an_end_are_not_looked_through(several: list[Written], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are open takes a few hundred steps of the schedule at most."""
    steps = 0

    class Counted(CronSim):
        def __next__(self) -> datetime:
            nonlocal steps
            steps += 1
            return super().__next__()

    monkeypatch.setattr(schedule, "CronSim", Counted)
    now = utc("2026-11-29 02:30")
    assert is_open(usable(*several), now)
    assert steps < 300


@pytest.mark.parametrize(
    ("when", "now", "opens"),
    [
        pytest.param("0 2 * * SUN", "2026-11-29 02:00", "2026-12-06 02:00", id="the opening of this moment is not the next"),
        pytest.param("0 2 * * 0", "2026-11-25 00:00", "2026-11-29 02:00", id="0 is Sunday"),
        pytest.param("0 2 * * 7", "2026-11-25 00:00", "2026-11-29 02:00", id="7 is Sunday too"),
        pytest.param("0 2 * * 5-7", "2026-11-29 03:00", "2026-12-04 02:00", id="5-7 is Friday to Sunday"),
        pytest.param("0 2 * * FRI-7", "2026-11-28 03:00", "2026-11-29 02:00", id="a name and a number make a range"),
        pytest.param("0 2 * FEB *", "2026-11-25 00:00", "2027-02-01 02:00", id="months have names"),
        pytest.param("0 2 13 * FRI", "2026-11-25 00:00", "2026-11-27 02:00", id="either day matches: a Friday"),
        pytest.param("0 2 13 * FRI", "2026-12-12 00:00", "2026-12-13 02:00", id="either day matches: a 13th"),
        pytest.param("0 2 */2 * FRI", "2026-11-25 00:00", "2026-11-27 02:00", id="with a star both match: an odd Friday"),
        pytest.param("0 2 */2 * FRI", "2026-11-28 00:00", "2026-12-11 02:00", id="with a star both match: no even Friday"),
        pytest.param("0 2 30 2 SUN", "2026-11-25 00:00", "2027-02-07 02:00", id="no 30 February, but its Sundays"),
        pytest.param("0 2 29 2 *", "2026-11-25 00:00", "2028-02-29 02:00", id="29 February comes in leap years"),
        pytest.param("10/20 2 * * *", "2026-11-25 02:10", "2026-11-25 02:30", id="10/20 is every 20 from 10 on"),
        pytest.param("5-5/20 2 * * *", "2026-11-25 02:10", "2026-11-26 02:05", id="5-5/20 is 5 and no more"),
        pytest.param("0 2 * * 0-SUN/2", "2026-11-25 00:00", "2026-11-29 02:00", id="Sunday to Sunday in steps is Sunday"),
        pytest.param("5  02   *  *  *", "2026-11-25 00:00", "2026-11-25 02:05", id="more spaces and a leading zero"),
    ],
)  # fmt: skip
def test_schedules_are_read_as_cron_reads_them(when: str, now: str, opens: str) -> None:
    """In UTC, where no clock is changed; 29 November 2026 is a Sunday."""
    opening = next_opening(usable((when, "1h", "UTC")), utc(now))
    assert opening is not None
    assert opens == shown(opening.at)


def test_the_next_opening_is_the_first_of_all_windows() -> None:
    """Where windows stand in several time zones, the moments count, not what clocks show."""
    several = usable(("0 2 * * *", "1h", NEW_YORK), ("0 3 * * *", "1h", BERLIN))
    opening = next_opening(several, utc("2026-11-29 00:00"))
    assert "Sunday 2026-11-29 03:00 CET (Europe/Berlin), 02:00 UTC" == str(opening)


def test_without_a_window_nothing_is_open_and_nothing_will_be() -> None:
    """No windows at all, or only faulty ones: whether that means "any time" is not decided here."""
    nothing = read(written(("0 2 30 2 *", "1h", BERLIN)))
    assert ((), 1) == (nothing.usable, len(nothing.faults))
    now = utc("2026-11-29 02:30")
    assert (False, None) == (is_open(nothing.usable, now), next_opening(nothing.usable, now))


BERLIN_SPRING = {"zone": BERLIN, "first": "2026-03-28 23:00", "last": "2026-03-29 21:59"}
BERLIN_AUTUMN = {"zone": BERLIN, "first": "2026-10-24 22:00", "last": "2026-10-25 22:59"}
NEW_YORK_SPRING = {"zone": NEW_YORK, "first": "2026-03-08 05:00", "last": "2026-03-09 03:59"}
NEW_YORK_AUTUMN = {"zone": NEW_YORK, "first": "2026-11-01 04:00", "last": "2026-11-02 04:59"}


@pytest.mark.parametrize(
    ("when", "day", "expected"),
    [
        pytest.param("30 2 * * *", BERLIN_SPRING, ["2026-03-29 01:00"], id="Berlin: 02:30 is left out, so at 03:00"),
        pytest.param("0 2 * * *", BERLIN_SPRING, ["2026-03-29 01:00"], id="Berlin: 02:00 is left out, so at 03:00"),
        pytest.param("0 3 * * *", BERLIN_SPRING, ["2026-03-29 01:00"], id="Berlin: 03:00 is 03:00"),
        pytest.param("0,30 2,3 * * *", BERLIN_SPRING, ["2026-03-29 01:00", "2026-03-29 01:30"], id="Berlin: all at 03:00 is once"),
        pytest.param("*/30 2 * * *", BERLIN_SPRING, [], id="Berlin: every half hour from 2 to 3 is left out"),
        pytest.param("30 */2 * * *", BERLIN_SPRING, [f"2026-03-{day} {hour}:30" for day, hour in [(28, 23), (29, "02"), (29, "04"), (29, "06"), (29, "08"), (29, 10), (29, 12), (29, 14), (29, 16), (29, 18), (29, 20)]], id="Berlin: every other hour leaves out 02:30"),
        pytest.param("30 2 * * *", BERLIN_AUTUMN, ["2026-10-25 00:30"], id="Berlin: 02:30 comes twice, so the first time"),
        pytest.param("0 3 * * *", BERLIN_AUTUMN, ["2026-10-25 02:00"], id="Berlin: 03:00 comes once"),
        pytest.param("*/30 2 * * *", BERLIN_AUTUMN, ["2026-10-25 00:00", "2026-10-25 00:30", "2026-10-25 01:00", "2026-10-25 01:30"], id="Berlin: every half hour from 2 to 3, both times"),
        pytest.param("30 2 * * SUN", NEW_YORK_SPRING, ["2026-03-08 07:00"], id="New York: 02:30 is left out, so at 03:00"),
        pytest.param("*/30 2 * * *", NEW_YORK_SPRING, [], id="New York: every half hour from 2 to 3 is left out"),
        pytest.param("30 1 * * SUN", NEW_YORK_AUTUMN, ["2026-11-01 05:30"], id="New York: 01:30 comes twice, so the first time"),
        pytest.param("*/30 1 * * *", NEW_YORK_AUTUMN, ["2026-11-01 05:00", "2026-11-01 05:30", "2026-11-01 06:00", "2026-11-01 06:30"], id="New York: every half hour from 1 to 2, both times"),
    ],
)  # fmt: skip
def test_openings_on_the_days_on_which_clocks_are_changed(when: str, day: dict[str, str], expected: list[str]) -> None:
    """Fixed times come once on their day, whatever clocks do; others follow the hands of the clock. In UTC."""
    assert expected == openings(when, day["zone"], first=day["first"], last=day["last"])


@pytest.mark.parametrize(
    ("now", "opened", "opens"),
    [
        pytest.param("2026-10-25 00:30", True, "2026-10-26 01:30", id="02:30 CEST, the first time: it opens"),
        pytest.param("2026-10-25 01:15", True, "2026-10-26 01:30", id="02:15 CET, the second time: open for 45 minutes"),
        pytest.param("2026-10-25 01:30", False, "2026-10-26 01:30", id="02:30 CET, the second time: an hour is over"),
    ],
)  # fmt: skip
def test_in_the_hour_that_comes_twice_it_counts_which_of_the_two_it_is(
    now: str,
    opened: bool,  # noqa: FBT001  # a column
    opens: str,
) -> None:
    """02:30 in Berlin for an hour: what has opened in the first of the two hours is not to come in the second."""
    night = usable(("30 2 * * *", "1h", BERLIN))
    opening = next_opening(night, utc(now))
    assert opening is not None
    assert (opened, opens) == (is_open(night, utc(now)), shown(opening.at))


@pytest.mark.parametrize(
    ("since", "until"),
    [
        pytest.param("2026-03-29 00:00", "2026-03-29 03:00", id="spring: from 01:00 CET to 05:00 CEST"),
        pytest.param("2026-10-24 23:00", "2026-10-25 02:00", id="autumn: from 01:00 CEST to 03:00 CET"),
    ],
)  # fmt: skip
def test_a_window_is_open_for_its_duration_whatever_clocks_show(since: str, until: str) -> None:
    """01:00 in Berlin for three hours is three hours, also when the clock is changed in them."""
    assert_open_exactly([("0 1 * * *", "3h", BERLIN)], since, until)


@pytest.mark.parametrize(
    ("moment", "zone", "text"),
    [
        pytest.param("2026-11-29 01:00", BERLIN, "Sunday 2026-11-29 02:00 CET (Europe/Berlin), 01:00 UTC", id="winter"),
        pytest.param("2026-06-28 00:00", BERLIN, "Sunday 2026-06-28 02:00 CEST (Europe/Berlin), 00:00 UTC", id="summer"),
        pytest.param("2026-10-25 00:30", BERLIN, "Sunday 2026-10-25 02:30 CEST (Europe/Berlin), 00:30 UTC", id="the first 02:30"),
        pytest.param("2026-10-25 01:30", BERLIN, "Sunday 2026-10-25 02:30 CET (Europe/Berlin), 01:30 UTC", id="the second 02:30"),
        pytest.param("2026-11-30 04:00", NEW_YORK, "Sunday 2026-11-29 23:00 EST (America/New_York), 2026-11-30 04:00 UTC", id="tomorrow in UTC"),
        pytest.param("2026-11-28 23:30", BERLIN, "Sunday 2026-11-29 00:30 CET (Europe/Berlin), 2026-11-28 23:30 UTC", id="yesterday in UTC"),
        pytest.param("2026-11-29 05:00", "America/Sao_Paulo", "Sunday 2026-11-29 02:00 -03 (America/Sao_Paulo), 05:00 UTC", id="a zone without letters"),
        pytest.param("2026-11-29 02:00", "UTC", "Sunday 2026-11-29 02:00 UTC", id="UTC says it once"),
        pytest.param("2026-11-29 02:00", "Etc/UTC", "Sunday 2026-11-29 02:00 UTC", id="UTC by another name, too"),
    ],
)  # fmt: skip
def test_a_moment_is_shown_in_local_time_and_in_utc(moment: str, zone: str, text: str) -> None:
    """Who is on call reads local time, logs are in UTC; the date in UTC is given only where it is another."""
    assert text == str(Moment(utc(moment), ZoneInfo(zone)))


def test_utc_is_shown_wherever_the_operator_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time zone of the operator's host does not matter."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert "Sunday 2026-11-29 02:00 CET (Europe/Berlin), 01:00 UTC" == str(
            Moment(utc("2026-11-29 01:00"), ZoneInfo(BERLIN))
        )
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("window", "cause", "fix"),
    [
        pytest.param(("0 2 * * *", "1h", "Mars/City"), "'Mars/City' is not a known time zone", "IANA name, such as UTC or Europe/Berlin", id="an unknown time zone"),
        pytest.param(("0 2 * * *", "1h", "Europe"), "'Europe' is not a known time zone", "IANA name", id="a folder of time zones"),
        pytest.param(("0 2 * * *", "1h", "leapseconds"), "'leapseconds' is not a known time zone", "IANA name", id="a file beside the time zones"),
        pytest.param(("0 2 * * *", "1h", "UTC/Berlin"), "'UTC/Berlin' is not a known time zone", "IANA name", id="a time zone used as a folder"),
        pytest.param(("0 2 30 2 *", "1h", BERLIN), "names day '30', which month '2' does not have", "Change the day of month", id="30 February"),
        pytest.param(("0 2 31 4,6,9,NOV *", "1h", BERLIN), "names day '31'", "or the month", id="the 31st of months of 30 days"),
        pytest.param(("0 22-2 * * *", "1h", BERLIN), "the hour '22-2' runs backwards", "22-23,0-2", id="hours over midnight"),
        pytest.param(("59-0 2 * * *", "1h", BERLIN), "the minute '59-0' runs backwards", "in two parts", id="minutes backwards"),
        pytest.param(("0 2 28-3 * *", "1h", BERLIN), "the day of month '28-3' runs backwards", "in two parts", id="days over the end of a month"),
        pytest.param(("0 2 * NOV-FEB *", "1h", BERLIN), "the month 'NOV-FEB' runs backwards", "in two parts", id="months over the end of a year"),
        pytest.param(("0 2 * * FRI-SUN", "1h", BERLIN), "the day of week 'FRI-SUN' runs backwards", "5-7 for FRI-SUN", id="Friday to Sunday"),
        pytest.param(("0 2 * * 5-2", "1h", BERLIN), "the day of week '5-2' runs backwards", "Use 7 for Sunday", id="Friday to Tuesday"),
    ],
)  # fmt: skip
def test_a_window_that_never_opens_is_a_fault_and_the_others_count(window: Written, cause: str, fix: str) -> None:
    """A fault names the window, why it never opens, what that affects, and the fix; it is never an exception."""
    result = read(written(SUNDAY_NIGHT, window))
    (fault,) = result.faults
    assert "spec.maintenanceWindows[1] never opens." == fault.summary
    assert (True, True) == (cause in fault.cause, fix in fault.fix)
    assert (True, True) == (fault.cause.endswith("."), fault.fix.endswith("."))
    assert "Other windows are not affected." in fault.impact
    assert usable(SUNDAY_NIGHT) == result.usable


@pytest.mark.parametrize("module", [schedule, windows], ids=["schedule", "windows"])
def test_examples_in_docstrings_hold(module: object) -> None:
    """The examples in the docstrings pass."""
    failed, tried = doctest.testmod(module)  # type: ignore[arg-type]
    assert (0, True) == (failed, tried > 0)
