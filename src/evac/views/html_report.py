"""One self-contained HTML file: the answer first, the numbers behind it, no network, prints well.

What a page shows of a simulation.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from evac.model.estate import Estate
from evac.model.plan import Plan, Step
from evac.planning.simulation.simulate import PERCENTILES, Critical, Simulation
from evac.views.plan_charts import step_words
from evac.views.plan_page import plan_context
from evac.views.plan_view import Planned
from evac.views.words import duration, number, plural, share, spelled


def simulation_context(plan: Plan, found: Simulation) -> dict[str, Any]:
    """Percentiles of recovery per tier, who is at risk, and what is critical most often."""
    steps = {s.id: s for s in plan.steps}
    stated = [s for s in found.services if s.meets_rto_permille is not None]
    at_risk = [s for s in stated if (s.meets_rto_permille or 0) < 990]
    at_risk.sort(key=lambda s: (s.meets_rto_permille or 0, s.tier, s.service))
    return {
        "simulation": found,
        "simulation_words": (
            f"{number(found.trials)} trials with uncertain durations and failing steps, seed {found.seed}: "
            f"{number(len(stated) - len(at_risk))} of {plural(len(stated), 'service')} with an rto "
            "meet it in at least 99 % of them."
        ),
        "percentiles": PERCENTILES,
        "simulation_tiers": [
            {"tier": t.tier, "planned": duration(t.planned_ms), "cells": [duration(x) for x in t.last_ms]}
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
            for s in at_risk[:20]
        ],
        "often": [{"name": _words(c, steps), "odds": share(c.permille)} for c in found.critical[:10]],
    }


def _words(critical: Critical, steps: Mapping[str, Step]) -> str:
    step = steps.get(critical.name)
    return step_words(step) if step is not None else f"waiting for a turn: {critical.name}"


__all__ = ["Planned", "html_report"]

Parts = list[tuple[str, str]]
TEMPLATES: Final = (
    "report.html.j2",
    "parts.html.j2",
    "plan.html.j2",
    "simulation.html.j2",
    "audit.html.j2",
    "numbers.html.j2",
)


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
    context: dict[str, Any] = dict.fromkeys(("plan", "simulation", "audit"))
    parts: Parts = []
    if planned is not None:
        context |= plan_context(estate, planned)
        wave = [("wave", "Servers and power")] if context["wave"] else []
        parts += [
            ("answer", "The answer"),
            ("curve", "Outage"),
            ("order", "Order"),
            *wave,
            ("room", "Room"),
            ("given-up", "Given up"),
            ("matrix", "Services and sites"),
        ]
    if planned is not None and planned.simulation is not None:
        context |= simulation_context(planned.plan, planned.simulation)
        parts.append(("odds", "How sure"))
    if audit is not None:
        context |= dict(audit)
        parts += [("losses", "Every loss"), ("findings", "What to mend")]
    if planned is not None:
        parts.append(("numbers", "All numbers"))
    context |= {
        "title": title,
        "lead": lead,
        "footer": footer,
        "parts": parts,
        "style": Markup(_file("report.css")),
    }
    return str(_environment().get_template("report.html.j2").render(context))


def _file(name: str) -> str:
    return resources.files("evac.views").joinpath("templates", name).read_text("utf-8")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=DictLoader({name: _file(name) for name in TEMPLATES}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["spelled"] = spelled
    return made
