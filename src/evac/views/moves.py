"""How long the work of a plan takes, and how long writes stop while primaries move."""

from __future__ import annotations

from typing import Final

from evac.model.plan import Plan, Step
from evac.steps.registry import kind_of
from evac.views.words import duration, listed, number


def work_ms(plan: Plan) -> int:
    """When the last step ends, from the start of the plan; without what runs until the deadline."""
    last = {step.id for step in last_stops(plan)}
    return max((step.end_ms for step in plan.steps if step.id not in last), default=0)


def last_stops(plan: Plan) -> tuple[Step, ...]:
    """The steps of an evacuation that stop services without another place: as late as the deadline allows."""
    gone = {outcome.service for outcome in plan.outcomes if outcome.state == "unplaced"}
    if plan.scenario.kind != "evacuate":
        return ()
    return tuple(step for step in plan.steps if step.target in gone and kind_of(step.kind).replicas < 0)


def stops_words(plan: Plan) -> str:
    """Which services stop at the deadline of an evacuation; empty if none do."""
    names = sorted({step.target for step in last_stops(plan)})
    if not names:
        return ""
    end = duration(plan.scenario.deadline_ms or 0)
    verb, then = ("stops", "it does") if len(names) == 1 else ("stop", "they do")
    back = f"{then} not come back before the horizon"
    return f"{listed(names, 3)} {verb} at the deadline, {end} after the start; {back}"


def untimed_steps(plan: Plan) -> frozenset[str]:
    """Targets of steps that take an unknown time, as far as the plan lists what is missing for them. A plan
    counts such a step as short as it can be.
    """
    facts = [path.split("/") for path in plan.unknown]
    names = {path[1] for path in facts if path[0] == "stores" and path[2:] in _STORE_TIMES}
    by_hand = {path[2] for path in facts if path[:2] == ["limits", "manual"]}
    open_ones = {
        o.service
        for o in plan.outcomes
        if o.state in ("restored", "degraded") and o.recovery_ms is None and o.goes_down
    }
    return frozenset(s.target for s in plan.steps if s.target in names | open_ones or s.kind in by_hand)


_STORE_TIMES: Final = (["fence"], ["promote"], ["lag"], ["backup_time"])


def work_words(plan: Plan) -> str:
    """How long the work takes: at least, if some step takes an unknown time."""
    return f"{'at least ' * bool(untimed_steps(plan))}{duration(work_ms(plan))}"


def write_outages(plan: Plan) -> list[tuple[int, str]]:
    """(milliseconds, store) of each store whose primary moves while it still takes writes, longest first:
    from the fence of the old primary, or the promotion if nothing is fenced, until the new one takes writes.
    """
    if plan.scenario.kind not in ("evacuate", "failback"):
        return []
    ends = {store.store: store.primary_ms for store in plan.stores if store.primary_ms is not None}
    begins = dict(ends)
    for step in plan.steps:
        kind = kind_of(step.kind)
        if (kind.fences or kind.makes_primary or kind.is_awaited) and step.end_ms <= ends.get(
            step.target, -1
        ):
            begins[step.target] = min(step.start_ms, begins[step.target])
    return sorted(((end - begins[store], store) for store, end in ends.items()), reverse=True)


def writes_words(plan: Plan) -> str:
    """How long writes stop while primaries move; empty where none moves."""
    found = write_outages(plan)
    if not found:
        return ""
    longest, store = found[0]
    least = "at least " * bool(untimed_steps(plan).intersection(name for _, name in found))
    if len(found) == 1:
        return f"writes of store {store} stop for {least}{duration(longest)} while its primary moves"
    words = f"writes of {number(len(found))} stores stop while their primaries move"
    return f"{words}, the longest for {least}{duration(longest)} ({store})"
