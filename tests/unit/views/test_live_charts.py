"""Who is without a service over time, and the pictures of it."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from evac.model.plan import Outcome
from evac.views.live_charts import (
    HALF,
    NARROW,
    GanttBar,
    GanttRow,
    curve,
    gantt,
    impact_of,
    short,
    table_rows,
)

LOST = 1_790_000_000_000
BEGUN = LOST + 15_000
NOW = LOST + 100_000


def outcome(service: str, people: int, base_ms: int | None = 60_000, state: str = "restored") -> Outcome:
    back = None if base_ms is None else base_ms + 15_000
    return Outcome(service, state, base_ms, base_ms, 60_000, 60_000, back, 300_000, people, 1)  # type: ignore[arg-type]


OUTCOMES = (
    outcome("pay", 20_000_000),
    outcome("talk", 40_000_000),
    outcome("mail", 8_000_000, None, "unplaced"),
    outcome("ads", 0, None, "shed"),
)
FOUND = impact_of(OUTCOMES, frozenset(), LOST, BEGUN, {"pay": LOST + 80_000}, {"talk": LOST + 130_000}, NOW)


def test_people_fall_with_each_service_that_is_back_and_what_the_plan_leaves_stays() -> None:
    assert (FOUND.peak, FOUND.people_now, FOUND.people_left) == (68_000_000, 48_000_000, 8_000_000)
    assert FOUND.planned == ((LOST, 68_000_000), (BEGUN, 68_000_000), (BEGUN + 60_000, 8_000_000))
    assert FOUND.expected[-1] == (LOST + 130_000, 8_000_000)
    assert FOUND.end_ms == LOST + 130_000
    assert [one.service for one in FOUND.down] == ["talk", "ads", "mail"]


def test_the_curve_says_in_words_what_it_shows_and_stays_within_its_frame() -> None:
    for width in (HALF, NARROW):
        svg = curve(FOUND, (LOST + 50_000, NOW), "c", width, 200)
        title = re.search(r"<title[^>]*>(.*?)</title>", svg)
        assert title is not None
        assert "68 million at most" in title[1]
        assert "48 million now" in title[1]
        assert "style=" not in svg
        assert all(0 <= float(x) <= width for x in re.findall(r'[" ]x="([\d.-]+)"', svg))
    rows = table_rows(FOUND)
    assert [row["service"] for row in rows] == ["pay", "talk", "ads", "mail"]
    assert rows[1]["when"].endswith("expected")
    assert rows[1]["left"] == "8 M"
    assert rows[3]["when"] == "not in this plan"


def test_what_survives_and_is_moved_is_down_from_when_its_replicas_go() -> None:
    moved = Outcome("ads", "restored", 60_000, 60_000, 20_000, 20_000, 20_000, 300_000, 7, 1)

    def seen(begun_ms: int, after_ms: int) -> list[int]:
        found = impact_of(
            (moved,), frozenset(), LOST, begun_ms, {}, {"ads": BEGUN + 60_000}, BEGUN + after_ms
        )
        return [one.since_ms for one in found.services]

    assert seen(0, 0) == seen(BEGUN, 39_000) == []
    assert seen(BEGUN, 40_000) == [BEGUN + 40_000]


@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(2, 24)), min_size=2, max_size=5),
    st.sampled_from([HALF, NARROW, 1_100]),
)
def test_names_of_services_never_cover_each_other(services: list[tuple[int, int]], width: int) -> None:
    """services: seconds from now on, and letters of the name."""
    names = {f"{n}{'w' * (letters - 1)}": NOW + after * 1_000 for n, (after, letters) in enumerate(services)}
    down = tuple(outcome(name, 5_000_000 * 3**n) for n, name in enumerate(names))
    svg = curve(impact_of(down, frozenset(), LOST, BEGUN, {}, names, NOW), None, "c", width, 200)
    drawn = re.findall(r'<text class="over (end)?" x="([\d.]+)" y="([\d.]+)"><tspan class="t1">(\w+)<', svg)
    spans = []
    for end, x, y, name in drawn:
        wide = 6 * (len(name) + 9)
        begin = float(x) - (wide if end else 0)
        spans.append((begin, begin + wide, float(y)))
    assert len(spans) == min(3, len(names)) or width == NARROW
    for n, (begin, end, y) in enumerate(spans):
        assert all(end <= first or last <= begin or abs(y - row) > 12 for first, last, row in spans[:n])
        assert y < 200


def test_a_gantt_row_shows_what_waits_and_what_is_still_to_come() -> None:
    row = GanttRow(
        "pay",
        ((BEGUN, BEGUN + 30_000),),
        (GanttBar("fence", (BEGUN, BEGUN + 9_000), "fence <old>"),),
        waiting=(BEGUN + 9_000, NOW),
        expected=(NOW, NOW + 20_000),
        note="waits for a person",
    )
    for narrow in (False, True):
        svg = gantt([row], (BEGUN, NOW + 30_000), NOW, "g", "Steps & services", narrow)
        assert 'class="f-fence"' in svg
        assert 'class="planbar"' in svg
        assert 'class="coming s-start"' in svg
        assert "waits for a person" in svg
        assert "fence &lt;old&gt;" in svg
        assert "Steps &amp; services" in svg
    assert 'class="now"' not in gantt([row], (BEGUN, NOW), 0, "g", "over")


def test_figures_of_an_axis_are_short() -> None:
    assert [short(n) for n in (7, 32_000, 1_940_000, 8_000_000)] == ["7", "32 k", "1.9 M", "8 M"]
