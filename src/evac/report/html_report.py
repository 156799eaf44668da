"""One self-contained HTML file: the answer first, the numbers behind it, no network, prints well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from evac.model.estate import Estate
from evac.model.plan import Plan
from evac.planning.simulation.simulate import PERCENTILES, Simulation
from evac.report import plan_view, svg
from evac.report.words import duration, number, people, percent, plural, share, user_minutes
from evac.verify import Verdict

MATRIX_OPEN: Final = 40
Parts = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan with what belongs to it on a page."""

    plan: Plan
    digest: str
    verdict: Verdict | None = None
    simulation: Simulation | None = None


def html_report(
    estate: Estate,
    *,
    title: str,
    lead: str,
    footer: str,
    planned: Planned | None = None,
    audit: Mapping[str, Any] | None = None,
) -> str:
    """A whole page. `audit` is what `audit_view.audit_context` gives. Same input, same bytes."""
    context: dict[str, Any] = dict.fromkeys(("plan", "simulation", "audit", "critical", "gantt"))
    parts: Parts = []
    if planned is not None:
        context |= _plan_context(estate, planned)
        parts += [
            ("answer", "The answer"), ("curve", "Outage"), ("order", "Order"), ("room", "Room"),
            ("given-up", "Given up"), ("matrix", "Services and sites"),
        ]  # fmt: skip
    if audit is not None:
        context |= dict(audit)
        parts += [("losses", "Every loss"), ("findings", "What to mend")]
    if planned is not None and planned.simulation is not None:
        context |= _simulation_context(planned.simulation)
        parts.append(("odds", "How sure"))
    if planned is not None:
        parts.append(("numbers", "All numbers"))
    context |= {
        "title": title,
        "lead": lead,
        "footer": footer,
        "parts": parts,
        "style": Markup(_file("report.css")),
    }
    return str(_template().render(context))


def _file(name: str) -> str:
    return resources.files("evac.report").joinpath("templates", name).read_text("utf-8")


@lru_cache(maxsize=1)
def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_file("report.html.j2"))


def _plan_context(estate: Estate, planned: Planned) -> dict[str, Any]:
    plan = planned.plan
    upto = plan_view.span_seconds(plan)
    of, critical = plan_view.critical_rows(plan)
    return {
        "plan": plan,
        "cards": _cards(planned),
        "tiers": _tier_rows(plan),
        "curves": _curves(plan, upto),
        "gantt": _gantt(plan, upto),
        "critical_of": of,
        "critical": _critical(of, critical),
        "room": _room(estate, plan),
        "capacity": [_capacity_words(row) for row in plan_view.capacity(estate, plan)],
        "given_up": [row for row in plan_view.outcome_rows(plan) if row["state"] in ("shed", "unplaced")],
        "stores": [_store(store) for store in plan.stores],
        "sites": [site.id for site in estate.sites],
        "matrix_parts": _matrix(estate, plan),
        "facts": _facts(planned),
        "outcomes": plan_view.outcome_rows(plan),
    }


def _cards(planned: Planned) -> list[tuple[str, str, str]]:
    plan = planned.plan
    back = [o for o in plan.outcomes if o.state in ("restored", "degraded", "running")]
    gone = len(plan.outcomes) - len(back)
    missed = sum(1 for o in plan.outcomes if o.meets_rto is False)
    last = max((o.recovery_ms for o in back if o.recovery_ms is not None), default=None)
    losing = [s for s in plan.stores if s.loss_ms is None or s.loss_ms or s.primary_ms is None]
    cards = [
        (
            "come back",
            f"{number(len(back))} of {plural(len(plan.outcomes), 'affected service')}",
            "error" if gone else "ok",
        ),
        ("all that come back are back after", duration(last) if back else "-", ""),
        ("miss their rto", number(missed), "error" if missed else "ok"),
        ("outage", user_minutes(plan.unweighted, plan.tick_ms), ""),
        ("above the best possible, at most", percent(plan.gap_permille) if plan.objective else "0 %", ""),
        ("stores that lose writes or do not return", number(len(losing)), "warning" if losing else "ok"),
    ]
    if planned.verdict is not None:
        holds = planned.verdict.holds
        cards.append(
            (
                "independent check",
                "the plan holds" if holds else "the plan does not hold",
                "ok" if holds else "error",
            )
        )
    return cards


