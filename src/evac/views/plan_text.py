"""A plan on a terminal: when everything is restored, what is given up, how good the plan is, and what to
do next; a cold start; and what changed between two plans.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from evac.model.objectives import rpo_fact
from evac.model.plan import Outcome, Plan, Step
from evac.model.units import moment_words
from evac.views import plan_view
from evac.views.congestion_text import traffic_lines
from evac.views.moves import stops_words, work_ms, work_words, writes_words
from evac.views.sheet import Page
from evac.views.words import (
    above,
    as_judged,
    best_possible,
    duration,
    listed,
    number,
    outage_doubt,
    outage_words,
    people,
    people_words,
    percent,
    plural,
    since,
    untimed,
    user_minutes,
    weighted_words,
    why_words,
)

MINUTE_MS: Final = 60_000
LINES: Final = 24
"""Maximum lines of the list of services: times are grouped coarsely enough for that."""
_STRIDES: Final = (1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 1_440)
_SHOWN: Final = 8


def wave_facts(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Rows for the facts of a plan; none if no domain is restored."""
    if plan.scenario.power:
        given = ", ".join(f"{name} {number(watts)} W" for name, watts in plan.scenario.power)
        yield "power now", given, ""
    wave = plan.wave
    if wave is not None:
        by = f" ({wave.limit})" if wave.limit else ""
        words = f"all {number(wave.servers)} on after {duration(wave.on_ms)}"
        if wave.bound_ms >= wave.on_ms:
            yield "servers", f"{words}; no order is faster{by}", ""
        else:
            yield "servers", f"{words}; no order can beat {duration(wave.bound_ms)}{by}", ""
    off = sum(len(entry.servers) for entry in plan.left_off)
    if off:
        yield "stays off", plural(off, "server"), "warning"


def wave_sections(page: Page, plan: Plan) -> None:
    """What stays off and why, and when each service is restored."""
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
        for until, found in grouped(plan, back)
    ]
    page.table(("", "", "services, most awaited first"), rows, right=(1,))


