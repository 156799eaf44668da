"""EV101: a service that runs at one site only."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, back
from evac.audit.findings import Finding
from evac.audit.impacts.all_losses import LOST
from evac.model.diagnostic import Severity


def check(context: Context) -> Iterator[Finding]:
    """Error if the loss of the site loses it or brings it back too late; warning if it comes back."""
    impacts, estate = context.impacts, context.estate
    for service, site in enumerate(context.only_site):
        number = impacts.losses.index.get(estate.sites[site].id) if site >= 0 else None
        if number is None:
            continue
        name, where = estate.services[service].id, estate.sites[site].id
        severity: Severity = "error" if context.grave[number, service] else "warning"
        yield RULE.finding(
            context,
            severity,
            name,
            f"{name} runs at {where} only{_outlook(context, service, number)}",
            f"Run enough replicas of {name} to serve at a second site.",
            losses=(number,),
            paths=(f"services/{name}/replicas", f"services/{name}"),
        )


def _outlook(context: Context, service: int, number: int) -> str:
    impacts = context.impacts
    if impacts.fate[number, service] == LOST:
        return " and does not come back without it"
    ready = int(impacts.ready_ms[number, service])
    return f"; started elsewhere it {back(ready)}" if ready else ""


RULE = Rule(
    "single-site-service",
    "EV101",
    "A service runs at one site only",
    check,
    per_loss=False,
)
