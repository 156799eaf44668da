"""Of generated archives, whatever PostgreSQL needs to reach the newest state and does not find is named."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evac.drivers.pg_basebackup.driver import _route
from evac.drivers.postgres_log import Fork, forks, lsn_text, segment_at
from evac.drivers.postgres_timelines import SIZES, blocks, newest_timeline, route, sizes, unbroken

SIZE = 1 << 26
"""64 segments for each middle part of a name."""
BEGINS = 60
"""Number of the first segment: the middle part of the names changes among those that are generated."""


def segment(timeline: int, number: int) -> str:
    return f"{timeline:08X}{number // 64:08X}{number % 64:08X}"


def history(timeline: int) -> str:
    return f"{timeline:08X}.history"


class Archive:
    """A cluster's archive. histories: of each later timeline, where it and those before it were left."""

    def __init__(self, data: st.DataObject) -> None:
        self.histories: dict[int, tuple[Fork, ...]] = {1: ()}
        self.ends: dict[int, int] = {}
        self.names: set[str] = set()
        begins = {1: BEGINS * SIZE}
        for timeline in range(2, data.draw(st.integers(1, 4)) + 1):
            parent = data.draw(st.integers(1, timeline - 1))
            border = data.draw(st.booleans())
            within = 0 if border else data.draw(st.integers(1, SIZE - 1))
            segments = data.draw(st.integers(0, 3))
            begins[timeline] = max(begins[parent], (begins[parent] // SIZE + segments) * SIZE + within)
            self.histories[timeline] = (*self.histories[parent], Fork(parent, begins[timeline]))
            self.ends[parent] = max(self.ends.get(parent, 0), begins[timeline] // SIZE)
        self.newest = max(self.histories)
        for timeline, at in begins.items():
            end = max(self.ends.get(timeline, 0), at // SIZE) + data.draw(st.integers(0, 3))
            self.names |= {segment(timeline, number) for number in range(at // SIZE, end)}
            self.names |= {history(timeline)} if timeline > 1 else set()
        start = data.draw(st.sampled_from(sorted(begins)))
        first = begins[start] // SIZE + data.draw(st.integers(0, 2))
        self.brought = [segment(start, first + more) for more in range(data.draw(st.integers(1, 2)))]

    def replayed(self, names: Collection[str]) -> list[str] | None:
        """What PostgreSQL reads of these files (`XLogFileReadAnyTLI`). None: it refuses them."""
        newest = start = int(self.brought[0][:8], 16)
        while history(newest + 1) in names:
            newest += 1
        number, last = (
            int(one[8:16], 16) * 64 + int(one[16:], 16) for one in (self.brought[0], self.brought[-1])
        )
        before = self.histories[newest]
        left = [one.position for one in before if one.timeline == start]
        if newest != start and (not left or left[0] // SIZE < last):
            return None
        begin = dict(zip([one.timeline for one in before[1:]] + [newest], before, strict=False))
        current, read = 0, list[str]()
        while True:
            for timeline in [newest, *(one.timeline for one in reversed(before))]:
                begins = begin[timeline].position // SIZE if timeline in begin else 0
                if timeline < max(current, start) or number < begins:
                    continue
                name = segment(timeline, number)
                if name in names or name in self.brought:
                    read.append(name if name in names else f"the backup's {name}")
                    current = timeline
                    break
            else:
                return read
            number += 1

    def problems(self, names: Collection[str]) -> tuple[str, ...]:
        newest, hidden = newest_timeline(int(self.brought[0][:8], 16), names)
        if hidden:
            return (f"{hidden} is missing",)
        return route(self.brought, names, newest, self.histories[newest], SIZE).problems


@given(st.data())
def test_one_missing_file_that_a_restore_needs_is_named(data: st.DataObject) -> None:
    made = Archive(data)
    whole = made.replayed(made.names)
    found = made.problems(made.names)
    if whole is None:
        assert found, "PostgreSQL refuses to start"
        return
    assume(not found)
    end = whole[-1:]  # without it, the archive is one that was written until shortly before
    for name in sorted(made.names):
        fewer = made.names - {name}
        problems = made.problems(fewer)
        if made.replayed(fewer) == whole:
            assert problems == () or name.endswith("history"), f"nothing needs {name}"
        elif name == history(made.newest) and not any(one.startswith(f"{made.newest:08X}0") for one in fewer):
            continue  # nor is anything else known of the newest timeline
        elif name not in end and name not in made.brought[:-1]:
            assert len(problems) == 1, name
            assert name in problems[0]


def timeline_two(*numbers: int) -> list[str]:
    return [history(2), *(segment(2, number) for number in numbers)]


@pytest.mark.parametrize(
    ("names", "gone"),
    [
        ([segment(1, 10), *timeline_two(12, 13)], segment(1, 11)),
        ([segment(1, 10), segment(1, 11), *timeline_two(13)], segment(2, 12)),
        ([segment(1, 10), segment(1, 11), segment(1, 12), *timeline_two()], segment(2, 12)),
        (timeline_two(12, 13), segment(1, 10)),
        (timeline_two(), segment(1, 10)),
        ([segment(1, 10), segment(1, 11), segment(2, 12)], history(2)),
        ([segment(1, 10), segment(1, 11), history(3)], history(2)),
        ([segment(1, 10), segment(1, 11), *timeline_two(12)], ""),
        ([segment(1, 10), segment(1, 11), *timeline_two()], ""),
        ([], ""),
    ],
)
@pytest.mark.parametrize("within", [0, 1, SIZE - 1])
def test_a_gap_at_the_change_of_a_timeline_is_named(
    names: list[str], gone: str, within: int, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_text(f"1\t0/{12 * SIZE + within:X}\tno recovery target specified\n")
    found = _route(tmp_path, [segment(1, 10)], SIZE).problems
    assert found == (
        (f"the {'file' if '.' in gone else 'segment'} {gone} of the archived WAL is missing",) if gone else ()
    )


@pytest.mark.parametrize(
    "content", ["1\t0/30000000\n0\t0/40000000\n", "2\t0/30000000\n", "1 0/x\n", "lost\n"]
)
def test_an_unreadable_history_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / history(2)).write_text(content)
    (found,) = _route(tmp_path, [segment(1, 10)], SIZE).problems
    assert found.startswith(f"the file {history(2)} of the archived WAL cannot be read")


def test_a_timeline_that_left_before_the_backup_is_named(tmp_path: Path) -> None:
    for content in (f"1\t0/{9 * SIZE:X}\tearlier\n", "# nothing\n"):
        (tmp_path / history(2)).write_text(content)
        (found,) = _route(tmp_path, [segment(1, 10)], SIZE).problems
        assert found == f"timeline 2 of the archived WAL does not continue the backup: see {history(2)}"


@given(st.text(max_size=200), st.integers(2, 9))
def test_any_text_is_a_history_or_is_refused(content: str, timeline: int) -> None:
    try:
        found = forks(timeline, content)
    except ValueError:
        return
    assert all(one.timeline < timeline for one in found)


@given(st.sampled_from(SIZES), st.integers(0, 2**48), st.integers(1, 9))
def test_the_size_of_a_segment_follows_from_a_position_in_it(size: int, at: int, timeline: int) -> None:
    """Only a position in the first segment of its 4 GiB has several."""
    name = segment_at(timeline, at, size)
    found = sizes(name, lsn_text(at))
    assert size in found
    assert found == (size,) or name.endswith("00000000")


def test_segments_are_cut_at_gaps_and_timelines() -> None:
    names = [segment(1, 63), segment(1, 64), segment(1, 66), segment(2, 67)]
    assert unbroken(names, SIZE) == [names[:2], names[2:3], names[3:]]


@given(st.integers(0, 300), st.integers(1, 200), st.integers(1, 5), st.integers(0, 99))
def test_the_parts_of_a_rotation_share_the_archive_also_while_it_grows(
    first: int, count: int, of: int, more: int
) -> None:
    run = [segment(1, first + number) for number in range(count + more)]
    seen = [
        name
        for part in range(of)  # the archive is complete only for the last part
        for block, names, ends in blocks(run[: count + more * (part + 1) // of], SIZE, 64)
        for name in names
        if block % of == part
        and ends in (segment(1, int(names[-1][8:16], 16) * 64 + int(names[-1][16:], 16) + 1), names[-1])
    ]
    assert {*run[:count]} <= {*seen}
    assert len({*seen}) == len(seen)
