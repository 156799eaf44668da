"""One self-contained HTML file: the result first, then the numbers behind it; no network; prints well.
The parts that show a plan and a simulation are prepared here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from evac.model.estate import Estate
from evac.model.plan import Plan, Step, StoreOutcome
from evac.model.records import dataclass
from evac.model.units import amount
from evac.planning.simulation.simulate import PERCENTILES, Critical, Simulation
from evac.steps.registry import PLANNED
from evac.views import plan_charts, plan_view, rendered, svg
from evac.views.moves import writes_words
from evac.views.plan_charts import Chain, Curve, seconds, step_words, wave_context
from evac.views.plan_view import Planned, answer, cards, tier_rows
from evac.views.small_texts import at_risk, odds_words, untimed_words
from evac.views.words import (
    duration,
    number,
    outage_doubt,
    people,
    people_words,
    percent,
    plural,
    share,
    since,
    time_back,
    user_minutes,
    weighted_words,
)

MATRIX_OPEN: Final = 25
GROUPS_OPEN: Final = 12
STORES_OPEN: Final = 12
CHAIN_OPEN: Final = 12
SITES_OPEN: Final = 8
Facts = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """Replicas of one service: (before, after) for each site."""

    service: str
    tier: int | None
    people: int | None
    state: str
    cells: tuple[tuple[int, int], ...]


def plan_context(estate: Estate, planned: Planned) -> dict[str, Any]:
    """Everything that the plan's sections show."""
    plan = planned.plan
    upto = plan_charts.span_seconds(plan)
    where = plan_view.standing(estate, plan)
    outcomes = list(plan_view.outcome_rows(plan))
    return {
        "plan": plan,
        "answer": answer(planned),
        "cards": cards(planned),
        "tiers": tier_rows(plan),
        "unjudged": bool(plan.unjudged),
        "writes": writes_words(plan),
        "curves": [_curve(plan, curve) for curve in plan_charts.curves_by_tier(plan)],
        "work": _work(plan, upto),
        "lead_words": _lead_words(plan),
        "wave": wave_context(estate, plan),
        "gantt": _gantt(plan),
        "chains": [_chain(plan, chain) for chain in plan_charts.chains(plan)],
        "rooms": _rooms(estate, plan_view.capacity(estate, plan, where)),
        "given_up": _given_up(plan),
        "stores": _stores(plan),
        "matrix": _matrix(estate, where, _replicas(estate, plan, where)),
        "facts": _facts(planned),
        "sensitivity": _sensitivity(plan),
        "outcomes": outcomes,
        "outcomes_words": f"All {plural(len(outcomes), 'affected service')}",
    }


def _curve(plan: Plan, curve: Curve) -> dict[str, Any]:
    words, upto = curve_words(curve), plan_charts.curve_span(plan, curve)
    name = f"curve{curve.tier}"
    highest = float(max(curve.people, *(value for _, value in curve.down)))
    series = plan_charts.curve_series(curve)
    chart = svg.curves(name, f"Outage of tier {curve.tier} over time", words, series, upto, highest)
    return {"tier": curve.tier, "words": words, "chart": chart}


def curve_words(curve: Curve) -> str:
    """What a curve shows: how many people at first, when half and all are restored, and how late."""
    most = max(value for _, value in curve.down)
    peak = next(s for s, v in curve.down if v == most)
    half = next((s for s, v in curve.down if v <= most / 2 and s > peak), None)
    end = plan_charts.curve_end(curve)
    words = f"{people(int(most))} people without service at the peak"
    if half is not None and half != end:
        words += f"; half of them are restored after {seconds(half)}"
    words += f"; all after {seconds(end)}." if end is not None else "; some are never restored by this plan."
    worst = max((value for _, value in curve.late), default=0.0)
    if worst:
        since = next(second for second, value in curve.late if value > 0)
        words += f" Objectives are missed from {seconds(since)} on, for up to {people(int(worst))} of them."
    return words if curve.stated else words + " No objective is stated."


def _lead_words(plan: Plan) -> str:
    """Where the plan's time axes begin."""
    lead = plan.lead.ms
    if not lead:
        return "Times count from the loss."
    begin = f"the charts begin {duration(lead)} after it, when the plan starts"
    return f"Times count from the loss; {begin}."


