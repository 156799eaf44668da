"""A plan in one breath, in eight figures, and in one row a tier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evac.model.plan import Outcome, Plan
from evac.planning.simulation.simulate import Simulation
from evac.verify import Verdict
from evac.views import plan_view
from evac.views.card import Card
from evac.views.words import duration, number, people, percent, plural, since, user_minutes_number


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan with what belongs to it on a page."""

    plan: Plan
    digest: str
    verdict: Verdict | None = None
    simulation: Simulation | None = None


def answer(planned: Planned) -> tuple[str, str]:
    """(sentence, state): the plan in one breath."""
    plan = planned.plan
    if not plan.outcomes:
        return "Nothing is down: no service is touched.", "ok"
    back, last = _back(plan), _last(plan)
    total = plural(len(plan.outcomes), "affected service")
    words = f"{number(len(back))} of {total} come back"
    if len(back) == len(plan.outcomes):
        words = f"All {total} come back" if len(back) > 1 else "The one affected service comes back"
    words += f", the last {duration(last)} {since(plan.scenario.kind)}." if last is not None else "."
    state = "ok"
    for which, told in (("shed", "shed to make room"), ("unplaced", "not coming back")):
        found = [o for o in plan.outcomes if o.state == which]
        if found:
            be = "is" if len(found) == 1 else "are"
            words += f" {number(len(found))} {be} {told} ({people(sum(o.people for o in found))} people)."
            state = "error" if which == "unplaced" else "warning"
    late = sum(1 for o in back if o.meets_rto is False)
    if late:
        words += f" {number(late)} {'comes' if late == 1 else 'come'} back later than promised."
        state = "error"
    if planned.verdict is not None and not planned.verdict.holds:
        return f"Do not use this plan: the independent check says that it does not hold. {words}", "error"
    return words, state


def _back(plan: Plan) -> list[Outcome]:
    return [o for o in plan.outcomes if o.state not in plan_view.GONE]


def _last(plan: Plan) -> int | None:
    return max((o.recovery_ms for o in _back(plan) if o.recovery_ms is not None), default=None)


def cards(planned: Planned) -> list[Card]:
    """The figures of the answer: eight, so that rows of four or two are full."""
    plan = planned.plan
    back, total, last = _back(plan), len(plan.outcomes), _last(plan)
    lead = plan.detection_ms + plan.approval_ms
    outage = user_minutes_number(plan.unweighted, plan.tick_ms)
    return [
        Card("come back", f"{number(len(back))} of {number(total)}", "affected services", _grave(plan)),
        Card("the last of them after", duration(last) if last is not None else "-", "from the loss on"),
        _objectives(plan),
        _data(plan),
        Card(
            "before the first step",
            duration(lead),
            f"{duration(plan.detection_ms)} to detect, {duration(plan.approval_ms)} to approve",
        ),
        Card("outage", outage, f"user-minutes in {duration(plan.horizon_ms)}"),
        _gap(plan),
        _check(planned.verdict),
    ]


def _grave(plan: Plan) -> str:
    states = {o.state for o in plan.outcomes}
    return "error" if "unplaced" in states else ("warning" if "shed" in states else "ok")


def _check(verdict: Verdict | None) -> Card:
    name = "independent check"
    if verdict is None:
        return Card(name, "not done", "evac verify PLAN ESTATE", "unknown")
    words = "every rule, apart from the planner" if verdict.holds else "evac verify PLAN ESTATE says why"
    return Card(name, "holds" if verdict.holds else "fails", words, "ok" if verdict.holds else "error")


def _objectives(plan: Plan) -> Card:
    stated = [o for o in plan.outcomes if o.rto_ms is not None]
    missed = [o for o in stated if o.meets_rto is False]
    if not stated:
        return Card("miss their rto", "not known", "no affected service has an rto", "unknown")
    late = sum(1 for o in missed if o.state not in plan_view.GONE)
    more = f"of {number(len(stated))}: {number(late)} late, {number(len(missed) - late)} not back"
    grave = "error" if late else _grave(plan)
    return Card("miss their rto", number(len(missed)), more, grave if missed else "ok")


def _data(plan: Plan) -> Card:
    gone = sum(1 for s in plan.stores if s.primary_ms is None)
    losing = sum(1 for s in plan.stores if s.primary_ms is not None and (s.loss_ms is None or s.loss_ms > 0))
    of = f"of {number(len(plan.stores))} lost"
    if gone:
        return Card(
            "stores that do not return", number(gone), f"{of}; {number(losing)} more lose writes", "error"
        )
    more = f"{of}, all come back" if plan.stores else "none is lost"
    return Card("stores that lose writes", number(losing), more, "warning" if losing else "ok")


def _gap(plan: Plan) -> Card:
    if plan.objective == 0:
        return Card("above the best possible", "0 %", "nothing is lost")
    if plan.gap_permille is None:
        return Card("above the best possible", "not known", "no bound above zero")
    more = "proved for every plan" if plan.proof == "full" else "proof partial: facts are unknown"
    return Card("above the best possible, at most", percent(plan.gap_permille), more)


def tier_rows(plan: Plan) -> list[dict[str, Any]]:
    """When each tier is back: first, half and last of those that went down and come back."""
    rows = []
    for tier in sorted({o.tier for o in plan.outcomes}):
        mine = [o for o in plan.outcomes if o.tier == tier]
        times = plan_view.recovery_times(mine)
        picked = (times[0], times[(len(times) - 1) // 2], times[-1]) if times else ()
        missed = sum(1 for o in mine if o.meets_rto is False)
        gone = sum(1 for o in mine if o.state in plan_view.GONE)
        rows.append(
            {
                "tier": tier,
                "services": number(len(mine)),
                "times": [duration(t) for t in picked] or ["-"] * 3,
                "missed": number(missed),
                "gone": number(gone),
                "bad": bool(missed),
                "lost": bool(gone),
            }
        )
    return rows
