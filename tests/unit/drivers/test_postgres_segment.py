"""Every bit of a log segment outside its records is compared, wherever records begin, break and end."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from evac.drivers.pg_basebackup.segment import (
    HEADER_BYTES,
    LONG_HEADER_BYTES,
    PAGE_BYTES,
    RECORD_HEADER_BYTES,
    stray_byte,
)

PAGES = 4
TIMELINE = 3
LENGTHS = st.lists(st.integers(RECORD_HEADER_BYTES, 9_000), max_size=40)


class Segment:
    """A segment as PostgreSQL writes it. free: bytes outside records that pg_waldump does not check."""

    def __init__(self, rest: int, lengths: list[int], switch: bool) -> None:
        self.content, self.at = bytearray(PAGES * PAGE_BYTES), 0
        self.free: set[int] = set()
        self._write(b"\xab" * rest, continued=True)
        for length in lengths:
            self._write(struct.pack("=I", length) + b"\xab" * (length - 4))
        is_room = self.at + RECORD_HEADER_BYTES < len(self.content)
        if switch and is_room:
            self._write(struct.pack("=IIQBB", RECORD_HEADER_BYTES, 0, 0, 0x40, 0) + bytes(6))
            self.free |= set(range(self.at, len(self.content)))

    def _write(self, record: bytes, continued: bool = False) -> None:
        aligned = self.at + -self.at % 8
        self.free |= set(range(self.at, aligned))
        self.at = aligned
        while self.at == 0 or (record and self.at < len(self.content)):
            if self.at % PAGE_BYTES == 0:
                self._page(len(record) if continued else 0)
            part = record[: PAGE_BYTES - self.at % PAGE_BYTES]
            self.content[self.at : self.at + len(part)] = part
            self.at, record, continued = self.at + len(part), record[len(part) :], True

    def _page(self, rest: int) -> None:
        page, flags = self.at, 0x01 if rest else 0
        struct.pack_into("=HHIQII", self.content, page, 0xD110, flags, TIMELINE, page, rest, 0)
        self.free |= {*range(page + 4, page + 8), *range(page + 16, page + HEADER_BYTES)}
        self.at += HEADER_BYTES if page else LONG_HEADER_BYTES


@given(st.integers(0, 20_000), LENGTHS, st.booleans(), st.data())
def test_a_flipped_bit_outside_records_is_found(
    rest: int, lengths: list[int], switch: bool, data: st.DataObject
) -> None:
    made = Segment(rest, lengths, switch)
    assert stray_byte(bytes(made.content), TIMELINE) is None
    at = data.draw(st.sampled_from(sorted(made.free)))
    made.content[at] ^= 1 << data.draw(st.integers(0, 7))
    found = stray_byte(bytes(made.content), TIMELINE)
    if at % PAGE_BYTES in range(4, 8) and 0 < made.content[at - at % PAGE_BYTES + 4] < TIMELINE:
        return  # a page that was copied from an earlier timeline
    assert found is not None
    assert found // PAGE_BYTES == at // PAGE_BYTES


@given(st.binary(max_size=3 * PAGE_BYTES), st.integers(1, 5))
def test_any_bytes_are_read_to_their_end(content: bytes, timeline: int) -> None:
    found = stray_byte(content, timeline)
    assert found is None or 0 <= found < len(content)


def test_a_record_lost_in_a_crash_is_replaced_on_the_next_page() -> None:
    made = Segment(0, [PAGE_BYTES], switch=False)
    del made.content[PAGE_BYTES:]
    again = Segment(0, [200], switch=True)
    page = bytearray(again.content[:PAGE_BYTES])
    page[HEADER_BYTES:] = page[LONG_HEADER_BYTES:] + bytes(LONG_HEADER_BYTES - HEADER_BYTES)
    struct.pack_into("=H", page, 2, 0x08)
    content = bytes(made.content + page)
    assert stray_byte(content, TIMELINE) is None
    struct.pack_into("=H", page, 2, 0)
    assert stray_byte(bytes(made.content + page), TIMELINE) == PAGE_BYTES
