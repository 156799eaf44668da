"""Which archived log PostgreSQL reads when it recovers a backup to the newest timeline.

It counts upwards from the backup's own timeline until a history file is missing. The newest file that it
finds names the timelines before it, and where each of them ended. A segment with such an end is read on the
later timeline, which begins with a copy of it. Where a segment is missing, recovery ends without an error,
and the data is older.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import takewhile
from typing import Final

from evac.drivers.postgres_log import (
    Fork,
    forks,
    history_name,
    lsn_number,
    segment_at,
    segment_name,
    timeline_of,
)
from evac.model.records import dataclass

SEGMENT: Final = re.compile(r"[0-9A-F]{24}")
SIZES: Final = tuple(1 << bits for bits in range(20, 31))
"""The sizes that a segment can have."""
_HISTORY: Final = re.compile(r"[0-9A-F]{8}\.history")


@dataclass(frozen=True, slots=True)
class Route:
    """Archived segments that PostgreSQL reads, in order, and what is missing among them."""

    segments: tuple[str, ...]
    problems: tuple[str, ...] = ()
    size: int = 1
    """Bytes of a segment."""


def number_of(name: str, size: int) -> int:
    """The number of a segment in the whole log. size: of a segment."""
    return int(name[8:16], 16) * ((1 << 32) // size) + int(name[16:], 16)


def unbroken(names: Sequence[str], size: int) -> list[list[str]]:
    """Sorted segments, cut where one is missing and where a timeline ends."""
    runs: list[list[str]] = []
    for name in names:
        if runs and name == _after(runs[-1][-1], size):
            runs[-1].append(name)
        else:
            runs.append([name])
    return runs


def _after(name: str, size: int) -> str:
    return segment_name(timeline_of(name), number_of(name, size) + 1, size)


def blocks(run: Sequence[str], size: int, each: int) -> Iterator[tuple[int, Sequence[str], str]]:
    """Numbered blocks of segments that follow one another, each with the segment in which its last record may
    end.
    """
    begin = 0
    while begin < len(run):
        number = number_of(run[begin], size)
        end = min(len(run), begin + each - number % each)
        yield number // each, run[begin:end], run[min(end, len(run) - 1)]
        begin = end


def newest_timeline(start: int, names: Collection[str]) -> tuple[int, str]:
    """The newest timeline that PostgreSQL finds from an earlier one, and the history file whose lack hides
    later ones from it; empty if none does. names: of all archived files.
    """
    found = start
    while history_name(found + 1) in names:
        found += 1
    later = (timeline_of(one) for one in names if SEGMENT.fullmatch(one) or _HISTORY.fullmatch(one))
    return found, history_name(found + 1) if max(later, default=0) > found else ""


def sizes(name: str, position: str) -> tuple[int, ...]:
    """The sizes of a segment with which one of this name contains a position such as `0/6000028`. Raises
    ValueError for anything else.
    """
    at = lsn_number(position)
    return tuple(size for size in SIZES if segment_at(timeline_of(name), at, size) == name)


def route_to_end(brought: Sequence[str], names: Collection[str], history: str, size: int) -> Route:
    """As `route`. history: the content of the newest timeline's file, if that is not the backup's own."""
    start = timeline_of(brought[-1])
    newest, hidden = newest_timeline(start, names)
    if hidden:
        return Route((), (f"the file {hidden} of the archived WAL is missing",))
    try:
        before = forks(newest, history) if newest != start else ()
    except ValueError as error:
        words = f"the file {history_name(newest)} of the archived WAL cannot be read: {error}"
        return Route((), (words,))
    return route(brought, names, newest, before, size)


def route(
    brought: Sequence[str], names: Collection[str], newest: int, before: Sequence[Fork], size: int
) -> Route:
    """The segments that lead from a backup to the end of the newest timeline. brought: those in the backup;
    the last may lack its end. before: the timelines before the newest.
    """
    start, at = timeline_of(brought[-1]), number_of(brought[-1], size)
    legs = [one for one in before if one.timeline >= start]
    if newest != start and (not legs or legs[0].timeline != start or legs[0].position // size < at):
        words = f"timeline {newest} of the archived WAL does not continue the backup"
        return Route((), (f"{words}: see {history_name(newest)}",))
    read = [name for name in brought[:-1] if name in names]
    missing: list[str] = []
    for leg in legs:
        end = leg.position // size
        found = _present(leg.timeline, at, end, names, size)
        read += found
        if len(found) < end - at:
            missing.append(segment_name(leg.timeline, at + len(found), size))
        at = end
    numbers = [(timeline_of(one), number_of(one, size)) for one in names if SEGMENT.fullmatch(one)]
    last = max((number for timeline, number in numbers if timeline == newest), default=-1)
    # Without the newest timeline's own segment, PostgreSQL reads what the earlier one wrote after its end.
    strays = {one.timeline for one in legs}
    if last < at and any(timeline in strays and number >= at for timeline, number in numbers):
        last = at
    found = _present(newest, at, last + 1, names, size)
    if last >= at + len(found):
        missing.append(segment_name(newest, at + len(found), size))
    problems = tuple(f"the segment {name} of the archived WAL is missing" for name in missing)
    return Route((*read, *found), problems, size)


def _present(timeline: int, at: int, end: int, names: Collection[str], size: int) -> list[str]:
    """Segments from a number on, up to the first that is missing."""
    wanted = (segment_name(timeline, number, size) for number in range(at, end))
    return list(takewhile(lambda name: name in names, wanted))
