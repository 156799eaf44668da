"""The drawing of a dependency graph: who needs whom stands in order, and nothing covers anything."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from evac.web.pages.what_if_graph import HEIGHT, Arrow, Box, drawing

Graph = tuple[tuple[int, int], ...]
GRAPHS: dict[str, Graph] = {
    "a chain": ((0, 1), (1, 2)),
    "a long way beside a short one": ((0, 1), (1, 2), (2, 3), (0, 3)),
    "a circle": ((0, 1), (1, 2), (2, 0), (2, 3)),
    "two that know nothing of each other": ((0, 1), (2, 3)),
    "one alone": (),
    "many on one": tuple((n, 12) for n in range(12)),
}


def places(svg: str) -> list[tuple[float, float, float]]:
    """(x, y, width) of the boxes."""
    found = re.findall(r'class="box" x="([\d.]+)" y="([\d.]+)" width="(\d+)"', svg)
    return [(float(x), float(y), float(wide)) for x, y, wide in found]


def drawn(graph: Graph) -> str:
    count = max((max(pair) for pair in graph), default=0) + 1
    boxes = [Box(f"service-{n}", "stands", "ok", address=f"/of={n}") for n in range(count)]
    return drawing("g", "Title", "Told.", boxes, [Arrow(a, b) for a, b in graph])


@pytest.mark.parametrize("name", GRAPHS)
def test_every_box_and_arrow_is_there_and_none_covers_another(name: str) -> None:
    svg, graph = drawn(GRAPHS[name]), GRAPHS[name]
    boxes = places(svg)
    assert len(boxes) == max((max(pair) for pair in graph), default=0) + 1
    assert svg.count('class="arrow"') == len(graph)
    for (x, y, wide), (other_x, other_y, _) in combinations(boxes, 2):
        assert abs(y - other_y) >= HEIGHT or abs(x - other_x) >= wide
    assert drawn(graph) == svg


def test_what_is_needed_stands_to_the_right() -> None:
    svg = drawn(GRAPHS["a long way beside a short one"])
    order = re.findall(r'<text class="name" x="([\d.]+)"[^>]*>([\w-]+)<', svg)
    at = {name: float(x) for x, name in order}
    assert at["service-0"] < at["service-1"] < at["service-2"] < at["service-3"]


def test_names_are_words_and_never_markup() -> None:
    boxes = [Box("<b>", "a&b", "error", why='"x"'), Box("", "w" * 400, "cause", reason=True)]
    svg = drawing("g", "<i>", "t", boxes, [Arrow(0, 1)])
    assert "<b>" not in svg
    assert "<i>" not in svg
    assert "&lt;b&gt;: a&amp;b; &quot;x&quot;" in svg
