"""Outage windows, their corrections, downtime in a billing cycle, and local time. Pure.

Integers only. A window is half-open: `from_ms` is included, `to_ms` is not. Windows never change: a
correction names the window, the person and the reason, and makes the next version of the list.

At clock changes, a local time can occur twice or not at all. An ambiguous time means the later moment; a
skipped one counts on from the change, so 02:30 becomes 03:30.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any, Final, Literal, get_args
from zoneinfo import ZoneInfo

from evac.model.diagnostic import NOWHERE, Diagnostic, Place
from evac.model.digest import digest
from evac.model.errors import InvalidInput
from evac.model.records import dataclass

MINUTE_MS: Final = 60_000
DAY_MINUTES: Final = 1_440
WEEK_MINUTES: Final = 7 * DAY_MINUTES
WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Zone:
    """A fixed offset from UTC, or a zone of the tz database with its clock changes."""

    minutes: int = 0
    """Offset from UTC; unused if there is a name."""
    name: str = ""
    """`Europe/Berlin`; empty: use the offset."""

    def at_ms(self, day: date, minute: int = 0) -> int:
        """The moment of a local time. minute: of the day, which may exceed its end."""
        local = datetime.combine(day, time()) + timedelta(minutes=minute)
        if not self.name:
            return round((local.replace(tzinfo=UTC) - timedelta(minutes=self.minutes)).timestamp()) * 1_000
        zone = ZoneInfo(self.name)
        return max(round(local.replace(tzinfo=zone, fold=fold).timestamp()) * 1_000 for fold in (0, 1))

    def local(self, at_ms: int) -> datetime:
        """The local time of a moment, without its zone; keeps whole milliseconds."""
        at = datetime.fromtimestamp(at_ms // 1_000, UTC) + timedelta(milliseconds=at_ms % 1_000)
        if self.name:
            return at.astimezone(ZoneInfo(self.name)).replace(tzinfo=None)
        return (at + timedelta(minutes=self.minutes)).replace(tzinfo=None)


UTC_ZONE: Final = Zone()


@dataclass(frozen=True, slots=True)
class Hours:
    """Outside these hours, an outage does not count."""

    from_minute: int
    """Minute of the day, inclusive."""
    to_minute: int
    """Minute of the day, exclusive; if not above `from_minute`: of the next day."""
    days: tuple[int, ...] = ()
    """Days on which the hours start, 0 is Monday; empty: every day."""

    @property
    def end_minute(self) -> int:
        """End, counted from the start of the first day."""
        return self.to_minute + (DAY_MINUTES if self.to_minute <= self.from_minute else 0)

    @property
    def minutes_of_week(self) -> frozenset[int]:
        return frozenset(
            (day * DAY_MINUTES + minute) % WEEK_MINUTES
            for day in (self.days or range(7))
            for minute in range(self.from_minute, self.end_minute)
        )

    def between(self, zone: Zone, from_ms: int, to_ms: int) -> Iterator[tuple[int, int]]:
        """Start and end of each period of these hours that overlaps a time, in order."""
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


WindowKind = Literal["outage", "maintenance", "force_majeure"]
KINDS: Final[tuple[WindowKind, ...]] = get_args(WindowKind)
DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Window:
    """A period in which a service was not available."""

    id: str
    service: str
    """Name as in the accounts."""
    from_ms: int
    to_ms: int
    site: str = ""
    """Empty: everywhere."""
    kind: WindowKind = "outage"
    users_permille: int = 1_000
    """Share of users affected; for display, no amount depends on it."""
    source: str = ""
    """The incident or file that it comes from."""
    place: Place = NOWHERE
    """Where it is written; not part of its value."""

    def to_data(self) -> dict[str, Any]:
        """Plain values, without the place."""
        return {
            "id": self.id,
            "service": self.service,
            "from_ms": self.from_ms,
            "to_ms": self.to_ms,
            "site": self.site,
            "kind": self.kind,
            "users_permille": self.users_permille,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class Correction:
    """A person changed a window, or removed it."""

    window: str
    who: str
    reason: str
    at_ms: int
    from_ms: int | None = None
    """None: unchanged."""
    to_ms: int | None = None
    removed: bool = False

    def to_data(self) -> dict[str, Any]:
        return {
            "window": self.window,
            "who": self.who,
            "reason": self.reason,
            "at_ms": self.at_ms,
            "from_ms": self.from_ms,
            "to_ms": self.to_ms,
            "removed": self.removed,
        }


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows as first recorded, and the corrections in order. Version 1 has no correction."""

    recorded: tuple[Window, ...]
    corrections: tuple[Correction, ...] = ()

    @property
    def version(self) -> int:
        return 1 + len(self.corrections)

    @property
    def now(self) -> tuple[Window, ...]:
        """The windows in force, sorted by service, site, time and id."""
        found = {window.id: window for window in self.recorded}
        for change in self.corrections:
            if change.removed:
                del found[change.window]
            else:
                found[change.window] = _corrected(found[change.window], change)
        return tuple(sorted(found.values(), key=lambda w: (w.service, w.site, w.from_ms, w.to_ms, w.id)))

    @property
    def digest(self) -> str:
        """Digest of the windows in force, regardless of their history."""
        return digest([window.to_data() for window in self.now])

    def corrected(self, change: Correction) -> Windows:
        """The next version. Raises InvalidInput for an inconsistent correction."""
        if not change.who.strip() or not change.reason.strip():
            raise InvalidInput(
                "correction-unsigned", "a correction needs a person and a reason", "add --who and --reason"
            )
        old = next((window for window in self.now if window.id == change.window), None)
        if old is None:
            raise InvalidInput(
                "window-unknown", f"there is no window {change.window[:80]}", "evac credit windows CASE"
            )
        made = Windows(self.recorded, (*self.corrections, change))
        found = problems_of(made.now)
        if found:
            raise InvalidInput(found[0].code, found[0].message, found[0].hint)
        if made.digest == self.digest:
            raise InvalidInput(
                "correction-empty",
                f"the correction does not change {change.window}",
                "give --from or --to",
            )
        return made


