"""Times as people read them: local time with UTC next to it, and a date if it is not today."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from evac.model.errors import InvalidInput
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True)
class WallClock:
    """The wall clock of the readers."""

    name: str = "UTC"
    zone: tzinfo = UTC

    @property
    def is_utc(self) -> bool:
        return self.name == "UTC"

    def at(self, at_ms: int) -> datetime:
        return datetime.fromtimestamp(at_ms / 1_000, self.zone)

    def local(self, at_ms: int, now_ms: int, seconds: bool = False) -> str:
        """`03:18 KST`; `2026-11-14 03:18 KST` if that is not today."""
        return f"{self.bare(at_ms, now_ms, seconds)} {self.label(at_ms)}"

    def bare(self, at_ms: int, now_ms: int, seconds: bool = False) -> str:
        """The same without the zone, where it is stated once for many."""
        at = self.at(at_ms)
        clock = at.strftime("%H:%M:%S" if seconds else "%H:%M")
        return clock if at.date() == self.at(now_ms).date() else f"{at:%Y-%m-%d} {clock}"

    def utc(self, at_ms: int, seconds: bool = False) -> str:
        """`18:18 UTC`; with the date if it differs from the local one."""
        at = datetime.fromtimestamp(at_ms / 1_000, UTC)
        clock = at.strftime("%H:%M:%S UTC" if seconds else "%H:%M UTC")
        return clock if at.date() == self.at(at_ms).date() else f"{at:%Y-%m-%d} {clock}"

    def both(self, at_ms: int, now_ms: int, seconds: bool = False) -> str:
        """`03:18 KST (18:18 UTC)`; the date of UTC only together with the local date."""
        local = self.local(at_ms, now_ms, seconds)
        return local if self.is_utc else f"{local} ({self.beside(at_ms, now_ms, seconds)})"

    def beside(self, at_ms: int, now_ms: int, seconds: bool = False) -> str:
        """UTC as it is written next to the local time, whose date is known if it is today."""
        if self.at(at_ms).date() != self.at(now_ms).date():
            return self.utc(at_ms, seconds)
        return datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%H:%M:%S UTC" if seconds else "%H:%M UTC")

    def label(self, at_ms: int) -> str:
        """`KST`; `UTC-03:00` if the zone has no abbreviation."""
        at = self.at(at_ms)
        name = at.tzname() or ""
        return name if name.isalpha() else f"UTC{at.strftime('%z')[:3]}:{at.strftime('%z')[3:]}"

    def offset(self, at_ms: int) -> str:
        """`UTC+9`, `UTC+5:30`."""
        shift = self.at(at_ms).strftime("%z")
        hours, minutes = int(shift[:3]), shift[3:5]
        return f"UTC{hours:+d}" + (f":{minutes}" if minutes != "00" else "")


@lru_cache(maxsize=8)
def wall_clock(name: str) -> WallClock:
    """The clock of a zone; UTC for an empty name. Raises InvalidInput if this machine does not have the
    zone.
    """
    if name in ("", "UTC"):
        return WallClock()
    try:
        return WallClock(name, ZoneInfo(name))
    except (OSError, ValueError, KeyError) as error:  # a zone that is not found is a KeyError
        raise _unknown(name) from error


def _unknown(name: str) -> InvalidInput:
    return InvalidInput(
        "time-zone-unknown",
        f"there is no time zone '{name[:40]}' on this machine",
        "use a value like Asia/Seoul; a container may need the package tzdata",
    )
