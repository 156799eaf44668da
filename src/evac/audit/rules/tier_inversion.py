"""EV117: a service hard-depends on one of a lower tier."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, listed
from evac.audit.findings import Finding


def check(context: Context) -> Iterator[Finding]:
    """Warning: when capacity is short, its dependency is placed after it, or shed."""
    services, graph = context.estate.services, context.impacts.graph
    for number, service in enumerate(services):
        if service.tier is None:
            continue
        lower = [services[d] for d in graph.hard[number] if (services[d].tier or 0) > service.tier]
        if lower:
            names = [f"{d.id} (tier {d.tier})" for d in lower]
            yield RULE.finding(
                context,
                "warning",
                service.id,
                f"{service.id} (tier {service.tier}) cannot serve without {listed(names)}",
                f"Raise {lower[0].id} to tier {service.tier}, or make the dependency soft.",
                chain=(service.id, lower[0].id),
                paths=(f"services/{lower[0].id}/tier", f"services/{service.id}"),
            )


RULE = Rule(
    "tier-inversion",
    "EV117",
    "A service depends on a lower tier",
    check,
    per_loss=False,
)
