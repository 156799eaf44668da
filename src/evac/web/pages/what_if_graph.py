"""The dependency graph of a what-if, reduced to what a person can read, in words and as SVG. Pure.

No one can read a drawing of a thousand services. It shows the causes that take most services down, the
most important services behind each with their chains, and how many more there are; or, for one selected
service, everything that it needs and that is down. fast-sugiyama places the boxes: the layered layout of
Sugiyama, Tagawa and Toda (1981) with the placement of Brandes and Koepf (2002). This module draws.
Colours are CSS classes and never the only sign: each state is a word. Every box with a URL is a link, so
that it can be reached by keyboard.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from html import escape
from typing import Any, Final
from urllib.parse import quote

from evac.model.records import dataclass
from evac.office.facts import EstateFacts
from evac.office.reckoning import FateOf, WhatIf
from evac.views.words import duration, listed, people, plural

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
    """name: first line; words: second line; state: its CSS class. reason: a cause at the end of chains,
    with words only. address: its link, "" for none. strong: the selected service. why: a third line, the
    cause.
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
        """Everything that it says, for people who cannot see it."""
        if self.reason:
            return self.words
        return f"{self.name}: {self.words}{'; ' if self.why else ''}{self.why}"


@dataclass(frozen=True, slots=True)
class Arrow:
    """From a box to one that it needs, by their numbers. soft: it can do without."""

    begin: int
    end: int
    soft: bool = False


_Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Places:
    """The positions of boxes, and the points that each arrow passes, by (start, end); in columns and rows."""

    boxes: Mapping[int, _Point]
    ways: Mapping[tuple[int, int], tuple[_Point, ...]]
    columns: int
    rows: float


def drawing(name: str, title: str, told: str, boxes: Sequence[Box], arrows: Sequence[Arrow]) -> str:
    """The graph; told: its content in one sentence. Deterministic. Meant for at most `BOXES_MOST` boxes."""
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
        lines.append(_box_svg(boxes[number], lefts[round(x)], _top(y), _wide(round(x), reasons)))
    return "".join([*lines, "</svg>"])


def _placed(count: int, arrows: Sequence[Arrow]) -> _Places:
    """Columns from left to right: a box is to the right of the boxes that need it."""
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
    """Arrows through the gaps that are reserved for them."""
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


def _box_svg(box: Box, x: float, y: float, wide: int) -> str:
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
        lines.append(("explained", textwrap.shorten(box.why, LETTERS + 7, placeholder=" …")))
    begin, pitch = (y + 24, 19) if len(lines) == 2 else (y + 18, 16)
    for n, (style, words) in enumerate(lines):
        yield f'<text class="{style}" x="{x:g}" y="{begin + pitch * n:g}">{escape(words)}</text>'


REASONS_MOST: Final = 6
BEHIND_MOST: Final = 3
BOXES_MOST: Final = 36
STANDING_MOST: Final = 6
DOWN: Final = ("lost", "recovers")
LEAD: Final = (
    "Arrows point from a service to the dependency that takes it down, along the shortest "
    "chain. Select a service to see everything it needs."
)
LEAD_OF_SERVICE: Final = (
    "Solid arrows point to required dependencies, dashed arrows to optional "
    "ones. Implied arrows are left out."
)
STATES: Final = {
    "lost": "error",
    "recovers": "warning",
    "degraded": "note",
    "unknown": "unknown",
    "shed": "warning",
    "not proved": "unknown",
    "": "ok",
}
RANK: Final = {"lost": 0, "unknown": 1, "not proved": 1, "shed": 2, "recovers": 3, "degraded": 4}


def gravity(one: FateOf) -> tuple[int, int, int, str]:
    """Sort key: services that do not come back first, then by tier and by people."""
    return (RANK.get(one.fate, 9), 9 if one.tier is None else one.tier, -(one.people or 0), one.service)


def fate_words(one: FateOf | None) -> str:
    """What happens to a service, in a few words."""
    if one is None:
        return "stays up"
    if one.fate == "recovers":
        late = one.rto_ms is not None and one.recovery_ms is not None and one.recovery_ms > one.rto_ms
        unknown = one.recovery_ms is None
        back = "back at an unknown time" if unknown else f"back after {duration(one.recovery_ms)}"
        return f"{back}, late" if late else back
    words = {"lost": "does not come back", "unknown": "cannot be judged", "shed": "shed to free capacity"}
    return words.get(one.fate, one.fate)


