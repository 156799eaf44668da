"""A cold start as charts: servers on in each hall over time, and the power they draw against its budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evac.derive.limits import power_table
from evac.model.domain import topology
from evac.model.estate import Estate
from evac.model.fleet import IntColumn
from evac.model.instance import LeftOff
from evac.model.plan import Plan
from evac.steps.registry import kind_of
from evac.views import svg
from evac.views.svg import Series
from evac.views.words import duration, number, plural

HALLS_OPEN: Final = 8
Ints = NDArray[np.int64]


def wave_context(estate: Estate, plan: Plan) -> dict[str, Any] | None:
    """What the section of a cold start prints; None where no domain is restored."""
    if plan.wave is None and not plan.left_off:
        return None
    rows, start, end = _boots(estate, plan)
    upto = max(60.0, float(end.max(initial=0)) / 1000 * 1.03)
    halls = _halls(estate, rows, end, upto)
    return {
        "words": _words(plan),
        "halls": halls[:HALLS_OPEN],
        "more": halls[HALLS_OPEN:],
        "power": _power(estate, plan, rows, start, upto),
        "off": [_off(entry) for entry in plan.left_off],
    }


def _off(entry: LeftOff) -> dict[str, str]:
    return {
        "domain": entry.domain,
        "reason": entry.reason,
        "count": number(len(entry.servers)),
        "servers": ", ".join(entry.servers),
    }


def _words(plan: Plan) -> str:
    wave = plan.wave
    if wave is None:
        return "No server comes up."
    words = f"All {plural(wave.servers, 'server')} on after {duration(wave.on_ms)}"
    if wave.bound_ms >= wave.on_ms:
        return f"{words}: no order is quicker."
    by = f", by the limit {wave.limit}" if wave.limit else ""
    return f"{words}: no order can beat {duration(wave.bound_ms)}{by}."


def _boots(estate: Estate, plan: Plan) -> tuple[Ints, Ints, Ints]:
    """(fleet rows, begin, end in milliseconds) of every server of the restored domains that boots."""
    sites = {domain.split("/", 1)[0] for domain in plan.scenario.domains}
    steps = [step for step in plan.steps if kind_of(step.kind).boots]
    if not steps:
        return (np.zeros(0, np.int64),) * 3
    names = np.array([step.target.encode() for step in steps])
    rows = np.searchsorted(estate.fleet.name, names)
    times = np.array([(step.start_ms, step.end_ms) for step in steps], np.int64)
    here = np.isin(estate.fleet.site[rows], [row for row, s in enumerate(estate.sites) if s.id in sites])
    return rows[here], times[here, 0], times[here, 1]


def _halls(estate: Estate, rows: Ints, end: Ints, upto: float) -> list[dict[str, str]]:
    """One chart a hall, with the number of its servers that are on."""
    of_rack = np.array([*(_place(r.hall or "", estate) for r in estate.racks), -1], np.int64)
    hall = of_rack[estate.fleet.rack[rows]]
    found = []
    for number_of in np.unique(hall).tolist():
        name = estate.halls[number_of].id if number_of >= 0 else "no known hall"
        mine = np.sort(end[hall == number_of])
        words = f"{plural(len(mine), 'server')}, half on after {duration(int(mine[(len(mine) - 1) // 2]))}"
        words += f", all after {duration(int(mine[-1]))}."
        points = _steps(mine, np.ones(len(mine), np.int64))
        series = [Series("servers on", "area", points, True), Series("servers on", "line", points)]
        title = f"Servers on in {name} over time"
        chart = svg.curves(f"hall{number_of + 1}", title, words, series, upto, len(mine) * 1.05)
        found.append({"hall": name, "words": words, "chart": chart})
    return found


def _place(hall: str, estate: Estate) -> int:
    return next((row for row, entry in enumerate(estate.halls) if entry.id == hall), -1)


def _power(estate: Estate, plan: Plan, rows: Ints, start: Ints, upto: float) -> list[dict[str, str]]:
    """One chart a site: watts drawn, from the begin of each boot on, and the budget that holds now."""
    table = power_table(topology(estate), plan.scenario)
    found = []
    for site in np.unique(estate.fleet.site[rows]).tolist():
        here = estate.fleet.site[rows] == site
        order = np.argsort(start[here], kind="stable")
        watts = np.where(estate.fleet.watts_known, estate.fleet.watts, 0)[rows[here]][order]
        points = _steps(start[here][order], watts)
        most, name = int(watts.sum()), estate.sites[site].id
        budget = table.watts[int(table.of_site[site])] if table.of_site[site] >= 0 else None
        series = [Series("drawn", "area", points, True), Series("drawn", "line", points)]
        words = f"{number(most)} W at the end"
        if budget is None:
            words += "; no budget of the site is known."
        else:
            series.append(Series("budget less margin", "allowed", ((0.0, float(budget)),)))
            words += f", of {number(budget)} W that {name} may draw."
        title = f"Power of {name} over time"
        highest = float(max(most, budget or 0)) * 1.05
        found.append(
            {
                "site": name,
                "words": words,
                "chart": svg.curves(f"power{site}", title, words, series, upto, highest),
            }
        )
    return found


def _steps(at_ms: IntColumn, amounts: IntColumn) -> tuple[tuple[float, float], ...]:
    """A step function of sums so far, one point for each time."""
    total = np.cumsum(amounts)
    last = np.flatnonzero(np.r_[at_ms[1:] != at_ms[:-1], True]) if len(at_ms) else np.zeros(0, np.int64)
    points: Sequence[tuple[float, float]] = [(float(at_ms[k]) / 1000, float(total[k])) for k in last.tolist()]
    return ((0.0, 0.0), *points) if not points or points[0][0] > 0 else tuple(points)
