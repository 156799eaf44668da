"""EV115: services that need each other to start: from cold, nothing in the circle can go first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evac.audit.context import Context, Rule, listed, start_circles
from evac.audit.findings import Finding
from evac.model.diagnostic import Severity


def check(context: Context) -> Iterator[Finding]:
    """Error where one loss takes the whole circle down and people have no way to start; else a warning."""
    for members in start_circles(context.impacts.graph.start_edges):
        names = [context.estate.services[s].id for s in members]
        down = context.impacts.down[:, members].all(axis=1)
        losses = context.worst_first(np.flatnonzero(down).tolist())
        by_hand = "start" in context.impacts.times.manual
        severity: Severity = "error" if losses and not by_hand else "warning"
        where = f"; the loss of {listed(context.names(losses))} takes all of them" if losses else ""
        yield RULE.finding(
            context,
            severity,
            names[0],
            f"{listed(names, 6)} need each other to start, so none can start first{where}",
            "Let one of them start without the others: `needed_to: serve`, a cached copy, or a way by hand.",
            losses=losses,
            chain=(*names, names[0]),
            paths=(f"services/{names[0]}/needs/0", f"services/{names[0]}"),
        )


RULE = Rule(
    "cold-start-cycle",
    "EV115",
    "A cold-start cycle",
    check,
    per_loss=False,
)
