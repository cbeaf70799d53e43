"""When a cron schedule matches, in its time zone.

Called by `windows`, which adds how long a window stays open. This module must never read the clock.

A schedule is read as Debian's cron reads it (by cronsim). Day of month or day of week has to match, or both if one of the two
begins with a `*`. When clocks change:

- A schedule of fixed times, whose minute and hour do not begin with a `*`, such as `30 2 * * *`, matches once on each of its
  days. A time in the skipped hour matches at the end of that hour (in Berlin at 03:00). A time in the repeated hour matches
  the first time only.
- Any other schedule, such as `*/30 * * * *`, follows the wall clock. It never matches in the skipped hour, and matches twice in
  the repeated hour.

cronsim only gets wall-clock times; this module translates them to moments. In the second of the two repeated hours, cronsim
would take the time for the first.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

MINUTE: Final = timedelta(minutes=1)
"""Schedules match on full minutes."""

_FIELDS: Final = ("minute", "hour", "day of month", "month", "day of week")
_WEEKDAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_NUMBERS: Final = {name: str(number) for number, name in [*enumerate(_WEEKDAYS), *enumerate(_MONTHS, start=1)]}


class Problem(NamedTuple):
    """Why a schedule never matches, and the fix."""

    cause: str
    fix: str


def problem(text: str) -> Problem | None:
    """Why a schedule of the API's form never matches; None if it does, even once in 40 years.

    >>> problem("0 2 * * SUN")
    >>> problem("0 22-2 * * *").cause
    "In its schedule '0 22-2 * * *' the hour '22-2' runs backwards."
    >>> problem("0 2 30 2 *").fix
    'Change the day of month or the month.'
    """
    if _is_readable(text):
        return None
    fields = text.split()
    for position, (name, field) in enumerate(zip(_FIELDS, fields, strict=True)):
        alone = ["*"] * len(_FIELDS)
        alone[position] = field
        if not _is_readable(" ".join(alone)):
            fix = (
                "Use 7 for Sunday, such as 5-7 for FRI-SUN, or write it in two parts, such as 5-7,1-2 for 5-2."
                if name == "day of week"
                else "Write it in two parts, such as 22-23,0-2 for 22-2."
            )
            return Problem(f"In its schedule {text!r} the {name} {field!r} runs backwards.", fix)
    return Problem(
        f"Its schedule {text!r} names day {fields[2]!r}, which month {fields[3]!r} does not have.",
        "Change the day of month or the month.",
    )


def _is_readable(text: str) -> bool:
    try:
        CronSim(text, datetime.min.replace(tzinfo=UTC))
    except CronSimError:
        return False
    return True


def _without_single_steps(text: str) -> str:
    """Remove the step from ranges of one value: cronsim reads 5-5/3 as 5/3, which continues to the end.

    >>> _without_single_steps("5-5/3 2-4/2 * * MON-1/2")
    '5 2-4/2 * * 1'
    """
    in_numbers = re.sub("[A-Z]+", lambda name: _NUMBERS[name[0]], text)
    return re.sub(r"\b0?([0-9]+)-0?\1/[0-9]+", r"\1", in_numbers)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule without a `problem`, in its time zone. Moments are in UTC, which distinguishes the two repeated hours."""

    text: str
    zone: ZoneInfo

    def after(self, now: datetime) -> datetime | None:
        """The first moment after `now` at which it matches; None if that is not within 50 years."""
        wall_clock, repeated = self._wall_clock(now)
        found: datetime | None = None
        for shown in CronSim(_without_single_steps(self.text), wall_clock - repeated):
            for moment in self._moments(shown):
                if moment > now and (found is None or moment < found):
                    found = moment
            if found and shown >= wall_clock + repeated:
                break
        return found

    def _wall_clock(self, now: datetime) -> tuple[datetime, timedelta]:
        """The wall-clock time, and by how much clocks go back if they show this time twice; 0 if they do not.

        Wall-clock times and moments differ in order only then, and by no more than that.
        """
        local = now.astimezone(self.zone)
        first, second = (local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
        return local.replace(tzinfo=None, second=0, microsecond=0), second - first

    def _moments(self, wall_clock: datetime) -> tuple[datetime, ...]:
        """The moments at which it matches because the wall clock shows this time, or would have shown it."""
        minute, hour, *_ = self.text.split()
        at_fixed_times = not minute.startswith("*") and not hour.startswith("*")
        while True:
            first, second = (wall_clock.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1))
            if first == second:
                return (first,)
            if first < second:  # repeated
                return (first,) if at_fixed_times else (first, second)
            if not at_fixed_times:  # skipped
                return ()
            wall_clock += MINUTE