def _corrected(window: Window, change: Correction) -> Window:
    return replace(
        window,
        from_ms=window.from_ms if change.from_ms is None else change.from_ms,
        to_ms=window.to_ms if change.to_ms is None else change.to_ms,
    )


def moment(at_ms: int) -> str:
    """`2022-10-15T06:33:00Z`; milliseconds only if not zero."""
    at = datetime.fromtimestamp(at_ms / 1_000, UTC)
    spec = "milliseconds" if at_ms % 1_000 else "seconds"
    return at.isoformat(timespec=spec).replace("+00:00", "Z")


def problems_of(windows: Sequence[Window]) -> tuple[Diagnostic, ...]:
    """Windows that are reversed or empty, share an id, or overlap another one of the same service and site,
    which would record a minute twice, or both as an outage and as time that does not count.
    """
    found: list[Diagnostic] = []
    seen: dict[str, Window] = {}
    for window in windows:
        if window.id in seen:
            message = f"window {window.id} is listed twice, first at {seen[window.id].place}"
            hint = "give each its own ID"
            if seen[window.id].place == NOWHERE:
                message = f"window {window.id} is already in this case, with different values"
                hint = "give it another ID, or correct the first one: evac credit windows CASE --correct"
            found.append(Diagnostic("window-twice", message, window.place, hint=hint))
        seen.setdefault(window.id, window)
        if window.to_ms == window.from_ms:
            message = f"window {window.id} is empty: it begins and ends at {moment(window.from_ms)}"
            hint = "remove it, or correct from or to"
            found.append(Diagnostic("window-empty", message, window.place, hint=hint))
        elif window.to_ms < window.from_ms:
            message = (
                f"window {window.id} ends before it begins: from {moment(window.from_ms)} "
                f"to {moment(window.to_ms)}"
            )
            found.append(Diagnostic("window-reversed", message, window.place, hint="swap from and to"))
    ordered = sorted(windows, key=lambda w: (w.service, w.site, w.kind, w.from_ms, w.to_ms, w.id))
    for before, after in pairwise(ordered):
        same = (before.service, before.site, before.kind) == (after.service, after.site, after.kind)
        if same and after.from_ms < before.to_ms and after.id != before.id:
            message = (
                f"window {after.id} of {after.service} begins at {moment(after.from_ms)}, "
                f"before {before.id} ends at {moment(before.to_ms)}"
            )
            found.append(Diagnostic("window-overlap", message, after.place, hint="merge the two windows"))
    found += _of_two_kinds(windows)
    return tuple(sorted(found, key=lambda d: d.sort_key))


