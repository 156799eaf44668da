"""PostgreSQL's log as its files name it: positions, segments, and the timelines before one."""

from __future__ import annotations

import re
from typing import Final

from evac.model.records import dataclass

TIMELINE_LETTERS: Final = 8
_FORK: Final = re.compile(r"\s*(\d{1,10})\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a timeline was left for the next one: a position in the log."""

    timeline: int
    position: int


def lsn_text(lsn: int) -> str:
    """4294967298 -> 1/2."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """1/2 -> 4294967298. Raises `ValueError`."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def segment_name(timeline: int, number: int, size: int) -> str:
    """The file of a segment. number: in the whole log; size: of a segment, in bytes."""
    each = (1 << 32) // size
    return f"{timeline:08X}{number // each:08X}{number % each:08X}"


def segment_at(timeline: int, lsn: int, size: int) -> str:
    """The file that contains the byte at `lsn`."""
    return segment_name(timeline, lsn // size, size)


AFTER_TIMELINE: Final = slice(8, 24)
"""The part of a segment's name after its timeline."""


def timeline_of(name: str) -> int:
    return int(name[:TIMELINE_LETTERS], 16)


def history_name(timeline: int) -> str:
    return f"{timeline:08X}.history"


def forks(timeline: int, history: str) -> tuple[Fork, ...]:
    """The timelines before one, by its history file, oldest first. Raises ValueError for other content."""
    lines = [line for line in history.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = [_FORK.match(line) for line in lines]
    listed = tuple(Fork(int(one[1]), lsn_number(one[2])) for one in found if one)
    ids = [*(one.timeline for one in listed), timeline]
    positions = [one.position for one in listed]
    if len(listed) < len(lines) or sorted({*ids}) != ids or sorted(positions) != positions:
        raise ValueError("it does not list timelines in order")
    return listed
