"""A cold start on a terminal: when all servers are on, what stays off, and when each service is back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from evac.model.plan import Outcome, Plan
from evac.views.screen import Page
from evac.views.words import duration, listed, number, plural

MINUTE_MS: Final = 60_000
LINES: Final = 24
"""Lines at most of the list of services: times are grouped as coarsely as that takes."""
_STRIDES: Final = (1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 1_440)
_SHOWN: Final = 8


def wave_facts(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Rows for the facts of a plan; none where no domain is restored."""
    if plan.scenario.power:
        given = ", ".join(f"{name} {number(watts)} W" for name, watts in plan.scenario.power)
        yield "power now", given, ""
    wave = plan.wave
    if wave is not None:
        by = f" ({wave.limit})" if wave.limit else ""
        words = f"all {number(wave.servers)} on after {duration(wave.on_ms)}"
        if wave.bound_ms >= wave.on_ms:
            yield "servers", f"{words}; no order is quicker{by}", ""
        else:
            yield "servers", f"{words}; no order can beat {duration(wave.bound_ms)}{by}", ""
    off = sum(len(entry.servers) for entry in plan.left_off)
    if off:
        yield "stays off", plural(off, "server"), "warning"


def wave_sections(page: Page, plan: Plan) -> None:
    """What stays off with its reason, and the return of every service."""
    if plan.left_off:
        page.line()
        page.line("Stays off", "bold")
        rows = [
            (entry.domain, number(len(entry.servers)), entry.reason, listed(entry.servers, 4))
            for entry in plan.left_off[:_SHOWN]
        ]
        page.table(("where", "servers", "why", "which"), rows, right=(1,))
        if len(plan.left_off) > _SHOWN:
            page.line(f"and {number(len(plan.left_off) - _SHOWN)} more places", "dim")
    if plan.scenario.kind == "restore":
        _returns(page, plan)


def _returns(page: Page, plan: Plan) -> None:
    back = [o for o in plan.outcomes if o.base_ms and o.state in ("restored", "degraded")]
    if not back:
        return
    page.line()
    page.line("When each service is back, from the start of the plan", "bold")
    rows = [
        (f"by {duration(until)}", number(len(found)), ", ".join(o.service for o in found))
        for until, found in grouped(back)
    ]
    page.table(("", "", "services, those that most people wait for first"), rows, right=(1,))


def grouped(outcomes: list[Outcome]) -> list[tuple[int, list[Outcome]]]:
    """(end of a stretch of time, services back within it): the finest stretches that fit on `LINES` lines."""
    for stride in _STRIDES:
        found: dict[int, list[Outcome]] = {}
        for outcome in outcomes:
            until = -(-(outcome.base_ms or 0) // (stride * MINUTE_MS)) * stride * MINUTE_MS
            found.setdefault(until, []).append(outcome)
        if len(found) <= LINES:
            break
    return [
        (until, sorted(here, key=lambda o: (o.tier, -o.people, o.service)))
        for until, here in sorted(found.items())
    ]
