"""Room before and after a loss, by site and resource: bars, and the same in amounts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from evac.audit.words import amount
from evac.office.what_if import CapacityOf
from evac.views import svg

ALL: Final = "all sites"
SHORT: Final = {
    "cpu_millicores": "cpu",
    "memory_mib": "memory",
    "disk_gib": "disk",
    "accelerators": "accelerators",
}
SITES_OPEN: Final = 6


def rooms(capacity: Sequence[CapacityOf]) -> dict[str, Any]:
    """Panels of bars by site, all sites together first, and rows of a table."""
    rows = [*_summed(capacity), *capacity]
    names = list(dict.fromkeys(row.site for row in rows))
    panels = [_panel(number, [row for row in rows if row.site == name]) for number, name in enumerate(names)]
    return {"open": panels[:SITES_OPEN], "rest": panels[SITES_OPEN:], "rows": [_words(row) for row in rows]}


def _summed(rows: Iterable[CapacityOf]) -> list[CapacityOf]:
    found: dict[str, CapacityOf] = {}
    for row in rows:
        sum_of = found.get(row.resource, CapacityOf(ALL, row.resource, 0, 0, 0, 0, 0))
        found[row.resource] = replace(
            sum_of,
            total=sum_of.total + row.total,
            used=sum_of.used + row.used,
            total_left=sum_of.total_left + row.total_left,
            used_left=sum_of.used_left + row.used_left,
            moved_in=sum_of.moved_in + row.moved_in,
        )
    return list(found.values())


def _panel(number: int, rows: Sequence[CapacityOf]) -> dict[str, Any]:
    site = rows[0].site
    left, whole = sum(row.total_left for row in rows), sum(row.total for row in rows)
    words, state = "", ""
    if not left:
        words, state = "lost", "error"
    elif left < whole:
        words, state = "a part is lost", "warning"
    told = "; ".join(f"{SHORT[row.resource]} {_shares(row)} used" for row in rows) + "."
    bars = [svg.Shares(SHORT[row.resource], _bars(row), _shares(row)) for row in rows]
    title = f"Room of {site} before and after"
    return {
        "site": site,
        "words": words,
        "state": state,
        "chart": svg.shares(f"room{number}", title, told, bars, 8),
    }


def _bars(row: CapacityOf) -> tuple[tuple[svg.Part, ...], ...]:
    gone = row.total - row.total_left
    pieces = (
        (("used before", row.used),),
        (("used after", row.used_left), ("moved", row.moved_in), ("gone", gone)),
    )
    found = []
    for when, parts in zip(("before", "after"), pieces, strict=True):
        found.append(
            tuple(
                svg.Part(value / row.total, style, f"{when}: {style} {svg.percent_of(value, row.total)}")
                for style, value in _in_place(parts, row.total)
            )
        )
    return tuple(found)


def _in_place(parts: Sequence[tuple[str, int]], whole: int) -> list[tuple[str, int]]:
    """Used first, then free, and what is gone at the far end."""
    kept = [(style, value) for style, value in parts if value > 0]
    if not kept or kept[-1][0] != "gone":
        return kept
    free = whole - sum(value for _, value in kept)
    return [*kept[:-1], *([("ground", free)] if free > 0 else []), kept[-1]]


def _shares(row: CapacityOf) -> str:
    """Of what is there: before, and after everything that finds room has moved."""
    before = svg.percent_of(row.used, row.total)
    after = "lost" if not row.total_left else svg.percent_of(row.used_left + row.moved_in, row.total_left)
    return f"{before} → {after}"


def _words(row: CapacityOf) -> dict[str, str]:
    free = max(0, row.total_left - row.used_left - row.moved_in)
    amounts = {
        "total": row.total,
        "used": row.used,
        "gone": row.total - row.total_left,
        "left": row.used_left,
        "moved": row.moved_in,
        "free": free,
    }
    name = SHORT[row.resource]
    told = {key: amount(name, value).removesuffix(f" {name}") for key, value in amounts.items()}
    return told | {"site": row.site, "resource": name, "share": _shares(row)}