def _tier_rows(plan: Plan) -> list[dict[str, Any]]:
    rows = []
    for tier in sorted({o.tier for o in plan.outcomes}):
        mine = [o for o in plan.outcomes if o.tier == tier]
        times = plan_view.recovery_times(mine)
        words = (
            [duration(t) for t in (times[0], times[(len(times) - 1) // 2], times[-1])] if times else ["-"] * 3
        )
        rows.append(
            {
                "tier": tier, "services": number(len(mine)),
                "first": words[0], "half": words[1], "last": words[2],
                "missed": number(sum(1 for o in mine if o.meets_rto is False)),
                "gone": number(sum(1 for o in mine if o.state in ("shed", "unplaced"))),
            }
        )  # fmt: skip
    return rows


def _curves(plan: Plan, upto: float) -> list[tuple[int, str]]:
    charts = []
    for tier, highest, series in plan_view.curves_by_tier(plan):
        end = next((s for s, value in series[0].points if value == 0), None)
        words = (
            f"falls to none after {svg.clock(end)}"
            if end is not None
            else "does not fall to none in this time"
        )
        description = f"{people(int(highest))} people without service at first; the number {words}."
        charts.append(
            (tier, svg.curves(f"curve{tier}", f"Outage of tier {tier}", description, series, upto, highest))
        )
    return charts


def _gantt(plan: Plan, upto: float) -> str:
    rows = plan_view.gantt_rows(plan)
    if not rows:
        return ""
    words = f"{plural(len(rows), 'service')} in the order they come back; the table below has every one."
    return svg.gantt("gantt", "When each service starts, is verified and gets its traffic", words, rows, upto)


def _critical(of: str, rows: tuple[svg.Row, ...]) -> str:
    if not rows:
        return ""
    upto = max(bar.end for row in rows for bar in row.bars) * 1.05
    words = "In order: " + ", then ".join(row.label for row in rows)
    return svg.gantt("critical", f"Critical chain of {of}", words, rows, max(upto, 1.0), 330)


def _room(estate: Estate, plan: Plan) -> str:
    rows: list[tuple[str, svg.Parts]] = []
    for row in plan_view.capacity(estate, plan):
        words = f"{row.site} {row.resource} before: {row.before:.0%} used"
        rows.append(
            (
                f"{row.site} {row.resource}",
                [(row.before, "used", words), (row.dark, "darkroom", f"{row.dark:.0%} off")],
            )
        )
        after: svg.Parts = [(1.0, "gone", f"{row.site} is lost")]
        if not row.lost:
            after = [(row.after, "used", f"{row.site} {row.resource} after: {row.after:.0%} used")]
        rows.append(("after", after))
    return svg.stacked(
        "room-chart", "Room of each site before and after", "The numbers are in the table below.", rows
    )


def _capacity_words(row: plan_view.CapacityRow) -> dict[str, str]:
    after = "lost" if row.lost else f"{row.after:.0%}"
    return {
        "site": row.site,
        "resource": row.resource,
        "before": f"{row.before:.0%}",
        "after": after,
        "dark": f"{row.dark:.0%}",
    }


def _store(store: Any) -> dict[str, str]:
    lost = "unknown" if store.loss_ms is None else ("none" if store.loss_ms == 0 else duration(store.loss_ms))
    return {
        "store": store.store,
        "candidate": store.candidate or "nowhere",
        "back": duration(store.primary_ms),
        "loss": lost if store.primary_ms is not None else "all of it",
    }


def _matrix(estate: Estate, plan: Plan) -> list[tuple[str, list[plan_view.MatrixRow], bool]]:
    rows = list(plan_view.matrix(estate, plan))
    if len(rows) <= MATRIX_OPEN:
        return [(plural(len(rows), "service"), rows, True)]
    rest = len(rows) - MATRIX_OPEN
    return [
        (f"The first {MATRIX_OPEN}, by tier and people", rows[:MATRIX_OPEN], True),
        (f"{number(rest)} more", rows[MATRIX_OPEN:], False),
    ]


def _facts(planned: Planned) -> Parts:
    plan = planned.plan
    weights = ", ".join(map(str, plan.tier_weights))
    facts = [
        ("plan", planned.digest),
        ("estate", plan.estate_digest),
        ("as of", plan.as_of.isoformat() if plan.as_of else "not said"),
        (
            "weighted outage",
            f"{user_minutes(plan.objective, plan.tick_ms)} (tier weights {weights})",
        ),
        ("lower bound", f"{user_minutes(plan.bound, plan.tick_ms)}, {plan.proof} proof"),
        ("critical chains alone", user_minutes(plan.heads, plan.tick_ms)),
        ("gap over what contention adds", percent(plan.contention_gap_permille)),
        ("horizon", duration(plan.horizon_ms)),
        ("detection and approval", duration(plan.detection_ms + plan.approval_ms)),
        ("search", f"{number(plan.work)} schedules tried, seed {plan.seed}"),
        ("steps", number(len(plan.steps))),
    ]
    facts += [(f"if {s.case}", user_minutes(s.replanned, plan.tick_ms)) for s in plan.sensitivity]
    if plan.unknown:
        facts.append(("unknown", ", ".join(plan.unknown[:30])))
    return facts


def _simulation_context(found: Simulation) -> dict[str, Any]:
    at_risk = sorted(
        (s for s in found.services if s.meets_rto_permille is not None and s.meets_rto_permille < 990),
        key=lambda s: (s.meets_rto_permille or 0, s.tier, s.service),
    )
    stated = sum(1 for s in found.services if s.meets_rto_permille is not None)
    return {
        "simulation": found,
        "simulation_words": (
            f"{number(found.trials)} trials with uncertain durations and failing steps, seed {found.seed}: "
            f"{number(stated - len(at_risk))} of {plural(stated, 'service')} with an rto "
            "meet it in at least 99 % of them."
        ),
        "percentiles": PERCENTILES,
        "simulation_tiers": [
            {"tier": t.tier, "planned": duration(t.planned_ms), "cells": [duration(x) for x in t.last_ms]}
            for t in found.tiers
        ],
        "at_risk": [
            {
                "service": s.service, "tier": s.tier, "odds": share(s.meets_rto_permille or 0),
                "p90": duration(s.recovery_ms[1]), "rto": duration(s.rto_ms),
            }
            for s in at_risk[:25]
        ],
    }  # fmt: skip