def _of_two_kinds(windows: Sequence[Window]) -> Iterator[Diagnostic]:
    """Windows that overlap one of another kind, so that it is unclear whether those minutes count."""
    last: dict[tuple[str, WindowKind], Window] = {}
    service = ""
    for window in sorted(windows, key=lambda w: (w.service, w.from_ms, w.to_ms, w.id)):
        if service != window.service:
            service, last = window.service, {}
        for (site, kind), before in last.items():
            meets = site == window.site or "" in (site, window.site)
            if kind != window.kind and meets and window.from_ms < before.to_ms:
                message = (
                    f"{window.kind.replace('_', ' ')} {window.id} of {window.service} begins at "
                    f"{moment(window.from_ms)}, but {before.kind.replace('_', ' ')} {before.id} ends only at "
                    f"{moment(before.to_ms)}"
                )
                hint = "windows of different kinds must not overlap: end one where the other begins"
                yield Diagnostic("window-overlap", message, window.place, hint=hint)
        key = (window.site, window.kind)
        if key not in last or last[key].to_ms < window.to_ms:
            last[key] = window


@dataclass(frozen=True, slots=True)
class Cycle:
    """A billing cycle: a calendar month in the zone of the rule set."""

    name: str
    """`2022-10`"""
    from_ms: int
    to_ms: int

    @property
    def length_ms(self) -> int:
        return self.to_ms - self.from_ms


def cycle_of(name: str, zone: Zone) -> Cycle:
    """The month `YYYY-MM`. Raises InvalidInput for any other text."""
    year, dash, month = name.partition("-")
    fits = (
        dash and len(year) == 4 and len(month) == 2 and (year + month).isascii() and (year + month).isdigit()
    )
    if not fits or not 1 <= int(month) <= 12 or not 1970 <= int(year) <= 9998:
        said = f"'{name[:40]}' is not a billing cycle"
        raise InvalidInput("cycle-invalid", said, "use a value like 2022-10")
    begin = date(int(year), int(month), 1)
    after = date(int(year) + int(month) // 12, int(month) % 12 + 1, 1)
    return Cycle(name, zone.at_ms(begin), zone.at_ms(after))


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merge overlapping or adjacent spans, in order."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((begin, end))
    return found


def spans_of(
    windows: Iterable[Window],
    service: str,
    site: str,
    excluded: Iterable[str],
    hours: Hours | None,
    zone: Zone,
) -> list[tuple[int, int]]:
    """When the service was down for accounts at a site, merged; only the parts within hours, if given. A
    window without a site applies everywhere.
    """
    left_out = frozenset(excluded)
    found = (
        (w.from_ms, w.to_ms)
        for w in windows
        if w.service == service and w.site in ("", site) and w.kind not in left_out
    )
    if hours is None:
        return merged(found)
    return merged(
        (max(begin, opens), min(end, shuts))
        for begin, end in found
        for opens, shuts in hours.between(zone, begin, end)
    )
