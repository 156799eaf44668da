"""A dependency graph as SVG: boxes in columns, arrows to what each needs, and words in every box.

Where boxes stand is decided by fast-sugiyama, the layered layout of Sugiyama, Tagawa and Toda (1981) with
the placement of Brandes and Koepf (2002); this module draws. Colours are CSS classes and never alone: a
state is said in words. Every box with an address is a link, so that a keyboard reaches it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

BOXES_MOST: Final = 60
WIDTH: Final = 216
WIDE: Final = 280
HEIGHT: Final = 58
GAP: Final = 54
PITCH: Final = 70
EDGE: Final = 4
LETTERS: Final = 26
LETTERS_OF_REASON: Final = 38
LINES: Final = 3
_UNIT: Final = 1.0


@dataclass(frozen=True, slots=True)
class Box:
    """name: first line; words: what is said of it; state: its class. reason: it stands at the end of chains
    and has words alone. address: where it leads, "" nowhere. strong: it is the one that was asked about. why:
    a third line, what it comes from.
    """

    name: str
    words: str
    state: str
    reason: bool = False
    address: str = ""
    strong: bool = False
    why: str = ""

    @property
    def told(self) -> str:
        """All that it says, for who cannot see it."""
        if self.reason:
            return self.words
        return f"{self.name}: {self.words}{'; ' if self.why else ''}{self.why}"


@dataclass(frozen=True, slots=True)
class Arrow:
    """From a box to one it needs, by their numbers. soft: it could do without."""

    begin: int
    end: int
    soft: bool = False


_Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Places:
    """Where boxes stand, and the points that each arrow passes, by (begin, end); columns and rows."""

    boxes: Mapping[int, _Point]
    ways: Mapping[tuple[int, int], tuple[_Point, ...]]
    columns: int
    rows: float


def drawing(name: str, title: str, told: str, boxes: Sequence[Box], arrows: Sequence[Arrow]) -> str:
    """The graph; told: what it says in one sentence. Deterministic. At most `BOXES_MOST` boxes are meant."""
    places = _placed(len(boxes), arrows)
    reasons = {round(at[0]) for n, at in places.boxes.items() if boxes[n].reason}
    lefts, whole = _columns(places.columns, reasons)
    height = round((places.rows + 1) * PITCH - (PITCH - HEIGHT) + 2 * EDGE)
    lines = [
        f'<svg role="group" aria-labelledby="{name}-t {name}-d" class="graph" width="{whole}" '
        f'height="{height}" viewBox="0 0 {whole} {height}">',
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(told)}</desc>',
    ]
    for arrow in arrows:
        lines.append(_arrow(arrow, places.ways[arrow.begin, arrow.end], lefts, reasons))
    for number in sorted(places.boxes, key=lambda n: (places.boxes[n][0], places.boxes[n][1])):
        x, y = places.boxes[number]
        lines.append(_box(boxes[number], lefts[round(x)], _top(y), _wide(round(x), reasons)))
    return "".join([*lines, "</svg>"])


def _placed(count: int, arrows: Sequence[Arrow]) -> _Places:
    """Columns from left to right: what is needed stands to the right of whoever needs it."""
    from fast_sugiyama import from_edges

    edges = sorted({(arrow.begin, arrow.end) for arrow in arrows if arrow.begin != arrow.end})
    layouts = (
        from_edges(
            edges,
            minimum_length=1,
            vertex_spacing=_UNIT,
            dummy_vertices=True,
            dummy_size=_UNIT,
            ranking_type="down",
            crossing_minimization="barycenter",
            transpose=True,
        )
        if edges
        else []
    )
    deepest = max((y for positions, *_ in layouts for _, (_, y) in positions), default=0.0)
    boxes: dict[int, _Point] = {}
    ways: dict[tuple[int, int], tuple[_Point, ...]] = {}
    below = 0.0
    for positions, _, _, links in sorted(layouts, key=lambda one: min(int(n) for n, _ in one[0])):
        least = min(x for _, (x, _) in positions)
        at = {int(n): (deepest - y, x - least + below) for n, (x, y) in positions}
        boxes |= {n: place for n, place in at.items() if n < count}
        ways |= _ways(count, at, [(int(a), int(b)) for a, b in links or ()])
        below = max(y for _, y in at.values()) + 1
    for alone in sorted(set(range(count)) - set(boxes)):
        boxes[alone] = (deepest, below)
        below += 1
    for begin, end in edges:  # one that was turned round to break a cycle goes straight
        ways.setdefault((begin, end), (boxes[begin], boxes[end]))
    return _Places(boxes, ways, round(deepest) + 1, max(0.0, below - 1))


def _ways(
    count: int, at: Mapping[int, _Point], links: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], tuple[_Point, ...]]:
    """Arrows through the places that are kept free for them."""
    following: dict[int, list[int]] = {}
    for begin, end in links:
        following.setdefault(begin, []).append(end)
    found = {}
    for begin in sorted(n for n in following if n < count):
        for step in following[begin]:
            passed = [at[begin]]
            while step >= count:
                passed.append(at[step])
                step = following[step][0]
            found[begin, step] = (*passed, at[step])
    return found


def _columns(columns: int, reasons: set[int]) -> tuple[list[float], int]:
    lefts, x = [], float(EDGE)
    for column in range(columns):
        lefts.append(x)
        x += _wide(column, reasons) + GAP
    return lefts, round(x - GAP + EDGE)


def _wide(column: int, reasons: set[int]) -> int:
    return WIDE if column in reasons else WIDTH


def _top(row: float) -> float:
    return EDGE + row * PITCH


def _arrow(arrow: Arrow, way: Sequence[_Point], lefts: Sequence[float], reasons: set[int]) -> str:
    """From the right edge of a box to the left edge of another, straight through the columns between."""
    points = []
    for n, (column, row) in enumerate(way):
        place, y = round(column), _top(row) + HEIGHT / 2
        if n:
            points.append((lefts[place], y))
        if n < len(way) - 1:
            points.append((lefts[place] + _wide(place, reasons), y))
    parts = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for n, (x, y) in enumerate(points[1:], 1):
        before_x, before_y = points[n - 1]
        last = n == len(points) - 1
        if n % 2 == 0:
            parts.append(f"H{x:g}")
            continue
        end = x - 7 if last else x
        half = (end - before_x) / 2
        parts.append(f"C{before_x + half:g} {before_y:g} {end - half:g} {y:g} {end:g} {y:g}")
    x, y = points[-1]
    style = "arrow soft-arrow" if arrow.soft else "arrow"
    head = f'<path class="head" d="M{x - 8:g} {y - 5:g}L{x:g} {y:g}L{x - 8:g} {y + 5:g}Z"/>'
    return f'<g aria-hidden="true"><path class="{style}" d="{"".join(parts)}"/>{head}</g>'


def _box(box: Box, x: float, y: float, wide: int) -> str:
    shape = (
        f'<rect class="box" x="{x:g}" y="{y:g}" width="{wide}" height="{HEIGHT}" rx="4"/>'
        f'<rect class="edge" x="{x:g}" y="{y:g}" width="5" height="{HEIGHT}" rx="2"/>'
    )
    whole = box.told
    texts = "".join(_lines(box, x + 14, y))
    inner = f"<title>{escape(whole)}</title>{shape}{texts}"
    style = f"node {box.state}{' because' if box.reason else ''}{' strong' if box.strong else ''}"
    if not box.address:
        return f'<g class="{style}">{inner}</g>'
    return f'<a class="{style}" href="{escape(box.address)}" aria-label="{escape(whole)}">{inner}</a>'


def _lines(box: Box, x: float, y: float) -> Iterable[str]:
    if box.reason:
        wrapped = textwrap.wrap(box.words, LETTERS_OF_REASON, max_lines=LINES, placeholder=" …")
        first = y + HEIGHT / 2 + 4 - 8 * (len(wrapped) - 1)
        for n, line in enumerate(wrapped):
            yield f'<text x="{x:g}" y="{first + 16 * n:g}">{escape(line)}</text>'
        return
    short = box.name if len(box.name) <= LETTERS else box.name[: LETTERS - 1] + "…"
    lines = [("name", short), ("told", textwrap.shorten(box.words, LETTERS + 4, placeholder=" …"))]
    if box.why:
        lines.append(("told why", textwrap.shorten(box.why, LETTERS + 7, placeholder=" …")))
    begin, pitch = (y + 24, 19) if len(lines) == 2 else (y + 18, 16)
    for n, (style, words) in enumerate(lines):
        yield f'<text class="{style}" x="{x:g}" y="{begin + pitch * n:g}">{escape(words)}</text>'
