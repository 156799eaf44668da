"""What surrounds the records in a segment of PostgreSQL's log: page headers, padding, and the unused end.

pg_waldump compares the checksum of every record. No checksum covers the bytes around them, so these are
compared with what PostgreSQL writes there (`access/xlog_internal.h`): nearly all of them are zeros.
"""

from __future__ import annotations

import struct
from typing import Final

PAGE_BYTES: Final = 8_192
LONG_HEADER_BYTES: Final = 40
HEADER_BYTES: Final = 24
RECORD_HEADER_BYTES: Final = 24
ALIGNMENT: Final = 8
CONTINUES: Final = 0x01
"""Flag of a page that begins with the rest of a record."""
OVERWRITES: Final = 0x08
"""Flag of a page that replaces the rest of a record, which was lost in a crash."""
_HEADER: Final = struct.Struct("=HHIQII")
"""Magic number, flags, timeline, position, rest of a record, and padding."""
_LENGTH: Final = struct.Struct("=I")
_KIND_AT: Final = 16
"""Offset of a record's kind and its resource manager."""
_SWITCH: Final = 0x40


def stray_byte(content: bytes, timeline: int) -> int | None:
    """Offset of a byte outside all records that PostgreSQL did not write like this; None if there is none.

    Reads up to the first place without a record. Lengths of records are trusted: pg_waldump checks them.
    timeline: of the segment. The flag of a page that allows compression is not checked: both values are
    valid.
    """
    left = _rest(content)
    before = 1
    for page in range(0, len(content), PAGE_BYTES):
        at = page + (HEADER_BYTES if page else LONG_HEADER_BYTES)
        end = min(page + PAGE_BYTES, len(content))
        if end - page < LONG_HEADER_BYTES:
            return page
        _, flags, its_timeline, _, rest, padding = _HEADER.unpack_from(content, page)
        left = 0 if flags & OVERWRITES else left
        if (rest, bool(flags & CONTINUES), padding) != (left, left > 0, 0):
            return page
        if not before <= its_timeline <= timeline:
            return page
        before = its_timeline
        while True:
            taken = min(left, end - at)
            at, left = at + taken, left - taken
            if left:
                break
            aligned = at + -at % ALIGNMENT
            if any(content[at:aligned]):
                return at
            if (at := aligned) >= end:
                break
            (left,) = _LENGTH.unpack_from(content, at)
            if left < RECORD_HEADER_BYTES:
                return None
            if _is_switch(content, at, end):
                return _after_switch(content, at, end)
    return None


def _rest(content: bytes) -> int:
    """The length of what a segment continues of a record in the previous one."""
    if len(content) < LONG_HEADER_BYTES:
        return 0
    _, flags, _, _, rest, _ = _HEADER.unpack_from(content)
    return int(rest) if flags & CONTINUES else 0


def _is_switch(content: bytes, at: int, end: int) -> bool:
    """Whether the record at an offset ends the segment. end: that of its page, where a record may be cut."""
    kind = at + _KIND_AT
    if kind >= end:
        kind += HEADER_BYTES
    return content[kind : kind + 2] == bytes((_SWITCH, 0))


def _after_switch(content: bytes, at: int, end: int) -> int | None:
    """Offset of the first byte after a switch that is not zero."""
    after = at + RECORD_HEADER_BYTES
    if after > end:
        after += HEADER_BYTES
    unused = content[after:]
    return after + len(unused) - len(unused.lstrip(b"\0")) if any(unused) else None