@dataclass(slots=True)
class _Part:
    """What is drawn: boxes by key, and arrows between keys."""

    boxes: dict[str, Box] = field(default_factory=dict)
    arrows: dict[tuple[str, str], bool] = field(default_factory=dict)

    def drawn(self, name: str, title: str, told: str) -> str:
        index = {key: number for number, key in enumerate(self.boxes)}
        arrows = [Arrow(index[a], index[b], soft) for (a, b), soft in self.arrows.items()]
        return drawing(name, title, told, list(self.boxes.values()), arrows)


@dataclass(frozen=True, slots=True)
class _Reason:
    """A service that is down for its own reason, why, and everything that is down because of it, itself
    included.
    """

    root: str
    why: str
    behind: tuple[FateOf, ...]

    @property
    def rank(self) -> tuple[int, int, int, str]:
        lost = sum(1 for one in self.behind if one.fate == "lost")
        return (-lost, -sum(one.people or 0 for one in self.behind), -len(self.behind), self.root)


def graph(facts: EstateFacts, answer: WhatIf, of: str) -> dict[str, Any] | None:
    """The drawing with its words; None if nothing is down. of: the selected service, or ""."""
    fates = {one.service: one for one in answer.services}
    query = "".join(f"lose={quote(name, safe='')}&" for name in answer.domains)
    known = {service.id: service.needs for service in facts.services}
    if of in known:
        return _of_service(fates, query, of, known[of])
    return _overview(fates, query)


def _overview(fates: Mapping[str, FateOf], query: str) -> dict[str, Any] | None:
    reasons = _reasons(fates.values())
    if not reasons:
        return None
    part, shown = _Part(), reasons[:REASONS_MOST]
    told = []
    for number_of, reason in enumerate(shown):
        told.append(_draw_reason(part, fates, query, f"reason {number_of}", reason))
    rest = reasons[REASONS_MOST:]
    hidden = len({one.service for reason in rest for one in reason.behind})
    degraded = sum(1 for one in fates.values() if one.fate == "degraded")
    more = []
    if rest:
        more.append(
            f"{plural(len(rest), 'more reason')} {'takes' if len(rest) == 1 else 'take'} down "
            f"{plural(hidden, 'service')}; the table below has the chain of each."
        )
    if degraded:
        verb = "is" if degraded == 1 else "are"
        more.append(f"{plural(degraded, 'service')} {verb} only degraded, and not in the graph.")
    said = (
        f"{plural(len(shown), 'reason')}: on the right, what the loss takes down directly; "
        "on the left, what goes down because of it."
    )
    return {
        "svg": part.drawn("spread", "How the loss spreads", said),
        "of": "",
        "told": told,
        "more": more,
        "lead": LEAD,
    }


def _reasons(services: Iterable[FateOf]) -> list[_Reason]:
    """The causes at the ends of chains, those that take down most first."""
    found: dict[tuple[str, str], list[FateOf]] = {}
    for one in services:
        if one.fate in DOWN and len(one.chain) > 1:
            found.setdefault((one.chain[-2], one.chain[-1]), []).append(one)
    reasons = [_Reason(root, why, tuple(sorted(rows, key=gravity))) for (root, why), rows in found.items()]
    return sorted(reasons, key=lambda reason: reason.rank)


def _draw_reason(
    part: _Part, fates: Mapping[str, FateOf], query: str, key: str, reason: _Reason
) -> dict[str, Any]:
    """One cause with the most important services behind it; and the same in words."""
    chosen = [one for one in reason.behind if one.service != reason.root][:BEHIND_MOST]
    part.boxes[key] = Box("", reason.why, "cause", reason=True)
    _draw_chain(part, fates, query, (reason.root,), key)
    for one in chosen:
        _draw_chain(part, fates, query, one.chain[:-1], key)
    drawn = {name for one in chosen for name in one.chain[:-1]} | {reason.root}
    rest = [one for one in reason.behind if one.service not in drawn]
    words = ""
    if rest:
        felt = sum(one.people or 0 for one in rest)
        name = f"{plural(len(rest), 'more service', 'more services')}"
        words = f"{people(felt)} people" if felt else "no one uses them directly"
        part.boxes[f"more {key}"] = Box(name, words, "rest")
        part.arrows[f"more {key}", reason.root] = False
    rows = [one for one in reason.behind if one.service == reason.root] + chosen
    return {
        "why": reason.why,
        "count": plural(len(reason.behind), "service"),
        "rows": [row_of(one) for one in rows],
        "rest": len(rest),
    }


