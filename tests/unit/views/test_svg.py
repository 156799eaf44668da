"""Charts: what is drawn where, in percentages, with words."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from evac.views import svg

SECONDS = st.floats(0, 400_000, allow_nan=False)


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def per_cent(value: str | None) -> float:
    assert value is not None
    return float(value.removesuffix("%"))


def test_round_times_have_short_names() -> None:
    names = [svg.clock(s) for s in (0, 45, 900, 7200, 5400, 3900, 172_800)]
    assert names == ["0", "45 s", "15 min", "2 h", "1.5 h", "1:05 h", "2 d"]


@given(SECONDS, st.floats(1, 400_000, allow_nan=False))
def test_ticks_are_few_even_and_inside(since: float, span: float) -> None:
    upto = since + span
    found = svg.ticks(upto, since)
    assert len(found) <= 14
    assert all(since - 1e-6 <= tick <= upto + 1e-6 for tick in found)
    assert len({round(b - a, 6) for a, b in pairwise(found)}) <= 1


@given(st.floats(0.001, 1e12, allow_nan=False))
def test_levels_are_at_most_three_above_nought(highest: float) -> None:
    found = svg.levels(highest)
    assert found[0] == 0
    assert 1 <= len(found) - 1 <= 3
    assert found[-1] <= highest * (1 + 1e-9)


@given(SECONDS, SECONDS, st.floats(1, 400_000, allow_nan=False))
def test_places_stay_on_the_chart_and_in_order(one: float, other: float, upto: float) -> None:
    first, second = (svg.place(s, upto) for s in sorted((one, other)))
    assert 0 <= first <= second <= 100 + 1e-9


def test_bars_stand_where_their_times_are() -> None:
    rows = [svg.Row("pay", (svg.Bar(30, 60, "start", "starts"),), limit=90)]
    tree = parsed(svg.gantt("g", "t", "d", rows, 120, 0))
    (bar,) = [e for e in tree.iter("rect") if e.get("class") == "start"]
    assert (per_cent(bar.get("x")), per_cent(bar.get("width"))) == (25, 25)
    (mark,) = [e for e in tree.iter("line") if e.get("class") == "limit"]
    assert per_cent(mark.get("x1")) == 75


def test_an_axis_that_begins_later_moves_the_bars() -> None:
    rows = [svg.Row("pay", (svg.Bar(60, 90, "start", "starts"),))]
    tree = parsed(svg.gantt("g", "t", "d", rows, 120, 60))
    (bar,) = [e for e in tree.iter("rect") if e.get("class") == "start"]
    assert (per_cent(bar.get("x")), per_cent(bar.get("width"))) == (0, 50)


def test_a_bar_without_length_can_still_be_seen() -> None:
    rows = [svg.Row("pay", (svg.Bar(30, 30, "verify", "v"),))]
    (bar,) = parsed(svg.gantt("g", "t", "d", rows, 120)).iter("rect")
    assert per_cent(bar.get("width")) > 0


def test_an_objective_beyond_the_axis_is_not_drawn() -> None:
    rows = [svg.Row("pay", (svg.Bar(0, 30, "start", "s"),), limit=999)]
    assert "limit" not in svg.gantt("g", "t", "d", rows, 120)


def test_names_are_escaped_and_long_ones_cut_with_the_whole_in_the_tooltip() -> None:
    name = '<script>alert("x")</script> & ' + "y" * 40
    rows = [svg.Row(name, (svg.Bar(0, 1, "start", name),))]
    text = svg.gantt("g", name, name, rows, 10)
    assert "<script" not in text
    (label,) = [e for e in parsed(text).iter("text") if e.get("class") == "label"]
    assert len(label.text or "") == svg.LABEL_LIMIT
    assert (label.text or "").endswith("…")
    assert label.findtext("title") == name


def test_shares_are_stacked_and_never_wider_than_the_whole() -> None:
    parts = (svg.Part(0.5, "used", "u"), svg.Part(0.25, "dark", "d"), svg.Part(0.75, "gone", "g"))
    tree = parsed(svg.shares("s", "t", "d", [svg.Shares("cpu", (parts,), "50 %")]))
    bars = [e for e in tree.iter("rect") if e.get("class") != "ground"]
    assert [per_cent(bar.get("x")) for bar in bars] == [0, 50, 75]
    assert sum(per_cent(bar.get("width")) for bar in bars) == 100


def path_of(
    points: tuple[tuple[float, float], ...], upto: float, highest: float
) -> list[tuple[float, float]]:
    """The corners of the drawn step function, back in seconds and values."""
    series = [svg.Series("people", "line", points)]
    (path,) = parsed(svg.curves("c", "t", "d", series, upto, highest)).iter("path")
    found = re.findall(r"M([\d.]+) ([\d.]+)|H([\d.]+)V([\d.]+)", path.get("d") or "")
    corners = [(float(a or c), float(b or d)) for a, b, c, d in found]
    return [(x * upto / svg.CURVE_WIDTH, highest * (1 - y / svg.CURVE_HEIGHT)) for x, y in corners]


def test_curves_turn_where_their_points_are() -> None:
    corners = path_of(((0, 100), (60, 40), (90, 0)), 100, 100)
    assert [(round(x), round(y)) for x, y in corners] == [(0, 100), (60, 40), (90, 0)]


def test_thousands_of_points_make_a_short_path() -> None:
    points = tuple((n / 100, float(20_000 - n)) for n in range(20_000))
    text = svg.curves("c", "t", "d", [svg.Series("p", "line", points)], 200, 20_000)
    assert len(text) < 20_000
    corners = path_of(points, 200, 20_000)
    assert abs(corners[len(corners) // 2][1] - 10_000) < 20


def test_an_area_is_closed_and_a_line_is_not() -> None:
    points = ((0.0, 1.0), (5.0, 0.0))
    series = [svg.Series("a", "area", points, True), svg.Series("l", "line", points)]
    area, line = parsed(svg.curves("c", "t", "d", series, 10, 1)).iter("path")
    assert (area.get("d") or "").endswith("Z")
    assert "Z" not in (line.get("d") or "")


def test_points_beyond_the_axis_are_left_out() -> None:
    assert path_of(((0, 10), (500, 0)), 100, 10) == [(0, 10)]