def _work(plan: Plan, upto: float) -> dict[str, Any]:
    found = plan_charts.work_by_kind(plan)
    words = "; ".join(
        f"{PLANNED[w.kind].work}: {number(w.actions)}, {seconds(w.begin)} to {seconds(w.end)}" for w in found
    )
    drawn = plan_charts.work_rows(plan, upto)
    lead = plan_charts.lead_seconds(plan)
    chart = svg.gantt("work", "The work by kind over time", words + ".", drawn, upto, lead)
    rows = [
        {
            "words": PLANNED[w.kind].work,
            "kind": w.kind,
            "steps": number(w.steps),
            "actions": number(w.actions),
            "by_hand": number(w.by_hand),
            "begin": seconds(w.begin),
            "end": seconds(w.end),
        }
        for w in found
    ]
    return {"chart": chart if rows else "", "rows": rows}


def _gantt(plan: Plan) -> dict[str, Any]:
    chosen = plan_charts.heaviest(plan)
    rows = plan_charts.gantt_rows(plan, chosen)
    if not rows:
        return {"chart": "", "words": "", "limits": False}
    lead = plan_charts.lead_seconds(plan)
    last = max(bar.end for row in rows for bar in row.bars)
    upto = max(lead + 60.0, last + 0.03 * (last - lead))
    words = f"The {plural(len(rows), 'service')} with the worst outages, in order of recovery."
    more = " The last table on the page lists every service."
    title = "When each service starts, is checked and receives traffic"
    limits = any(row.limit is not None and row.limit <= upto for row in rows)
    chart = svg.gantt("gantt", title, words + more, rows, upto, lead)
    return {"chart": chart, "words": words, "limits": limits}


def _chain(plan: Plan, chain: Chain) -> dict[str, Any]:
    rows = plan_charts.chain_rows(chain)
    lead = plan_charts.lead_seconds(plan)
    upto = max(lead + 1.0, chain.back + 0.03 * (chain.back - lead))
    title = f"Critical chain of {chain.service}"
    chart = svg.gantt(f"chain{chain.tier}", title, chain.description, rows, upto, lead)
    links = [
        {
            "words": link.words,
            "begin": seconds(link.begin),
            "takes": seconds(link.end - link.begin),
            "waited": seconds(link.waited) if link.waited else "-",
        }
        for link in chain.links
    ]
    waited = sum(link.waited for link in chain.links)
    working = sum(link.end - link.begin for link in chain.links)
    told = f"{chain.counted}: {seconds(working)} of work"
    told += (
        f", {seconds(waited)} of waiting for capacity or a slot." if waited else ", no waiting between them."
    )
    return {
        "tier": chain.tier,
        "words": chain.words,
        "told": told,
        "chart": chart,
        "links": links,
        "open": len(links) <= CHAIN_OPEN,
    }


def _rooms(estate: Estate, rows: Sequence[plan_view.CapacityRow]) -> dict[str, Any]:
    panels = []
    for number_of, site in enumerate(dict.fromkeys(row.site for row in rows)):
        mine = [row for row in rows if row.site == site]
        gone = any(row.after.gone >= row.whole for row in mine)
        words = "; ".join(f"{row.resource} {_used(row)}" for row in mine) + "."
        chart = svg.shares(f"room{number_of}", f"Capacity of {site} before and after", words, _bars(mine), 8)
        panels.append({"site": site, "gone": gone, "chart": chart})
    return {
        "open": panels[:SITES_OPEN],
        "rest": panels[SITES_OPEN:],
        "table": [_room_words(row) for row in rows],
    }


def _bars(rows: Iterable[plan_view.CapacityRow]) -> list[svg.Shares]:
    found = []
    for row in rows:
        bars = []
        for when, room in (("before", row.before), ("after", row.after)):
            pieces = (("used", room.used), ("dark", room.dark), ("gone", room.gone))
            bars.append(
                tuple(
                    svg.Part(
                        value / row.whole,
                        f"{kind} {when}",
                        f"{when}: {kind} {svg.percent_of(value, row.whole)}",
                    )
                    for kind, value in pieces
                    if value
                )
            )
        found.append(svg.Shares(row.resource, tuple(bars), _used(row)))
    return found


def _used(row: plan_view.CapacityRow) -> str:
    before = "off" if row.before.gone >= row.whole else svg.percent_of(row.before.used, row.whole)
    after = "lost" if row.after.gone >= row.whole else svg.percent_of(row.after.used, row.whole)
    return f"{before} → {after}"


def _room_words(row: plan_view.CapacityRow) -> dict[str, str]:
    def words(value: int) -> str:
        return amount(row.resource, value)

    return {
        "site": row.site,
        "resource": row.resource,
        "whole": words(row.whole),
        "share": _used(row),
        "used_before": words(row.before.used),
        "used_after": words(row.after.used),
        "dark_before": words(row.before.dark),
        "dark_after": words(row.after.dark),
        "gone": words(max(row.before.gone, row.after.gone)),
    }


