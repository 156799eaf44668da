"""EV100: the loss of one domain takes a service for good."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, by_service, listed, why_lost
from evac.audit.findings import Finding
from evac.model.diagnostic import Severity


def check(context: Context) -> Iterator[Finding]:
    """Error for a service that counts; warning for one that may be shed, or that nobody notices."""
    for service, found in by_service(context.gone):
        losses = context.worst_first(found)
        worst = next((n for n in losses if context.grave[n, service]), losses[0])
        severity: Severity = "error" if context.grave[worst, service] else "warning"
        chain = why_lost(context, service, worst).words
        name = context.estate.services[service].id
        yield RULE.finding(
            context,
            severity,
            name,
            f"{name} does not come back after the loss of {listed(context.names(losses))}: {chain[-1]}",
            "Give the end of the chain a copy, a way to start, or capacity outside the domain.",
            losses=losses,
            chain=chain,
            paths=(f"services/{name}",),
        )


RULE = Rule(
    "service-lost",
    "EV100",
    "A loss takes a service for good",
    check,
)