def _draw_chain(
    part: _Part, fates: Mapping[str, FateOf], query: str, names: Sequence[str], last: str
) -> None:
    for name in names:
        part.boxes.setdefault(name, _box(fates, query, name))
    for name, needed in zip(names, (*names[1:], last), strict=True):
        part.arrows.setdefault((name, needed), False)


def _box(fates: Mapping[str, FateOf], query: str, name: str) -> Box:
    one = fates.get(name)
    address = f"/what-if?{query}of={quote(name, safe='')}#h-graph"
    return Box(name, fate_words(one), STATES[one.fate if one else ""], address=address)


def _own_reason(one: FateOf | None) -> str:
    """Why a service is down for its own reason; empty if something that it needs is the cause."""
    return "" if one is None or len(one.chain) != 2 else one.chain[1]


def row_of(one: FateOf) -> dict[str, Any]:
    """A service with its fate and its chain: names, and the cause at the end."""
    return {
        "id": one.service,
        "words": fate_words(one),
        "state": STATES[one.fate],
        "path": list(one.chain[:-1]) or [one.service],
        "why": one.chain[-1] if len(one.chain) > 1 else "",
    }


def _of_service(fates: Mapping[str, FateOf], query: str, of: str, needs: Sequence[str]) -> dict[str, Any]:
    """Everything that one service needs and that is down, transitively; what is up is listed in words."""
    part, one = _Part(), fates.get(of)
    part.boxes[of] = replace(_box(fates, query, of), why=_own_reason(one), strong=True)
    left = _spread(part, fates, query, of)
    _reduce(part, of)
    told = [row_of(fates[name]) for name in part.boxes if name in fates]
    down = set(one.needs) | set(one.wants) if one else set()
    standing = sorted(name for name in needs if name not in down)
    users = sorted(name for name, fate in fates.items() if of in fate.needs)
    more = []
    if left:
        more.append(
            f"{plural(left, 'service')} more indirect dependencies {'is' if left == 1 else 'are'} down."
        )
    if standing:
        verb = "is" if len(standing) == 1 else "are"
        more.append(f"Of its own dependencies, {listed(standing, STANDING_MOST)} {verb} still up.")
    if users:
        verbs = ("is", "needs") if len(users) == 1 else ("are", "need")
        counted = f"{plural(len(users), 'service')} that {verbs[0]} down {verbs[1]} it"
        more.append(f"{counted}: {listed(users, STANDING_MOST)}.")
    said = f"{of}: {fate_words(one)}. {plural(len(part.boxes) - 1, 'service')} that it needs or uses."
    return {
        "svg": part.drawn("spread", f"What {of} needs", said),
        "of": of,
        "told": [{"why": "", "count": "", "rows": told, "rest": 0}],
        "more": more,
        "lead": f"{of}: {fate_words(one)}. {LEAD_OF_SERVICE}",
    }


def _spread(part: _Part, fates: Mapping[str, FateOf], query: str, of: str) -> int:
    """Add what is needed, level by level, the most important first; return how many did not fit."""
    waiting, left = [of], set()
    while waiting:
        following: list[str] = []
        for name in waiting:
            one = fates.get(name)
            if one is None:
                continue
            soft = one.wants if name == of else ()
            for other in sorted(
                {*one.needs, *soft}, key=lambda n: gravity(fates[n]) if n in fates else (9, 9, 0, n)
            ):
                if other not in part.boxes:
                    if len(part.boxes) >= BOXES_MOST:
                        left.add(other)
                        continue
                    part.boxes[other] = replace(_box(fates, query, other), why=_own_reason(fates.get(other)))
                    following.append(other)
                if other != of:
                    part.arrows.setdefault((name, other), other not in one.needs)
        waiting = following
    return len(left - set(part.boxes))


def _reduce(part: _Part, of: str) -> None:
    """Leave out arrows that a longer path implies. Inside a cycle, nothing is left out."""
    after: dict[str, set[str]] = {}
    for begin, end in part.arrows:
        after.setdefault(begin, set()).add(end)
    reach = {name: _reached(after, name) for name in after}
    for begin, end in list(part.arrows):
        through = (other for other in after[begin] if other != end and begin not in reach.get(other, ()))
        if any(end in reach.get(other, ()) for other in through) and not part.arrows[begin, end]:
            del part.arrows[begin, end]


def _reached(after: Mapping[str, set[str]], begin: str) -> set[str]:
    found: set[str] = set()
    work = [begin]
    while work:
        for other in after.get(work.pop(), ()):
            if other not in found:
                found.add(other)
                work.append(other)
    return found
