"""The picture of capacity before and after: what it says in words, and that its bars stay on the ground."""

from __future__ import annotations

import re

from evac.views.plan_charts import bar, both, bottleneck

ROWS = [
    bar("east", "cpu_millicores", 100, 54, 49, 48, 100),
    bar("east", "memory", 100, 47, 44, 40, 90),
    bar("north", "cpu", 100, 71, 0, 0, 0),
]


def test_it_says_in_words_what_it_shows() -> None:
    wide, narrow = both(ROWS)
    for picture in (wide, narrow):
        assert "east CPU: 54 % before, 97 % after" in picture
        assert "east Memory: 47 % before, 93 % after" in picture
        assert "north CPU: 71 % before, lost after" in picture
        assert ' style="' not in picture
    assert bottleneck(ROWS) == "CPU at east, 97 %"


def test_bars_never_leave_their_ground() -> None:
    (picture, _) = both([bar("east", "cpu", 100, 54, 60, 70, 80)])
    for x, width in re.findall(r'<rect class="f-\w+" x="([\d.]+)" y="\d+" width="([\d.]+)"', picture):
        assert 172 <= float(x) <= float(x) + float(width) <= 172 + 390 + 0.1


def test_nothing_is_drawn_of_nothing() -> None:
    assert both([]) == ("", "")
    assert bottleneck([ROWS[2]]) == ""
