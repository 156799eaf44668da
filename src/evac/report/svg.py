"""SVG by hand where a chart is a few lines: axes, bars and steps, with words for who cannot see it.

Every chart has a title and a description; colours are CSS classes, so that light, dark and print
follow the page. Widths are view-box units; the page scales them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 960
LEFT: Final = 150
RIGHT: Final = 24
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


@dataclass(frozen=True, slots=True)
class Bar:
    """One piece of a row, in seconds, with the class that colours it and the words of its tooltip."""

    begin: float
    end: float
    style: str
    words: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a Gantt: bars, and where its objective ends (None: no objective)."""

    label: str
    bars: tuple[Bar, ...]
    limit: float | None = None
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """A step function: (seconds, value) pairs in rising time; each value holds until the next."""

    label: str
    style: str
    points: tuple[tuple[float, float], ...]


def clock(seconds: float) -> str:
    """`0`, `45 s`, `15 min`, `2 h`, `1.5 h`, `1 d`."""
    if seconds <= 0:
        return "0"
    if seconds < 60:
        return f"{seconds:g} s"
    if seconds < 3600:
        return f"{seconds / 60:g} min"
    return f"{seconds / 3600:g} h" if seconds < 172_800 else f"{seconds / 86_400:g} d"


def ticks(upto: float, most: int = 8) -> list[float]:
    """Round times from 0 to `upto`, at most `most` of them."""
    step = next((s for s in _STEPS if upto / s <= most), 172_800)
    return [float(n * step) for n in range(int(upto // step) + 1)]


def open_chart(name: str, height: int, title: str, description: str, width: int = WIDTH) -> list[str]:
    """The opening of an SVG with its text alternative."""
    return [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-t {name}-d" class="chart">',
        f'<title id="{name}-t">{escape(title)}</title>',
        f'<desc id="{name}-d">{escape(description)}</desc>',
    ]


def time_axis(upto: float, top: int, bottom: int, left: int = LEFT) -> list[str]:
    """Vertical rules with their times below."""
    lines = []
    for second in ticks(upto):
        x = place(second, upto, left)
        lines.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" class="rule"/>')
        lines.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" class="tick" text-anchor="middle">{clock(second)}</text>'
        )
    return lines


def place(second: float, upto: float, left: int = LEFT) -> float:
    """Horizontal position of a time."""
    return left + (WIDTH - RIGHT - left) * min(max(second, 0.0), upto) / max(upto, 1e-9)


def gantt(name: str, title: str, description: str, rows: Sequence[Row], upto: float, left: int = 230) -> str:
    """Rows of bars over one time axis; a mark where the objective of a row ends."""
    pitch, top = 18, 8
    bottom = top + pitch * len(rows)
    lines = open_chart(name, bottom + 26, title, description)
    lines += time_axis(upto, top, bottom, left)
    for n, row in enumerate(rows):
        lines += _gantt_row(row, top + n * pitch, pitch, upto, left)
    return "\n".join([*lines, "</svg>"])


def _gantt_row(row: Row, y: int, pitch: int, upto: float, left: int) -> list[str]:
    weight = ' font-weight="600"' if row.strong else ""
    label = row.label if len(row.label) <= 36 else row.label[:35] + "…"
    lines = [
        f'<text x="{left - 8}" y="{y + 13}" class="label" text-anchor="end"{weight}>{escape(label)}</text>'
    ]
    for bar in row.bars:
        x = place(bar.begin, upto, left)
        wide = max(1.5, place(bar.end, upto, left) - x)
        size = f'width="{wide:.1f}" height="{pitch - 6}"'
        shape = f'<rect x="{x:.1f}" y="{y + 3}" {size} rx="2" class="{bar.style}">'
        lines.append(f"{shape}<title>{escape(bar.words)}</title></rect>")
    if row.limit is not None and row.limit <= upto:
        x = place(row.limit, upto, left)
        shape = f'<line x1="{x:.1f}" y1="{y + 1}" x2="{x:.1f}" y2="{y + pitch - 1}" class="limit">'
        lines.append(f"{shape}<title>objective {clock(row.limit)}</title></line>")
    return lines


def curves(
    name: str, title: str, description: str, series: Iterable[Series], upto: float, highest: float
) -> str:
    """Step functions over time from 0; the highest value labels the vertical axis."""
    height, top, bottom, left = 170, 14, 140, 76
    lines = open_chart(name, height, title, description)
    lines += time_axis(upto, top, bottom, left)
    for share in (0.0, 0.5, 1.0):
        y = bottom - (bottom - top) * share
        lines.append(f'<line x1="{left}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" class="rule"/>')
        words = _short(highest * share)
        lines.append(f'<text x="{left - 8}" y="{y + 4:.1f}" class="tick" text-anchor="end">{words}</text>')
    for one in series:
        path = _steps(one.points, upto, max(highest, 1e-9), top, bottom, left)
        lines.append(f'<path d="{path}" class="{one.style}"><title>{escape(one.label)}</title></path>')
    return "\n".join([*lines, "</svg>"])


def _steps(
    points: Sequence[tuple[float, float]], upto: float, highest: float, top: int, bottom: int, left: int
) -> str:
    def y(value: float) -> float:
        return bottom - (bottom - top) * value / highest

    parts = []
    for n, (second, value) in enumerate(points):
        x = place(second, upto, left)
        parts.append(f"M{x:.1f} {y(value):.1f}" if n == 0 else f"H{x:.1f}V{y(value):.1f}")
    return "".join(parts) + f"H{place(upto, upto, left):.1f}"


def _short(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.3g} M"
    return f"{value / 1e3:.3g} K" if value >= 1e3 else f"{value:.3g}"


Parts = Sequence[tuple[float, str, str]]


def stacked(name: str, title: str, description: str, rows: Sequence[tuple[str, Parts]]) -> str:
    """Horizontal bars of shares (0 to 1): each row is (label, [(share, class, words)])."""
    pitch, top, left = 22, 4, 200
    lines = open_chart(name, top + pitch * len(rows) + 4, title, description)
    for n, (label, parts) in enumerate(rows):
        y, x = top + n * pitch, float(left)
        lines.append(
            f'<text x="{left - 8}" y="{y + 14}" class="label" text-anchor="end">{escape(label)}</text>'
        )
        size = f'width="{WIDTH - RIGHT - left}" height="{pitch - 8}"'
        lines.append(f'<rect x="{left}" y="{y + 3}" {size} rx="2" class="ground"/>')
        for amount, style, words in parts:
            wide = (WIDTH - RIGHT - left) * min(max(amount, 0.0), 1.0)
            size = f'width="{wide:.1f}" height="{pitch - 8}"'
            shape = f'<rect x="{x:.1f}" y="{y + 3}" {size} class="{style}">'
            lines.append(f"{shape}<title>{escape(words)}</title></rect>")
            x += wide
    return "\n".join([*lines, "</svg>"])