def _given_up(plan: Plan) -> list[dict[str, Any]]:
    """By state, the most severe first; within each, the reasons, those that affect most people first."""
    parts = []
    for state, words in plan_view.GIVEN_UP_WORDS:
        groups = [g for g in plan_view.given_up(plan) if g.state == state]
        if groups:
            count = sum(len(g.services) for g in groups)
            heard = people_words(sum(g.people for g in groups), sum(g.unstated for g in groups))
            rows = [_given_up_row(g) for g in groups]
            title = f"{words}: {plural(count, 'service')}, {heard}"
            parts.append(
                {"state": state, "title": title, "open": rows[:GROUPS_OPEN], "rest": rows[GROUPS_OPEN:]}
            )
    return parts


def _given_up_row(group: plan_view.GivenUp) -> dict[str, Any]:
    many = len(group.services) > 1
    return {
        "reason": group.reason,
        "who": plural(len(group.services), "service") if many else group.services[0],
        "tiers": ("tiers " if len(group.tiers) > 1 else "tier ") + ", ".join(map(str, group.tiers)),
        "people": people_words(group.people, group.unstated),
        "services": ", ".join(group.services) if many else "",
    }


def _stores(plan: Plan) -> dict[str, Any]:
    """Lost stores, then those that are rebuilt: available once the first service that waits for them
    serves.
    """

    def gravity(s: StoreOutcome) -> tuple[int, int, str]:
        certain = s.primary_ms is None and not s.in_doubt
        grave = 0 if certain else (1 if s.loss_ms is None or s.loss_ms else 2)
        return grave, -(s.loss_ms or 0), s.store

    rows = [_store(plan, store) for store in sorted(plan.stores, key=gravity)]
    again: dict[str, tuple[str, int]] = {}
    for step in sorted(plan.steps, key=lambda step: (step.end_ms, step.id)):
        for name, source in step.rebuilds:
            again.setdefault(name, (f"rebuilt from {source}", step.end_ms + plan.lead.ms))
    rows += [
        {"store": name, "candidate": how, "back": duration(at), "loss": "none", "state": "ok", "waiver": ""}
        for name, (how, at) in sorted(again.items())
    ]
    return {"open": rows[:STORES_OPEN], "rest": rows[STORES_OPEN:], "all": number(len(rows))}


def _store(plan: Plan, store: StoreOutcome) -> dict[str, str]:
    if store.primary_ms is None and not store.in_doubt:
        lost, state = "all of it", "error"
    elif store.loss_ms is None:
        lost, state = "unknown", "unknown"
    else:
        lost, state = (duration(store.loss_ms), "warning") if store.loss_ms else ("none", "ok")
    return {
        "store": store.store,
        "candidate": plan_charts.place_words(store, plan),
        "back": plan_charts.back_words(plan, store),
        "loss": lost,
        "state": state,
        "waiver": store.waiver,
    }


def _replicas(estate: Estate, plan: Plan, where: plan_view.Standing) -> tuple[MatrixRow, ...]:
    """Every affected service, the highest tier and most users first."""
    number_of = {service.id: n for n, service in enumerate(estate.services)}
    rows = []
    for outcome in plan.by_weight(o for o in plan.outcomes if o.service in number_of):
        n = number_of[outcome.service]
        cells = tuple(zip(where.before[n].tolist(), where.after[n].tolist(), strict=True))
        service = estate.services[n]
        rows.append(MatrixRow(service.id, service.tier, service.people, outcome.state, cells))
    return tuple(rows)


def _matrix(estate: Estate, where: plan_view.Standing, rows: Sequence[MatrixRow]) -> dict[str, Any]:
    """The sites where any of the services run, and the rows for them, the first ones expanded."""
    shown = [n for n in range(len(estate.sites)) if any(row.cells[n] != (0, 0) for row in rows)]
    heads = [
        (estate.sites[n].id, "lost" if where.off_after[n] else ("off before" if where.off_before[n] else ""))
        for n in shown
    ]
    kept = [replace(row, cells=tuple(row.cells[n] for n in shown)) for row in rows]
    parts = [(plural(len(kept), "service"), kept, True)] if kept else []
    if len(kept) > MATRIX_OPEN:
        parts = [
            (f"The first {MATRIX_OPEN}, by tier and people", kept[:MATRIX_OPEN], True),
            (plural(len(kept) - MATRIX_OPEN, "more service"), kept[MATRIX_OPEN:], False),
        ]
    return {"sites": heads, "parts": parts}


