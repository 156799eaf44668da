"""Local time of a rule set, and the hours of the day that a rule counts. Pure, in integers.

When clocks change, a local time can occur twice or not at all. One that occurs twice means the later moment;
one that is skipped is counted on from the change, so 02:30 becomes 03:30.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

MINUTE_MS: Final = 60_000
DAY_MINUTES: Final = 1_440
WEEK_MINUTES: Final = 7 * DAY_MINUTES
WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Zone:
    """A fixed offset from UTC, or a zone of the tz database with its changes of the clock."""

    minutes: int = 0
    """Offset from UTC; not used where there is a name."""
    name: str = ""
    """`Europe/Berlin`; empty: the offset counts."""

    def at_ms(self, day: date, minute: int = 0) -> int:
        """The moment of a local time. minute: of the day, also beyond its end."""
        local = datetime.combine(day, time()) + timedelta(minutes=minute)
        if not self.name:
            return round((local.replace(tzinfo=UTC) - timedelta(minutes=self.minutes)).timestamp()) * 1_000
        zone = ZoneInfo(self.name)
        return max(round(local.replace(tzinfo=zone, fold=fold).timestamp()) * 1_000 for fold in (0, 1))

    def local(self, at_ms: int) -> datetime:
        """The local time of a moment, without its zone; whole milliseconds are kept."""
        at = datetime.fromtimestamp(at_ms // 1_000, UTC) + timedelta(milliseconds=at_ms % 1_000)
        if self.name:
            return at.astimezone(ZoneInfo(self.name)).replace(tzinfo=None)
        return (at + timedelta(minutes=self.minutes)).replace(tzinfo=None)


UTC_ZONE: Final = Zone()


@dataclass(frozen=True, slots=True)
class Hours:
    """Parts of an outage outside these hours do not count."""

    from_minute: int
    """Of the day, included."""
    to_minute: int
    """Of the day, not included; not above `from_minute`: of the next day."""
    days: tuple[int, ...] = ()
    """Days on which the hours begin, 0 is Monday; empty: every day."""

    @property
    def end_minute(self) -> int:
        """Counted from the beginning of the first day."""
        return self.to_minute + (DAY_MINUTES if self.to_minute <= self.from_minute else 0)

    @property
    def minutes_of_week(self) -> frozenset[int]:
        return frozenset(
            (day * DAY_MINUTES + minute) % WEEK_MINUTES
            for day in (self.days or range(7))
            for minute in range(self.from_minute, self.end_minute)
        )

    def between(self, zone: Zone, from_ms: int, to_ms: int) -> Iterator[tuple[int, int]]:
        """When they begin and end, in order: all that touch a time."""
        day = zone.local(from_ms).date() - timedelta(days=2)
        last = zone.local(to_ms).date() + timedelta(days=1)
        while day <= last:
            if not self.days or day.weekday() in self.days:
                opens, shuts = zone.at_ms(day, self.from_minute), zone.at_ms(day, self.end_minute)
                if opens < shuts and opens < to_ms and shuts > from_ms:
                    yield opens, shuts
            day += timedelta(days=1)


def clock(minute: int) -> str:
    """`09:00`; the end of a day is `24:00`."""
    return f"{minute // 60:02}:{minute % 60:02}"
