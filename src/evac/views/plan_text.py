"""A plan on one screen: when everything is back, what is given up, how good the plan is, what next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from evac.model.plan import Outcome, Plan
from evac.views.plan_view import GIVEN_UP_WORDS, GONE, recovery_times, verdict_words
from evac.views.screen import Page
from evac.views.wave_text import wave_facts, wave_sections
from evac.views.words import (
    duration,
    listed,
    number,
    people,
    percent,
    plural,
    since,
    user_minutes,
)

SHOWN: Final = 8


def plan_text(plan: Plan, digest: str, width: int, colour: bool, saved_as: str = "") -> str:
    """The whole answer for a terminal; `saved_as` names the file for the next command."""
    page = Page(width, colour)
    title = plan.scenario.title
    page.title(f"{title[:1].upper()}{title[1:]}: {verdict_words(plan)}")
    page.line()
    page.facts(_facts(plan, digest))
    _tiers(page, plan)
    _late(page, plan)
    _given_up(page, plan)
    _data(page, plan)
    wave_sections(page, plan)
    _sensitivity(page, plan)
    _unknown(page, plan)
    page.line()
    where = saved_as or "PLAN"
    page.line(f"next: evac verify {where} ESTATE, then evac simulate {where} ESTATE", "dim")
    return page.text()


def _facts(plan: Plan, digest: str) -> Iterable[tuple[str, str, str]]:
    times = recovery_times(plan.outcomes)
    if times:
        half = times[(len(times) - 1) // 2]
        words = f"first {duration(times[0])}, half {duration(half)}, last {duration(times[-1])}"
        yield "back", f"{words} {since(plan.scenario.kind)}", ""
    yield from wave_facts(plan)
    yield "objectives", *_objectives(plan.outcomes)
    yield "outage", f"{user_minutes(plan.unweighted, plan.tick_ms)} in {duration(plan.horizon_ms)}", ""
    yield "how good", _gap(plan), ""
    kinds = Counter(step.kind for step in plan.steps)
    yield (
        "steps",
        f"{number(len(plan.steps))}: " + ", ".join(f"{number(kinds[k])} {k}" for k in sorted(kinds)),
        "",
    )
    yield "proof", _proof(plan), "" if plan.proof == "full" else "warning"
    yield "plan", digest, "dim"


def _objectives(outcomes: tuple[Outcome, ...]) -> tuple[str, str]:
    stated = [o for o in outcomes if o.rto_ms is not None]
    missed = sum(1 for o in stated if o.meets_rto is False)
    unknown = sum(1 for o in stated if o.meets_rto is None)
    if not outcomes:
        return "no service is affected", ""
    if not stated:
        return "no rto is stated for any affected service", "unknown"
    if not missed and not unknown:
        return f"all {number(len(stated))} meet their rto", "ok"
    open_ones = f", of {number(unknown)} it is not known" if unknown else ""
    return (
        f"{number(missed)} of {number(len(stated))} miss their rto{open_ones}",
        "error" if missed else "unknown",
    )


def _gap(plan: Plan) -> str:
    if plan.objective == 0 and plan.unjudged:
        return "not known: the loss cannot be judged"
    if plan.objective == 0:
        return "nothing is lost; no plan can be better"
    if plan.gap_permille is None:
        return "no bound above zero is known for this loss"
    words = f"at most {percent(plan.gap_permille)} above the best possible"
    if plan.contention_gap_permille is not None:
        words += f" ({percent(plan.contention_gap_permille)} of what contention adds)"
    return words


def _proof(plan: Plan) -> str:
    if plan.proof != "full":
        return f"partial: {plural(len(plan.unknown), 'fact')} unknown"
    if plan.intervals:
        known = f"{plural(len(plan.intervals), 'fact')} known within bounds"
        return f"full: the bound holds for every possible plan, whatever the truth of {known}"
    return "full: the bound holds for every possible plan"


def _tiers(page: Page, plan: Plan) -> None:
    rows = []
    for tier in sorted({o.tier for o in plan.outcomes}):
        mine = [o for o in plan.outcomes if o.tier == tier]
        times = recovery_times(mine)
        missed = sum(1 for o in mine if o.meets_rto is False)
        gone = sum(1 for o in mine if o.state in GONE)
        first, last = (duration(times[0]), duration(times[-1])) if times else ("-", "-")
        rows.append((f"tier {tier}", number(len(mine)), first, last, number(missed), number(gone)))
    if rows:
        page.line()
        page.table(
            ("", "services", "first back", "last back", "miss rto", "not back"), rows, right=range(1, 6)
        )


def _late(page: Page, plan: Plan) -> None:
    late = [
        o for o in plan.outcomes if o.meets_rto is False and o.recovery_ms is not None and o.state != "shed"
    ]
    if not late:
        return
    late.sort(key=lambda o: (o.tier, (o.rto_ms or 0) - (o.recovery_ms or 0), o.service))
    page.line()
    page.line(f"Late, gravest first ({min(SHOWN, len(late))} of {number(len(late))})", "bold")
    rows = [
        (
            o.service,
            f"tier {o.tier}",
            people(o.people),
            duration(o.recovery_ms),
            duration(o.rto_ms),
            _chain(o),
        )
        for o in late[:SHOWN]
    ]
    page.table(("service", "", "people", "back after", "rto", "what decides it"), rows, right=(2, 3, 4))


def _chain(outcome: Outcome) -> str:
    """The last few steps of the critical chain, in order."""
    return " > ".join(outcome.critical[-3:]) if outcome.critical else "-"


def _given_up(page: Page, plan: Plan) -> None:
    for state, words in GIVEN_UP_WORDS:
        found = [o for o in plan.outcomes if o.state == state]
        if not found:
            continue
        found.sort(key=lambda o: (o.tier, -o.people, o.service))
        page.line()
        heard = people(sum(o.people for o in found))
        page.line(f"{words}: {plural(len(found), 'service')}, {heard} people", "bold")
        rows = [(o.service, f"tier {o.tier}", people(o.people), o.reason or "-") for o in found[:SHOWN]]
        page.table(("service", "", "people", "why"), rows, right=(2,))
        if len(found) > SHOWN:
            page.line(f"and {number(len(found) - SHOWN)} more", "dim")


def _data(page: Page, plan: Plan) -> None:
    losing = [s for s in plan.stores if s.loss_ms is None or s.loss_ms > 0]
    gone = [s for s in plan.stores if s.primary_ms is None]
    if gone or losing:
        page.line()
    if gone:
        names = listed([s.store for s in gone])
        page.line(f"Data that does not come back: {plural(len(gone), 'store')} ({names})", "error")
    worst = [s for s in losing if s.primary_ms is not None]
    if worst:
        longest = max((s.loss_ms for s in worst if s.loss_ms is not None), default=None)
        lost = duration(longest) if longest is not None else "an unknown time"
        page.line(
            f"Data lost by promotion: {plural(len(worst), 'store')}, at most {lost} of writes", "warning"
        )


def _sensitivity(page: Page, plan: Plan) -> None:
    """How the weighted outage changes when what was assumed is off; nothing where it was not asked for."""
    if not plan.sensitivity:
        return
    rows = [
        (s.case, user_minutes(s.fixed, plan.tick_ms), user_minutes(s.replanned, plan.tick_ms))
        for s in plan.sensitivity
    ]
    page.line()
    page.line(
        f"Weighted outage, {user_minutes(plan.objective, plan.tick_ms)}, if what is assumed is off", "bold"
    )
    page.table(("", "with this plan", "planned anew"), rows, right=(1, 2))


def _unknown(page: Page, plan: Plan) -> None:
    if plan.unknown:
        page.line()
        page.line(f"Unknown, taken as the bound allows: {listed(list(plan.unknown), 4)}", "unknown")
    if plan.intervals:
        words = "Within bounds, planned at the worse end and bounded at the better one"
        page.line(f"{words}: {listed(list(plan.intervals), 4)}", "unknown")
    if plan.estimated:
        words = "estimated by the share of the pool that is lost"
        page.line(f"Replicas lost, {words}: {listed(list(plan.estimated), 4)}", "unknown")
    if plan.waivers:
        page.line(f"Waived by name: {listed(list(plan.waivers), 6)}", "warning")
