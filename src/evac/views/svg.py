"""Figures and charts of pages: hand-written SVG where a chart takes a few lines, with words for people
who cannot see it.

Every chart has a title and a description; colours are CSS classes, so that light, dark and print follow
the page. Horizontal positions are percentages and the style sheet places the rows (`--n` times
`--pitch`), so that a chart fills any width while its letters keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import Final

from evac.model.records import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    """Its name, the value in large letters, a line below, and its state."""

    name: str
    value: str
    more: str = ""
    state: str = ""
    """Error, warning, ok, unknown, or empty if the figure is neither good nor bad."""


LABEL_LIMIT: Final = 42
"""Number of letters of a row's label that fit next to a chart; the tooltip has all of it."""

CURVE_HEIGHT: Final = 150
CURVE_WIDTH: Final = 1000
_STEPS: Final = (
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
    172800,
)
_LEAST_PERCENT: Final = 0.3
_EDGE_PERCENT: Final = 3.0
"""Axis labels this close to an end are placed next to their line, not under it, so that they stay on the
page.
"""

_APART_PERCENT: Final = 22.0
"""The last label is left out if it would touch the previous one on a narrow screen."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One piece of a row, in seconds, with the class that colours it and the words of its tooltip."""

    begin: float
    end: float
    style: str
    words: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a Gantt chart: bars, and the end of its objective (None: no objective)."""

    label: str
    bars: tuple[Bar, ...]
    limit: float | None = None
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """A step function: (seconds, value) pairs in ascending order; each value holds until the next."""

    label: str
    style: str
    points: tuple[tuple[float, float], ...]
    filled: bool = False
    """Draw the area under it instead of its line."""


@dataclass(frozen=True, slots=True)
class Part:
    """A share (0 to 1) of a bar, with its class and the words of its tooltip."""

    share: float
    style: str
    words: str


@dataclass(frozen=True, slots=True)
class Shares:
    """One row of stacked bars: each of `bars` is drawn below the previous one."""

    label: str
    bars: tuple[tuple[Part, ...], ...]
    value: str = ""
    """Words at the end of the row."""


def clock(seconds: float) -> str:
    """`0`, `45 s`, `15 min`, `2 h`, `1.5 h`, `1 d`: a round time on an axis."""
    if seconds <= 0:
        return "0"
    if seconds < 60:
        return f"{seconds:g} s"
    if seconds < 3600:
        whole, rest = divmod(round(seconds), 60)
        return f"{seconds / 60:g} min" if rest in (0, 30) else f"{whole}:{rest:02} min"
    if seconds < 172_800:
        whole, rest = divmod(round(seconds / 60), 60)
        return f"{seconds / 3600:g} h" if rest in (0, 30) else f"{whole}:{rest:02} h"
    return f"{seconds / 86_400:g} d"


def ticks(upto: float, since: float = 0.0, most: int = 6) -> list[float]:
    """Round times from `since` to `upto`, about `most` of them."""
    span = upto - since
    step = next((s for s in _STEPS if span / s <= most), _STEPS[-1] * max(1, int(span / _STEPS[-1] / most)))
    return [float(n * step) for n in range(-int(-since // step), int(upto // step) + 1)]


def levels(highest: float, most: int = 3) -> list[float]:
    """Round values from 0 to `highest`, at most `most` above 0."""
    if highest <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(highest / most))
    step = next(m * power for m in (1, 2, 2.5, 5, 10, 20) if highest / (m * power) <= most)
    return [n * step for n in range(int(highest / step) + 1)]


def percent_of(part: int, whole: int) -> str:
    """`72 %`: a share in whole percent; `-` if the total is zero."""
    return f"{100 * part / whole:.0f} %" if whole else "-"


def place(second: float, upto: float, since: float = 0.0) -> float:
    """Horizontal position of a time in percent of the chart's width."""
    return 100 * (min(max(second, since), upto) - since) / max(upto - since, 1e-9)


def opening(name: str, style: str, rows: int, title: str, description: str) -> list[str]:
    """The opening tag of a chart with its text alternative."""
    return [
        f'<svg role="img" aria-labelledby="{name}-t {name}-d" class="chart {style}" style="--rows:{rows}">',
        f'<title id="{name}-t">{escape(title)}</title>',
        f'<desc id="{name}-d">{escape(description)}</desc>',
    ]


def time_axis(upto: float, since: float = 0.0) -> list[str]:
    """Vertical lines with their times below."""
    lines = []
    found = ticks(upto, since)
    for n, second in enumerate(found):
        at = place(second, upto, since)
        x, side = f"{at:.2f}%", ""
        if not _EDGE_PERCENT <= at <= 100 - _EDGE_PERCENT:
            side = " first" if at < _EDGE_PERCENT else " last"
        lines.append(f'<line x1="{x}" y1="0" x2="{x}" y2="100%" class="rule"/>')
        if side == " last" and n and at - place(found[n - 1], upto, since) < _APART_PERCENT:
            continue
        lines.append(f'<text x="{x}" y="100%" dy="16" class="tick{side}">{clock(second)}</text>')
    return lines


