"""Local time with UTC next to it, a date where it is not today, and zones without letters."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from evac.model.errors import InvalidInput
from evac.model.wall_clock import WallClock, wall_clock

SEOUL = wall_clock("Asia/Seoul")


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


NOW = ms("2026-11-13T18:30")


def test_local_time_comes_first_and_utc_next_to_it() -> None:
    assert SEOUL.both(ms("2026-11-13T18:18"), NOW) == "03:18 KST (18:18 UTC)"
    assert SEOUL.both(ms("2026-11-13T18:18:07"), NOW, seconds=True) == "03:18:07 KST (18:18:07 UTC)"
    assert WallClock().both(ms("2026-11-13T18:18"), NOW) == "18:18 UTC"


def test_a_moment_of_another_day_has_its_date_in_both() -> None:
    assert SEOUL.both(ms("2026-11-12T20:00"), NOW) == "2026-11-13 05:00 KST (2026-11-12 20:00 UTC)"
    assert SEOUL.both(ms("2026-11-12T02:00"), NOW) == "2026-11-12 11:00 KST (02:00 UTC)"
    assert SEOUL.local(ms("2026-11-13T14:59"), NOW) == "2026-11-13 23:59 KST"


def test_a_zone_without_letters_is_named_by_its_distance() -> None:
    assert wall_clock("America/Sao_Paulo").local(NOW, NOW) == "15:30 UTC-03:00"
    assert wall_clock("Asia/Kolkata").offset(NOW) == "UTC+5:30"
    assert SEOUL.offset(NOW) == "UTC+9"


@pytest.mark.parametrize("name", ["Asia/Nowhere", "../etc/passwd", "x" * 300])
def test_an_unknown_zone_is_named_before_anything_starts(name: str) -> None:
    with pytest.raises(InvalidInput, match="there is no time zone"):
        wall_clock(name)