def grouped(plan: Plan, outcomes: list[Outcome]) -> list[tuple[int, list[Outcome]]]:
    """Return (end of a period, services restored in it): the finest periods that fit on `LINES` lines."""
    for stride in _STRIDES:
        found: dict[int, list[Outcome]] = {}
        for outcome in outcomes:
            until = -(-(outcome.base_ms or 0) // (stride * MINUTE_MS)) * stride * MINUTE_MS
            found.setdefault(until, []).append(outcome)
        if len(found) <= LINES:
            break
    return [(until, plan.by_weight(here)) for until, here in sorted(found.items())]


def diff(old: Plan, new: Plan) -> tuple[str, ...]:
    """Lines: `+` only in the new plan, `-` only in the old one, `~` changed. Empty if nothing changed."""
    lines = [*_header(old, new), *_outcomes(old, new)]
    before, after = {s.id: s for s in old.steps}, {s.id: s for s in new.steps}
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            lines.append(f"+ {name} at {after[name].start_ms // 1000} s")
        elif name not in after:
            lines.append(f"- {name}")
        else:
            lines += _step(before[name], after[name])
    return tuple(lines)


def _header(old: Plan, new: Plan) -> list[str]:
    lines = []
    for name in ("estate_digest", "objective", "bound", "seed", "work", "planner_version"):
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            lines.append(f"~ plan: {name} {was} -> {now}")
    return lines


def _outcomes(old: Plan, new: Plan) -> list[str]:
    before, after = {o.service: o for o in old.outcomes}, {o.service: o for o in new.outcomes}
    lines = []
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was is None or now is None:
            lines.append(
                f"{'-' if now is None else '+'} {name}: {'no longer' if now is None else 'now'} affected"
            )
        elif (was.state, was.recovery_ms) != (now.state, now.recovery_ms):
            lines.append(
                f"~ {name}: {was.state} {_back(was.recovery_ms)} -> {now.state} {_back(now.recovery_ms)}"
            )
    return lines


def _back(recovery_ms: int | None) -> str:
    return "never" if recovery_ms is None else f"after {recovery_ms // 1000} s"


def _step(was: Step, now: Step) -> list[str]:
    changes = []
    if was.start_ms != now.start_ms:
        changes.append(f"at {was.start_ms // 1000} s -> {now.start_ms // 1000} s")
    if was.end_ms - was.start_ms != now.end_ms - now.start_ms:
        changes.append(
            f"takes {(was.end_ms - was.start_ms) // 1000} s -> {(now.end_ms - now.start_ms) // 1000} s"
        )
    if was.servers != now.servers:
        changes.append("other servers")
    for name in ("candidate", "manual", "count"):
        if getattr(was, name) != getattr(now, name):
            changes.append(f"{name} {getattr(was, name)} -> {getattr(now, name)}")
    return [f"~ {now.id}: {', '.join(changes)}"] if changes else []


SHOWN: Final = 8


def plan_text(plan: Plan, digest: str, width: int, colour: bool, saved_as: str = "") -> str:
    """The whole result for a terminal; `saved_as` names the file for the next command."""
    page = Page(width, colour)
    title = plan.scenario.title
    page.title(f"{title[:1].upper()}{title[1:]}: {plan_view.verdict_words(plan)}")
    page.line()
    page.facts(_facts(plan, digest))
    _tiers(page, plan)
    _late(page, plan)
    _given_up(page, plan)
    _moved(page, plan)
    _data(page, plan)
    wave_sections(page, plan)
    _sensitivity(page, plan)
    _unknown(page, plan)
    page.line()
    where = shlex.quote(saved_as or "plan.json")
    if not saved_as:
        page.line(f"next: run this again with -o {where} to save the plan", "dim")
    page.line(f"next: evac verify {where} ESTATE, then evac simulate {where} ESTATE", "dim")
    return page.text()


def _takes(plan: Plan) -> tuple[str, str]:
    """The words about the length of a plan, and their style."""
    if work_ms(plan):
        return f"{work_words(plan)}, until the last step is done", ""
    kinds = sorted({step.kind for step in plan.steps})
    where = "shed_time of its services" if kinds == ["stop"] else "limits: manual:"
    return f"unknown: the estate does not say how long {listed(kinds, 3)} takes ({where})", "unknown"


def _facts(plan: Plan, digest: str) -> Iterable[tuple[str, str, str]]:
    times = plan_view.recovery_times(plan, plan.outcomes)
    if times:
        half, of = times[(len(times) - 1) // 2], " of those known" if untimed(plan) else ""
        words = f"first {duration(times[0])}, half {duration(half)}, last {duration(times[-1])}{of}"
        yield "back", f"{words} {since(plan.scenario.kind)}", ""
    if late := untimed(plan):
        be = "is" if late == 1 else "are"
        yield "not known", f"when {plural(late, 'service')} {be} back", "unknown"
    if plan.scenario.kind != "lose" and plan.steps:
        yield "takes", *_takes(plan)
        if stops := stops_words(plan):
            yield "stops", stops, "warning"
        writes = writes_words(plan)
        if writes:
            yield "writes", writes, "warning"
    yield from wave_facts(plan)
    if assumed := plan_view.assumed_times(plan):
        yield "includes", assumed, "unknown"
    yield "objectives", *_objectives(plan)
    for words, style in traffic_lines(plan):
        yield "traffic", words, style
    outage = " ".join(outage_words(plan))
    if unstated := plan_view.felt(plan, plan.outcomes)[1]:
        as_others = "counted like others in their tier"
        outage += f"; of {plural(unstated, 'service')} no number of users is stated: {as_others}"
    yield "outage", outage, "unknown" if unstated or outage_doubt(plan) else ""
    yield "quality", _gap(plan), ""
    kinds = Counter(step.kind for step in plan.steps)
    each = ", ".join(f"{number(kinds[k])} {k}" for k in sorted(kinds))
    yield "steps", f"{number(len(plan.steps))}: {each}" if each else "none", ""
    yield "proof", _proof(plan), "" if plan.proof == "full" else "warning"
    yield "plan", digest, "dim"


def _objectives(plan: Plan) -> tuple[str, str]:
    stated = [o for o in plan.outcomes if o.rto_ms is not None]
    missed = sum(1 for o in stated if o.meets_rto is False)
    unknown = sum(1 for o in stated if o.rto_unknown)
    if not plan.outcomes and plan.congestion:
        return "no service goes down, but traffic may not get through", "unknown"
    if not plan.outcomes:
        return "no service is affected", ""
    if not stated:
        return "no affected service has an RTO", "unknown"
    if not missed and not unknown:
        met = {1: "the only one meets its", 2: "both meet their"}
        return f"{met.get(len(stated), f'all {number(len(stated))} meet their')} RTO", "ok"
    open_ones = f", {number(unknown)} unknown" if unknown else ""
    return (
        f"{number(missed)} of {number(len(stated))} miss their RTO{open_ones}",
        "error" if missed else "unknown",
    )


def _gap(plan: Plan) -> str:
    gap, why = best_possible(plan)
    if gap is None:
        return f"unknown: {why}" if plan.objective == 0 else why
    if plan.objective == 0:
        return why
    words = f"at most {above(gap)} the best possible{as_judged(plan)}"
    if plan.contention_gap_permille is not None:
        words += f" ({percent(plan.contention_gap_permille)} of what contention adds)"
    return words


def _proof(plan: Plan) -> str:
    if plan.proof != "full":
        return f"partial: {plural(len(plan.unknown), 'fact')} unknown"
    if plan.intervals:
        known = f"{plural(len(plan.intervals), 'fact')} known within bounds"
        return f"full: the bound holds for every possible plan, whatever the true value of {known}"
    return "full: the bound holds for every possible plan"


def _tiers(page: Page, plan: Plan) -> None:
    rows = []
    for tier in sorted({o.tier for o in plan.outcomes}):
        mine = [o for o in plan.outcomes if o.tier == tier]
        times = plan_view.recovery_times(plan, mine)
        missed = sum(1 for o in mine if o.meets_rto is False)
        states = Counter(o.state for o in mine)
        gone, open_ones = states["shed"] + states["unplaced"], states["unknown"]
        first, last = (duration(times[0]), duration(times[-1])) if times else ("-", "-")
        counts = (number(missed), number(gone), number(open_ones))
        rows.append((f"tier {tier}", number(len(mine)), first, last, *counts))
    if rows:
        heads = ("", "services", "first back", "last back", "miss RTO", "not back", "not judged")
        shown = len(heads) if plan.unjudged else len(heads) - 1
        page.line()
        page.table(heads[:shown], [row[:shown] for row in rows], right=range(1, shown))


def _late(page: Page, plan: Plan) -> None:
    late = [
        o for o in plan.outcomes if o.meets_rto is False and o.recovery_ms is not None and o.state != "shed"
    ]
    if not late:
        return
    late.sort(key=lambda o: (o.tier, (o.rto_ms or 0) - (o.recovery_ms or 0), o.service))
    page.line()
    page.line(f"Late, most severe first ({min(SHOWN, len(late))} of {number(len(late))})", "bold")
    rows = [
        (
            o.service,
            f"tier {o.tier}",
            people(*plan_view.felt(plan, [o])),
            duration(o.recovery_ms),
            duration(o.rto_ms),
            " > ".join(o.critical[-3:]) if o.critical else "-",
        )
        for o in late[:SHOWN]
    ]
    page.table(("service", "", "people", "back after", "rto", "limiting factor"), rows, right=(2, 3, 4))


def _given_up(page: Page, plan: Plan) -> None:
    for state, words in plan_view.GIVEN_UP_WORDS:
        found = [o for o in plan.by_weight(plan.outcomes) if o.state == state]
        if not found:
            continue
        page.line()
        heard = people_words(*plan_view.felt(plan, found))
        page.line(f"{words}: {plural(len(found), 'service')}, {heard}", "bold")
        rows = [(o.service, f"tier {o.tier}", _heard(plan, o), o.reason or "-") for o in found[:SHOWN]]
        page.table(("service", "", "people", "why"), rows, right=(2,))
        if len(found) > SHOWN:
            page.line(f"and {number(len(found) - SHOWN)} more", "dim")


def _heard(plan: Plan, outcome: Outcome) -> str:
    """Users of a service that does not come back. Only other services may use that of a provider."""
    is_providers = outcome.why is not None and outcome.why.kind == "provider"
    return "-" if is_providers and not outcome.people else people(*plan_view.felt(plan, [outcome]))


def _moved(page: Page, plan: Plan) -> None:
    """What still ran, and is stopped in one place and started in another."""
    moves = plan.moves
    found = [o for o in plan.by_weight(plan.outcomes) if o.service in moves]
    if not found:
        return
    page.line()
    heard = people_words(*plan_view.felt(plan, found))
    page.line(f"Moved, to free capacity: {plural(len(found), 'service')}, {heard}", "bold")
    rows = [
        (o.service, f"tier {o.tier}", people(*plan_view.felt(plan, [o])), why_words("", moves[o.service]))
        for o in found[:SHOWN]
    ]
    # These times count from the start of a move, not from its deadline.
    when = "after the start" if plan.scenario.kind == "evacuate" else since(plan.scenario.kind)
    page.table(("service", "", "people", f"what happens {when}"), rows, right=(2,))
    if len(found) > SHOWN:
        page.line(f"and {number(len(found) - SHOWN)} more", "dim")


def _data(page: Page, plan: Plan) -> None:
    losing = [s for s in plan.stores if s.loss_ms is None or s.loss_ms > 0]
    gone, unsure = plan.gone_stores, [s.store for s in plan.stores if s.in_doubt]
    if gone or losing:
        page.line()
    if gone:
        names = listed([s.store for s in gone])
        page.line(f"Stores not restored: {number(len(gone))} ({names})", "error")
    if unsure:
        why = "Not restored, because it is unknown how much data the copies lack"
        page.line(f"{why}: {listed(unsure, 4)}", "unknown")
    worst = [s for s in losing if s.primary_ms is not None]
    if worst:
        known = [s.loss_ms for s in worst if s.loss_ms is not None]
        words = [f"at most {duration(max(known))} of writes"] if known else []
        if vague := [s.store for s in worst if s.loss_ms is None]:
            words.append(f"an unknown amount in {listed(vague, 4)}")
        page.line(f"Data lost: {plural(len(worst), 'store')}, {', '.join(words)}", "warning")
    losses = {s.store: s for s in worst}
    for store, moment_s in plan.scenario.moments:
        if store in losses:
            lost = duration(losses[store].loss_ms)
            when = moment_words(moment_s)
            page.line(f"{store} returns to {when}: everything written after that is lost ({lost})", "warning")


def _sensitivity(page: Page, plan: Plan) -> None:
    """How the weighted outage changes if the assumptions are off; nothing if that was not requested."""
    if not plan.sensitivity:
        return
    rows = [
        (s.case, user_minutes(s.fixed, plan.tick_ms), user_minutes(s.replanned, plan.tick_ms))
        for s in plan.sensitivity
    ]
    page.line()
    page.line(f"Weighted outage, {weighted_words(plan)}, if the assumptions are off", "bold")
    page.table(("", "with this plan", "replanned"), rows, right=(1, 2))


def _unknown(page: Page, plan: Plan) -> None:
    stores = [one.store for one in plan.without_rpo]
    rpos = {rpo_fact(store) for store in stores}
    facts = [path for path in plan.unknown if path not in rpos]
    if plan.unknown:
        page.line()
    if facts:
        page.line(f"Unknown; the bound assumes the most favourable value: {listed(facts, 4)}", "unknown")
    if stores:
        page.line(f"May lose data, and no rpo states how much may be lost: {listed(stores, 4)}", "unknown")
    if plan.intervals:
        words = "Known only within bounds; the plan uses the worse end, and the bound the better one"
        page.line(f"{words}: {listed(list(plan.intervals), 4)}", "unknown")
    if plan.estimated:
        words = "estimated from the lost share of the pool"
        page.line(f"Replicas lost, {words}: {listed(list(plan.estimated), 4)}", "unknown")
    if plan.waivers:
        page.line(f"Waived by name: {listed(list(plan.waivers), 6)}", "warning")