def gantt(
    name: str, title: str, description: str, rows: Sequence[Row], upto: float, since: float = 0.0
) -> str:
    """Rows of bars on one time axis from `since` on; a mark shows where the objective of a row ends."""
    lines = opening(name, "gantt", len(rows), title, description) + time_axis(upto, since)
    for n, row in enumerate(rows):
        lines += _open_row(n, row.label, row.strong)
        lines += [_bar(bar, upto, since) for bar in row.bars]
        if row.limit is not None and row.limit <= upto:
            x = f"{place(row.limit, upto, since):.2f}%"
            mark = f'<line x1="{x}" y1="0" x2="{x}" y2="17" class="limit">'
            lines.append(f"{mark}<title>objective</title></line>")
        lines.append("</g></g>")
    return "".join([*lines, "</svg>"])


def _open_row(number: int, label: str, strong: bool = False) -> list[str]:
    short = label if len(label) <= LABEL_LIMIT else label[: LABEL_LIMIT - 1] + "…"
    whole = "" if short == label else f"<title>{escape(label)}</title>"
    style = "label strong" if strong else "label"
    return [
        f'<g class="row" style="--n:{number}"><text class="{style}" y="13">{escape(short)}{whole}</text>',
        '<g class="bars">',
    ]


def _bar(bar: Bar, upto: float, since: float) -> str:
    x = place(bar.begin, upto, since)
    wide = max(_LEAST_PERCENT, place(bar.end, upto, since) - x)
    shape = f'<rect x="{x:.2f}%" y="3" width="{wide:.2f}%" height="11" class="{bar.style}">'
    return f"{shape}<title>{escape(bar.words)}</title></rect>"


def shares(name: str, title: str, description: str, rows: Sequence[Shares], tall: int = 11) -> str:
    """Horizontal bars of shares; several bars of a row are below each other."""
    lines = opening(name, "shares", len(rows), title, description)
    for n, row in enumerate(rows):
        lines += _open_row(n, row.label)
        for under, parts in enumerate(row.bars):
            lines += _parts(parts, 3 + under * (tall + 1), tall)
        if row.value:
            lines.append(
                f'<text x="100%" dx="8" y="{3 + len(row.bars) * (tall + 1) / 2 + 4:g}" '
                f'class="value">{escape(row.value)}</text>'
            )
        lines.append("</g></g>")
    return "".join([*lines, "</svg>"])


def _parts(parts: Iterable[Part], y: int, tall: int) -> list[str]:
    lines = [f'<rect x="0" y="{y}" width="100%" height="{tall}" class="ground"/>']
    x = 0.0
    for part in parts:
        wide = min(100 * max(part.share, 0.0), 100 - x)
        if wide > 0:
            shape = f'<rect x="{x:.2f}%" y="{y}" width="{wide:.2f}%" height="{tall}" class="{part.style}">'
            lines.append(f"{shape}<title>{escape(part.words)}</title></rect>")
        x += wide
    return lines


def curves(
    name: str, title: str, description: str, series: Iterable[Series], upto: float, highest: float
) -> str:
    """Step functions over time from 0; the highest value labels the vertical axis."""
    lines = opening(name, "curve", 1, title, description) + time_axis(upto)
    for value in levels(highest):
        y = f"{100 * (1 - value / max(highest, 1e-9)):.2f}%"
        lines.append(f'<line x1="0" y1="{y}" x2="100%" y2="{y}" class="rule"/>')
        lines.append(f'<text x="0" dx="-8" y="{y}" dy="4" class="scale">{short(value)}</text>')
    box = f'width="100%" height="100%" viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}"'
    lines.append(f'<svg {box} preserveAspectRatio="none" aria-hidden="true">')
    for one in series:
        path = _steps(one, upto, max(highest, 1e-9))
        lines.append(f'<path d="{path}" class="{one.style}"><title>{escape(one.label)}</title></path>')
    return "".join([*lines, "</svg></svg>"])


def _steps(one: Series, upto: float, highest: float) -> str:
    """The path of a step function; changes within one unit of its width are drawn as one."""

    def at(second: float) -> float:
        return round(place(second, upto) * CURVE_WIDTH / 100)

    kept = [(at(second), value) for second, value in one.points if second <= upto]
    last = [here for here, after in pairwise([*kept, (float("inf"), 0.0)]) if here[0] != after[0]]
    parts = []
    for n, (x, value) in enumerate(last):
        y = CURVE_HEIGHT * (1 - value / highest)
        parts.append(f"M{x:g} {y:.1f}" if n == 0 else f"H{x:g}V{y:.1f}")
    end = f"H{CURVE_WIDTH}" + (f"V{CURVE_HEIGHT}H0Z" if one.filled else "")
    return "".join(parts) + end


def short(value: float) -> str:
    """`1.2 bn`, `2.1 M`, `45 K`, `300`: a number on an axis."""
    if value >= 1e9:
        return f"{value / 1e9:.3g} bn"
    if value >= 1e6:
        return f"{value / 1e6:.3g} M"
    return f"{value / 1e3:.3g} K" if value >= 1e3 else f"{value:.3g}"
