"""EV116: services that need each other to serve: they come back together or not at all."""

from __future__ import annotations

from collections.abc import Iterator

from evac.audit.context import Context, Rule, circles, listed, start_circles
from evac.audit.findings import Finding


def check(context: Context) -> Iterator[Finding]:
    """Note: a plan starts them as one group. Start cycles are EV115."""
    starting = {service for group in start_circles(context) for service in group}
    for members in circles(context.impacts.order.members, context.impacts.graph.hard):
        if starting.issuperset(members):
            continue
        names = [context.estate.services[s].id for s in members]
        yield RULE.finding(
            context,
            "note",
            names[0],
            f"{listed(names, 6)} need each other to serve: they recover together, at the pace of the slowest",
            "Make one dependency in the cycle soft if the service can run without it.",
            chain=(*names, names[0]),
            paths=(f"services/{names[0]}/needs/0", f"services/{names[0]}"),
        )


RULE = Rule("serve-cycle", "EV116", "Services need each other to serve", check, per_loss=False)
