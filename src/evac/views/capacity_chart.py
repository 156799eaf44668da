"""A picture of capacity by site and resource, before and after: what stays, what moves in, what is lost.

Geometry goes into attributes and colours come from classes. The picture is drawn twice, wide and narrow, so
that its letters keep their size on a phone. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDE: Final = 620
NARROW: Final = 340
PITCH: Final = 46
BAR: Final = 14
NAMES: Final = {
    "cpu_millicores": "CPU",
    "memory_mib": "Memory",
    "disk_gib": "Disk",
    "accelerators": "GPU",
    "cpu": "CPU",
    "memory": "Memory",
    "disk": "Disk",
}
SITE_LETTERS: Final = 14
SITE_LETTERS_NARROW: Final = 8


@dataclass(frozen=True, slots=True)
class CapacityBar:
    """One resource of one site. Shares are of what was there before, from 0 to 1."""

    site: str
    resource: str
    before: float
    stays: float
    moved_in: float
    left: float
    """What is still there; 0 of a lost site."""

    @property
    def words(self) -> str:
        return f"{self.site} {self.resource}: {100 * self.before:.0f} % before, {self.after} after"

    @property
    def after(self) -> str:
        """Used of what is left, in whole per cent."""
        return "lost" if self.left <= 0 else f"{100 * (self.stays + self.moved_in) / self.left:.0f} %"


def bar(
    site: str, resource: str, whole: int, before: int, stays: int, moved_in: int, left: int
) -> CapacityBar:
    """From amounts in base units."""
    size = max(1, whole)
    return CapacityBar(
        site, NAMES.get(resource, resource), before / size, stays / size, moved_in / size, left / size
    )


def capacity_picture(rows: Sequence[CapacityBar], narrow: bool = False) -> str:
    """Two bars for each row: before, and after. A lost site has the first only."""
    width = NARROW if narrow else WIDE
    second, begin, room = (62, 116, 178) if narrow else (112, 172, 390)
    letters = SITE_LETTERS_NARROW if narrow else SITE_LETTERS
    told = "; ".join(one.words for one in rows)
    parts, y, last = [], 4, ""
    for one in rows:
        if one.site != last:
            name = one.site if len(one.site) <= letters else one.site[: letters - 1] + "…"
            parts.append(f'<text class="t1" x="0" y="{y + 12}">{escape(name)}</text>')
            last = one.site
        parts.append(f'<text x="{second}" y="{y + 12}">{escape(one.resource)}</text>')
        parts += _bar(begin, y, room, [("f-calm", one.before)])
        end = begin + room + 10
        parts.append(f'<text class="t2" x="{end}" y="{y + 11}">{100 * one.before:.0f} %</text>')
        if one.left <= 0:
            parts.append(f'<text x="{begin}" y="{y + 30}">lost</text>')
        else:
            shares = [("f-ink", one.stays), ("f-in", one.moved_in)]
            parts += _bar(begin, y + 18, room, shares, one.left)
            parts.append(f'<text class="t1" x="{end}" y="{y + 29}">{one.after}</text>')
        y += PITCH
    return (
        f'<svg class="pic" viewBox="0 0 {width} {max(1, y - 4)}" role="img" '
        f'aria-label="{escape(f"Capacity used before and after. {told}.")}">{"".join(parts)}</svg>'
    )


def _bar(x: int, y: int, room: int, shares: Sequence[tuple[str, float]], left: float = 1.0) -> list[str]:
    """The ground, what is on it, and at the far end what is gone."""

    def piece(style: str, begin: float, wide: float) -> str:
        return f'<rect class="{style}" x="{begin:.1f}" y="{y}" width="{wide:.1f}" height="{BAR}" rx="2"/>'

    found, at = [piece("f-soft", x, room)], float(x)
    for style, share in shares:
        wide = min(share * room, x + room - at)
        if wide > 0.05:
            found.append(piece(style, at, wide))
            at += wide
    if left < 0.999:
        found.append(piece("f-bad", x + left * room, (1 - left) * room))
    return found


def both(rows: Sequence[CapacityBar]) -> tuple[str, str]:
    """Wide and narrow; empty where there is nothing to draw."""
    return (capacity_picture(rows), capacity_picture(rows, narrow=True)) if rows else ("", "")


def bottleneck(rows: Sequence[CapacityBar]) -> str:
    """`CPU in east, 97 %`: the fullest afterwards of what is left; empty where nothing is."""
    left = [one for one in rows if one.left > 0]
    if not left:
        return ""
    full = max(left, key=lambda one: (one.stays + one.moved_in) / one.left)
    return f"{full.resource} at {full.site}, {full.after}"