def _facts(planned: Planned) -> Facts:
    plan = planned.plan
    weights = ", ".join(map(str, plan.tier_weights))
    whole = f"{weighted_words(plan)} (tier weights {weights})"
    facts = [
        ("plan", planned.digest),
        ("estate", plan.estate_digest or "not said"),
        ("as of", plan.as_of.isoformat() if plan.as_of else "not said"),
        ("weighted outage", "; ".join(filter(None, (whole, outage_doubt(plan))))),
        ("lower bound", f"{user_minutes(plan.bound, plan.tick_ms)}, {plan.proof} proof"),
        ("critical chains only", user_minutes(plan.heads, plan.tick_ms)),
        ("contention gap", percent(plan.contention_gap_permille)),
        ("horizon", duration(plan.horizon_ms)),
        ("detection", duration(plan.detection_ms)),
        ("approval", duration(plan.approval_ms)),
        ("search", f"{number(plan.work)} schedules tried, seed {plan.seed}"),
        ("steps", number(len(plan.steps))),
    ]
    if plan.waivers:
        facts.append(("waived by name", ", ".join(plan.waivers)))
    for name, paths in (("unknown", plan.unknown), ("known within bounds", plan.intervals)):
        if paths:
            rest = len(paths) - 30
            more = f" and {number(rest)} more" if rest > 0 else ""
            facts.append((name, ", ".join(paths[:30]) + more))
    return facts


def _sensitivity(plan: Plan) -> list[dict[str, str]]:
    return [
        {
            "case": s.case,
            "fixed": user_minutes(s.fixed, plan.tick_ms),
            "replanned": user_minutes(s.replanned, plan.tick_ms),
        }
        for s in plan.sensitivity
    ]


def simulation_context(plan: Plan, found: Simulation) -> dict[str, Any]:
    """Recovery percentiles per tier, the services at risk, and what is critical most often."""
    steps = {s.id: s for s in plan.steps}
    return {
        "simulation": found,
        "simulation_words": (
            f"{number(found.trials)} trials with uncertain durations and failing steps, seed {found.seed}: "
            f"{odds_words(plan, found)}."
        ),
        "simulation_since": since(plan.scenario.kind),
        "simulation_unknown": untimed_words(plan, found),
        "percentiles": PERCENTILES,
        "simulation_tiers": [
            {
                "tier": t.tier,
                "planned": time_back(t.planned_ms, bool(t.untimed)),
                "cells": [time_back(x, bool(t.untimed)) for x in t.last_ms],
            }
            for t in found.tiers
        ],
        "at_risk": [
            {
                "service": s.service,
                "tier": s.tier,
                "odds": share(s.meets_rto_permille or 0),
                "p90": duration(s.recovery_ms[1]),
                "rto": duration(s.rto_ms),
            }
            for s in at_risk(found)[:20]
        ],
        "often": [{"name": _words(c, steps), "odds": share(c.permille)} for c in found.critical[:10]],
    }


def _words(critical: Critical, steps: Mapping[str, Step]) -> str:
    step = steps.get(critical.name)
    return step_words(step) if step is not None else f"waiting for a turn: {critical.name}"


Parts = list[tuple[str, str]]


def html_report(
    estate: Estate,
    *,
    title: str,
    lead: str,
    footer: str,
    planned: Planned | None = None,
    audit: Mapping[str, Any] | None = None,
) -> str:
    """A whole page. `audit`: from `audit_view.audit_context`. Same input, same bytes."""
    context: dict[str, Any] = dict.fromkeys(("plan", "simulation", "audit"))
    parts: Parts = []
    if planned is not None:
        context |= plan_context(estate, planned)
        wave = [("wave", "Servers and power")] if context["wave"] else []
        parts += [
            ("answer", "Summary"),
            ("curve", "Outage"),
            ("order", "Order of work"),
            *wave,
            ("room", "Capacity"),
            ("given-up", "Not restored"),
            ("matrix", "Services and sites"),
        ]
    if planned is not None and planned.simulation is not None:
        context |= simulation_context(planned.plan, planned.simulation)
        parts.append(("odds", "Reliability"))
    if audit is not None:
        context |= dict(audit)
        parts += [("losses", "Every loss"), ("findings", "What to fix")]
    if planned is not None:
        parts.append(("numbers", "All numbers"))
    context |= {
        "title": title,
        "lead": lead,
        "footer": footer,
        "parts": parts,
    }
    return rendered("report.html.j2", **context)
