"""One self-contained HTML file: the answer first, the numbers behind it, no network, prints well."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from evac.model.estate import Estate
from evac.views.plan_answer import Planned
from evac.views.plan_page import plan_context
from evac.views.simulation_view import simulation_context
from evac.views.spelling import spelled

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
