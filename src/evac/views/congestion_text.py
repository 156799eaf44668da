"""Links and ingress that may carry too little for the traffic after a loss, in words."""

from __future__ import annotations

from collections.abc import Iterator

from evac.model.plan import Outcome, Plan
from evac.views.words import listed, number

SHOWN = 3
"""How many of anything are named."""


def too_small_words(plan: Plan) -> str:
    """Which links and ingress may not carry the traffic; empty if all do."""
    if not plan.congestion:
        return ""
    names = list(dict.fromkeys(one.name for one in plan.congestion))
    return f"the traffic after the loss may be too much for {listed(names, SHOWN)}"


def congestion_words(plan: Plan) -> str:
    """Which links and ingress may not carry the traffic, and whose; empty if all do."""
    words = too_small_words(plan)
    through = sorted({name for one in plan.congestion for name in one.services})
    if through:
        words += f"; this affects the traffic of {listed(through, SHOWN)}"
    found = [o for o in plan.outcomes if o.congested and o.rto_ms is not None and o.meets_rto is None]
    open_ones = [o.service for o in plan.by_weight(found)]
    meet = "meets its" if len(open_ones) == 1 else "meet their"
    least_known = max(plan.congestion, key=lambda one: one.unstated, default=None)
    if least_known is not None and least_known.unstated:
        words += f" ({least_known.unstated_words})"
    return words + (f"; it is unknown whether {listed(open_ones, SHOWN)} {meet} RTO" if open_ones else "")


def through_words(plan: Plan, outcome: Outcome) -> str:
    """Why it is not known whether a service meets its objective although its recovery is on time."""
    if outcome.meets_rto is not None or not outcome.congested or outcome.recovery_ms is None:
        return ""
    on_its_way = [one for one in plan.congestion if outcome.service in one.services]
    too_small = [one for one in on_its_way if one.is_certain]
    names = listed(list(dict.fromkeys(one.name for one in too_small or on_its_way)), 2)
    return f"too much traffic for {names}" if too_small else f"perhaps too much traffic for {names}"


def traffic_lines(plan: Plan) -> Iterator[tuple[str, str]]:
    """(words, style) of the first links and ingress, those that are too small before unknown ones; then how
    many more there are.
    """
    rows = sorted(plan.congestion, key=lambda one: (not one.is_certain, not one.is_too_small))
    for one in rows[:SHOWN]:
        whose = f" (traffic of {listed(one.services, SHOWN)})" if one.services else ""
        yield f"{one.words}{whose}", "warning" if one.is_too_small else "unknown"
    if more := rows[SHOWN:]:
        style = "warning" if any(one.is_too_small for one in more) else "unknown"
        yield f"{number(len(more))} more; `congestion` in the plan file names them all", style
